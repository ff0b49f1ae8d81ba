"""The worker's tasks: `huey_consumer orderflow_ingest.tasks.huey`.

Every task registers and delegates. A task never raises: what went wrong is on the row, or, where the database is away
or refuses the row, in the log without its text, and the row's lease ends by itself.

The sweep and the drain are rounds (see `periodic`): each host begins them once a minute and when its worker starts,
before all tasks that wait. Of all consumers one sweeps at a time (see `records.sweeping`), and each host notes what was
lost on it. The drain reads the spool of its own host. On a mail host without a worker a timer runs
`orderflow-replay spool`. Both are tasks too, since older versions put them into the queue.

Nothing is connected before it is used, hence after a worker process was forked: no connection is shared.

A worker with settings that cannot be used says so in one line and ends with status 78, which systemd shows as CONFIG.
"""

import faulthandler
import logging
import math
import mmap
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import randbelow
from typing import Any
from uuid import UUID

from huey.api import Task

from orderflow_ingest import __version__
from orderflow_ingest.app import keep_recipients, open_app
from orderflow_ingest.config import SettingsError, load
from orderflow_ingest.domain.errors import BackendUnavailable
from orderflow_ingest.entrypoints.cli.terminal import log_start
from orderflow_ingest.entrypoints.deadline import deadline
from orderflow_ingest.entrypoints.periodic import INTERVAL, PeriodicTasks
from orderflow_ingest.observability import logs, metrics, presence
from orderflow_ingest.pipeline import extract as extraction
from orderflow_ingest.pipeline import hand_over as handover
from orderflow_ingest.pipeline import receive, retry
from orderflow_ingest.pipeline.handler import HandlerUnavailable, load_handler
from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.database import DatabaseUnavailable
from orderflow_ingest.storage.database.sweeping import SweepClaim
from orderflow_ingest.storage.queue import HUEY_LOGGERS, is_client_error
from orderflow_ingest.storage.resilience.error_hints import explain_database_error

_CPU_LIMIT, _HARD_CPU_LIMIT = resource.getrlimit(resource.RLIMIT_CPU)  # -1: none
_IMPORT_TIME = 60  # seconds
_LOG_INTERVAL = 60.0  # seconds
_last_logged: dict[type[BaseException], float] = {}  # when, by time.monotonic()


def extract(org_id: int, message_id: UUID, is_live: bool) -> None:  # noqa: FBT001 (the queue calls it by position)
    """Take out a message's attachments. The documents of what is replayed stay behind live mail."""
    _limit_memory()
    with _end_of_process(), _log_errors("extract", org_id=org_id, message_id=message_id):
        extraction.extract(org_id, message_id, app, _limit_part_cpu, is_live=is_live)
    _exit_if_leaking()


def hand_over(org_id: int, document_id: UUID, _is_live: bool) -> None:  # noqa: FBT001 (the queue calls it by position)
    """Call the document handler with one document."""
    _limit_memory()
    with _end_of_process(), _log_errors("hand_over", org_id=org_id, document_id=document_id):
        handover.hand_over(org_id, document_id, app)
    _exit_if_leaking()


def _replace_huey_record(record: logging.LogRecord) -> bool:
    """Take the place of what Huey warns of: a record of ours, with the place of the error instead of a traceback.

    About a queue that is away there is one a minute for each class of error: each process tries it several times a
    second meanwhile. What Huey says besides, without --quiet, is left to it.
    """
    if record.levelno < logging.WARNING:
        return True
    error = record.exc_info[1] if record.exc_info else None
    if error is None or not is_client_error(error):
        # The words of Huey's source, without what they are about: that could be anything.
        reason = logs.error_location(error, within="") if error else None
        logs.event("worker", "Huey reported a fault.", record.levelno, said=record.msg, reason=reason)
        return False
    now = time.monotonic()
    if now - _last_logged.get(type(error), -_LOG_INTERVAL) >= _LOG_INTERVAL:
        _last_logged[type(error)] = now
        reason = explain_database_error(error, "QUEUE_URL", settings.queue_url)
        logs.event("worker", "Queue could not be asked.", logging.ERROR, reason=reason, settings=settings.source)
    return False


os.umask(0o077)
try:
    settings = load()
except SettingsError as error:
    # SystemExit, since Huey tries an import that fails with another error twice, and prints both.
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(os.EX_CONFIG) from None
logs.configure(settings.log, "worker", settings.state_dir)
for name in HUEY_LOGGERS:
    logging.getLogger(name).addFilter(_replace_huey_record)
metrics.start(settings.metrics_dir)
try:
    app = open_app(settings, extract, hand_over)
except BackendUnavailable as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(os.EX_CONFIG) from None
huey = app.queue.huey


@huey.on_startup()  # type: ignore[untyped-decorator]
def start_worker() -> None:
    """Show `orderflow-admin check` that this worker process is there, and note what the one before it has lost."""
    log_start("worker", "Worker process started.", settings)
    presence.announce(settings.workers_dir)
    if _is_worker():
        # Written by the signal's handler in C, and then the process ends.
        faulthandler.register(signal.SIGXCPU, chain=True)
    _check_handler()  # before anything is connected: a child must not share it
    with _log_errors("sweep"):
        _record_lost_attempts()


@huey.task(timeout=settings.task_time_limit)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Enqueue what is due and has lost its task, and note that this was done. One host of all does it at a time."""
    with _log_errors("sweep"):
        keep_recipients(app)
        _record_lost_attempts()
        if _sweep_if_claimed():
            app.queue.record_sweep(f"{socket.gethostname()} {__version__}", time.time())
        presence.record_sweep(settings.workers_dir)


@huey.task()  # type: ignore[untyped-decorator]
def drain() -> None:
    """Deliver what was left in this host's spool."""
    with _log_errors("drain"):
        for _ in receive.drain(app, lambda: deadline(settings.deadline)):
            continue


_periodic = PeriodicTasks("sweep", "drain")
_rows_checked = mmap.mmap(-1, 1)  # shared by the worker processes
# Who sweeps, for all worker processes of this consumer; the file of `in_hand` that it names is this process's.
_consumer = f"{retry.worker_name(settings.attempts_dir)}/{os.urandom(4).hex()}"


def _due_task() -> Task | None:
    """Return the task of a round that is due on this host."""
    name = _periodic.take()
    return None if name is None else {"sweep": sweep, "drain": drain}[name].s()


huey.first = _due_task


def _record_lost_attempts() -> None:
    """Note what processes of this host have left. What a crash of the machine has, once for each start of the consumer.

    What was noted is due after the first delay, and so is a sweep.
    """
    noted = retry.record_losses(app)
    if not _rows_checked[0]:
        noted += retry.record_rows_lost(app)
        _rows_checked[0] = 1
    if noted:
        _periodic.postpone("sweep", settings.retry_delay)


def _sweep_if_claimed() -> bool:
    """Sweep, and tell that this was done, or see that another host does, and ask again before its next sweep.

    The time of that is drawn, so that a host that claims and is killed in each sweep does not always come first.
    """
    claim = SweepClaim(app.records.database, _consumer, partial(attempt_files.is_gone, settings.attempts_dir))
    if not claim.take():
        _periodic.postpone("sweep", INTERVAL / 3 + randbelow(int(INTERVAL * 2 / 3)))
        return False
    try:
        retry.sweep(app, claim.hold)
        return claim.hold()
    except BaseException:
        with suppress(DatabaseUnavailable):  # it ends by itself
            claim.give_back()
        raise


def _check_handler() -> None:
    """Log a document handler that cannot be used, before the first document meets it.

    A child does it: an import that hangs or takes its process with it must not keep a worker from all other work.
    """
    child = os.fork() if _is_worker() else 0
    if child:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            reason = f"signal {os.WTERMSIG(status)} ended its import"
            logs.event("worker", "Document handler cannot be used; documents wait.", logging.ERROR, reason=reason)
        return
    try:
        if _is_worker():
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_IMPORT_TIME)
        load_handler(settings.document_handler)
    except HandlerUnavailable as error:
        logs.event("worker", "Document handler cannot be used; documents wait.", logging.ERROR, reason=error)
    finally:
        if _is_worker():
            os._exit(0)


def _is_worker() -> bool:
    """Return whether this is a worker process: never the consumer, which starts the others, nor a thread of it."""
    return multiprocessing.parent_process() is not None


@contextmanager
def _end_of_process() -> Iterator[None]:
    """End this worker process before its lease ends, telling where, in a call that never comes back to Python.

    The time limit does not reach there: it is the handler of a signal.
    """
    if not _is_worker():
        yield
        return
    faulthandler.dump_traceback_later(settings.task_end, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _limit_part_cpu(begins: bool) -> None:  # noqa: FBT001 (a Callable has no keywords)  # noqa: FBT001 (a Callable has no keywords)
    """Let the kernel end this worker process in a part that takes a quarter more than its CPU time. With false, never.

    A part that comes back to Python is ended in time by itself. This is for one regular expression or one call of a
    parser that does not. The signal's handler writes where, in C, and the process ends. It costs a system call for a
    part. A timer of faulthandler's would start a thread.
    """
    if not _is_worker():
        return
    soft = _CPU_LIMIT if not begins else math.ceil(time.process_time() + 1.25 * settings.part_time)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if _CPU_LIMIT < 0 else min(soft, _CPU_LIMIT), _HARD_CPU_LIMIT))


def _has_memory_limit() -> bool:
    """Return whether this is a worker process with a bound."""
    return settings.task_memory > 0 and _is_worker()


def _limit_memory() -> None:
    """Let this worker process have so much memory and no more: beyond it is a MemoryError, a failed attempt."""
    if _has_memory_limit():
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = settings.task_memory if hard == resource.RLIM_INFINITY else min(settings.task_memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _exit_if_leaking() -> None:
    """End a worker process that half of its memory stays with, what a handler leaks say. Huey starts another.

    Else the next message would seem to be poison for want of what an earlier one has taken. Address space that a
    library reserves and does not touch is no leak, as long as enough of the bound is left.
    """
    space, resident = Path("/proc/self/statm").read_text().split()[:2]  # in pages: proc(5)
    most = settings.task_memory / resource.getpagesize()
    if (int(resident) > most / 2 or int(space) > most * 7 / 8) and _has_memory_limit():
        logs.event("worker", "Worker process ended because it kept too much memory; another starts.", logging.WARNING)
        os._exit(0)


@contextmanager
def _log_errors(action: str, **fields: Any) -> Iterator[None]:
    try:
        yield
    except (BackendUnavailable, OSError) as error:
        reason = error if not isinstance(error, OSError) else logs.error_location(error)
        logs.event(
            action,
            "Backend is unavailable; the sweep will retry.",
            logging.WARNING,
            reason=reason,
            **fields,
        )
    except Exception as error:  # Huey would log it with its text: PostgreSQL's shows the row that it refuses
        logs.event(
            action,
            "Task failed; the sweep will retry.",
            logging.ERROR,
            reason=logs.error_location(error),
            **fields,
        )
