"""Deliver: from a message to an outcome. Every mail comes in here, whichever listener or command brings it.

deliver() is the list of steps: organization, identity and decision (see `admission`), archive, row, task. Each step can
be done twice: the object is keyed by its content's digest, the row has a unique identity and an id made from the
object's key, and the task only wakes a worker up. So a delivery that is killed between any two lines, and run again,
ends with one object and one row.

The identity is looked up before the archive is written, so that a redelivery leaves no orphan object. Of two deliveries
at the same time the unique constraint chooses one. The other one deletes its own object.

Held mail has a key of its own, see `object_keys`. A mail that is held only after it has lost that race stands under a
message's key already. It is put again under its own, and the first object is deleted before the row is written: the
archive never says of two mails that both are messages of one identity.

The object's metadata has all of the row that the mail itself does not say, so that rows can be rebuilt from it.

The header of a mail is parsed once, into a ReadMail. Identity, sender policy and automatic-mail signals read that.
"""

import logging
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.addresses import ForeignDomainError
from orderflow_ingest.domain.automatic_mail import read_signals
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import MessageIdentity, ReadMail, disambiguated_message_id, read_mail
from orderflow_ingest.domain.object_keys import EMAIL, held_id, message_id, raw_key
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import EventKind, HoldReason
from orderflow_ingest.observability.logs import event
from orderflow_ingest.parsing.mime.fields import MailHeader
from orderflow_ingest.parsing.mime.words import storable
from orderflow_ingest.storage.database import Event, ExistingMessage, NewMessage, Organization
from orderflow_ingest.storage.probe_mail import is_probe
from orderflow_ingest.storage.queue import QueueUnavailable

from .admission import authenticator, classify, find_organization, measure_load
from .identity_lookup import IdentityLookup


@dataclass(frozen=True)
class Delivery:
    """How a delivery ended: the outcome, the organization and row where there are any, and why a mail is held.

    `org_id` and `source_message_id` are for the log, for those who look for a mail by them.
    """

    outcome: Outcome
    org: str | None = None
    message_id: UUID | None = None
    reason: str = field(default="", compare=False)
    org_id: int | None = field(default=None, compare=False)
    source_message_id: str = field(default="", compare=False)


@dataclass(frozen=True)
class Origin:
    """Where a message comes from: its source. Whether it is live, and goes first. Who imports it, in which run."""

    source: str = EMAIL
    is_live: bool = True
    importer: str = ""
    run_id: UUID | None = None

    def import_event(self, new: NewMessage) -> Event | None:
        """Return the event of an import, or None for a live mail, whose row says when it came."""
        if not self.importer:
            return None
        now = datetime.now(UTC)
        return Event(new.org_id, new.id, EventKind.IMPORTED, self.importer, now, run_id=self.run_id)


BY_SMTP = Origin()


@dataclass(frozen=True)
class _InboundMail:
    """A mail on its way in: its envelope, its bytes with the parsed header, its organization, and its origin."""

    envelope: Envelope
    mail: ReadMail
    org: Organization
    origin: Origin


def deliver(
    envelope: Envelope, raw: bytes, app: App, origin: Origin = BY_SMTP, mail: ReadMail | None = None
) -> Delivery:
    """Deliver one message. `mail` is the same message, where the caller has read it already.

    Raise DatabaseUnavailable, ArchiveUnavailable, ForeignDomainError, OrgSettingsError.
    """
    org = find_organization(envelope.recipient, app)
    if isinstance(org, Outcome):
        return Delivery(org, reason=_no_organization(app) if org is Outcome.MISCONFIGURED else "")
    mail = mail or read_mail(raw)
    if mail is None:
        return Delivery(Outcome.MALFORMED, org.slug, org_id=org.id)
    if not origin.importer and is_probe(mail.message.source_message_id, raw, app.settings.probes_dir):
        return Delivery(Outcome.DELIVERED, org.slug, org_id=org.id)
    delivery = _deliver(_InboundMail(envelope, mail, org, origin), app)
    return replace(delivery, org_id=org.id, source_message_id=mail.message.source_message_id)


def _deliver(inbound: _InboundMail, app: App) -> Delivery:
    """Decide on a mail of an organization, and write what was decided."""
    envelope, mail, org, origin = inbound.envelope, inbound.mail, inbound.org, inbound.origin
    server = None if origin.importer else authenticator(envelope, app)
    admission = classify(mail, org, origin.source, server, app, lambda: measure_load(app))
    existing, reason = admission.existing, admission.rejection or admission.difference
    if admission.outcome:
        if existing:
            _delete_orphan_object(existing, admission.fingerprint, mail.message.digest, inbound, app)
        return Delivery(admission.outcome, org.slug, existing.id if existing else None, reason)
    signals = automatic_mail_signals(mail.header, envelope.sender, app)
    new = _new_message(envelope, admission.message, org, signals, origin)
    if admission.hold_reason:
        return _hold(existing, new, admission.hold_reason, inbound, app, reason)
    return _record(new, inbound, app, enqueues=admission.load.is_queue_available)


def enqueue_extraction(message: NewMessage, app: App, *, is_live: bool = True) -> None:
    """Put the task that extracts a message into the queue. Where that is unavailable, the sweep finds its row."""
    try:
        app.queue.enqueue_extraction(message.org_id, message.id, is_live=is_live)
    except QueueUnavailable as error:
        event("enqueue", "Task left to the sweep.", logging.WARNING, message_id=message.id, reason=error)


def _no_organization(app: App) -> str:
    """Return what is wrong with a database without any organization."""
    return f"database {app.records.database.name}: no organization is in it"


def automatic_mail_signals(header: MailHeader, sender: str, app: App) -> list[str]:
    """Return the signals of automatic mail. A mail that was delivered to one of our addresses before is in a loop."""

    def is_own(recipient: str) -> bool:
        try:
            return app.settings.addresses.slug(recipient) is not None
        except ForeignDomainError:
            return False

    return [signal.value for signal in read_signals(header, sender, is_own)]


def _new_message(
    envelope: Envelope, message: MessageIdentity, org: Organization, signals: list[str], origin: Origin
) -> NewMessage:
    key = raw_key(org.id, message.digest, origin.source)
    return NewMessage(
        org_id=org.id,
        id=message_id(key),
        source=origin.source,
        envelope_sender=storable(envelope.sender),
        envelope_recipient=storable(envelope.recipient),
        queue_id=storable(envelope.queue_id),
        client_address=storable(envelope.client_address),
        received_at=envelope.received_at,
        raw_key=key,
        traits=signals,
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


def _record(new: NewMessage, inbound: _InboundMail, app: App, *, enqueues: bool) -> Delivery:
    """Archive and record a message, and enqueue its extraction where the queue answered a moment ago."""
    is_own = new.source_message_id != inbound.mail.message.source_message_id
    metadata = {**_metadata(inbound.envelope, new, inbound.org), **({"identity": "own"} if is_own else {})}
    app.archive.put(new.raw_key, inbound.mail.raw, new.digest, metadata)
    if not app.records.messages.insert(new, app.swept_at(), inbound.origin.import_event(new)):
        return _resolve_identity_race(new, inbound, app, enqueues=enqueues)
    if enqueues:
        enqueue_extraction(new, app, is_live=inbound.origin.is_live)
    return Delivery(Outcome.DELIVERED, inbound.org.slug, new.id)


def _resolve_identity_race(new: NewMessage, inbound: _InboundMail, app: App, *, enqueues: bool) -> Delivery:
    """End a delivery that lost the race for its identity, or whose mail is a message under another identity."""
    messages, org, mail = app.records.messages, inbound.org, inbound.mail
    existing = messages.find_identity(new.org_id, new.source, new.source_message_id)
    if existing is None:
        if messages.get(new.org_id, new.id) is None:
            raise RuntimeError("an identity was taken and is gone")
        return Delivery(Outcome.DUPLICATE, org.slug, new.id)
    if new.fingerprint in existing.digests:
        _delete_orphan_object(existing, new.fingerprint, new.digest, inbound, app)
        return Delivery(Outcome.DUPLICATE, org.slug, existing.id)
    same, difference = IdentityLookup(org.id, app.records, app.archive).compare(mail, existing)
    if same:
        _delete_orphan_object(existing, same.fingerprint, new.digest, inbound, app)
        return Delivery(Outcome.DUPLICATE, org.slug, existing.id)
    if org.settings.accepts_reused_message_id and new.source_message_id == mail.message.source_message_id:
        own = disambiguated_message_id(new.source_message_id, new.fingerprint)
        return _record(replace(new, source_message_id=own), inbound, app, enqueues=enqueues)
    return _hold(existing, new, HoldReason.MESSAGE_ID_REUSED, inbound, app, difference)


def _hold(
    existing: ExistingMessage | None,
    new: NewMessage,
    why: HoldReason,
    inbound: _InboundMail,
    app: App,
    reason: str = "",
) -> Delivery:
    """Archive and record a mail that is held: `existing` has its identity with other content, or a stranger sent it.

    `reason` says why the sender is rejected, or what differs: the object's metadata keeps it.
    """
    key = raw_key(new.org_id, new.digest, new.source, is_held=True)
    held = replace(new, id=held_id(key), raw_key=key)
    metadata = {**_metadata(inbound.envelope, held, inbound.org), "held": why.value}
    app.archive.put(key, inbound.mail.raw, new.digest, {**metadata, **({"why": reason} if reason else {})})
    # The object of an attempt that lost a race. A stranger's mail never has one: an object without a row may then be
    # that of an allowed sender's mail, which is being recorded at this moment.
    if why is HoldReason.MESSAGE_ID_REUSED and not _is_referenced(new, app):
        app.archive.delete(new.raw_key)
    first = existing or ExistingMessage.from_held(held.id, held.fingerprint, held.digest)
    if not app.records.held_mail.insert(existing, held, why):
        first = _find_held_before(existing, new, app) or first
        _delete_orphan_object(first, new.fingerprint, new.digest, inbound, app)
    return Delivery(Outcome.HELD, inbound.org.slug, first.id, reason)


def _is_referenced(new: NewMessage, app: App) -> bool:
    """Return whether a row names the object that a message of these bytes has: another delivery's, or an old one's."""
    if app.records.messages.get(new.org_id, new.id) is not None:
        return True
    held = app.records.held_mail.alone(new.org_id, new.fingerprint)
    return held is not None and held.raw_key == new.raw_key


def _find_held_before(existing: ExistingMessage | None, new: NewMessage, app: App) -> ExistingMessage | None:
    """Return what is recorded of a mail that was held before."""
    if existing is None:
        held = app.records.held_mail.alone(new.org_id, new.fingerprint)
        return ExistingMessage.from_held(held.id, held.fingerprint, held.digest) if held else None
    return app.records.messages.find_identity(new.org_id, new.source, new.source_message_id)


def _delete_orphan_object(
    existing: ExistingMessage, fingerprint: str, digest: str, inbound: _InboundMail, app: App
) -> None:
    """Delete the object of a delivery that has made no row, its own or that of an attempt that was killed here.

    A mail that is held for its sender has never been put under a message's key: that object is another mail's.
    """
    if digest in existing.digests.values():
        return
    org_id, source = inbound.org.id, inbound.origin.source
    if existing.is_message:
        app.archive.delete(raw_key(org_id, digest, source))
    if existing.is_held(fingerprint):
        key = raw_key(org_id, digest, source, is_held=True)
        if not app.records.held_mail.of_id(held_id(key), org_id):
            app.archive.delete(key)
