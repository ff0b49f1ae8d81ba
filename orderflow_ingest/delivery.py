"""Delivery: from a spool entry to an outcome. The one way in, whichever door a message comes through.

deliver() is the list of steps: organisation, identity, archive, row, task. Each can be done twice: the
object by its content's digest, the row by its unique identity and an id made from the object's key, the task
because it is only a bell. So killed between any two lines and run again, it ends with one object and one row.
The identity is looked up before the archive is written (see `recognition`), so that a redelivery leaves no orphan
object; of two deliveries at the same time the unique constraint chooses one, and the other takes its own object back.

Held mail has a key of its own, see `keys`. One that lost a race stands under a message's: it is put anew, and the
first object goes before the row is written, so that the archive never says of two mails that they are messages of
one identity. The object's metadata has all of the row that the mail itself does not tell.

receive() and settle() wrap it, for a message in memory that its sender still has, and for a spool entry:
they make every end an outcome, and decide where the message stays.

    outcome           receive, settle with Postfix waiting      settle by the drain
    accepted          entry removed                             removed
    bounces           removed                                   set aside: nobody is left to tell
    backend, deadline removed: the sender's; accept: SPOOLED    kept for the next drain
    other temporary   removed: the sender's                     kept for the next drain
    INTERNAL, 3rd     set aside: SET_ASIDE                      set aside: SET_ASIDE
"""

import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from . import metrics
from .addresses import ForeignDomain
from .archive import ArchiveUnavailable
from .assembly import Parts
from .envelope import BEFORE_QUEUE, Envelope, decode
from .keys import EMAIL, held_id, message_id, raw_key
from .logs import event, place
from .message import Message, ReadMail, own_identity, read_mail
from .mime.fields import MailHeader
from .mime.words import storable
from .org_settings import BadOrgSettings
from .outcomes import DeadlineReached, Outcome
from .probe import is_probe
from .queue import QueueUnavailable
from .recognition import LookUp, recognise
from .records import Event, Known, NewMessage, Organization, RecordsUnavailable
from .senders import Authenticator
from .spool import Entry, SpoolFull
from .status import EventKind, Held
from .traits import read_traits

SET_ASIDE_AFTER = 3
_OUTAGES = (Outcome.BACKEND_DOWN, Outcome.DEADLINE)


@dataclass(frozen=True)
class Delivery:
    """How a delivery ended: the outcome, the organisation and row where there are any, and why a mail is held."""

    outcome: Outcome
    org: str | None = None
    message_id: UUID | None = None
    reason: str = field(default="", compare=False)
    # What the log says besides, for who looks for a mail by it.
    org_id: int | None = field(default=None, compare=False)
    source_message_id: str = field(default="", compare=False)


@dataclass(frozen=True)
class Way:
    """How a message comes in: its source; whether it is live, and goes first; and who imports it, in which run."""

    source: str = EMAIL
    is_live: bool = True
    importer: str = ""
    run_id: UUID | None = None

    def told(self, new: NewMessage) -> Event | None:
        """Tell of an import; what comes by mail is told by its row."""
        if not self.importer:
            return None
        return Event(new.org_id, new.id, EventKind.IMPORTED, self.importer, _now(), run_id=self.run_id)


BY_MAIL = Way()


@dataclass(frozen=True)
class _Coming:
    """A mail on its way in: its envelope, its bytes, its organisation, and how it comes."""

    envelope: Envelope
    raw: bytes
    org: Organization
    way: Way


def deliver(envelope: Envelope, raw: bytes, parts: Parts, way: Way = BY_MAIL) -> Delivery:
    """Deliver one message. Raises RecordsUnavailable, ArchiveUnavailable, ForeignDomain, BadOrgSettings."""
    org = _organization(envelope.recipient, parts)
    if isinstance(org, Outcome):
        return Delivery(org, reason=_no_organization(parts) if org is Outcome.MISCONFIGURED else "")
    mail = read_mail(raw)
    if mail is None:
        return Delivery(Outcome.MALFORMED, org.slug, org_id=org.id)
    if not way.importer and is_probe(mail.message.source_message_id, raw, parts.settings.probes_dir):
        return Delivery(Outcome.DELIVERED, org.slug, org_id=org.id)
    delivery = _deliver(mail, _Coming(envelope, raw, org, way), parts)
    return replace(delivery, org_id=org.id, source_message_id=mail.message.source_message_id)


def _deliver(mail: ReadMail, coming: _Coming, parts: Parts) -> Delivery:
    """Deliver one message to its organization."""
    envelope, org, way, message = coming.envelope, coming.org, coming.way, mail.message
    is_filtered = envelope.door != BEFORE_QUEUE
    server = Authenticator(parts.settings.authserv_id, envelope.queue_id, envelope.sender, is_filtered)
    seen = recognise(mail, org, way.source, None if way.importer else server, parts.records, parts.archive)
    if seen.verdict:
        if seen.known:
            _take_back(seen.known, seen.fingerprint, message.digest, coming, parts)
        return Delivery(seen.verdict, org.slug, seen.known.id if seen.known else None, seen.doubt or "")
    waiting = _waiting(parts)
    if _is_too_much(waiting or 0, parts):
        return Delivery(Outcome.OVERLOADED, org.slug)
    new = _new_message(envelope, seen.message, org, known_traits(mail.header, envelope.sender, parts), way)
    if seen.held:
        return _hold(seen.known, new, seen.held, coming, parts, seen.doubt or seen.difference)
    return _record(new, message, coming, parts, rings=waiting is not None)


def welcome(recipient: str, parts: Parts) -> Outcome | None:
    """Tell what a delivery to this recipient would end with before its message is looked at; None: go on."""
    try:
        org = _organization(recipient, parts)
    except RecordsUnavailable:
        return Outcome.BACKEND_DOWN
    except ForeignDomain:
        return Outcome.MISCONFIGURED
    return org if isinstance(org, Outcome) else None


def receive(envelope: Envelope, raw: bytes, parts: Parts) -> Delivery:
    """Deliver a message that its sender still has, and make every end an outcome.

    Nothing of it need outlive a crash before its row does, so it goes into the spool only where it is to stay
    with us: in accept mode, or when it is set aside.
    """
    began, key = time.monotonic(), _key(envelope.encode(), raw)
    delivery, why = _attempt(envelope, raw, parts, key, "")
    outcome, entry = delivery.outcome, None
    keeps = parts.settings.spool_accepts and outcome in _OUTAGES
    try:
        if outcome is Outcome.SET_ASIDE or keeps:
            entry = parts.spool.write(envelope.encode(), io.BytesIO(raw).read, len(raw))
            delivery = _conclude(entry, delivery, key, parts, sender_waits=True)
        elif outcome.is_accepted:
            parts.spool.forget_failures(key)
    except (SpoolFull, OSError) as error:
        event("spool", "Message was not spooled.", logging.ERROR, outcome=outcome.name, reason=error)
        delivery = Delivery(Outcome.INTERNAL if outcome is Outcome.SET_ASIDE else outcome, delivery.org)
    _tell(delivery, envelope, parts, len(raw), entry.name if entry else "", why, began)
    return delivery


def settle(
    entry: Entry,
    parts: Parts,
    within: AbstractContextManager[object] | None = None,
    sender_waits: bool = True,
) -> Delivery:
    """Deliver a spool entry, make every end an outcome, and keep, remove or set aside the entry.

    `within` bounds the time: it raises DeadlineReached inside deliver().
    """
    began, envelope, raw, key = time.monotonic(), None, b"", entry.name
    try:
        header, raw = entry.read()
        key = _key(header, raw)
        envelope = decode(header)
    except (Exception, SystemExit) as error:
        why = place(error)
        delivery = _count_failure(entry.name, key, why, parts)
    else:
        delivery, why = _attempt(envelope, raw, parts, key, entry.name, within)
    delivery = _conclude(entry, delivery, key, parts, sender_waits)
    _tell(delivery, envelope, parts, len(raw), entry.name, why, began)
    return delivery


def _attempt(
    envelope: Envelope,
    raw: bytes,
    parts: Parts,
    key: str,
    entry: str,
    within: AbstractContextManager[object] | None = None,
) -> tuple[Delivery, str]:
    """Deliver, and make every end an outcome, with the reason of one that is not plain."""
    try:
        with within or nullcontext():
            return deliver(envelope, raw, parts), ""
    except DeadlineReached:
        return Delivery(Outcome.DEADLINE), ""
    except (RecordsUnavailable, ArchiveUnavailable) as error:
        return Delivery(Outcome.BACKEND_DOWN), str(error)
    except (ForeignDomain, BadOrgSettings) as error:
        return Delivery(Outcome.MISCONFIGURED), str(error)
    except ImportError as error:  # a broken deploy says nothing of this content
        return Delivery(Outcome.INTERNAL), place(error)
    except (Exception, SystemExit) as error:
        why = place(error)
        return _count_failure(entry, key, why, parts), why


def _key(header: bytes, raw: bytes) -> str:
    """Name a content for one recipient."""
    return hashlib.sha256(header.partition(b"\n")[0] + hashlib.sha256(raw).digest()).hexdigest()


def ring(message: NewMessage, parts: Parts, is_live: bool = True) -> None:
    """Ring for the extraction of a message; where the queue is away, the sweep finds its row."""
    try:
        parts.queue.extract(message.org_id, message.id, is_live)
    except QueueUnavailable as error:
        event("enqueue", "Task left to the sweep.", logging.WARNING, message_id=message.id, reason=error)


def drain(
    parts: Parts, within: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[tuple[str, Delivery]]:
    """Deliver what was left in the spool, the oldest first; stop at a backend that is away or hangs.

    An entry that another process works on is passed over. What no delivery will ever finish, and is old, is
    deleted from spool and archive first.
    """
    parts.spool.clean()
    parts.archive.clean()
    for name in parts.spool.entries():
        entry = parts.spool.claim(name)
        if entry is None:
            continue
        delivery = settle(entry, parts, within(), sender_waits=False)
        yield name, delivery
        if delivery.outcome in _OUTAGES:
            return


def _organization(recipient: str, parts: Parts) -> Organization | Outcome:
    """Return the organization of a recipient, or the outcome without one.

    A database without any is another one than was meant, or is being set up: it says nothing of a recipient. Since a
    mail bounces for a "no", the organization is looked for again once the table is known to be filled.
    """
    organizations, slug = parts.records.organizations, parts.settings.addresses.slug(recipient)
    if slug is None:
        return Outcome.UNKNOWN_ORG
    org = organizations.find(slug)
    if org is None and organizations.has_none():
        return Outcome.MISCONFIGURED
    org = org or organizations.find(slug)
    if org is None:
        return Outcome.UNKNOWN_ORG
    return org if org.is_active else Outcome.ORG_DISABLED


def _no_organization(parts: Parts) -> str:
    return f"database {parts.records.database.name}: no organization is in it"


def _waiting(parts: Parts) -> int | None:
    """Count the tasks that wait; None if the queue is away: the sweep will find the row."""
    try:
        return parts.queue.recent_depth()
    except QueueUnavailable as error:
        event("enqueue", "Queue is away; the task is left to the sweep.", logging.WARNING, reason=error)
        return None


def known_traits(header: MailHeader, sender: str, parts: Parts) -> list[str]:
    """Tell the traits of a mail; one that was delivered to an organisation of ours before comes in a loop."""

    def is_own(recipient: str) -> bool:
        try:
            return parts.settings.addresses.slug(recipient) is not None
        except ForeignDomain:
            return False

    return [trait.value for trait in read_traits(header, sender, is_own)]


def _is_too_much(waiting: int, parts: Parts) -> bool:
    """Tell whether the workers have more to do than they shall: too many tasks wait, or one for too long."""
    most, longest = parts.settings.max_queue, parts.settings.max_lag
    return 0 < most <= waiting or 0 < longest <= _lag(parts)


def _lag(parts: Parts) -> float:
    """Return for how long work has been overdue; 0 where that cannot be asked, since a backstop must not stop mail."""
    try:
        return parts.records.messages.recent_lag()
    except RecordsUnavailable as error:
        event("deliver", "How late the workers are is not known; mail is accepted.", logging.WARNING, reason=error)
        return 0.0


def _new_message(envelope: Envelope, message: Message, org: Organization, traits: list[str], way: Way) -> NewMessage:
    key = raw_key(org.id, message.digest, way.source)
    return NewMessage(
        org_id=org.id,
        id=message_id(key),
        source=way.source,
        envelope_sender=storable(envelope.sender),
        envelope_recipient=storable(envelope.recipient),
        queue_id=storable(envelope.queue_id),
        client_address=storable(envelope.client_address),
        received_at=envelope.received_at,
        raw_key=key,
        traits=traits,
        **message.recorded(),
    )


def _metadata(envelope: Envelope, new: NewMessage, org: Organization) -> dict[str, str]:
    return {
        "org": org.slug,
        "id": str(new.id),
        "source": new.source,
        "sender": new.envelope_sender,
        "recipient": new.envelope_recipient,
        "original-recipient": storable(envelope.original_recipient),
        "queue-id": new.queue_id,
        "client-address": new.client_address,
        "received-at": new.received_at.isoformat(),
    }


def _record(new: NewMessage, message: Message, coming: _Coming, parts: Parts, rings: bool) -> Delivery:
    """Archive and record a message, and ring for it, unless the queue was away a moment ago: it is not waited for."""
    is_own = new.source_message_id != message.source_message_id
    told = {**_metadata(coming.envelope, new, coming.org), **({"identity": "own"} if is_own else {})}
    parts.archive.put(new.raw_key, coming.raw, new.digest, told)
    if not parts.records.messages.insert(new, parts.swept_at(), coming.way.told(new)):
        return _second(new, message, coming, parts, rings)
    if rings:
        ring(new, parts, coming.way.is_live)
    return Delivery(Outcome.DELIVERED, coming.org.slug, new.id)


def _second(new: NewMessage, message: Message, coming: _Coming, parts: Parts, rings: bool) -> Delivery:
    """End a delivery that lost the race for its identity, or whose mail is a message under another identity."""
    messages, org = parts.records.messages, coming.org
    known = messages.find_identity(new.org_id, new.source, new.source_message_id)
    if known is None:
        if messages.get(new.org_id, new.id) is None:
            raise RuntimeError("an identity was taken and is gone")
        return Delivery(Outcome.DUPLICATE, org.slug, new.id)
    if new.fingerprint in known.digests:
        _take_back(known, new.fingerprint, new.digest, coming, parts)
        return Delivery(Outcome.DUPLICATE, org.slug, known.id)
    mail = read_mail(coming.raw)
    same, difference = LookUp(org.id, parts.records, parts.archive).compare(mail, known) if mail else (None, "")
    if same:
        _take_back(known, same.fingerprint, new.digest, coming, parts)
        return Delivery(Outcome.DUPLICATE, org.slug, known.id)
    if org.settings.accepts_conflicts and new.source_message_id == message.source_message_id:
        own = own_identity(new.source_message_id, new.fingerprint)
        return _record(replace(new, source_message_id=own), message, coming, parts, rings)
    return _hold(known, new, Held.IDENTITY, coming, parts, difference)


def _hold(known: Known | None, new: NewMessage, why: Held, coming: _Coming, parts: Parts, reason: str = "") -> Delivery:
    """Archive and record a mail that is held: its identity is `known` with other content, or its sender a stranger.

    `reason` tells the doubt, or in what it differs: the object's metadata keeps it.
    """
    key = raw_key(new.org_id, new.digest, new.source, is_held=True)
    held = replace(new, id=held_id(key), raw_key=key)
    told = {
        **_metadata(coming.envelope, held, coming.org),
        "held": why.value,
        **({"why": reason} if reason else {}),
    }
    parts.archive.put(key, coming.raw, new.digest, told)
    # Of an attempt that took itself for the first. A stranger's mail never does, and an object that has no row yet may
    # be that of an allowed sender's mail, which is being recorded at this moment.
    if why is Held.IDENTITY and not _is_named(new, parts):
        parts.archive.delete(new.raw_key)
    first = known or Known.of_held(held.id, held.fingerprint, held.digest)
    if not parts.records.conflicts.insert(known, held, why):
        first = _known_now(known, new, parts) or first
        _take_back(first, new.fingerprint, new.digest, coming, parts)
    return Delivery(Outcome.HELD, coming.org.slug, first.id, reason)


def _is_named(new: NewMessage, parts: Parts) -> bool:
    """Tell whether a row names the object that a message of these bytes has: another delivery's, or an old one's."""
    if parts.records.messages.get(new.org_id, new.id) is not None:
        return True
    held = parts.records.conflicts.alone(new.org_id, new.fingerprint)
    return held is not None and held.raw_key == new.raw_key


def _known_now(known: Known | None, new: NewMessage, parts: Parts) -> Known | None:
    """Tell what is recorded of a mail that was held before."""
    if known is None:
        held = parts.records.conflicts.alone(new.org_id, new.fingerprint)
        return Known.of_held(held.id, held.fingerprint, held.digest) if held else None
    return parts.records.messages.find_identity(new.org_id, new.source, new.source_message_id)


def _take_back(known: Known, fingerprint: str, digest: str, coming: _Coming, parts: Parts) -> None:
    """Delete the object of a delivery that has made no row, its own or that of an attempt that was killed here.

    A mail that is held for its sender has never been put under a message's key: that object is another mail's.
    """
    if digest in known.digests.values():
        return
    org_id, source = coming.org.id, coming.way.source
    if known.is_message:
        parts.archive.delete(raw_key(org_id, digest, source))
    if known.is_held(fingerprint):
        key = raw_key(org_id, digest, source, is_held=True)
        if not parts.records.conflicts.of_id(held_id(key), org_id):
            parts.archive.delete(key)


def _count_failure(entry: str, key: str, why: str, parts: Parts) -> Delivery:
    try:
        count = parts.spool.note_failure(key, f"{_now().isoformat(timespec='seconds')} INTERNAL {why}")
    except OSError as error:
        event(
            "note",
            "Failure could not be noted.",
            logging.ERROR,
            entry=entry,
            reason=error,
        )
        return Delivery(Outcome.INTERNAL)
    return Delivery(Outcome.SET_ASIDE if count >= SET_ASIDE_AFTER else Outcome.INTERNAL)


def _conclude(entry: Entry, delivery: Delivery, key: str, parts: Parts, sender_waits: bool) -> Delivery:
    """Do with the entry what the table in this module's header says."""
    outcome, spool = delivery.outcome, parts.spool
    try:
        if outcome is Outcome.SET_ASIDE or not (sender_waits or outcome.is_accepted or outcome.is_temporary):
            spool.set_aside(entry, key, f"{_now().isoformat(timespec='seconds')} {outcome.name}")
        elif outcome.is_accepted:
            spool.finish(entry)
            spool.forget_failures(key)
        elif not sender_waits:
            entry.release()
        elif parts.settings.spool_accepts and outcome in _OUTAGES:
            entry.release()
            return Delivery(Outcome.SPOOLED, delivery.org)
        else:
            spool.finish(entry)
    except OSError as error:
        event(
            "spool",
            "Spool entry could not be moved.",
            logging.ERROR,
            entry=entry.name,
            reason=error,
        )
        entry.release()
        return delivery if outcome is not Outcome.SET_ASIDE else Delivery(Outcome.INTERNAL, delivery.org)
    return delivery


def _tell(
    delivery: Delivery, envelope: Envelope | None, parts: Parts, size: int, entry: str, why: str, began: float
) -> None:
    """Log a delivery in one record, since a message costs what it costs to log it, too; and count it."""
    outcome = delivery.outcome
    level = logging.INFO if outcome.is_accepted and outcome is not Outcome.SET_ASIDE else logging.WARNING
    if outcome in (Outcome.INTERNAL, Outcome.SET_ASIDE):
        level = logging.ERROR
    event(
        "deliver",
        "Delivery ended.",
        level,
        outcome=outcome.name,
        org=delivery.org,
        org_id=delivery.org_id,
        message_id=delivery.message_id,
        source_message_id=delivery.source_message_id,
        queue_id=envelope and envelope.queue_id,
        extension=envelope and _extension(envelope.recipient, parts),
        size=size,
        entry=entry,
        reason=why or delivery.reason,
    )
    metrics.count(metrics.DELIVERIES, delivery.org or "", outcome.name)
    metrics.observe(metrics.DELIVERY_SECONDS, time.monotonic() - began)
    metrics.observe(metrics.MESSAGE_BYTES, size)


def _extension(recipient: str, parts: Parts) -> str:
    return storable(parts.settings.addresses.divide(recipient.rpartition("@")[0])[1])[:80]


def _now() -> datetime:
    return datetime.now(UTC)
