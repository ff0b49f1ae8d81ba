"""The history of one mail, a message or held: its rows, its raw header, its parts and its events.

Where the raw mail is erased, or the archive does not return it, the rest is shown, with the reason.
"""

from dataclasses import dataclass, field

from orderflow_ingest.app import App
from orderflow_ingest.domain.org_settings import OrgSettingsError
from orderflow_ingest.domain.sender_policy import Authenticator, check_sender
from orderflow_ingest.domain.states import EventKind, HoldReason
from orderflow_ingest.parsing.mime.fields import read_mail_header
from orderflow_ingest.parsing.mime.words import decode_text, storable
from orderflow_ingest.pipeline.archive_manifest import read_why_held
from orderflow_ingest.storage.archive import ArchiveUnavailable, ObjectDamaged, ObjectMissing, read_object
from orderflow_ingest.storage.database import Document, Event, HeldMail, InboundMessage, SkippedPart

_SHOWN = (
    *("from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to"),
    *("return-path", "delivered-to", "received", "authentication-results", "x-mailer", "user-agent"),
)
_MOST_FIELDS, _LONGEST = 60, 500


@dataclass(frozen=True)
class MailHistory:
    """All that is known of a mail. `missing` tells why there is no header, `doubt` why its sender is not believed.

    `difference` tells in what a held mail differs from the one that has its Message-ID.
    """

    org: str
    mail: InboundMessage | HeldMail
    header: list[tuple[str, str]] = field(default_factory=list)
    missing_reason: str = ""
    rejection: str = ""
    difference: str = ""
    parts: list[Document | SkippedPart] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    held: list[HeldMail] = field(default_factory=list)


def mail_history(message: InboundMessage, app: App) -> MailHistory:
    """Return the history of a message. Raise DatabaseUnavailable."""
    documents, owner = app.records.documents, (message.org_id, message.id)
    raw, missing = _read(message, app)
    return MailHistory(
        org=app.records.organizations.slug(message.org_id),
        mail=message,
        header=shown_header(raw),
        missing_reason=missing,
        parts=sorted([*documents.of_message(*owner), *documents.skipped(*owner)], key=_place),
        events=[*message.first_events(), *app.records.events.of(message.org_id, message.id)],
        held=app.records.held_mail.of_message(*owner),
    )


def held_mail_history(held: HeldMail, app: App) -> MailHistory:
    """Return the history of a held mail. Raise DatabaseUnavailable."""
    raw, missing = _read(held, app)
    begun = Event(held.org_id, held.id, EventKind.RECEIVED, held.client_address, held.received_at)
    events = [begun, *app.records.events.of(held.org_id, held.id)]
    slug = app.records.organizations.slug(held.org_id)
    doubt = _doubt(held, raw, slug, app) if held.reason is HoldReason.SENDER_NOT_ALLOWED and raw else ""
    difference = read_why_held(held.raw_key, app.archive) if held.reason is HoldReason.MESSAGE_ID_REUSED and raw else ""
    return MailHistory(slug, held, shown_header(raw), missing, doubt, difference, events=events)


def shown_header(raw: bytes) -> list[tuple[str, str]]:
    """Read the fields that tell who wrote a mail and which way it came, as they stand, those of servers first."""
    found: list[tuple[str, str]] = []
    header = read_mail_header(raw)
    # Where a server found no header, its own fields stand in front of the sender's.
    for one in (*header.top, *(header.fields if header.fields is not header.top else ())):
        if one.name in _SHOWN and len(found) < _MOST_FIELDS:
            text = " ".join(decode_text(one.value[: 4 * _LONGEST]).split())
            found.append((one.name.title(), storable(text)[:_LONGEST]))
    return found


def _doubt(held: HeldMail, raw: bytes, slug: str, app: App) -> str:
    """Return what speaks against the sender of a held mail, by the settings of now, or nothing."""
    org = app.records.organizations.find(slug)
    try:
        allowed = org.settings.allowed_senders if org else ()
    except OrgSettingsError as error:
        return str(error)
    server = Authenticator(app.settings.authserv_id, held.queue_id, held.envelope_sender, bool(held.queue_id))
    return (check_sender(read_mail_header(raw), allowed, server) or "") if allowed else ""


def _read(mail: InboundMessage | HeldMail, app: App) -> tuple[bytes, str]:
    if mail.erased_at:
        return b"", f"raw mail was erased at {mail.erased_at:%Y-%m-%d %H:%M}Z"
    try:
        return read_object(mail.org_id, mail.raw_key, mail.digest, app.archive), ""
    except ArchiveUnavailable as error:
        return b"", str(error)
    except (ObjectMissing, ObjectDamaged) as error:
        return b"", f"{type(error).__name__}: {error}"


def _place(part: Document | SkippedPart) -> list[int]:
    return [int(number) if number.isdigit() else 0 for number in part.part_path.split(".")]
