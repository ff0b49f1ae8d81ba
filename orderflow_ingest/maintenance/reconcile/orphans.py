"""Orphans: raw mail in the archive that no row names, and what may be done with it.

It is what a delivery leaves that died between archive and row. Its sender was told nothing, or to come again; whether
he did, the rows know by the mail's identity, and only they do:

    its identity and fingerprint are recorded, and that mail is in the archive,   a copy: may be deleted
      whole, or was erased
    the same, and that mail is not in the archive, or damaged                     the only copy: stays
    its identity is recorded with other content                                   becomes a held mail
    its identity is not recorded; a stranger's copy of it may be held             becomes a message
    it is damaged, cannot be read, or its organisation is disabled                stays

Both are read and held against their digests: a listing tells of names and sizes alone, and what is damaged replaces
nothing. What is recorded is found as `recognition` finds it, by the fingerprints of earlier versions too.

So no order is lost by it, and one that came again is not doubled. It is looked at when it is older than any
delivery may take.
"""

from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.identity import MessageIdentity, read_message
from orderflow_ingest.domain.object_keys import EMAIL, UPLOAD, held_id, read_raw_key
from orderflow_ingest.domain.states import EventKind
from orderflow_ingest.maintenance.rebuild.parse_object import held_for, row_of
from orderflow_ingest.pipeline.admission import IdentityLookup
from orderflow_ingest.pipeline.deliver import enqueue_extraction
from orderflow_ingest.storage.archive import (
    Archive,
    Description,
    Listed,
    ObjectDamaged,
    ObjectMissing,
    has_whole_object,
)
from orderflow_ingest.storage.database import Event, HeldMail, InboundMessage, Organization

SOURCES = (EMAIL, UPLOAD)


class Orphan(Enum):
    """What an object without a row is."""

    NONE = "a row names it by now, or it is gone"
    COPY = "a copy of a mail that is recorded"
    ONLY_COPY = "the only copy left of a mail that is recorded: its own raw mail is missing or damaged"
    OTHER_CONTENT = "its Message-ID is recorded with other content"
    UNKNOWN = "no row knows this mail"
    DAMAGED = "its bytes are not those that were put"
    UNREADABLE = "it cannot be read as a mail"


def judge(listed: Listed, digest: str, org: Organization, app: App) -> tuple[Orphan, bytes]:
    """Say what an object without a row is, and give its bytes."""
    try:
        raw = app.archive.read(listed.key, digest)
    except ObjectMissing:
        return Orphan.NONE, b""
    except ObjectDamaged:
        return Orphan.DAMAGED, b""
    message = read_message(raw)
    return (_judge(message, listed.key, org.id, app), raw) if message else (Orphan.UNREADABLE, raw)


def _judge(message: MessageIdentity, key: str, org_id: int, app: App) -> Orphan:
    look_up = IdentityLookup(org_id, app.records, app.archive)
    same = [found for source in SOURCES if (found := look_up.find_same(message, source))]
    known = [one for source in SOURCES if (one := look_up.find(source, message.source_message_id))]
    known += [one.known for one in same]
    if any(message.digest in one.digests.values() for one in known):
        return Orphan.NONE
    held = look_up.held_alone(message)
    name = read_raw_key(key)
    if held and name and name.is_held:  # one under a message's key has passed the policy that holds the copy
        is_kept = held.erased_at or has_whole_object(org_id, held.raw_key, held.digest, app.archive)
        return Orphan.COPY if is_kept else Orphan.ONLY_COPY
    if same:
        digests = [one.known.digests[one.fingerprint] for one in same]
        ids = list(dict.fromkeys(one.id for one in known))
        return Orphan.COPY if _is_kept(digests, org_id, ids, app) else Orphan.ONLY_COPY
    return Orphan.OTHER_CONTENT if known else Orphan.UNKNOWN


def _is_kept(digests: list[str], org_id: int, ids: list[UUID], app: App) -> bool:
    """Return whether a recorded mail is whole in the archive, or was deleted from it on purpose."""
    messages = [row for id in ids if (row := app.records.messages.get(org_id, id))]
    held = [row for id in ids for row in app.records.held_mail.of_message(org_id, id)]
    found: list[InboundMessage | HeldMail] = [*messages, *held]
    same = [row for row in found if row.digest in digests]
    if any(row.erased_at for row in same):
        return True
    return bool(same) and all(has_whole_object(org_id, row.raw_key, row.digest, app.archive) for row in same)


def remove_copy(listed: Listed, digest: str, raw: bytes, org: Organization, app: App) -> bool:
    """Delete a copy; False, and it is there again, if a row has come meanwhile that names it."""
    metadata = _metadata(listed.key, app.archive)
    app.archive.delete(listed.key)
    message = read_message(raw)
    if message and _judge(message, listed.key, org.id, app) is Orphan.NONE:
        app.archive.put(listed.key, raw, digest, metadata)
        return False
    return True


def record(listed: Listed, raw: bytes, org: Organization, app: App, actor: str) -> bool:
    """Record raw mail that has no row, as a message or as held; False if a row has come meanwhile.

    Idempotent as a delivery is: by the message's identity.
    """
    message, name, told_of = read_message(raw), read_raw_key(listed.key), _metadata(listed.key, app.archive)
    if message is None or name is None:
        return False
    new, _ = row_of(listed.key, name, message, raw, told_of, listed.put_at, org.slug, app)
    look_up = IdentityLookup(org.id, app.records, app.archive)
    if look_up.find_same(message, new.source):
        return False
    known = look_up.find(new.source, new.source_message_id)
    if known or name.is_held:
        held = replace(new, id=held_id(listed.key))
        return app.records.held_mail.insert(known, held, held_for(told_of))
    now = datetime.now(UTC)
    told = Event(org.id, new.id, EventKind.REBUILT, actor, now, details={"why": "raw mail without a row"})
    if not app.records.messages.insert(new, app.swept_at(), told):
        return False
    enqueue_extraction(new, app, is_live=False)
    return True


def _metadata(key: str, archive: Archive) -> dict[str, str]:
    """Give what an object was put with; nothing where that is damaged."""
    try:
        found: Description = archive.describe(key)
    except (ObjectMissing, ObjectDamaged):
        return {}
    return found.metadata
