"""The canary: a probe mail through the real MX, followed until its documents have been handed over.

    smtp        the mail system takes the mail
    row         the message is recorded (and its raw mail archived, which comes first)
    stored      its attachments are taken out, archived and recorded
    parsed      a task per document is enqueued
    documents   each document has been handed over

It goes to an organization of its own, so that nobody's orders are touched. A handler knows its documents by
`order.org`. Every run leaves one small message there and removes nothing: how long it stays is that organization's
retention. Nothing is repaired here, and a step that does not come in time is named with what to look at.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from orderflow_ingest.app import App
from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.entrypoints.admin.postfix.mail_queue import waiting_because
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import DatabaseUnavailable, InboundMessage, Organization

from .smtp_probe import Probe, SmtpRefusedError, send

SMTP, ROW, STORED, PARSED, DOCUMENTS = STEPS = ("smtp", "row", "stored", "parsed", "documents")
_POLL = 0.25  # seconds
_SOURCE = "EMAIL"


@dataclass(frozen=True)
class Step:
    """A step that has come: how many seconds it took by itself, and what there is to say of it."""

    name: str
    seconds: float
    says: str


class StepMissedError(OrderflowError):
    """A step has not come, in time or at all. The text says what to look at."""

    def __init__(self, step: str, text: str):
        super().__init__(text)
        self.step = step


Waiting = Callable[[str, float], None]  # what is waited for, and for how long already


class Canary:
    """One flight of a probe to `org`. It has so many seconds, and `waiting` is called at each look."""

    def __init__(self, app: App, org: Organization, probe: Probe, timeout: float, waiting: Waiting):
        self._app, self._org, self._probe, self._waiting = app, org, probe, waiting
        self._timeout, self._began = timeout, time.monotonic()
        self._queue_id = ""

    def fly(self, postfix_config: str | None) -> Iterator[Step]:
        """Send the probe and return each step as it comes. Raise StepMissedError."""
        yield self._timed(SMTP, self._send)
        yield self._timed(ROW, lambda: self._recorded(postfix_config))
        yield self._timed(STORED, lambda: self._reached(STORED, (Status.STORED, Status.PARSED)))
        yield self._timed(PARSED, lambda: self._reached(PARSED, (Status.PARSED,)))
        yield self._timed(DOCUMENTS, self._handed_over)

    def _timed(self, name: str, step: Callable[[], str]) -> Step:
        began = time.monotonic()
        try:
            says = step()
        except (DatabaseUnavailable, ArchiveUnavailable) as error:
            raise StepMissedError(name, f"{error}; orderflow-admin check") from error
        return Step(name, time.monotonic() - began, says)

    def _send(self) -> str:
        try:
            answer = send(self._probe, max(1.0, self._left()))
        except SmtpRefusedError as error:
            raise StepMissedError(SMTP, str(error)) from error
        self._queue_id = answer.queue_id
        return f"{self._probe.host}:{self._probe.port} says {answer.code} {answer.text}; {answer.tls}"

    def _recorded(self, postfix_config: str | None) -> str:
        if not self._until(ROW, lambda: self._message() is not None):
            raise StepMissedError(
                ROW, f"no row in {self._timeout:.0f} s: {waiting_because(self._queue_id, postfix_config)}"
            )
        message = self._message()
        return f"message {message.id}" if message else ""

    def _reached(self, step: str, statuses: tuple[Status, ...]) -> str:
        """Wait for a status. FAILED ends the wait."""
        if self._until(step, lambda: self._status() in (*statuses, Status.FAILED)) and self._status() in statuses:
            return f"status {self._status()}"
        message = self._message()
        if message is None:
            raise StepMissedError(step, "the row is gone again: was it erased?")
        raise StepMissedError(
            step, f"the message stays {message.status}: {_failure(message.attempts, message.error_json)}"
        )

    def _handed_over(self) -> str:
        def pending() -> bool:
            return any(document.handover is HandOver.PENDING for document in self._documents())

        done = self._until(DOCUMENTS, lambda: not pending())
        documents = self._documents()
        late = next((d for d in documents if d.handover is not HandOver.DONE), None)
        if late:
            what = "is FAILED" if done else "stays PENDING"
            raise StepMissedError(
                DOCUMENTS, f"{late.filename or 'the text'} {what}: {_failure(late.attempts, late.error_json)}"
            )
        if len(documents) < self._probe.documents:
            raise StepMissedError(
                DOCUMENTS, f"{len(documents)} documents instead of {self._probe.documents}: see its parts"
            )
        return f"{len(documents)} handed over"

    def _until(self, step: str, holds: Callable[[], bool]) -> bool:
        """Look until something holds or the flight's time is up. Tell which."""
        began = time.monotonic()
        while not holds():
            if self._left() <= 0:
                return False
            self._waiting(step, time.monotonic() - began)
            time.sleep(_POLL)
        return True

    def _left(self) -> float:
        return self._began + self._timeout - time.monotonic()

    def _message(self) -> InboundMessage | None:
        messages = self._app.records.messages
        known = messages.find_identity(self._org.id, _SOURCE, self._probe.message_id)
        return messages.get(self._org.id, known.id) if known else None

    def _status(self) -> Status | None:
        message = self._message()
        return message.status if message else None

    def _documents(self) -> list[Any]:
        message = self._message()
        return list(self._app.records.documents.of_message(self._org.id, message.id)) if message else []


def _failure(attempts: int, error: Any) -> str:
    """Return why a worker has not come to the end of something."""
    if error:
        where = " ".join(str(error.get(name, "")) for name in ("error", "where", "detail")).strip()
        return f"attempt {attempts} failed: {where}; see the worker's log"
    if attempts:
        return f"a worker has it in hand, attempt {attempts}, and is not done: see its log"
    return "no worker has taken it: systemctl status orderflow-worker, orderflow-admin check"
