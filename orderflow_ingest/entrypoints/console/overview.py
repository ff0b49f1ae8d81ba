"""The first page: what needs looking after, and plots of how much came, how long it took, and what failed."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flask import Blueprint, render_template, request

from orderflow_ingest.app import App
from orderflow_ingest.domain.ascii_case import ascii_lower
from orderflow_ingest.domain.states import Status
from orderflow_ingest.storage.database import Filter
from orderflow_ingest.storage.queue import QueueUnavailable

from . import plots
from .scope import Scope, organizations

_FAILED, _ORGANIZATIONS = 8, 15
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Period:
    """A stretch of time up to now, and how it is cut, in seconds."""

    key: str
    text: str
    length: timedelta
    step: int


PERIODS = (
    Period("1h", "hour", timedelta(hours=1), 120),
    Period("24h", "24 hours", _DAY, 3600),
    Period("7d", "7 days", 7 * _DAY, 21600),
)


@dataclass(frozen=True)
class HostStatus:
    """State that belongs to no organization: the spool of this host and the queue. None: the queue does not answer."""

    spooled: int
    dead: int
    queued: int | None
    overdue: float


def pages(app: App) -> Blueprint:
    """Return the page."""
    blueprint = Blueprint("overview", __name__)

    @blueprint.get("/")
    def page() -> str:
        period = next((one for one in PERIODS if one.key == request.args.get("period")), PERIODS[1])
        scope, now = Scope(app, ascii_lower(request.args.get("org", "").strip()) or None), datetime.now(UTC)
        since = now - period.length
        buckets = scope.time_buckets(since, now, period.step)
        org_counts = scope.org_counts(since, now, _ORGANIZATIONS)
        return render_template(
            "overview.html",
            periods=PERIODS,
            period=period,
            org=scope.slug or "",
            orgs=organizations(app),
            counts=scope.status_counts(now - _DAY),
            host=_host_status(app) if scope.is_unrestricted else None,
            now=now,
            volume=plots.volume(buckets, period.step),
            latency=plots.latency(buckets, period.step),
            failures=plots.failures(buckets, period.step),
            rows=plots.table(buckets),
            org_counts=[(scope.slug_of(one.org_id), one.numbers) for one in org_counts],
            most=max((one.numbers.received for one in org_counts), default=0),
            failed=[
                (scope.slug_of(message.org_id), message)
                for message in scope.messages(Filter(statuses=(Status.FAILED,)), _FAILED)
            ],
        )

    return blueprint


def _host_status(app: App) -> HostStatus:
    try:
        queued = app.queue.depth()
    except QueueUnavailable:
        queued = None
    overdue = app.records.messages.lag(app.records.database.now())
    return HostStatus(len(app.spool.entries()), app.spool.count_dead(), queued, overdue)
