"""Whether workers run and sweep, by what they note, and what is left undone.

Every worker process shows that it lives by a file of this host (see `presence`), and each sweep of any host is noted
in the queue. So the worker that has another queue, or none, is found by that. The one that runs and does not sweep too.
"""

import time
from collections.abc import Iterator

from orderflow_ingest import __version__
from orderflow_ingest.app import App
from orderflow_ingest.observability import presence
from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.database import DatabaseUnavailable
from orderflow_ingest.storage.queue import QueueUnavailable

from .findings import CheckResult, ago

_LATE = 180.0  # seconds: it sweeps every minute, and a long one may be under way
_AHEAD = 60.0
_START = "systemctl enable --now orderflow-worker"


def check_worker(app: App) -> Iterator[CheckResult]:
    """Look for the last sweep, for living workers, and for what they have left undone."""
    findings = [*_sweeps(app), *_undone(app)]
    worst = [result for result in findings if result[0] != "OK"]
    yield from worst or findings


def _sweeps(app: App) -> Iterator[CheckResult]:
    here = len(presence.workers(app.settings.workers_dir))
    last = presence.last_sweep(app.settings.workers_dir)
    host, version, may_see = "this host", __version__, True
    try:
        noted = app.queue.last_sweep()
    except QueueUnavailable:
        noted, may_see = None, False
    if noted and (last is None or noted[1] > last):
        (host, _, version), last = noted[0].partition(" "), noted[1]
    late = time.time() - last if last is not None else None
    if version != __version__ and late is not None and late <= _LATE:
        yield (
            "WARNING",
            f"the worker of {host} is version {version}, and this program {__version__}: systemctl restart "
            "orderflow-worker there, after the update",
        )
    if late is not None and -_AHEAD <= late <= _LATE and host == "this host" and not here:
        yield (
            "WARNING",
            f"the worker of this host swept {ago(late)} ago and has ended; if none runs elsewhere: {_START}",
        )
    elif late is not None and -_AHEAD <= late <= _LATE:
        yield "OK", f"swept {ago(late)} ago by {host}; {here} worker processes here; nothing is left undone"
    elif late is not None and late < -_AHEAD:
        yield "WARNING", f"the clock of {host}, whose worker swept, is {ago(-late)} ahead: timedatectl set-ntp true"
    elif here:
        yield from _not_swept(app, here, f"for {ago(late)}" if late is not None else "yet")
    elif may_see:
        since = f"the last sweep was {ago(late)} ago, by {host}" if late is not None else "none has ever swept"
        yield "TROUBLE", f"no worker runs, {since}, so documents are not handed over: {_START}"
    else:
        yield "OK", "none runs here; whether one runs elsewhere, the queue does not tell the role of these settings"


def _not_swept(app: App, here: int, since: str) -> Iterator[CheckResult]:
    """Return why workers that live have not swept. A restart would cut short what they have in hand."""
    busy = attempt_files.count_active(app.settings.attempts_dir)
    if busy >= here:
        yield (
            "WARNING",
            f"all {here} worker processes here have a mail or a document in hand, and none has swept {since}: they "
            "sweep before the next one; where that lasts, give huey_consumer more --workers, or let the document "
            "handler take less time",
        )
    else:
        yield (
            "TROUBLE",
            f"{here} worker processes run here and none has swept {since}: is the database away, or the queue? their "
            "log says why a sweep failed",
        )


def _undone(app: App) -> Iterator[CheckResult]:
    try:
        lag = app.records.messages.lag(app.records.database.now())
    except DatabaseUnavailable as error:
        yield "WARNING", f"how late work is cannot be asked, so ORDERFLOW_MAX_LAG stops no mail meanwhile: {error}"
        lag = 0.0
    if lag > app.settings.lease + app.settings.sweep_after:
        yield "TROUBLE", f"work is overdue for {ago(lag)}: does orderflow-worker run? does it keep up? see its log"
    if dead := app.spool.count_dead():
        yield "TROUBLE", f"{dead} messages are dead letters: see orderflow-admin dead"
