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

from ..archive import Archive, Description, Listed, ObjectDamaged, ObjectMissing, has_whole_object
from ..assembly import Parts
from ..delivery import ring
from ..keys import EMAIL, UPLOAD, held_id, read_raw_key
from ..message import Message, read_message
from ..rebuild.reading import held_for, row_of
from ..recognition import LookUp
from ..records import Conflict, Event, InboundMessage, Organization
from ..status import EventKind

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


def judge(listed: Listed, digest: str, org: Organization, parts: Parts) -> tuple[Orphan, bytes]:
    """Say what an object without a row is, and give its bytes."""
    try:
        raw = parts.archive.read(listed.key, digest)
    except ObjectMissing:
        return Orphan.NONE, b""
    except ObjectDamaged:
        return Orphan.DAMAGED, b""
    message = read_message(raw)
    return (_judge(message, listed.key, org.id, parts), raw) if message else (Orphan.UNREADABLE, raw)


def _judge(message: Message, key: str, org_id: int, parts: Parts) -> Orphan:
    look_up = LookUp(org_id, parts.records, parts.archive)
    same = [found for source in SOURCES if (found := look_up.find_same(message, source))]
    known = [one for source in SOURCES if (one := look_up.find(source, message.source_message_id))]
    known += [one.known for one in same]
    if any(message.digest in one.digests.values() for one in known):
        return Orphan.NONE
    held = look_up.held_alone(message)
    name = read_raw_key(key)
    if held and name and name.is_held:  # one under a message's key has passed the policy that holds the copy
        is_kept = held.erased_at or has_whole_object(org_id, held.raw_key, held.digest, parts.archive)
        return Orphan.COPY if is_kept else Orphan.ONLY_COPY
    if same:
        digests = [one.known.digests[one.fingerprint] for one in same]
        ids = list(dict.fromkeys(one.id for one in known))
        return Orphan.COPY if _is_kept(digests, org_id, ids, parts) else Orphan.ONLY_COPY
    return Orphan.OTHER_CONTENT if known else Orphan.UNKNOWN


def _is_kept(digests: list[str], org_id: int, ids: list[UUID], parts: Parts) -> bool:
    """Return whether a recorded mail is whole in the archive, or was deleted from it on purpose."""
    messages = [row for id in ids if (row := parts.records.messages.get(org_id, id))]
    held = [row for id in ids for row in parts.records.conflicts.of_message(org_id, id)]
    found: list[InboundMessage | Conflict] = [*messages, *held]
    same = [row for row in found if row.digest in digests]
    if any(row.erased_at for row in same):
        return True
    return bool(same) and all(has_whole_object(org_id, row.raw_key, row.digest, parts.archive) for row in same)


def remove_copy(listed: Listed, digest: str, raw: bytes, org: Organization, parts: Parts) -> bool:
    """Delete a copy; False, and it is there again, if a row has come meanwhile that names it."""
    metadata = _metadata(listed.key, parts.archive)
    parts.archive.delete(listed.key)
    message = read_message(raw)
    if message and _judge(message, listed.key, org.id, parts) is Orphan.NONE:
        parts.archive.put(listed.key, raw, digest, metadata)
        return False
    return True


def record(listed: Listed, raw: bytes, org: Organization, parts: Parts, actor: str) -> bool:
    """Record raw mail that has no row, as a message or as held; False if a row has come meanwhile.

    Idempotent as a delivery is: by the message's identity.
    """
    message, name, told_of = read_message(raw), read_raw_key(listed.key), _metadata(listed.key, parts.archive)
    if message is None or name is None:
        return False
    new, _ = row_of(listed.key, name, message, raw, told_of, listed.put_at, org.slug, parts)
    look_up = LookUp(org.id, parts.records, parts.archive)
    if look_up.find_same(message, new.source):
        return False
    known = look_up.find(new.source, new.source_message_id)
    if known or name.is_held:
        held = replace(new, id=held_id(listed.key))
        return parts.records.conflicts.insert(known, held, held_for(told_of))
    now = datetime.now(UTC)
    told = Event(org.id, new.id, EventKind.REBUILT, actor, now, details={"why": "raw mail without a row"})
    if not parts.records.messages.insert(new, parts.swept_at(), told):
        return False
    ring(new, parts, is_live=False)
    return True


def _metadata(key: str, archive: Archive) -> dict[str, str]:
    """Give what an object was put with; nothing where that is damaged."""
    try:
        found: Description = archive.describe(key)
    except (ObjectMissing, ObjectDamaged):
        return {}
    return found.metadata
