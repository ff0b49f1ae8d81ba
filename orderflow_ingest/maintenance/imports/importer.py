"""Importer: take mail from files into an organization, as source UPLOAD.

A mail goes the way of every mail, through `pipeline.deliver`: identity, archive, row, task. Its tasks come after all
live mail. An import can be repeated: (organization, UPLOAD, Message-ID) and the fingerprint find what is recorded.
Mail that was received by SMTP with the same content is skipped too, unless `again` is set.

    received_at   the date of the topmost Received field, else the Date field, else the file's time, else now. A date
                  before e-mail existed, or over a day ahead of the clock, does not count
    sender        Return-Path, else the From line of mbox, else the address of the From field
    recipient     the organization's address

Live mail is deferred when too many tasks wait. An import therefore waits at half of that limit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import ReadMail, read_mail
from orderflow_ingest.domain.object_keys import EMAIL, UPLOAD
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.parsing.mime.fields import MailHeader, first_value
from orderflow_ingest.parsing.mime.words import storable
from orderflow_ingest.pipeline.admission import classify
from orderflow_ingest.pipeline.deliver import Origin, deliver
from orderflow_ingest.pipeline.identity_lookup import IdentityLookup
from orderflow_ingest.storage.database import Organization
from orderflow_ingest.storage.queue import QueueUnavailable

from .sources import FileMail

_FIRST_MAIL = datetime(1971, 1, 1, tzinfo=UTC)
_CLOCKS_DIFFER = timedelta(days=1)
_ADDRESS_LIMIT = 1000


class ImportOutcome(StrEnum):
    """Outcome of one mail of an import."""

    IMPORTED = "imported"
    ALREADY_IMPORTED = "there already"
    CAME_BY_MAIL = "came by mail already"
    HELD = "held: its Message-ID is known with other content"
    NOT_MAIL = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class ImportResult:
    """Outcome of one mail, the reason, and the id of its row where there is one."""

    outcome: ImportOutcome
    reason: str = ""
    message_id: UUID | None = None


_BECAME = {
    Outcome.DELIVERED: ImportOutcome.IMPORTED,
    Outcome.DUPLICATE: ImportOutcome.ALREADY_IMPORTED,
    Outcome.HELD: ImportOutcome.HELD,
}


@dataclass(frozen=True)
class Importer:
    """Imports mail for one organization in one run. Calls `wait` while too many tasks are in the queue."""

    app: App
    org: Organization
    actor: str
    run_id: UUID
    again: bool
    wait: Callable[[], object]

    def import_mail(self, mail: FileMail) -> ImportResult:
        """Import a mail. Raise DatabaseUnavailable, ArchiveUnavailable. To try again is safe."""
        read = read_mail(mail.raw or b"")
        preview = self.preview(mail, read)
        if preview.outcome not in (ImportOutcome.IMPORTED, ImportOutcome.HELD) or read is None:
            return preview
        self._wait_for_room()
        origin = Origin(UPLOAD, is_live=False, importer=self.actor, run_id=self.run_id)
        envelope = self._envelope(mail, read)
        while (ended := deliver(envelope, read.raw, self.app, origin, read)).outcome is Outcome.OVERLOADED:
            self.wait()
        became = _BECAME.get(ended.outcome, ImportOutcome.FAILED)
        return ImportResult(became, "" if became is not ImportOutcome.FAILED else ended.outcome.name, ended.message_id)

    def preview(self, mail: FileMail, read: ReadMail | None) -> ImportResult:
        """Return what importing a mail would do now."""
        if mail.is_not_mail:
            return ImportResult(ImportOutcome.NOT_MAIL, mail.reason)
        if mail.raw is None:
            return ImportResult(ImportOutcome.FAILED, mail.reason)
        if read is None:
            return ImportResult(ImportOutcome.FAILED, "no mail: it has not one header field")
        if not self.again:
            lookup = IdentityLookup(self.org.id, self.app.records, self.app.archive)
            if by_mail := lookup.find_same(read.message, EMAIL):
                return ImportResult(ImportOutcome.CAME_BY_MAIL, "", by_mail.existing.id)
            if held := lookup.held_alone(read.message):
                return ImportResult(ImportOutcome.CAME_BY_MAIL, "", held.id)
        admission = classify(read, self.org, UPLOAD, None, self.app)
        if admission.outcome is Outcome.DUPLICATE and admission.existing:
            return ImportResult(ImportOutcome.ALREADY_IMPORTED, "", admission.existing.id)
        return ImportResult(ImportOutcome.HELD if admission.hold_reason else ImportOutcome.IMPORTED)

    def _envelope(self, mail: FileMail, read: ReadMail) -> Envelope:
        settings = self.app.settings
        received, sender = read_received(read.header, datetime.now(UTC))
        return Envelope(
            recipient=settings.addresses.of(self.org.slug),
            sender=sender if sender is not None else mail.sender or read.message.from_email,
            received_at=received or mail.written_at or datetime.now(UTC),
        )

    def _wait_for_room(self) -> None:
        most = self.app.settings.max_queue // 2
        try:
            while 0 < most <= self.app.queue.recent_depth():
                self.wait()
        except QueueUnavailable:
            return  # the sweep finds the rows


def read_received(header: MailHeader, now: datetime) -> tuple[datetime | None, str | None]:
    """Return when a mail was received and from whom, by its own header, or None for what it does not say."""
    fields = header.top
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
