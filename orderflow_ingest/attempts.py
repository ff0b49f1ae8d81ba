"""Attempts: how a worker's failures are told, counted and tried again, for messages and documents alike.

An attempt that fails is noted on its row with the time of the next one, which the sweep enqueues. After the
last one the row is FAILED, with error_json: what, where, when, how often.

    fails of                                         attempts
    any other error                                  4
    poison: it took all time or all memory, or the   3
      worker with it, so that nothing was noted
    an outage: a backend that is away, a deploy      no end: it uses up none of the last two
      that does not import
    Erased: its object was deleted on purpose        1

A worker that is killed leaves its lease behind; when that is over the next attempt begins. Leases and retries go by
the database's clock, whichever host's is wrong.

Where the database itself is away when a failure is to be noted, that is tried for a while; then the attempt
counts as one that ended without a word.
"""

import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from .archive import ArchiveUnavailable
from .assembly import Parts
from .limits import TimeUp
from .logs import event, place
from .records import RecordsUnavailable

ATTEMPTS = 4
POISON_ATTEMPTS = 3
SWEEP_LIMIT = 1000
NOTE_DELAYS = (0.5, 2, 5, 15)  # seconds
_BACKOFF = 4


class WorkersLost(Exception):
    """The last attempts ended without a word: the worker was killed, or ran out of memory."""


class Erased(Exception):
    """The object was erased, by a retention or on somebody's demand; nothing can be done with the row any more."""


class LeaseLost(Exception):
    """Another worker has taken the row over: this one writes nothing more."""


class HandlerUnavailable(Exception):
    """The document handler cannot be imported, or is not there: a deploy is half done."""


OUTAGES = (ArchiveUnavailable, RecordsUnavailable, HandlerUnavailable)
_POISON = (TimeUp, MemoryError, WorkersLost)


def worker_name() -> str:
    """Name this worker on the rows that it has in hand."""
    return f"{socket.gethostname()}:{os.getpid()}"


def need_no_loss(attempts: int, error_json: Any) -> None:
    """Refuse an attempt after the last one that may be lost without a word. Raises WorkersLost."""
    if attempts > (POISON_ATTEMPTS if error_json is None else ATTEMPTS):
        raise WorkersLost


def note_failure(
    attempts: int,
    error: BaseException,
    is_outage: bool,
    why: dict[str, Any],
    parts: Parts,
    give_up: Callable[[dict[str, Any]], object],
    retry_later: Callable[[dict[str, Any], int, datetime], object],
) -> bool:
    """Note on a row how its attempt failed, and tell whether that was the last one."""
    allowed = 1 if isinstance(error, Erased) else POISON_ATTEMPTS if isinstance(error, _POISON) else ATTEMPTS
    if attempts >= allowed and not is_outage:
        _note(lambda: give_up(why))
        return True
    counted = min(attempts, POISON_ATTEMPTS - 1) if is_outage else attempts
    delay = parts.settings.retry_delay * _BACKOFF ** (counted - 1)
    _note(lambda: retry_later(why, counted, parts.records.database.now() + timedelta(seconds=delay)))
    return False


def told(attempts: int, error: BaseException, is_ours: bool) -> dict[str, Any]:
    """Tell a failure for error_json, without a text that could hold message content."""
    detail = str(error) if type(error).__module__.startswith("orderflow_ingest.") else ""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    where = place(error, is_ours)
    return {"error": type(error).__name__, "detail": detail, "where": where, "at": at, "attempt": attempts}


def _note(write: Callable[[], object]) -> None:
    """Write how an attempt ended; a database that is away is waited for. Raises RecordsUnavailable."""
    for delay in NOTE_DELAYS:
        try:
            write()
            return
        except RecordsUnavailable:
            time.sleep(delay)
    write()


def sweep(parts: Parts) -> int:
    """Enqueue what is due and may have no task: give the number of tasks.

    Where many tasks wait, these are enough; theirs come first.
    """
    if parts.queue.depth() >= SWEEP_LIMIT:
        return 0
    now = parts.records.database.now()
    messages = parts.records.messages.due(now, SWEEP_LIMIT)
    documents = parts.records.documents.due(now, SWEEP_LIMIT)
    for org_id, message_id in messages:
        parts.queue.extract(org_id, message_id)
    for org_id, document_id in documents:
        parts.queue.hand_over(org_id, document_id)
    if messages or documents:
        event("sweep", "Due work enqueued.", messages=len(messages), documents=len(documents))
    return len(messages) + len(documents)
