"""Delivery: from a spool entry to an outcome. The one way in, whichever door a message comes through.

deliver() is the list of steps: organisation, identity, archive, row, task. Each can be done twice: the
object by its content's digest, the row by its unique identity and an id made from the object's key, the task
because it is only a bell. So killed between any two lines and run again, it ends with one object and one row.
The identity is looked up before the archive is written (see `admission`), so that a redelivery leaves no orphan
object; of two deliveries at the same time the unique constraint chooses one, and the other takes its own object back.

Held mail has a key of its own, see `object_keys`. One that lost a race stands under a message's: it is put again, and
the first object goes before the row is written, so that the archive never says of two mails that they are messages of
one identity. The object's metadata has all of the row that the mail itself does not tell.

receive() and settle() wrap it, for a message in memory that its sender still has, and for a spool entry:
they make every end an outcome, and decide where the message stays.

    outcome           receive, settle with Postfix waiting      settle by the drain
    accepted          entry removed                             removed
    bounces           removed                                   set aside: nobody is left to tell
    backend, deadline removed: the sender's; accept: SPOOLED    kept for the next drain
    other temporary   removed: the sender's                     kept for the next drain
    INTERNAL, 3rd     set aside: DEAD_LETTER                      set aside: DEAD_LETTER
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

from orderflow_ingest.app import App
from orderflow_ingest.domain.addresses import ForeignDomainError
from orderflow_ingest.domain.automatic_mail import read_signals
from orderflow_ingest.domain.envelope import BEFORE_QUEUE, Envelope
from orderflow_ingest.domain.identity import MessageIdentity, ReadMail, disambiguated_message_id, read_mail
from orderflow_ingest.domain.object_keys import EMAIL, held_id, message_id, raw_key
from orderflow_ingest.domain.org_settings import OrgSettingsError
from orderflow_ingest.domain.outcomes import DeadlineReached, Outcome
from orderflow_ingest.domain.sender_policy import Authenticator
from orderflow_ingest.domain.states import EventKind, HoldReason
from orderflow_ingest.observability import metrics
from orderflow_ingest.observability.logs import error_location, event
from orderflow_ingest.parsing.mime.fields import MailHeader
from orderflow_ingest.parsing.mime.words import storable
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import DatabaseUnavailable, Event, ExistingMessage, NewMessage, Organization
from orderflow_ingest.storage.envelope_header import decode_envelope, encode_envelope
from orderflow_ingest.storage.probe_mail import is_probe
from orderflow_ingest.storage.queue import QueueUnavailable
from orderflow_ingest.storage.spool import Entry, SpoolWriteError

from .admission import IdentityLookup, classify

DEAD_LETTER_AFTER = 3
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
class Origin:
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


BY_SMTP = Origin()


@dataclass(frozen=True)
class _InboundMail:
    """A mail on its way in: its envelope, its bytes, its organisation, and how it comes."""

    envelope: Envelope
    raw: bytes
    org: Organization
    way: Origin


def deliver(envelope: Envelope, raw: bytes, app: App, way: Origin = BY_SMTP) -> Delivery:
    """Deliver one message. Raises DatabaseUnavailable, ArchiveUnavailable, ForeignDomainError, OrgSettingsError."""
    org = _organization(envelope.recipient, app)
    if isinstance(org, Outcome):
        return Delivery(org, reason=_no_organization(app) if org is Outcome.MISCONFIGURED else "")
    mail = read_mail(raw)
    if mail is None:
        return Delivery(Outcome.MALFORMED, org.slug, org_id=org.id)
    if not way.importer and is_probe(mail.message.source_message_id, raw, app.settings.probes_dir):
        return Delivery(Outcome.DELIVERED, org.slug, org_id=org.id)
    delivery = _deliver(mail, _InboundMail(envelope, raw, org, way), app)
    return replace(delivery, org_id=org.id, source_message_id=mail.message.source_message_id)


def _deliver(mail: ReadMail, coming: _InboundMail, app: App) -> Delivery:
    """Deliver one message to its organization."""
    envelope, org, way, message = coming.envelope, coming.org, coming.way, mail.message
    is_filtered = envelope.listener != BEFORE_QUEUE
    server = Authenticator(app.settings.authserv_id, envelope.queue_id, envelope.sender, is_filtered)
    seen = classify(mail, org, way.source, None if way.importer else server, app.records, app.archive)
    if seen.verdict:
        if seen.known:
            _delete_orphan_object(seen.known, seen.fingerprint, message.digest, coming, app)
        return Delivery(seen.verdict, org.slug, seen.known.id if seen.known else None, seen.doubt or "")
    waiting = _waiting(app)
    if _is_too_much(waiting or 0, app):
        return Delivery(Outcome.OVERLOADED, org.slug)
    new = _new_message(envelope, seen.message, org, automatic_mail_signals(mail.header, envelope.sender, app), way)
    if seen.held:
        return _hold(seen.known, new, seen.held, coming, app, seen.doubt or seen.difference)
    return _record(new, message, coming, app, rings=waiting is not None)


def check_recipient(recipient: str, app: App) -> Outcome | None:
    """Tell what a delivery to this recipient would end with before its message is looked at; None: go on."""
    try:
        org = _organization(recipient, app)
    except DatabaseUnavailable:
        return Outcome.BACKEND_DOWN
    except ForeignDomainError:
        return Outcome.MISCONFIGURED
    return org if isinstance(org, Outcome) else None


def deliver_from_memory(envelope: Envelope, raw: bytes, app: App) -> Delivery:
    """Deliver a message that its sender still has, and make every end an outcome.

    Nothing of it need outlive a crash before its row does, so it goes into the spool only where it is to stay
    with us: in accept mode, or when it is set aside.
    """
    began, key = time.monotonic(), _key(encode_envelope(envelope), raw)
    delivery, why = _attempt(envelope, raw, app, key, "")
    outcome, entry = delivery.outcome, None
    keeps = app.settings.spool_accepts and outcome in _OUTAGES
    try:
        if outcome is Outcome.DEAD_LETTER or keeps:
            entry = app.spool.write(encode_envelope(envelope), io.BytesIO(raw).read, len(raw))
            delivery = _apply_spool_policy(entry, delivery, key, app, sender_waits=True)
        elif outcome.is_accepted:
            app.spool.forget_failures(key)
    except (SpoolWriteError, OSError) as error:
        event("spool", "Message was not spooled.", logging.ERROR, outcome=outcome.name, reason=error)
        delivery = Delivery(Outcome.INTERNAL if outcome is Outcome.DEAD_LETTER else outcome, delivery.org)
    _log_and_count(delivery, envelope, app, len(raw), entry.name if entry else "", why, began)
    return delivery


def deliver_spooled(
    entry: Entry,
    app: App,
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
        envelope = decode_envelope(header)
    except (Exception, SystemExit) as error:
        why = error_location(error)
        delivery = _count_failure(entry.name, key, why, app)
    else:
        delivery, why = _attempt(envelope, raw, app, key, entry.name, within)
    delivery = _apply_spool_policy(entry, delivery, key, app, sender_waits)
    _log_and_count(delivery, envelope, app, len(raw), entry.name, why, began)
    return delivery


def _attempt(
    envelope: Envelope,
    raw: bytes,
    app: App,
    key: str,
    entry: str,
    within: AbstractContextManager[object] | None = None,
) -> tuple[Delivery, str]:
    """Deliver, and make every end an outcome, with the reason of one that is not plain."""
    try:
        with within or nullcontext():
            return deliver(envelope, raw, app), ""
    except DeadlineReached:
        return Delivery(Outcome.DEADLINE), ""
    except (DatabaseUnavailable, ArchiveUnavailable) as error:
        return Delivery(Outcome.BACKEND_DOWN), str(error)
    except (ForeignDomainError, OrgSettingsError) as error:
        return Delivery(Outcome.MISCONFIGURED), str(error)
    except ImportError as error:  # a broken deploy says nothing of this content
        return Delivery(Outcome.INTERNAL), error_location(error)
    except (Exception, SystemExit) as error:
        why = error_location(error)
        return _count_failure(entry, key, why, app), why


def _key(header: bytes, raw: bytes) -> str:
    """Name a content for one recipient."""
    return hashlib.sha256(header.partition(b"\n")[0] + hashlib.sha256(raw).digest()).hexdigest()


def enqueue_extraction(message: NewMessage, app: App, is_live: bool = True) -> None:
    """Ring for the extraction of a message; where the queue is away, the sweep finds its row."""
    try:
        app.queue.enqueue_extraction(message.org_id, message.id, is_live)
    except QueueUnavailable as error:
        event("enqueue", "Task left to the sweep.", logging.WARNING, message_id=message.id, reason=error)


def drain(
    app: App, within: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[tuple[str, Delivery]]:
    """Deliver what was left in the spool, the oldest first; stop at a backend that is away or hangs.

    An entry that another process works on is passed over. What no delivery will ever finish, and is old, is
    deleted from spool and archive first.
    """
    app.spool.clean()
    app.archive.clean()
    for name in app.spool.entries():
        entry = app.spool.claim(name)
        if entry is None:
            continue
        delivery = deliver_spooled(entry, app, within(), sender_waits=False)
        yield name, delivery
        if delivery.outcome in _OUTAGES:
            return


def _organization(recipient: str, app: App) -> Organization | Outcome:
    """Return the organization of a recipient, or the outcome without one.

    A database without any is another one than was meant, or is being set up: it says nothing of a recipient. Since a
    mail bounces for a "no", the organization is looked for again once the table is known to be filled.
    """
    organizations, slug = app.records.organizations, app.settings.addresses.slug(recipient)
    if slug is None:
        return Outcome.UNKNOWN_ORG
    org = organizations.find(slug)
    if org is None and organizations.has_none():
        return Outcome.MISCONFIGURED
    org = org or organizations.find(slug)
    if org is None:
        return Outcome.UNKNOWN_ORG
    return org if org.is_active else Outcome.ORG_DISABLED


def _no_organization(app: App) -> str:
    return f"database {app.records.database.name}: no organization is in it"


def _waiting(app: App) -> int | None:
    """Count the tasks that wait; None if the queue is away: the sweep will find the row."""
    try:
        return app.queue.recent_depth()
    except QueueUnavailable as error:
        event("enqueue", "Queue is away; the task is left to the sweep.", logging.WARNING, reason=error)
        return None


def automatic_mail_signals(header: MailHeader, sender: str, app: App) -> list[str]:
    """Tell the traits of a mail; one that was delivered to an organisation of ours before comes in a loop."""

    def is_own(recipient: str) -> bool:
        try:
            return app.settings.addresses.slug(recipient) is not None
        except ForeignDomainError:
            return False

    return [trait.value for trait in read_signals(header, sender, is_own)]


def _is_too_much(waiting: int, app: App) -> bool:
    """Tell whether the workers have more to do than they shall: too many tasks wait, or one for too long."""
    most, longest = app.settings.max_queue, app.settings.max_lag
    return 0 < most <= waiting or 0 < longest <= _lag(app)


def _lag(app: App) -> float:
    """Return for how long work has been overdue; 0 where that cannot be asked, since a backstop must not stop mail."""
    try:
        return app.records.messages.recent_lag()
    except DatabaseUnavailable as error:
        event("deliver", "How late the workers are is not known; mail is accepted.", logging.WARNING, reason=error)
        return 0.0


def _new_message(
    envelope: Envelope, message: MessageIdentity, org: Organization, traits: list[str], way: Origin
) -> NewMessage:
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


def _record(new: NewMessage, message: MessageIdentity, coming: _InboundMail, app: App, rings: bool) -> Delivery:
    """Archive and record a message, and ring for it, unless the queue was away a moment ago: it is not waited for."""
    is_own = new.source_message_id != message.source_message_id
    told = {**_metadata(coming.envelope, new, coming.org), **({"identity": "own"} if is_own else {})}
    app.archive.put(new.raw_key, coming.raw, new.digest, told)
    if not app.records.messages.insert(new, app.swept_at(), coming.way.told(new)):
        return _resolve_identity_race(new, message, coming, app, rings)
    if rings:
        enqueue_extraction(new, app, coming.way.is_live)
    return Delivery(Outcome.DELIVERED, coming.org.slug, new.id)


def _resolve_identity_race(
    new: NewMessage, message: MessageIdentity, coming: _InboundMail, app: App, rings: bool
) -> Delivery:
    """End a delivery that lost the race for its identity, or whose mail is a message under another identity."""
    messages, org = app.records.messages, coming.org
    known = messages.find_identity(new.org_id, new.source, new.source_message_id)
    if known is None:
        if messages.get(new.org_id, new.id) is None:
            raise RuntimeError("an identity was taken and is gone")
        return Delivery(Outcome.DUPLICATE, org.slug, new.id)
    if new.fingerprint in known.digests:
        _delete_orphan_object(known, new.fingerprint, new.digest, coming, app)
        return Delivery(Outcome.DUPLICATE, org.slug, known.id)
    mail = read_mail(coming.raw)
    same, difference = IdentityLookup(org.id, app.records, app.archive).compare(mail, known) if mail else (None, "")
    if same:
        _delete_orphan_object(known, same.fingerprint, new.digest, coming, app)
        return Delivery(Outcome.DUPLICATE, org.slug, known.id)
    if org.settings.accepts_reused_message_id and new.source_message_id == message.source_message_id:
        own = disambiguated_message_id(new.source_message_id, new.fingerprint)
        return _record(replace(new, source_message_id=own), message, coming, app, rings)
    return _hold(known, new, HoldReason.MESSAGE_ID_REUSED, coming, app, difference)


def _hold(
    known: ExistingMessage | None, new: NewMessage, why: HoldReason, coming: _InboundMail, app: App, reason: str = ""
) -> Delivery:
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
    app.archive.put(key, coming.raw, new.digest, told)
    # Of an attempt that took itself for the first. A stranger's mail never does, and an object that has no row yet may
    # be that of an allowed sender's mail, which is being recorded at this moment.
    if why is HoldReason.MESSAGE_ID_REUSED and not _is_named(new, app):
        app.archive.delete(new.raw_key)
    first = known or ExistingMessage.from_held(held.id, held.fingerprint, held.digest)
    if not app.records.held_mail.insert(known, held, why):
        first = _known_now(known, new, app) or first
        _delete_orphan_object(first, new.fingerprint, new.digest, coming, app)
    return Delivery(Outcome.HELD, coming.org.slug, first.id, reason)


def _is_named(new: NewMessage, app: App) -> bool:
    """Tell whether a row names the object that a message of these bytes has: another delivery's, or an old one's."""
    if app.records.messages.get(new.org_id, new.id) is not None:
        return True
    held = app.records.held_mail.alone(new.org_id, new.fingerprint)
    return held is not None and held.raw_key == new.raw_key


def _known_now(known: ExistingMessage | None, new: NewMessage, app: App) -> ExistingMessage | None:
    """Tell what is recorded of a mail that was held before."""
    if known is None:
        held = app.records.held_mail.alone(new.org_id, new.fingerprint)
        return ExistingMessage.from_held(held.id, held.fingerprint, held.digest) if held else None
    return app.records.messages.find_identity(new.org_id, new.source, new.source_message_id)


def _delete_orphan_object(
    known: ExistingMessage, fingerprint: str, digest: str, coming: _InboundMail, app: App
) -> None:
    """Delete the object of a delivery that has made no row, its own or that of an attempt that was killed here.

    A mail that is held for its sender has never been put under a message's key: that object is another mail's.
    """
    if digest in known.digests.values():
        return
    org_id, source = coming.org.id, coming.way.source
    if known.is_message:
        app.archive.delete(raw_key(org_id, digest, source))
    if known.is_held(fingerprint):
        key = raw_key(org_id, digest, source, is_held=True)
        if not app.records.held_mail.of_id(held_id(key), org_id):
            app.archive.delete(key)


def _count_failure(entry: str, key: str, why: str, app: App) -> Delivery:
    try:
        count = app.spool.record_failure(key, f"{_now().isoformat(timespec='seconds')} INTERNAL {why}")
    except OSError as error:
        event(
            "note",
            "Failure could not be noted.",
            logging.ERROR,
            entry=entry,
            reason=error,
        )
        return Delivery(Outcome.INTERNAL)
    return Delivery(Outcome.DEAD_LETTER if count >= DEAD_LETTER_AFTER else Outcome.INTERNAL)


def _apply_spool_policy(entry: Entry, delivery: Delivery, key: str, app: App, sender_waits: bool) -> Delivery:
    """Do with the entry what the table in this module's header says."""
    outcome, spool = delivery.outcome, app.spool
    try:
        if outcome is Outcome.DEAD_LETTER or not (sender_waits or outcome.is_accepted or outcome.is_temporary):
            spool.move_to_dead(entry, key, f"{_now().isoformat(timespec='seconds')} {outcome.name}")
        elif outcome.is_accepted:
            spool.finish(entry)
            spool.forget_failures(key)
        elif not sender_waits:
            entry.release()
        elif app.settings.spool_accepts and outcome in _OUTAGES:
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
        return delivery if outcome is not Outcome.DEAD_LETTER else Delivery(Outcome.INTERNAL, delivery.org)
    return delivery


def _log_and_count(
    delivery: Delivery, envelope: Envelope | None, app: App, size: int, entry: str, why: str, began: float
) -> None:
    """Log a delivery in one record, since a message costs what it costs to log it, too; and count it."""
    outcome = delivery.outcome
    level = logging.INFO if outcome.is_accepted and outcome is not Outcome.DEAD_LETTER else logging.WARNING
    if outcome in (Outcome.INTERNAL, Outcome.DEAD_LETTER):
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
        extension=envelope and _extension(envelope.recipient, app),
        size=size,
        entry=entry,
        reason=why or delivery.reason,
    )
    metrics.count(metrics.DELIVERIES, delivery.org or "", outcome.name)
    metrics.observe(metrics.DELIVERY_SECONDS, time.monotonic() - began)
    metrics.observe(metrics.MESSAGE_BYTES, size)


def _extension(recipient: str, app: App) -> str:
    return storable(app.settings.addresses.divide(recipient.rpartition("@")[0])[1])[:80]


def _now() -> datetime:
    return datetime.now(UTC)
