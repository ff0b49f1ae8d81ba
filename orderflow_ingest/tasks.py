"""The worker's tasks: `huey_consumer orderflow_ingest.tasks.huey`.

Every task registers and delegates. A task never raises: what went wrong is on the row, or, where the database is away
or refuses the row, in the log without its text, and the row's lease ends by itself.

The sweep and the drain are rounds (see `periodic`): each host begins them once a minute and when its worker starts,
before all tasks that wait. Of all consumers one sweeps at a time (see `records.sweeping`), and each host notes what was
lost on it. The drain reads the spool of its own host; on a mail host without a worker a timer runs
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
from orderflow_ingest.entrypoints.periodic import EACH, Rounds
from orderflow_ingest.observability import logs, metrics, presence
from orderflow_ingest.pipeline import extract as extraction
from orderflow_ingest.pipeline import hand_over as handover
from orderflow_ingest.pipeline import receive, retry
from orderflow_ingest.pipeline.retry import HandlerUnavailable
from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.database import DatabaseUnavailable
from orderflow_ingest.storage.database.sweeping import SweepClaim
from orderflow_ingest.storage.queue import HUEY_LOGGERS, is_client_error
from orderflow_ingest.storage.resilience.error_hints import explain_database_error

_CPU_LIMIT, _HARD_CPU_LIMIT = resource.getrlimit(resource.RLIMIT_CPU)  # -1: none
_IMPORT_TIME = 60  # seconds
_REPEATED = 60.0  # seconds
_logged: dict[type[BaseException], float] = {}  # when, by time.monotonic()


def extract(org_id: int, message_id: UUID, is_live: bool) -> None:
    """Take out a message's attachments; the documents of what is replayed stay behind live mail."""
    _bound_memory()
    with _ended_at_last(), _outages_logged("extract", org_id=org_id, message_id=message_id):
        extraction.extract(org_id, message_id, app, is_live, _bound_part)
    _end_if_swollen()


def hand_over(org_id: int, document_id: UUID, _is_live: bool) -> None:
    """Call the document handler with one document."""
    _bound_memory()
    with _ended_at_last(), _outages_logged("hand_over", org_id=org_id, document_id=document_id):
        handover.hand_over(org_id, document_id, app)
    _end_if_swollen()


def _log_as_ours(record: logging.LogRecord) -> bool:
    """Take the place of what Huey warns of: a record of ours, with the place of the error instead of a traceback.

    About a queue that is away there is one a minute for each class of error: each process tries it several times a
    second meanwhile. What Huey says besides, without --quiet, is left to it.
    """
    if record.levelno < logging.WARNING:
        return True
    error = record.exc_info[1] if record.exc_info else None
    if error is None or not is_client_error(error):
        # The words of Huey's source, without what they are about: that could be anything.
        reason = logs.error_location(error, is_ours=False) if error else None
        logs.event("worker", "Huey reported a fault.", record.levelno, said=record.msg, reason=reason)
        return False
    now = time.monotonic()
    if now - _logged.get(type(error), -_REPEATED) >= _REPEATED:
        _logged[type(error)] = now
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
    logging.getLogger(name).addFilter(_log_as_ours)
metrics.start(settings.metrics_dir)
try:
    app = open_app(settings, extract, hand_over)
except BackendUnavailable as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(os.EX_CONFIG) from None
huey = app.queue.huey


@huey.on_startup()  # type: ignore[untyped-decorator]
def live() -> None:
    """Show `orderflow-admin check` that this worker process is there, and note what the one before it has lost."""
    log_start("worker", "Worker process started.", settings)
    presence.announce(settings.workers_dir)
    if _is_worker():
        # Written by the signal's handler in C, and then the process ends.
        faulthandler.register(signal.SIGXCPU, chain=True)
    _look_at_handler()  # before anything is connected: a child must not share it
    with _outages_logged("sweep"):
        _note_losses()


@huey.task(timeout=settings.task_time_limit)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Enqueue what is due and has lost its task, and note that this was done; one host of all does it at a time."""
    with _outages_logged("sweep"):
        keep_recipients(app)
        _note_losses()
        if _is_swept_by_us():
            app.queue.record_sweep(f"{socket.gethostname()} {__version__}", time.time())
        presence.record_sweep(settings.workers_dir)


@huey.task()  # type: ignore[untyped-decorator]
def drain() -> None:
    """Deliver what was left in this host's spool."""
    with _outages_logged("drain"):
        for _ in receive.drain(app, lambda: deadline(settings.deadline)):
            continue


_rounds = Rounds("sweep", "drain")
_rows_asked = mmap.mmap(-1, 1)  # shared by the worker processes
# Who sweeps, for all worker processes of this consumer; the file of `in_hand` that it names is this process's.
_consumer = f"{retry.worker_name(settings.attempts_dir)}/{os.urandom(4).hex()}"


def _due_round() -> Task | None:
    """Return the task of a round that is due on this host."""
    name = _rounds.take()
    return None if name is None else {"sweep": sweep, "drain": drain}[name].s()


huey.first = _due_round


def _note_losses() -> None:
    """Note what processes of this host have left; what a crash of the machine has, once for each start of the consumer.

    What was noted is due after the first delay, and so is a sweep.
    """
    noted = retry.note_losses(app)
    if not _rows_asked[0]:
        noted += retry.note_rows_lost(app)
        _rows_asked[0] = 1
    if noted:
        _rounds.again("sweep", settings.retry_delay)


def _is_swept_by_us() -> bool:
    """Sweep, and tell that this was done; or see that another host does, and ask again before its next sweep.

    The time of that is drawn, so that a host that claims and is killed in each sweep does not always come first.
    """
    claim = SweepClaim(app.records.database, _consumer, partial(attempt_files.is_gone, settings.attempts_dir))
    if not claim.take():
        _rounds.again("sweep", EACH / 3 + randbelow(int(EACH * 2 / 3)))
        return False
    try:
        retry.sweep(app, claim.hold)
        return claim.hold()
    except BaseException:
        with suppress(DatabaseUnavailable):  # it ends by itself
            claim.give_back()
        raise


def _look_at_handler() -> None:
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
        handover.load_handler(settings.document_handler)
    except HandlerUnavailable as error:
        logs.event("worker", "Document handler cannot be used; documents wait.", logging.ERROR, reason=error)
    finally:
        if _is_worker():
            os._exit(0)


def _is_worker() -> bool:
    """Tell whether this is a worker process: never the consumer, which starts the others, nor a thread of it."""
    return multiprocessing.parent_process() is not None


@contextmanager
def _ended_at_last() -> Iterator[None]:
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


def _bound_part(begins: bool) -> None:
    """Let the kernel end this worker process in a part that takes a quarter more than its CPU time; with false, never.

    A part that comes back to Python is ended in time by itself; this is for one regular expression or one call of a
    parser that does not. The signal's handler writes where, in C, and the process ends. It costs a system call for a
    part; a timer of faulthandler's would start a thread.
    """
    if not _is_worker():
        return
    soft = _CPU_LIMIT if not begins else math.ceil(time.process_time() + 1.25 * settings.part_time)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if _CPU_LIMIT < 0 else min(soft, _CPU_LIMIT), _HARD_CPU_LIMIT))


def _is_bounded() -> bool:
    """Tell whether this is a worker process with a bound."""
    return settings.task_memory > 0 and _is_worker()


def _bound_memory() -> None:
    """Let this worker process have so much memory and no more: beyond it is a MemoryError, a failed attempt."""
    if _is_bounded():
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = settings.task_memory if hard == resource.RLIM_INFINITY else min(settings.task_memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _end_if_swollen() -> None:
    """End a worker process that half of its memory stays with, what a handler leaks say; Huey starts another.

    Else the next message would be told to be poison for want of what an earlier one has taken. Address space that a
    library reserves and does not touch is no leak, as long as enough of the bound is left.
    """
    space, resident = Path("/proc/self/statm").read_text().split()[:2]  # in pages: proc(5)
    most = settings.task_memory / resource.getpagesize()
    if (int(resident) > most / 2 or int(space) > most * 7 / 8) and _is_bounded():
        logs.event("worker", "Worker process ended, to be started anew: it kept too much memory.", logging.WARNING)
        os._exit(0)


@contextmanager
def _outages_logged(action: str, **fields: Any) -> Iterator[None]:
    try:
        yield
    except (BackendUnavailable, OSError) as error:
        reason = error if not isinstance(error, OSError) else logs.error_location(error)
        logs.event(
            action,
            "A backend is unavailable; the sweep will run the task again.",
            logging.WARNING,
            reason=reason,
            **fields,
        )
    except Exception as error:  # Huey would log it with its text: PostgreSQL's shows the row that it refuses
        logs.event(
            action,
            "A task broke; the sweep tries it again.",
            logging.ERROR,
            reason=logs.error_location(error),
            **fields,
        )
