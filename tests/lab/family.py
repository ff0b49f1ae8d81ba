"""A process and its descendants, read from /proc.

Signals go to process ids, never to names. A process is an id with its start time, so that an id which the
kernel has given to another process since is left alone.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path


def _stat(pid: int) -> tuple[int, str] | None:
    """Read the parent and the start time of a process that has not ended."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (int(fields[1]), fields[19])


def family(pid: int) -> dict[int, str]:
    """Find a process and its descendants, with their start times."""
    table = {int(entry): stat for entry in os.listdir("/proc") if entry.isdigit() and (stat := _stat(int(entry)))}
    children: dict[int, list[int]] = {}
    for member, (parent, _) in table.items():
        children.setdefault(parent, []).append(member)
    found = [pid] if pid in table else []
    for member in found:
        found += children.get(member, [])
    return {member: table[member][1] for member in found}


def left(members: Mapping[int, str]) -> list[int]:
    """Tell which of these processes have not ended."""
    return [pid for pid, started in members.items() if (stat := _stat(pid)) and stat[1] == started]


def send_signal(members: Mapping[int, str], number: int) -> None:
    """Send a signal to those of these processes that have not ended."""
    for pid in left(members):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
