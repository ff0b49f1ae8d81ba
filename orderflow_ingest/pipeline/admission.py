"""Admission: decide what becomes of a mail before anything of it is written.

find_organization()  the organization of a recipient, or the outcome without one
check_recipient()    the same for RCPT TO, where no message is known yet
classify()           the whole decision on a mail, in this order:

    from a stranger            larger than the organization's limit: TOO_BIG. Else held, once per content. What the
                               organization has is neither looked up nor shown
    recorded with its content  DUPLICATE
    too big                    TOO_BIG, by the organization's own limit
    Message-ID known, and the  DUPLICATE: a gateway has written one of them in another way (see `mail_comparison`)
    recorded mail reads alike
    Message-ID known, other    held with what differs. Where the organization accepts such mail, a message under its
    content                    Message-ID and its fingerprint
    any other                  a new message, also where a stranger's copy of it is held or was discarded
    new or to be held, and     OVERLOADED
    too much work waits

A message stays a message, whoever sent it: the allowed sender's own mail is a duplicate of it. A copy that is held only
for its Message-ID is checked again: if it does not pass the sender policy, the mail that does is a message of its own.

A delivery, an import and `orderflow-admin org test` ask classify(). Nothing here writes.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from orderflow_ingest.app import App
from orderflow_ingest.domain.addresses import ForeignDomainError
from orderflow_ingest.domain.envelope import BEFORE_QUEUE, Envelope
from orderflow_ingest.domain.identity import MessageIdentity, ReadMail, disambiguated_message_id
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.sender_policy import Authenticator, Rejection, check_sender
from orderflow_ingest.domain.states import HoldReason
from orderflow_ingest.observability.logs import event
from orderflow_ingest.storage.database import DatabaseUnavailable, ExistingMessage, Organization
from orderflow_ingest.storage.queue import QueueUnavailable

from .identity_lookup import IdentityLookup


@dataclass(frozen=True)
class Load:
    """The work that waits. `is_queue_available` is false where the queue did not answer."""

    is_too_much: bool = False
    is_queue_available: bool = True


@dataclass(frozen=True)
class Admission:
    """The decision on a mail: it ends with `outcome`, is held for `hold_reason`, or, with neither, is a new message.

    `message` has the identity to record. `existing` is the recorded mail of that identity, and `fingerprint` the one by
    which it has this mail. `rejection` says why the sender is not allowed, `difference` what differs from `existing`.
    `load` is the work that waited, where that was asked for.
    """

    message: MessageIdentity
    existing: ExistingMessage | None = None
    outcome: Outcome | None = None
    hold_reason: HoldReason | None = None
    rejection: Rejection | None = None
    fingerprint: str = ""
    difference: str = ""
    load: Load = Load()


def find_organization(recipient: str, app: App) -> Organization | Outcome:
    """Return the organization of a recipient, or the outcome without one.

    A database without any organization is the wrong one, or is being set up: it says nothing of a recipient. Since
    mail bounces for a "no", the organization is looked up again once the table is known to be filled.

    Raise ForeignDomainError, DatabaseUnavailable.
    """
    organizations, slug = app.records.organizations, app.settings.addresses.slug(recipient)
    if slug is None:
        return Outcome.UNKNOWN_ORG
    organization = organizations.find(slug)
    if organization is None and organizations.has_none():
        return Outcome.MISCONFIGURED
    organization = organization or organizations.find(slug)
    if organization is None:
        return Outcome.UNKNOWN_ORG
    return organization if organization.is_active else Outcome.ORG_DISABLED


def check_recipient(recipient: str, app: App) -> Outcome | None:
    """Return the outcome of every delivery to this recipient, or None where it depends on the message."""
    try:
        organization = find_organization(recipient, app)
    except DatabaseUnavailable:
        return Outcome.BACKEND_DOWN
    except ForeignDomainError:
        return Outcome.MISCONFIGURED
    return organization if isinstance(organization, Outcome) else None


def authenticator(envelope: Envelope, app: App) -> Authenticator:
    """Return who authenticates the sender of a mail with this envelope: before the queue no milter has seen it."""
    is_filtered = envelope.listener != BEFORE_QUEUE
    return Authenticator(app.settings.authserv_id, envelope.queue_id, envelope.sender, is_filtered)


def classify(
    mail: ReadMail,
    organization: Organization,
    source: str,
    server: Authenticator | None,
    app: App,
    load: Callable[[], Load] = Load,
) -> Admission:
    """Return the decision on a mail. Raise DatabaseUnavailable, ArchiveUnavailable, OrgSettingsError.

    `server` authenticates senders. It is None where an operator brings the mail: then neither size nor sender is
    checked. `load` measures the work that waits, and is called only where the mail is to be written.
    """
    lookup = IdentityLookup(organization.id, app.records, app.archive)
    admission = (
        _check_stranger(mail, organization, server, lookup)
        or _check_identity(mail, organization, source, server, lookup)
        or Admission(mail.message)
    )
    if admission.outcome:
        return admission
    waiting = load()
    if waiting.is_too_much:
        return Admission(mail.message, outcome=Outcome.OVERLOADED, load=waiting)
    return replace(admission, load=waiting)


def measure_load(app: App) -> Load:
    """Return whether the workers have more to do than they may: too many tasks wait, or one waits for too long."""
    most, longest = app.settings.max_queue, app.settings.max_lag
    waiting = _count_tasks(app)
    is_too_much = 0 < most <= (waiting or 0) or 0 < longest <= _lag(app)
    return Load(is_too_much, is_queue_available=waiting is not None)


def _check_stranger(
    mail: ReadMail, organization: Organization, server: Authenticator | None, lookup: IdentityLookup
) -> Admission | None:
    """Return the decision on a mail whose sender the organization does not allow, or None for other mail."""
    allowed = organization.settings.allowed_senders
    rejection = check_sender(mail.header, allowed, server) if server and allowed else None
    if rejection is None:
        return None
    if _is_too_big(mail, organization, server):
        return Admission(mail.message, outcome=Outcome.TOO_BIG)
    held = lookup.held_alone(mail.message)
    if held is None:
        return Admission(mail.message, hold_reason=HoldReason.SENDER_NOT_ALLOWED, rejection=rejection)
    outcome = Outcome.DUPLICATE if held.resolution else Outcome.HELD
    existing = ExistingMessage.from_held(held.id, held.fingerprint, held.digest)
    return Admission(mail.message, existing, outcome, rejection=rejection, fingerprint=held.fingerprint)


def _check_identity(
    mail: ReadMail, organization: Organization, source: str, server: Authenticator | None, lookup: IdentityLookup
) -> Admission | None:
    """Return the decision on a mail that is recorded, too big, or has a known Message-ID, or None for other mail."""
    message, settings = mail.message, organization.settings
    same, difference = lookup.find_same(message, source), ""
    existing = lookup.find(source, message.source_message_id)
    if same is None and existing:
        same, difference = lookup.compare(mail, existing)
    allowed = settings.allowed_senders if server else ()
    is_strangers_copy = bool(same and server and allowed and lookup.is_held_for_a_stranger(same, allowed, server))
    if same and not is_strangers_copy:
        return Admission(same.message, same.existing, Outcome.DUPLICATE, fingerprint=same.fingerprint)
    if _is_too_big(mail, organization, server):
        return Admission(message, outcome=Outcome.TOO_BIG)
    if existing is None:
        return None
    own = replace(message, source_message_id=disambiguated_message_id(message.source_message_id, message.fingerprint))
    if (settings.accepts_reused_message_id or is_strangers_copy) and lookup.find(source, own.source_message_id) is None:
        return Admission(own)
    return Admission(message, existing, hold_reason=HoldReason.MESSAGE_ID_REUSED, difference=difference)


def _is_too_big(mail: ReadMail, organization: Organization, server: Authenticator | None) -> bool:
    most = organization.settings.max_message_size
    return bool(server and most and mail.message.size > most)


def _count_tasks(app: App) -> int | None:
    """Return how many tasks wait, or None if the queue is unavailable: the sweep will find the row."""
    try:
        return app.queue.recent_depth()
    except QueueUnavailable as error:
        event("enqueue", "Queue is away; the task is left to the sweep.", logging.WARNING, reason=error)
        return None


def _lag(app: App) -> float:
    """Return for how long work has been overdue, or 0 if nobody knows: a backstop must not stop mail."""
    try:
        return app.records.messages.recent_lag()
    except DatabaseUnavailable as error:
        event("deliver", "How late the workers are is not known; mail is accepted.", logging.WARNING, reason=error)
        return 0.0
