"""A process and its descendants, read from /proc.

Signals go to process ids, never to names. A process is an id with its start time, so that an id which the
kernel has given to another process since is left alone.
"""

import contextlib
import os
from collections.abc import Mapping


def _stat(pid: int | str) -> tuple[int, str] | None:
    """Read the parent and the start time of a process that has not ended."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        fields = os.read(file, 4096).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(file)
    return None if fields[0] in b"ZX" else (int(fields[1]), fields[19].decode())


def family(pid: int) -> dict[int, str]:
    """Find a process and its descendants, with their start times."""
    table = {int(entry): stat for entry in os.listdir("/proc") if entry.isdigit() and (stat := _stat(entry))}
    children: dict[int, list[int]] = {}
    for member, (parent, _) in table.items():
        children.setdefault(parent, []).append(member)
    found = [pid] if pid in table else []
    for member in found:
        found += children.get(member, [])
    return {member: table[member][1] for member in found}


def left(members: Mapping[int, str]) -> list[int]:
    """Return which of these processes have not ended."""
    return [pid for pid, started in members.items() if (stat := _stat(pid)) and stat[1] == started]


def send_signal(members: Mapping[int, str], number: int) -> None:
    """Send a signal to those of these processes that have not ended."""
    for pid in left(members):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
