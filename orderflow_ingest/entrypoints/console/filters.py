"""What people read: texts that senders wrote, made harmless to look at. Times, sizes and lengths of time in words.

Markup is Jinja's to escape. Here control characters, and those that turn the direction of a line round, become visible.
A page puts what a sender wrote into an element of its own direction (`bdi`), where the rest can turn nothing else.
"""

import re
from datetime import UTC, datetime
from typing import Any

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"[\t\r\n]+")
_LINE = 300
_UNITS = ("bytes", "KB", "MB", "GB", "TB")


def line(text: object, most: int = _LINE) -> str:
    """Show a text in one line, cut where it is longer than anybody reads."""
    found = str(text if text is not None else "")
    cut = _CONTROLS.sub("\ufffd", _BREAKS.sub(" ", found[: most + 1]))
    return cut[:most] + "…" if len(found) > most else cut


def lines(text: str) -> str:
    """Show a text of many lines."""
    return _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def moment(at: datetime | None) -> str:
    """Show a time, to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at else "-"


def iso(at: datetime) -> str:
    """Write a time for machines."""
    return at.astimezone(UTC).isoformat(timespec="seconds")


def size(number: int) -> str:
    """Show a number of bytes."""
    value, unit = float(number), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{number} bytes" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def span(seconds: float | None) -> str:
    """Show a length of time, in its largest unit."""
    if seconds is None:
        return "-"
    for length, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.3g} {name}"
    return f"{seconds:.3g} s"


def count(number: int) -> str:
    """Show a number with its thousands apart."""
    return f"{number:,}".replace(",", "\u202f")


def details(values: dict[str, Any]) -> str:
    """Show the details of an event."""
    return line("; ".join(f"{name}: {value}" for name, value in values.items() if value not in (None, "")), 1000)
