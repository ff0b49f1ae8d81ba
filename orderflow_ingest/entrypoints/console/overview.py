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
class Machine:
    """What belongs to no organisation: the spool of this host and the queue; None: it does not answer."""

    spooled: int
    dead: int
    queued: int | None
    overdue: float


def pages(parts: App) -> Blueprint:
    """Give the page."""
    blueprint = Blueprint("overview", __name__)

    @blueprint.get("/")
    def page() -> str:
        period = next((one for one in PERIODS if one.key == request.args.get("period")), PERIODS[1])
        scope, now = Scope(parts, ascii_lower(request.args.get("org", "").strip()) or None), datetime.now(UTC)
        since = now - period.length
        slots = scope.slots(since, now, period.step)
        shares = scope.shares(since, now, _ORGANIZATIONS)
        return render_template(
            "overview.html",
            periods=PERIODS,
            period=period,
            org=scope.slug or "",
            orgs=organizations(parts),
            standing=scope.standing(now - _DAY),
            machine=_machine(parts) if scope.is_everything else None,
            now=now,
            volume=plots.volume(slots, period.step),
            latency=plots.latency(slots, period.step),
            failures=plots.failures(slots, period.step),
            rows=plots.table(slots),
            shares=[(scope.slug_of(share.org_id), share.numbers) for share in shares],
            most=max((share.numbers.received for share in shares), default=0),
            failed=[
                (scope.slug_of(message.org_id), message)
                for message in scope.messages(Filter(statuses=(Status.FAILED,)), _FAILED)
            ],
        )

    return blueprint


def _machine(parts: App) -> Machine:
    try:
        queued = parts.queue.depth()
    except QueueUnavailable:
        queued = None
    overdue = parts.records.messages.lag(parts.records.database.now())
    return Machine(len(parts.spool.entries()), parts.spool.count_dead(), queued, overdue)
