"""Dry run of a delivery: what would become of a mail, by a delivery's own functions in the same order, without a write.

It does not ask whether a backend is unavailable or too much work waits, since that changes from moment to moment.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from orderflow_ingest.app import App
from orderflow_ingest.domain.addresses import ForeignDomainError
from orderflow_ingest.domain.envelope import BEFORE_QUEUE, Envelope
from orderflow_ingest.domain.identity import read_mail
from orderflow_ingest.domain.object_keys import EMAIL
from orderflow_ingest.domain.org_settings import OrgSettingsError
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.sender_policy import Authenticator, check_raw_sender
from orderflow_ingest.parsing.documents import accept_types, read_parts
from orderflow_ingest.pipeline.admission import authenticator, classify, find_organization
from orderflow_ingest.storage.database import Organization

Fact = tuple[str, str]


def dry_run_delivery(
    address: str,
    raw: bytes | None,
    sender: str | None,
    size: int | None,
    app: App,
    queue_id: str | None = None,
    envelope_sender: str = "",
    *,
    is_before_queue: bool = False,
) -> Iterator[Fact]:
    """Yield step by step what would become of a mail to an address, and last how its delivery would end.

    `queue_id` is the one under which Postfix would deliver it. Without it the topmost Received is taken for ours.
    `is_before_queue`: smtpd would ask us before it queues the mail, so that no milter has seen it.
    """
    settings = app.settings
    try:
        slug = settings.addresses.slug(address)
    except ForeignDomainError:
        yield "recipient", "its domain is not in ORDERFLOW_DOMAIN"
        yield _outcome(Outcome.MISCONFIGURED)
        return
    if settings.addresses.is_postmaster(address):
        yield "recipient", "no organization's: Postfix's aliases take it"
        return
    org = find_organization(address, app)
    yield "recipient", _recipient_text(org, slug, app)
    if isinstance(org, Outcome):
        yield _outcome(org)
        return
    try:
        limits = [limit for limit in (settings.max_message_size, org.settings.max_message_size) if limit]
        length = size if raw is None else len(raw)
        if length is not None:
            yield "size", f"{length} of {min(limits)} bytes"
            if length > settings.max_message_size:
                yield _outcome(Outcome.TOO_BIG)
                return
        if raw is None:
            yield from _classify_unseen(org, sender, length, app, is_before_queue=is_before_queue)
            return
        listener = BEFORE_QUEUE if is_before_queue else ""
        now = datetime.now(UTC)
        server = authenticator(Envelope(address, now, envelope_sender, queue_id=queue_id or "", listener=listener), app)
        yield from _classify_mail(org, raw, app, server if queue_id is not None else replace(server, queue_id=None))
    except OrgSettingsError as error:
        yield "settings", str(error)
        yield _outcome(Outcome.MISCONFIGURED)


def _recipient_text(org: Organization | Outcome, slug: str | None, app: App) -> str:
    """Return what is known of the organization that an address names."""
    if isinstance(org, Organization):
        return f"organization {org.slug}, active"
    if org is Outcome.MISCONFIGURED:
        return f"no organization is in database {app.records.database.name}"
    if org is Outcome.ORG_DISABLED:
        return f"organization {slug}, switched off"
    return f"no organization is named {slug}" if slug else "it names no organization"


def _classify_unseen(
    org: Organization, sender: str | None, length: int | None, app: App, *, is_before_queue: bool
) -> Iterator[Fact]:
    """Judge a mail that is not given, by its sender and size."""
    allowed, limit, authserv_id = org.settings.allowed_senders, org.settings.max_message_size, app.settings.authserv_id
    if length is not None and limit and length > limit:
        yield _outcome(Outcome.TOO_BIG)
        return
    # No milter has seen a mail before the queue: nothing there can be authenticated.
    server = authserv_id if is_before_queue else ""
    doubt = check_raw_sender(f"From: {sender or ''}\n\n".encode(), allowed, server) if allowed else None
    if sender:
        yield "sender", f"held: {doubt}" if doubt else "taken"
    elif allowed:
        yield "sender", f"of {', '.join(allowed)} alone"
    if allowed and not doubt and authserv_id:
        yield "sender", f"if {authserv_id} calls it authenticated; else held"
    yield _outcome(Outcome.HELD if sender and doubt else Outcome.DELIVERED)


def _classify_mail(org: Organization, raw: bytes, app: App, server: Authenticator) -> Iterator[Fact]:
    """Judge a mail as a delivery does, and say what extraction would make of it."""
    mail = read_mail(raw)
    if mail is None:
        yield "header", "empty, or not one field of its sender"
        yield _outcome(Outcome.MALFORMED)
        return
    message = mail.message
    admission = classify(mail, org, EMAIL, server, app)
    yield "from", message.from_email
    yield "subject", message.subject
    existing, is_stranger = admission.existing, bool(admission.rejection)
    known = f"known: {existing.id}" if existing else "new" if not is_stranger else "not looked up"
    yield "identity", f"{admission.message.source_message_id}, {known}"
    if org.settings.allowed_senders:
        if server.authserv_id and server.queue_id is None:
            yield "queue id", "not known, so the topmost Received is taken for our own; say --queue-id"
        yield "sender", f"held: {admission.rejection}" if admission.rejection else "taken"
    if admission.difference:
        yield "differs", admission.difference
    outcome = admission.outcome or (Outcome.HELD if admission.hold_reason else Outcome.DELIVERED)
    if outcome is not Outcome.TOO_BIG:
        for part in accept_types(read_parts(raw), org.settings.document_types):
            verdict = "taken" if part.is_document else "skipped"
            name = f" {part.filename}" if part.filename else ""
            yield f"part {part.path}", f"{verdict}, {part.reason}: {part.content_type}{name}, {part.size} bytes"
    yield _outcome(outcome, f" ({admission.hold_reason})" if admission.hold_reason else "")


def _outcome(outcome: Outcome, why: str = "") -> Fact:
    return "outcome", f"{outcome.name}{why}: {outcome.reply_code} {outcome.dsn_code} {outcome.text}"
