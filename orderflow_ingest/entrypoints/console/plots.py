"""Plots as numbers: where bars and ticks of an SVG stand, so that its template only writes them down.

Every plot has the same drawing area, WIDTH by HEIGHT. The labels stand around it. Counts go from nought. Lengths of
time go by their logarithm, since most messages take a second and the few that matter hours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orderflow_ingest.storage.database import TimeBucket, quantile

from . import filters

WIDTH, HEIGHT = 380.0, 140.0
_GAP = 0.18  # of a bar's width
_SHORTEST, _LONGEST = 0.7, 86400.0


@dataclass(frozen=True)
class Bar:
    """A rectangle of one kind, which names its class, and what it says."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A plot's marks. `peak` says in words what is highest."""

    bars: tuple[Bar, ...]
    left: tuple[Tick, ...]
    below: tuple[Tick, ...]
    peak: str


def volume(buckets: Sequence[TimeBucket], step: int) -> Plot:
    """Draw how many messages came, those PARSED below, unfinished and FAILED upon them."""
    top = _round_up(max((bucket.numbers.received for bucket in buckets), default=0))
    bars: list[Bar] = []
    for number, bucket in enumerate(buckets):
        below = 0
        for kind in ("parsed", "unfinished", "failed"):
            value = getattr(bucket.numbers, kind)
            label = f"{_when(bucket, step)}: {filters.count(value)} {kind}"
            bars += [_bar(kind, number, len(buckets), below / top, (below + value) / top, label)] if value else []
            below += value
    busiest = max(buckets, key=lambda bucket: bucket.numbers.received, default=None)
    peak = f"the most, {filters.count(busiest.numbers.received)}, {_when(busiest, step)}" if busiest else "none"
    return Plot(tuple(bars), _counts(top), _times(buckets, step), peak)


def failures(buckets: Sequence[TimeBucket], step: int) -> Plot:
    """Draw how many of the messages that came FAILED."""
    top = _round_up(max((bucket.numbers.failed for bucket in buckets), default=0))
    bars = [
        _bar(
            "failed",
            n,
            len(buckets),
            0,
            bucket.numbers.failed / top,
            f"{_when(bucket, step)}: {bucket.numbers.failed} failed",
        )
        for n, bucket in enumerate(buckets)
        if bucket.numbers.failed
    ]
    total = sum(bucket.numbers.failed for bucket in buckets)
    return Plot(tuple(bars), _counts(top), _times(buckets, step), f"{filters.count(total)} in all")


def latency(buckets: Sequence[TimeBucket], step: int) -> Plot:
    """Draw within what time half and 95 % of the messages were PARSED, on a logarithmic axis."""
    bars: list[Bar] = []
    worst = 0
    for number, bucket in enumerate(buckets):
        half, most = quantile(bucket.took, 0.5), quantile(bucket.took, 0.95)
        for kind, bound, share in (("most", most, "95 %"), ("half", half, "half")):
            if sum(bucket.took):
                label = f"{_when(bucket, step)}: {share} within {filters.span(bound) if bound else 'more than a day'}"
                bars.append(_bar(kind, number, len(buckets), 0, _log(bound or _LONGEST), label))
        worst = max(worst, (most or int(_LONGEST)) if sum(bucket.took) else 0)
    marks = tuple(Tick(HEIGHT * (1 - _log(s)), filters.span(s)) for s in (1, 10, 60, 600, 3600, 86400))
    peak = f"95 % of every slot within {filters.span(worst)}" if worst else "nothing was PARSED"
    return Plot(tuple(bars), marks, _times(buckets, step), peak)


def _bar(kind: str, number: int, of: int, low: float, high: float, label: str) -> Bar:
    width = WIDTH / of
    height = max((high - low) * HEIGHT, 1.0)
    return Bar(
        kind, round((number + _GAP / 2) * width, 2), round(HEIGHT - low * HEIGHT - height, 2),
        round(width * (1 - _GAP), 2), round(height, 2), label,
    )  # fmt: skip


def _log(seconds: float) -> float:
    share = math.log(seconds / _SHORTEST) / math.log(_LONGEST / _SHORTEST)
    return min(max(share, 0.0), 1.0)


def _round_up(most: int) -> int:
    """Return a round number that is not below, and at least four, so that the marks are whole."""
    if most <= 4:
        return 4
    power = 10 ** int(math.log10(most))
    return next(int(power * times) for times in (1, 2, 4, 6, 8, 10) if power * times >= most)


def _counts(top: int) -> tuple[Tick, ...]:
    values = sorted({0, round(top / 2), top})
    return tuple(Tick(HEIGHT * (1 - value / top), filters.count(value)) for value in values)


def _times(buckets: Sequence[TimeBucket], step: int) -> tuple[Tick, ...]:
    every = max(1, round(len(buckets) / 5))
    form = "%H:%M" if step < 21600 else "%d %b"
    width = WIDTH / max(1, len(buckets))
    return tuple(Tick((n + 0.5) * width, buckets[n].begin.strftime(form)) for n in range(0, len(buckets), every))


def _when(bucket: TimeBucket, step: int) -> str:
    return _stretch(bucket.begin, step)


def _stretch(begin: datetime, step: int) -> str:
    end = datetime.fromtimestamp(begin.timestamp() + step, begin.tzinfo)
    return f"{begin:%d %b %H:%M}-{end:%H:%M}"


@dataclass(frozen=True)
class Row:
    """A slot in words, for who does not see the plots."""

    begin: datetime
    received: int
    parsed: int
    unfinished: int
    failed: int
    half: int | None
    most: int | None


def table(buckets: Sequence[TimeBucket]) -> list[Row]:
    """Return the slots in which anything came, the newest first."""
    return [
        Row(
            bucket.begin, bucket.numbers.received, bucket.numbers.parsed, bucket.numbers.unfinished,
            bucket.numbers.failed, quantile(bucket.took, 0.5), quantile(bucket.took, 0.95),
        )
        for bucket in reversed(buckets)
        if bucket.numbers.received
    ]  # fmt: skip
