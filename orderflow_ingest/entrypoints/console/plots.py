"""Plots as numbers: where bars and ticks of an SVG stand, so that its template only writes them down.

Every plot has the same drawing area, WIDTH by HEIGHT; the labels stand around it. Counts go from nought; lengths of
time go by their logarithm, since most messages take a second and the few that matter hours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orderflow_ingest.storage.database import TimeBucket, quantile

from . import filters

WIDTH, HEIGHT = 380.0, 140.0
_GAP = 0.18  # of a bar's place
_SHORTEST, _LONGEST = 0.7, 86400.0


@dataclass(frozen=True)
class Bar:
    """A rectangle of one kind, which names its class, and what it says."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A plot's marks; `peak` says in words what is highest."""

    bars: tuple[Bar, ...]
    left: tuple[Tick, ...]
    below: tuple[Tick, ...]
    peak: str


def volume(slots: Sequence[TimeBucket], step: int) -> Plot:
    """Draw how many messages came, those PARSED below, unfinished and FAILED upon them."""
    top = _nice(max((slot.numbers.received for slot in slots), default=0))
    bars: list[Bar] = []
    for number, slot in enumerate(slots):
        below = 0
        for kind in ("parsed", "unfinished", "failed"):
            value = getattr(slot.numbers, kind)
            says = f"{_when(slot, step)}: {filters.count(value)} {kind}"
            bars += [_bar(kind, number, len(slots), below / top, (below + value) / top, says)] if value else []
            below += value
    busiest = max(slots, key=lambda slot: slot.numbers.received, default=None)
    peak = f"the most, {filters.count(busiest.numbers.received)}, {_when(busiest, step)}" if busiest else "none"
    return Plot(tuple(bars), _counts(top), _times(slots, step), peak)


def failures(slots: Sequence[TimeBucket], step: int) -> Plot:
    """Draw how many of the messages that came FAILED."""
    top = _nice(max((slot.numbers.failed for slot in slots), default=0))
    bars = [
        _bar(
            "failed", n, len(slots), 0, slot.numbers.failed / top, f"{_when(slot, step)}: {slot.numbers.failed} failed"
        )
        for n, slot in enumerate(slots)
        if slot.numbers.failed
    ]
    total = sum(slot.numbers.failed for slot in slots)
    return Plot(tuple(bars), _counts(top), _times(slots, step), f"{filters.count(total)} in all")


def latency(slots: Sequence[TimeBucket], step: int) -> Plot:
    """Draw within what time half and 95 % of the messages were PARSED, on a logarithmic axis."""
    bars: list[Bar] = []
    worst = 0
    for number, slot in enumerate(slots):
        half, most = quantile(slot.took, 0.5), quantile(slot.took, 0.95)
        for kind, bound, share in (("most", most, "95 %"), ("half", half, "half")):
            if sum(slot.took):
                says = f"{_when(slot, step)}: {share} within {filters.span(bound) if bound else 'more than a day'}"
                bars.append(_bar(kind, number, len(slots), 0, _log(bound or _LONGEST), says))
        worst = max(worst, (most or int(_LONGEST)) if sum(slot.took) else 0)
    marks = tuple(Tick(HEIGHT * (1 - _log(s)), filters.span(s)) for s in (1, 10, 60, 600, 3600, 86400))
    peak = f"95 % of every slot within {filters.span(worst)}" if worst else "nothing was PARSED"
    return Plot(tuple(bars), marks, _times(slots, step), peak)


def _bar(kind: str, number: int, of: int, low: float, high: float, says: str) -> Bar:
    place = WIDTH / of
    height = max((high - low) * HEIGHT, 1.0)
    return Bar(
        kind, round((number + _GAP / 2) * place, 2), round(HEIGHT - low * HEIGHT - height, 2),
        round(place * (1 - _GAP), 2), round(height, 2), says,
    )  # fmt: skip


def _log(seconds: float) -> float:
    share = math.log(seconds / _SHORTEST) / math.log(_LONGEST / _SHORTEST)
    return min(max(share, 0.0), 1.0)


def _nice(most: int) -> int:
    """Give a round number that is not below, and at least four, so that the marks are whole."""
    if most <= 4:
        return 4
    power = 10 ** int(math.log10(most))
    return next(int(power * times) for times in (1, 2, 4, 6, 8, 10) if power * times >= most)


def _counts(top: int) -> tuple[Tick, ...]:
    values = sorted({0, round(top / 2), top})
    return tuple(Tick(HEIGHT * (1 - value / top), filters.count(value)) for value in values)


def _times(slots: Sequence[TimeBucket], step: int) -> tuple[Tick, ...]:
    every = max(1, round(len(slots) / 5))
    form = "%H:%M" if step < 21600 else "%d %b"
    place = WIDTH / max(1, len(slots))
    return tuple(Tick((n + 0.5) * place, slots[n].begin.strftime(form)) for n in range(0, len(slots), every))


def _when(slot: TimeBucket, step: int) -> str:
    return _stretch(slot.begin, step)


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


def table(slots: Sequence[TimeBucket]) -> list[Row]:
    """Tell the slots in which anything came, the newest first."""
    return [
        Row(
            slot.begin, slot.numbers.received, slot.numbers.parsed, slot.numbers.unfinished, slot.numbers.failed,
            quantile(slot.took, 0.5), quantile(slot.took, 0.95),
        )
        for slot in reversed(slots)
        if slot.numbers.received
    ]  # fmt: skip
