"""Orphans: raw mail in the archive that no row names, and what may be done with it.

A delivery that died between archive and row leaves it. Its sender heard nothing, or was asked to try again. Whether
they did, only the rows know, by the mail's identity:

    identity and fingerprint are recorded, and that mail is whole in the archive,   a copy: may be deleted
      or was erased
    the same, and that mail is missing from the archive, or damaged                 the only copy: stays
    its identity is recorded with other content                                     becomes held mail
    its identity is not recorded                                                    becomes a message
    it is damaged, cannot be read, or its organization is disabled                  stays

Both objects are read and compared with their digests: a listing gives names and sizes only, and a damaged object
replaces nothing. Recorded mail is found as `pipeline.admission` finds it, by the fingerprints of earlier versions too.
A copy of mail from another sender may be held: that does not count as recorded.

So no order is lost, and one that was sent again is not doubled. Only an object older than any delivery may take is
looked at.
"""

from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.identity import MessageIdentity, read_mail, read_message
from orderflow_ingest.domain.object_keys import EMAIL, UPLOAD, held_id, read_raw_key
from orderflow_ingest.domain.states import EventKind
from orderflow_ingest.maintenance.rebuild.parse_object import hold_reason, message_row
from orderflow_ingest.pipeline.deliver import enqueue_extraction
from orderflow_ingest.pipeline.identity_lookup import IdentityLookup
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


class OrphanKind(Enum):
    """What an object without a row is."""

    NONE = "a row names it by now, or it is gone"
    COPY = "a copy of a mail that is recorded"
    ONLY_COPY = "the only copy left of a mail that is recorded: its own raw mail is missing or damaged"
    OTHER_CONTENT = "its Message-ID is recorded with other content"
    UNKNOWN = "no row knows this mail"
    DAMAGED = "its bytes are not those that were put"
    UNREADABLE = "it cannot be read as a mail"


def classify_orphan(listed: Listed, digest: str, org: Organization, app: App) -> tuple[OrphanKind, bytes]:
    """Return what an object without a row is, and its bytes."""
    try:
        raw = app.archive.read(listed.key, digest)
    except ObjectMissing:
        return OrphanKind.NONE, b""
    except ObjectDamaged:
        return OrphanKind.DAMAGED, b""
    message = read_message(raw)
    return (_classify(message, listed.key, org.id, app), raw) if message else (OrphanKind.UNREADABLE, raw)


def _classify(message: MessageIdentity, key: str, org_id: int, app: App) -> OrphanKind:
    look_up = IdentityLookup(org_id, app.records, app.archive)
    same = [found for source in SOURCES if (found := look_up.find_same(message, source))]
    known = [one for source in SOURCES if (one := look_up.find(source, message.source_message_id))]
    known += [one.existing for one in same]
    if any(message.digest in one.digests.values() for one in known):
        return OrphanKind.NONE
    held = look_up.held_alone(message)
    name = read_raw_key(key)
    if held and name and name.is_held:  # one under a message's key has passed the policy that holds the copy
        is_kept = held.erased_at or has_whole_object(org_id, held.raw_key, held.digest, app.archive)
        return OrphanKind.COPY if is_kept else OrphanKind.ONLY_COPY
    if same:
        digests = [one.existing.digests[one.fingerprint] for one in same]
        ids = list(dict.fromkeys(one.id for one in known))
        return OrphanKind.COPY if _is_kept(digests, org_id, ids, app) else OrphanKind.ONLY_COPY
    return OrphanKind.OTHER_CONTENT if known else OrphanKind.UNKNOWN


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
    """Delete a copy. False, and it is there again, if a row has come meanwhile that names it."""
    metadata = _metadata(listed.key, app.archive)
    app.archive.delete(listed.key)
    message = read_message(raw)
    if message and _classify(message, listed.key, org.id, app) is OrphanKind.NONE:
        app.archive.put(listed.key, raw, digest, metadata)
        return False
    return True


def record_orphan(listed: Listed, raw: bytes, org: Organization, app: App, actor: str) -> bool:
    """Record raw mail that has no row, as a message or as held, or False if a row has come meanwhile.

    Idempotent as a delivery is: by the message's identity.
    """
    mail, name, metadata = read_mail(raw), read_raw_key(listed.key), _metadata(listed.key, app.archive)
    if mail is None or name is None:
        return False
    new, _ = message_row(listed.key, name, mail, metadata, listed.put_at, org.slug, app)
    look_up = IdentityLookup(org.id, app.records, app.archive)
    if look_up.find_same(mail.message, new.source):
        return False
    known = look_up.find(new.source, new.source_message_id)
    if known or name.is_held:
        held = replace(new, id=held_id(listed.key))
        return app.records.held_mail.insert(known, held, hold_reason(metadata))
    now = datetime.now(UTC)
    event = Event(org.id, new.id, EventKind.REBUILT, actor, now, details={"why": "raw mail without a row"})
    if not app.records.messages.insert(new, app.swept_at(), event):
        return False
    enqueue_extraction(new, app, is_live=False)
    return True


def _metadata(key: str, archive: Archive) -> dict[str, str]:
    """Return the metadata of an object, or nothing where it is damaged."""
    try:
        found: Description = archive.describe(key)
    except (ObjectMissing, ObjectDamaged):
        return {}
    return found.metadata
