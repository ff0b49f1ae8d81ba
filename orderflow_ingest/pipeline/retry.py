"""Attempts: how a worker's failures are recorded, counted and tried again, for messages and documents alike.

An attempt that fails is recorded on its row with the time of the next one, which the sweep enqueues. After the
last one the row is FAILED, with error_json: what, where, when, how often.

    fails of                                         attempts
    any other error                                  4 at a message. At a document as many as begin within
                                                     ORDERFLOW_HANDOVER_RETRY, each four times as late, at most 6 hours
    poison: it took all time or all memory, or the   3, and nothing else before. At a document: 3 in a row
      worker process with it
    an outage: a backend that is away, a deploy      no end: it uses up none of the last two
      that does not import
    MessageErased: its object was deleted on purpose 1
    TryLater, which a handler raises                 no end: it uses up none

A worker process that is killed leaves its lease behind, and a file that says what it had in hand (see `attempt_files`).
The next process of the same host that starts, or the next sweep, notes the loss as a failure, with the part that was
looked into. One that is killed before it wrote there is found by its mark on the row. A crash of the machine may take
that file, so a worker that starts also asks for the rows whose marks name this host, and frees those whose processes
are gone. Where the host stays away, the next attempt begins when the lease is over. Leases and retries go by the
database's clock, whichever host's is wrong. A row that waits for longer than the longest delay there is, and that was
written later than now, is due: a clock that was wrong has written it.

    part of a message that was in hand in an attempt   how it is read in the next ones
    lost, out of time or out of memory
    once                                               decoded, and given out whole
    twice                                              given out as it was sent
    any part, in the last attempt of a message that    decoded, and given out whole
    has been poison

Where the database itself is away when a failure is to be recorded, that is tried for a while. Then the attempt
counts as one that ended without a word. Where it goes away while an attempt is begun, it may have committed that all
the same, as a primary does that dies before its answer: the row is asked for a while whose it is.
"""

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.errors import OrderflowError, stored_names
from orderflow_ingest.observability import metrics
from orderflow_ingest.observability.logs import error_location, event
from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import DatabaseUnavailable, Document, InboundMessage
from orderflow_ingest.storage.resilience.timeouts import TaskDeadlineReached

from .handler import HandlerUnavailable, TryLater

ATTEMPTS = 4
POISON_ATTEMPTS = 3
SWEEP_LIMIT = 1000
SWEEP_BATCH = 100  # tasks; so many are enqueued twice at the most by a host that slept in its sweep
NOTE_DELAYS = (0.5, 2, 5, 15)  # seconds
CLAIM_DELAYS = (0.5, 2, 5, *[10] * 8)  # seconds: longer than a standby takes to be promoted
_BACKOFF = 4
_MOST_STEPS = 30  # of the delay, so that no number overflows
_LONGEST_DELAY = 6 * 3600.0  # seconds between two attempts
Row = TypeVar("Row", InboundMessage, Document)


class AttemptLost(OrderflowError):
    """The last attempts took their worker processes with them: killed, out of memory, or stuck in a library."""


class MessageErased(OrderflowError):
    """The object was erased, by a retention or on somebody's demand. Nothing can be done with the row any more."""


class LeaseLostError(OrderflowError):
    """Another worker has taken the row over: this one writes nothing more."""


OUTAGES = (ArchiveUnavailable, DatabaseUnavailable, HandlerUnavailable)
_POISON = (TaskDeadlineReached, MemoryError, AttemptLost)
_POISONED = tuple(name for error in _POISON for name in stored_names(error.__name__))  # as rows say it


def worker_name(directory: Path | None = None) -> str:
    """Name this worker, and its file in the directory of `in_hand`, on the rows that it has in hand."""
    return f"{_host()}{os.getpid()}{attempt_files.mark(directory) if directory else ''}"


def _host() -> str:
    return f"{socket.gethostname()}:"


def check_lost_attempts(attempts: int, error_json: Any, most: int | None = ATTEMPTS) -> None:
    """Refuse an attempt after the last one that may be lost without a word. Raise AttemptLost.

    `most` is the number of attempts there may be, None where time bounds them.
    """
    lost = attempts - 1 - _recorded(error_json)
    if lost >= POISON_ATTEMPTS or (most is not None and lost and attempts > most):
        raise AttemptLost


def _recorded(error_json: Any) -> int:
    """Return how many attempts the row has recorded."""
    recorded = error_json or {}
    return int(recorded.get("counted", recorded.get("attempt", 0)))


class RowStore(Protocol[Row]):
    """The table whose rows are worked on: `storage.database.messages` or `documents`."""

    def get(self, org_id: int, id: UUID) -> Row | None: ...
    def claim(self, org_id: int, id: UUID, worker: str, now: datetime, lease: timedelta) -> Row | None: ...
    def retry_later(self, attempt: Row, error: dict[str, Any], attempts: int, due: datetime) -> object: ...
    def give_up(self, attempt: Row, error: dict[str, Any]) -> object: ...


@dataclass(frozen=True)
class Work(Generic[Row]):
    """One kind of work on rows: how it is logged and counted, and which of its errors are outages.

    `id_name` names a row in the log. `end` is the word of the metrics for an attempt that succeeded. `location` says an
    error by its class and place. `retry_for` is for how many seconds failures are tried again, None: by their number.
    `on_error` is called with each error.
    """

    action: str
    kind: str
    id_name: str
    store: Callable[[App], RowStore[Row]]
    log_fields: Callable[[Row], dict[str, Any]]
    subject: str
    done: str
    retried: str
    end: str
    counter: metrics.Counter
    seconds: metrics.Histogram
    outages: tuple[type[BaseException], ...]
    location: Callable[[BaseException, App], str] = lambda error, _: error_location(error)
    retry_for: Callable[[App], float | None] = lambda _: None
    on_error: Callable[[BaseException, "Attempt[Row]", App], None] = lambda *_: None


class Attempt(Generic[Row]):
    """One attempt at a row: `fields` are those of its log records, `part` is the part of the mail being read."""

    def __init__(self, row: Row, org: str, fields: dict[str, Any], file: attempt_files.AttemptFile):
        self.row: Row = row
        self.org = org
        self.fields = fields
        self.part: str | None = None
        self._file = file

    def set_part(self, part: str | None) -> None:
        """Set the part that is being read, for who finds this process gone, or None for none."""
        self.part = part
        self._file.set_part(part)


def run_attempt(
    work: Work[Row], org_id: int, id: UUID, app: App, do: Callable[[Attempt[Row]], dict[str, Any] | None]
) -> None:
    """Claim a row, and take one attempt at it. A row that is finished, leased or not due yet is left alone.

    `do` does the work and returns more fields for the record of its success. It raises LeaseLostError where another
    worker has the row. Any other error is a failed attempt, and is recorded on the row.
    """
    began, org = time.monotonic(), app.records.organizations.slug(org_id)
    fields: dict[str, Any] = {"org": org, "org_id": org_id, work.id_name: id}
    row = _claim(work, org_id, id, app)
    if row is None:
        event(work.action, f"Nothing to do for this {work.kind}.", **fields)
        return
    fields |= work.log_fields(row)
    with attempt_files.attempt(app.settings.attempts_dir, work.kind, org_id, id, row.worker or "") as file:
        end = _run(work, Attempt(row, org, fields, file), app, do)
    metrics.count(work.counter, org, end)
    metrics.observe(work.seconds, time.monotonic() - began)


def _run(work: Work[Row], attempt: Attempt[Row], app: App, do: Callable[[Attempt[Row]], dict[str, Any] | None]) -> str:
    """Take an attempt, and return how it ended, in the words of the metrics."""
    try:
        most = ATTEMPTS if work.retry_for(app) is None else None
        check_lost_attempts(attempt.row.attempts, attempt.row.error_json, most)
        more = do(attempt) or {}
    except LeaseLostError:
        event(work.action, "Lease was lost to another worker.", logging.WARNING, **attempt.fields)
        return "lost"
    except KeyboardInterrupt:  # Huey's, who ends the worker
        raise
    except TryLater as error:
        details = _record_delay(work, attempt, error, app)
        event(work.action, f"{work.subject} is put off by the handler.", **attempt.fields, **details)
        return "retry"
    except BaseException as error:  # whatever a handler raises: Rust's libraries have one of their own
        work.on_error(error, attempt, app)
        is_last, details = _record_attempt_failure(work, attempt, error, app)
        text = f"{work.subject} failed for good." if is_last else work.retried
        event(work.action, text, logging.ERROR if is_last else logging.WARNING, **attempt.fields, **details)
        return "failed" if is_last else "retry"
    event(work.action, work.done, **more, **attempt.fields)
    return work.end


def _record_attempt_failure(
    work: Work[Row], attempt: Attempt[Row], error: BaseException, app: App
) -> tuple[bool, dict[str, Any]]:
    """Record a failed attempt, with the part that took all time or memory. Return whether it was the last one."""
    row, store = attempt.row, work.store(app)
    failed_parts, _ = read_failed_parts(row.attempts, row.error_json)
    part = attempt.part if isinstance(error, (TaskDeadlineReached, MemoryError)) else None
    details = add_failed_part(error_details(row.attempts, error, work.location(error, app)), failed_parts, part)
    writes = (partial(store.give_up, row), partial(store.retry_later, row))
    is_outage, limit = isinstance(error, work.outages), work.retry_for(app)
    return record_failure(row, error, details, app, *writes, is_outage=is_outage, retry_for=limit), details


def _record_delay(work: Work[Row], attempt: Attempt[Row], error: TryLater, app: App) -> dict[str, Any]:
    """Record that the handler wants a row later. The attempt does not count."""
    row, counted = attempt.row, attempt.row.attempts - 1
    details = {**error_details(row.attempts, error, ""), "counted": counted, **_since(row.error_json)}
    delay = error.after or timedelta(seconds=app.settings.retry_delay)
    _write(lambda: work.store(app).retry_later(row, details, counted, app.records.database.now() + delay))
    return details


def read_failed_parts(attempts: int, error_json: Any) -> tuple[list[str], bool]:
    """Return the parts that earlier attempts at a message failed at, and whether this attempt has to open none."""
    recorded = error_json or {}
    lost = attempts - 1 - _recorded(error_json)
    is_poison = lost > 0 or recorded.get("error") in _POISONED
    return list(recorded.get("parts", ())), is_poison and attempts >= POISON_ATTEMPTS


def add_failed_part(details: dict[str, Any], failed_parts: list[str], part: str | None) -> dict[str, Any]:
    """Return error_json with the parts that attempts failed at, the last one last."""
    parts = [*failed_parts, part] if part is not None else failed_parts
    return {**details, "parts": parts} if parts else details


def _claim(work: Work[Row], org_id: int, id: UUID, app: App) -> Row | None:
    """Return the row whose attempt this thread has begun by its claim, or None if it may not.

    Where the claim was not answered, the mark on the row says whether it was committed: it names the file that this
    thread alone has, and a thread is at one attempt at a time. Raise DatabaseUnavailable.
    """
    store, worker = work.store(app), worker_name(app.settings.attempts_dir)
    lease, now = timedelta(seconds=app.settings.lease), app.records.database.now()
    try:
        return store.claim(org_id, id, worker, now, lease)
    except DatabaseUnavailable:
        for delay in CLAIM_DELAYS:
            time.sleep(delay)
            with suppress(DatabaseUnavailable):
                found = store.get(org_id, id)
                if "@" in worker and found is not None and (found.worker or "").startswith(f"{worker}/"):
                    return found
                return store.claim(org_id, id, worker, now, lease)
        raise


def record_losses(app: App) -> int:
    """Record the attempts of this host whose process is gone, and return how many. Their leases end now.

    Where a process was killed before it had written what it had just claimed, its rows are found by its mark. Doing
    it twice changes nothing, since each write names the mark of its attempt. Raise DatabaseUnavailable.
    """
    recorded = 0

    def ask_rows(process: str) -> None:
        nonlocal recorded
        recorded += _record_lost_rows(app, f"{_host()}{process}/", lambda _: True)

    for found in attempt_files.lost_attempts(app.settings.attempts_dir, ask_rows):
        recorded += _record_loss(found, app)
    return recorded


def record_rows_lost(app: App) -> int:
    """Record the attempts that a crash of this machine has left on rows alone, and return how many.

    A row that a living process has in hand, another host, or one that this directory does not know, is left alone.
    Raise DatabaseUnavailable.
    """
    return _record_lost_rows(app, _host(), partial(attempt_files.is_gone, app.settings.attempts_dir))


def _record_lost_rows(app: App, mark: str, is_gone: Callable[[str], bool]) -> int:
    """Record the attempts of processes that are gone on rows whose marks begin so."""
    recorded = 0
    for kind, rows in (
        (attempt_files.MESSAGE, app.records.messages),
        (attempt_files.DOCUMENT, app.records.documents),
    ):
        for org_id, id, worker in rows.in_hand(mark):
            if is_gone(worker):
                recorded += _record_loss(attempt_files.LostAttempt(kind, org_id, id, worker, None), app)
    return recorded


def _record_loss(found: attempt_files.LostAttempt, app: App) -> bool:
    is_message = found.kind == attempt_files.MESSAGE
    rows: Any = app.records.messages if is_message else app.records.documents
    row = rows.get(found.org_id, found.id)
    if row is None or row.worker != found.worker:
        return False
    failed_parts, _ = read_failed_parts(row.attempts, row.error_json)
    why = add_failed_part(error_details(row.attempts, AttemptLost(), "AttemptLost"), failed_parts, found.part)
    writes = (partial(rows.give_up, row), partial(rows.retry_later, row))
    limit = None if is_message else app.settings.handover_retry
    is_last = record_failure(row, AttemptLost(), why, app, *writes, is_outage=False, retry_for=limit)
    org = app.records.organizations.slug(found.org_id)
    action, subject = ("extract", "Message") if is_message else ("hand_over", "Hand-over")
    metrics.count(metrics.EXTRACTIONS if is_message else metrics.HANDOVERS, org, "failed" if is_last else "retry")
    end = "failed for good." if is_last else "lost its worker process; another attempt follows."
    names = {"message_id" if is_message else "document_id": found.id}
    event(action, f"{subject} {end}", logging.ERROR if is_last else logging.WARNING, org=org, **names, **why)
    return True


def record_failure(
    row: InboundMessage | Document,
    error: BaseException,
    why: dict[str, Any],
    app: App,
    give_up: Callable[[dict[str, Any]], object],
    retry_later: Callable[[dict[str, Any], int, datetime], object],
    *,
    is_outage: bool,
    retry_for: float | None = None,
) -> bool:
    """Record on a row how its attempt failed, and return whether that was the last one.

    `retry_for`: failures are tried again for so many seconds after the first one, None: ATTEMPTS times.
    """
    attempts, before = row.attempts, row.error_json
    is_poison = isinstance(error, _POISON) and (before is None or before.get("error") in _POISONED)
    counted = min(attempts, POISON_ATTEMPTS - 1) if is_outage else attempts
    delay = min(app.settings.retry_delay * _BACKOFF ** min(counted - 1, _MOST_STEPS), _LONGEST_DELAY)
    is_last = attempts >= (1 if isinstance(error, MessageErased) else POISON_ATTEMPTS if is_poison else ATTEMPTS)
    if retry_for is not None and not isinstance(error, MessageErased):
        why = {**why, **({} if is_outage else {"since": why["at"]}), **_since(before)}
        is_last = not is_outage and _age(why) + delay > retry_for
        if isinstance(error, _POISON):
            in_a_row = (before or {}).get("poison", 0) + max(attempts - 1 - _recorded(before), 0) + 1
            why, is_last = {**why, "poison": in_a_row}, is_last or in_a_row >= POISON_ATTEMPTS
    if is_last and not is_outage:
        _write(lambda: give_up(why))
        return True
    if counted != attempts:
        why = {**why, "counted": counted}
    _write(lambda: retry_later(why, counted, app.records.database.now() + timedelta(seconds=delay)))
    return False


def _since(error_json: Any) -> dict[str, str]:
    """Return when the attempts of a row began to fail, as its error_json says it; nothing if it does not."""
    return {"since": error_json["since"]} if error_json and "since" in error_json else {}


def _age(why: dict[str, Any]) -> float:
    """Return for how many seconds attempts have failed."""
    return (datetime.fromisoformat(why["at"]) - datetime.fromisoformat(why["since"])).total_seconds()


def error_details(attempts: int, error: BaseException, where: str) -> dict[str, Any]:
    """Return a failure for error_json, without a text that could hold message content."""
    detail = str(error) if type(error).__module__.startswith("orderflow_ingest.") else ""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"error": type(error).__name__, "detail": detail, "where": where, "at": at, "attempt": attempts}


def _write(write: Callable[[], object]) -> None:
    """Write how an attempt ended. A database that is away is waited for. Raise DatabaseUnavailable."""
    for delay in NOTE_DELAYS:
        try:
            write()
            return
        except DatabaseUnavailable:
            time.sleep(delay)
    write()


def sweep(app: App, holds: Callable[[], bool] = lambda: True) -> int:
    """Note what was lost on this host, and enqueue what is due and has no task: return the number of tasks.

    Before each SWEEP_BATCH of them it asks whether this host `holds` the sweep still, and ends where it does not: it
    may have slept, and another host sweeps. What waits in the queue is looked through, so that nothing is enqueued
    twice, and what has lost its task is found while thousands of others wait. Of messages and of documents it enqueues
    SWEEP_LIMIT at the most. Where half of what defers mail waits, these are enough.
    """
    record_losses(app)
    depth, most = app.queue.depth(), app.settings.max_queue
    if depth >= SWEEP_LIMIT and 0 < most <= 2 * depth:
        return 0
    now, queued = app.records.database.now(), app.queue.waiting_rows()
    # As many more as have a task: so many at the most of those that are longest due do.
    limit = len(queued) + SWEEP_LIMIT
    messages, documents = (
        [row for row in due(now, limit) if row not in queued][:SWEEP_LIMIT]
        for due in (app.records.messages.due, app.records.documents.due)
    )
    extract, hand_over = app.queue.enqueue_extraction, app.queue.enqueue_hand_over
    tasks = [(extract, *row) for row in messages] + [(hand_over, *row) for row in documents]
    for first in range(0, len(tasks), SWEEP_BATCH):
        if not holds():
            event("sweep", "Another host has taken the sweep over.", logging.WARNING, enqueued=first)
            return first
        for enqueue, org_id, id in tasks[first : first + SWEEP_BATCH]:
            enqueue(org_id, id)
    if tasks:
        event("sweep", "Due work enqueued.", messages=len(messages), documents=len(documents))
    return len(tasks)
