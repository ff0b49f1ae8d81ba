"""Gauges: the current state of the deployment, measured when a page is requested.

Each part of the deployment has a probe: a function from the app to samples. A part that is unavailable raises what its
adapter raises. `background_probe` then leaves its samples out, and orderflow_up is 0. A probe changes nothing.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from orderflow_ingest.app import App
from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.entrypoints.health_client import ServiceNotRespondingError, read_health
from orderflow_ingest.storage.database import count_backlog
from orderflow_ingest.storage.resilience.circuit_breaker import unavailable_organizations

_SERVICE_SECONDS = 2.0


@dataclass(frozen=True)
class Gauge:
    """A number that goes up and down, for each combination of its labels' values."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A measured value."""

    gauge: Gauge
    value: float
    labels: tuple[str, ...] = ()


Probe = Callable[[App], Iterator[Sample]]

UP = Gauge(
    "orderflow_up",
    "1 if a part could be measured, 0 if it was unavailable or too slow; its gauges are then absent",
    ("part",),
)
MEASURE_SECONDS = Gauge("orderflow_measure_seconds", "How long measuring a part took", ("part",))
BUILD = Gauge("orderflow_build_info", "1; the version is a label", ("version",))
MESSAGES = Gauge("orderflow_messages", "Messages that are unfinished (RECEIVED, STORED) or FAILED", ("status",))
OLDEST = Gauge(
    "orderflow_oldest_unfinished_seconds", "How long ago the oldest unfinished message came; 0 if there is none"
)
OVERDUE = Gauge(
    "orderflow_overdue_seconds", "For how long a worker should have had the longest-due message; 0 if none is"
)
FAILED = Gauge("orderflow_messages_failed_by_org", "Messages that are FAILED, of organizations that have any", ("org",))
DOCUMENTS = Gauge("orderflow_documents", "Documents that are not handed over: PENDING or FAILED", ("handover",))
FAILED_DOCUMENTS = Gauge(
    "orderflow_documents_failed_by_org", "Documents whose hand-over FAILED, of organizations that have any", ("org",)
)
HELD_MAIL = Gauge("orderflow_held_mail", "Mails that are held")
HELD_MAIL_BY_ORG = Gauge("orderflow_held_mail_by_org", "Mails that are held, of organizations that have any", ("org",))
QUEUE = Gauge("orderflow_queue_tasks", "Tasks that wait for a worker")
SPOOL = Gauge("orderflow_spool_entries", "Entries of this host's spool, being delivered or left")
DEAD = Gauge("orderflow_dead_letters", "Entries in this host's spool that need an operator")
BREAKER = Gauge(
    "orderflow_breaker_open",
    "1 while this host knows a backend to be unavailable, for all or some organizations, and does not call it",
    ("backend",),
)
WORKERS = Gauge(
    "orderflow_service_workers", "Deliveries that the service can run at a time; of the instance that answered"
)
BUSY = Gauge("orderflow_service_busy", "Deliveries that the service runs; of the instance that answered")
OVERDUE_DELIVERIES = Gauge(
    "orderflow_service_overdue", "Of these, deliveries past their deadline; of the instance that answered"
)
IN_FLIGHT = Gauge(
    "orderflow_service_in_flight_bytes", "Bytes of messages in the service; of the instance that answered"
)
MOST_IN_FLIGHT = Gauge(
    "orderflow_service_in_flight_limit_bytes", "Bytes beyond which mail is deferred; of the instance that answered"
)

GAUGES = (
    UP, MEASURE_SECONDS, BUILD, MESSAGES, OLDEST, OVERDUE, FAILED, DOCUMENTS, FAILED_DOCUMENTS, HELD_MAIL,
    HELD_MAIL_BY_ORG, QUEUE, SPOOL, DEAD, BREAKER, WORKERS, BUSY, OVERDUE_DELIVERIES, IN_FLIGHT, MOST_IN_FLIGHT,
)  # fmt: skip


def database_samples(app: App) -> Iterator[Sample]:
    """Measure the rows. Raise DatabaseUnavailable."""
    now = datetime.now(UTC)
    backlog = count_backlog(app.records.database)
    oldest = backlog.oldest_unfinished
    for status, number in (*backlog.unfinished.items(), (Status.FAILED, sum(backlog.failed.values()))):
        yield Sample(MESSAGES, number, (status.value,))
    yield Sample(OLDEST, max(0.0, (now - oldest).total_seconds()) if oldest else 0)
    yield Sample(OVERDUE, app.records.messages.lag(app.records.database.now()))
    yield Sample(DOCUMENTS, backlog.pending_documents, (HandOver.PENDING.value,))
    yield Sample(DOCUMENTS, sum(backlog.failed_documents.values()), (HandOver.FAILED.value,))
    yield Sample(HELD_MAIL, sum(backlog.held_mail.values()))
    for gauge, by_org in (
        (FAILED, backlog.failed),
        (FAILED_DOCUMENTS, backlog.failed_documents),
        (HELD_MAIL_BY_ORG, backlog.held_mail),
    ):
        for org, number in by_org.items():
            yield Sample(gauge, number, (org,))


def queue_samples(app: App) -> Iterator[Sample]:
    """Measure the queue. Raise QueueUnavailable."""
    yield Sample(QUEUE, app.queue.depth())


def spool_samples(app: App) -> Iterator[Sample]:
    """Measure the spool, and the breakers beside it. Raise OSError."""
    os.stat(app.spool.directory)  # a spool that is not there is not an empty one
    yield Sample(SPOOL, len(app.spool.entries()))
    yield Sample(DEAD, app.spool.count_dead())
    for backend in ("archive", "database"):
        path = app.settings.circuits_dir / backend
        yield Sample(BREAKER, _is_file(path) or unavailable_organizations(path) > 0, (backend,))


def service_samples(app: App) -> Iterator[Sample]:
    """Ask the service. Raise ServiceNotRespondingError where nobody answers, or nobody is there."""
    health = read_health(app.settings.socket_dir, _SERVICE_SECONDS)
    if health is None:
        raise ServiceNotRespondingError("no service listens")
    health.setdefault("workers", health.get("places"))  # a service of an older version
    named = {
        WORKERS: "workers",
        BUSY: "busy",
        OVERDUE_DELIVERIES: "overdue",
        IN_FLIGHT: "in_flight",
        MOST_IN_FLIGHT: "max_in_flight",
    }
    for gauge, name in named.items():
        yield Sample(gauge, float(health[name]))


PROBES: dict[str, Probe] = {
    "database": database_samples,
    "queue": queue_samples,
    "spool": spool_samples,
    "service": service_samples,
}


def _is_file(path: os.PathLike[str]) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
