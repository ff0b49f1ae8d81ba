"""What would become of a mail: the questions of a delivery, asked in its order and by its own functions, and no write.

Whether a backend is away, or too much work waits, is a question of the moment, and not asked.
"""

from collections.abc import Iterator

from orderflow_ingest.app import App
from orderflow_ingest.domain.addresses import ForeignDomainError
from orderflow_ingest.domain.identity import read_mail
from orderflow_ingest.domain.object_keys import EMAIL
from orderflow_ingest.domain.org_settings import OrgSettingsError
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.sender_policy import Authenticator, check_raw_sender
from orderflow_ingest.parsing.documents import accept_types, read_parts
from orderflow_ingest.pipeline.admission import classify
from orderflow_ingest.storage.database import Organization

Told = tuple[str, str]


def dry_run_delivery(
    address: str,
    raw: bytes | None,
    sender: str | None,
    size: int | None,
    parts: App,
    queue_id: str | None = None,
    envelope_sender: str = "",
) -> Iterator[Told]:
    """Tell step by step what would become of a mail to an address, and last how its delivery would end.

    `queue_id` is the one under which Postfix would deliver it; without it the topmost Received is taken for ours.
    """
    settings = parts.settings
    try:
        slug = settings.addresses.slug(address)
    except ForeignDomainError:
        yield "recipient", "its domain is not in ORDERFLOW_DOMAIN"
        yield _ended(Outcome.MISCONFIGURED)
        return
    if settings.addresses.is_postmaster(address):
        yield "recipient", "no organisation's: Postfix's aliases take it"
        return
    org = parts.records.organizations.find(slug) if slug else None
    if org is None:
        if slug and parts.records.organizations.has_none():
            yield "recipient", f"no organization is in database {parts.records.database.name}"
            yield _ended(Outcome.MISCONFIGURED)
            return
        yield "recipient", f"no organisation is named {slug}" if slug else "it names no organisation"
        yield _ended(Outcome.UNKNOWN_ORG)
        return
    yield "recipient", f"organisation {org.slug}, {'active' if org.is_active else 'switched off'}"
    if not org.is_active:
        yield _ended(Outcome.ORG_DISABLED)
        return
    try:
        limits = [limit for limit in (settings.max_message_size, org.settings.max_message_size) if limit]
        length = size if raw is None else len(raw)
        if length is not None:
            yield "size", f"{length} of {min(limits)} bytes"
            if length > settings.max_message_size:
                yield _ended(Outcome.TOO_BIG)
                return
        yield from (
            _judged_unseen(org, sender, length, parts)
            if raw is None
            else _judged(org, raw, parts, Authenticator(settings.authserv_id, queue_id, envelope_sender))
        )
    except OrgSettingsError as error:
        yield "settings", str(error)
        yield _ended(Outcome.MISCONFIGURED)


def _judged_unseen(org: Organization, sender: str | None, length: int | None, parts: App) -> Iterator[Told]:
    """Judge a mail of which nothing is known but what was said of it."""
    allowed, limit = org.settings.allowed_senders, org.settings.max_message_size
    if length is not None and limit and length > limit:
        yield _ended(Outcome.TOO_BIG)
        return
    doubt = check_raw_sender(f"From: {sender or ''}\n\n".encode(), allowed, "") if allowed else None
    if sender:
        yield "sender", f"held: {doubt}" if doubt else "taken"
    elif allowed:
        yield "sender", f"of {', '.join(allowed)} alone"
    if allowed and not doubt and parts.settings.authserv_id:
        yield "sender", f"if {parts.settings.authserv_id} calls it authenticated; else held"
    yield _ended(Outcome.HELD if sender and doubt else Outcome.DELIVERED)


def _judged(org: Organization, raw: bytes, parts: App, server: Authenticator) -> Iterator[Told]:
    """Judge a mail as a delivery does, and tell what extraction would make of it."""
    mail = read_mail(raw)
    if mail is None:
        yield "header", "empty, or not one field of its sender"
        yield _ended(Outcome.MALFORMED)
        return
    message = mail.message
    seen = classify(mail, org, EMAIL, server, parts.records, parts.archive)
    yield "from", message.from_email
    yield "subject", message.subject
    known = f"known: {seen.known.id}" if seen.known else "new" if not seen.doubt else "not looked up"
    yield "identity", f"{seen.message.source_message_id}, {known}"
    if org.settings.allowed_senders:
        if server.authserv_id and server.queue_id is None:
            yield "queue id", "not known, so the topmost Received is taken for our own; say --queue-id"
        yield "sender", f"held: {seen.doubt}" if seen.doubt else "taken"
    if seen.difference:
        yield "differs", seen.difference
    outcome = seen.verdict or (Outcome.HELD if seen.held else Outcome.DELIVERED)
    if outcome is not Outcome.TOO_BIG:
        for part in accept_types(read_parts(raw), org.settings.document_types):
            verdict = "taken" if part.is_document else "passed over"
            name = f" {part.filename}" if part.filename else ""
            yield f"part {part.path}", f"{verdict}, {part.reason}: {part.content_type}{name}, {part.size} bytes"
    yield _ended(outcome, f" ({seen.held})" if seen.held else "")


def _ended(outcome: Outcome, why: str = "") -> Told:
    return "outcome", f"{outcome.name}{why}: {outcome.reply_code} {outcome.dsn_code} {outcome.text}"
