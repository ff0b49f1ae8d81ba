"""Import: mail of the past, out of files, into an organisation as source UPLOAD.

mbox      the mails of an mbox file
sources   the mails of files and directories

A mail goes the way that every mail goes, by delivery.deliver(): identity, archive, row, task; its tasks come behind all
live mail. So it can be done twice: (organisation, UPLOAD, Message-ID) and the fingerprint tell what is there, and what
came by mail with the same content is passed over too, unless it is wanted again.

    received_at   the date of the topmost Received field; else the Date field; else the file's time; else now.
                  A field's that is before e-mail or over a day ahead of the clock does not count
    sender        Return-Path; else the From line of mbox; else the address of the From field
    recipient     the organisation's address

Live mail is deferred where too many tasks wait, so an import waits before: at half of that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import MessageIdentity, read_message
from orderflow_ingest.domain.object_keys import EMAIL, UPLOAD
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.parsing.mime.fields import first_value, read_mail_header
from orderflow_ingest.parsing.mime.words import storable
from orderflow_ingest.pipeline.admission import IdentityLookup
from orderflow_ingest.pipeline.deliver import Origin, deliver
from orderflow_ingest.storage.database import Organization
from orderflow_ingest.storage.queue import QueueUnavailable

from .sources import OfFile

_FIRST_MAIL = datetime(1971, 1, 1, tzinfo=UTC)
_CLOCKS_DIFFER = timedelta(days=1)
_ADDRESS_LIMIT = 1000


class Became(StrEnum):
    """What became of a mail that was to be imported."""

    IMPORTED = "imported"
    THERE = "there already"
    CAME_BY_MAIL = "came by mail already"
    HELD = "held: its Message-ID is known with other content"
    OTHER = "passed over"
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    """What became of a mail, why, and its row where there is one."""

    became: Became
    why: str = ""
    message_id: UUID | None = None


_BECAME = {
    Outcome.DELIVERED: Became.IMPORTED,
    Outcome.DUPLICATE: Became.THERE,
    Outcome.HELD: Became.HELD,
}


@dataclass(frozen=True)
class Importer:
    """Takes mails in for one organisation, in one run of an operator's; it waits by `wait` for too much work."""

    app: App
    org: Organization
    actor: str
    run_id: UUID
    again: bool
    wait: Callable[[], object]

    def take(self, mail: OfFile) -> Verdict:
        """Import a mail. Raises DatabaseUnavailable, ArchiveUnavailable; to try again is safe."""
        message = read_message(mail.raw or b"")
        seen = self.look(mail, message)
        if seen.became not in (Became.IMPORTED, Became.HELD) or mail.raw is None or message is None:
            return seen
        self._wait_for_room()
        way = Origin(UPLOAD, is_live=False, importer=self.actor, run_id=self.run_id)
        while (ended := deliver(self._envelope(mail, message), mail.raw, self.app, way)).outcome is Outcome.OVERLOADED:
            self.wait()
        became = _BECAME.get(ended.outcome, Became.FAILED)
        return Verdict(became, "" if became is not Became.FAILED else ended.outcome.name, ended.message_id)

    def look(self, mail: OfFile, message: MessageIdentity | None) -> Verdict:
        """Tell what would become of a mail, as things are."""
        if mail.is_other:
            return Verdict(Became.OTHER, mail.why)
        if mail.raw is None:
            return Verdict(Became.FAILED, mail.why)
        if message is None:
            return Verdict(Became.FAILED, "no mail: it has not one header field")
        look_up = IdentityLookup(self.org.id, self.app.records, self.app.archive)
        if not self.again:
            if by_mail := look_up.find_same(message, EMAIL):
                return Verdict(Became.CAME_BY_MAIL, "", by_mail.known.id)
            if held := look_up.held_alone(message):
                return Verdict(Became.CAME_BY_MAIL, "", held.id)
        if same := look_up.find_same(message, UPLOAD):
            return Verdict(Became.THERE, "", same.known.id)
        return Verdict(Became.HELD if look_up.find(UPLOAD, message.source_message_id) else Became.IMPORTED)

    def _envelope(self, mail: OfFile, message: MessageIdentity) -> Envelope:
        settings = self.app.settings
        received, sender = read_trace(mail.raw or b"", datetime.now(UTC))
        return Envelope(
            recipient=settings.addresses.of(self.org.slug),
            sender=sender if sender is not None else mail.sender or message.from_email,
            received_at=received or mail.written_at or datetime.now(UTC),
        )

    def _wait_for_room(self) -> None:
        most = self.app.settings.max_queue // 2
        try:
            while 0 < most <= self.app.queue.recent_depth():
                self.wait()
        except QueueUnavailable:
            return  # the sweep finds the rows


def read_trace(raw: bytes, now: datetime) -> tuple[datetime | None, str | None]:
    """Read when a mail was received and from whom, by its own header; None for what it does not tell."""
    fields = read_mail_header(raw).top
    received = (first_value(fields, "received") or b"").rpartition(b";")[2]
    dates = (_moment(received, now), _moment(first_value(fields, "date") or b"", now))
    path = first_value(fields, "return-path")
    return next((date for date in dates if date), None), None if path is None else _address(path)


def _moment(value: bytes, now: datetime) -> datetime | None:
    try:
        found = parsedate_to_datetime(value[:200].decode("ascii", "replace").strip())
        moment = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return moment if _FIRST_MAIL <= moment <= now + _CLOCKS_DIFFER else None


def _address(value: bytes) -> str:
    text = value[:_ADDRESS_LIMIT].decode("utf-8", "replace").strip()
    return storable(text.strip("<>").strip())
