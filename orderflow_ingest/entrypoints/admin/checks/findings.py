"""What the parts of `check` say, and how they compare clocks. Each part is a generator of what it has found.

A finding is a level's name and a text. The text holds what is wrong and the line to change, on one line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from orderflow_ingest.config import SYSTEM_FILE, Settings

CheckResult = tuple[str, str]  # name of a level, and the text

_CLOCK_WARNING = 5.0  # seconds
_CLOCK_TROUBLE = 300.0  # seconds


class Level(Enum):
    """How bad a finding is."""

    OK = 0
    WARNING = 1
    TROUBLE = 2


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    part: str
    level: Level
    text: str


def compare_clocks(whose: str, theirs: float, ours: float) -> Iterator[CheckResult]:
    """Compare another's clock with ours, both in seconds since 1970. An answer's way and whole seconds are allowed for.

    Times of receipt go by each host's clock. S3 refuses a signature that is 15 minutes off.
    """
    off = theirs - ours
    if abs(off) > _CLOCK_WARNING:
        yield (
            "TROUBLE" if abs(off) > _CLOCK_TROUBLE else "WARNING",
            f"this host's clock is {abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} {whose}: on the one that is "
            "wrong, timedatectl set-ntp true",
        )


def run_init(settings: Settings) -> str:
    """Return the command that makes what is missing, for these settings."""
    is_usual = settings.file in (None, Path(SYSTEM_FILE))
    option = "" if is_usual else f" --settings {settings.file}"
    return f"run orderflow-admin init{option}, as the user that delivers"


def ago(seconds: float) -> str:
    """Return a time span as people write it."""
    for unit, length in (("days", 172800), ("h", 7200), ("min", 120)):
        if seconds >= length:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
