"""The memory that large messages take: 8 of 25 MB at a time, through the pipe and by LMTP.

With ORDERFLOW_MAX_IN_FLIGHT at 64 MB the service must not grow over idle by more than twice that, and the
pipe's programs must stay below 16 MB each. What is over the bound is put off and comes again, so delays do not
count here; that each message is there once and whole does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness.measure import checked, client_cost, forget_peak, rss
from benchmarks.harness.sender import Load
from benchmarks.harness.stage import open_stack

WAYS = ("pipe", "lmtp")
SIZE, COUNT = 25_000_000, 8
IN_FLIGHT, CLIENT_LIMIT = 64_000_000, 16_000_000


def measure(name: str, place: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure both ways into a stack."""
    found = []
    with open_stack(name, place, 1, ORDERFLOW_MAX_IN_FLIGHT=str(IN_FLIGHT)) as stack:
        for way_name in WAYS:
            with stack.way(way_name) as way:
                idle = rss(way.service.pid)
                forget_peak(way.service.pid)
                checked(way, Load(way.postfix.smtp_port, way_name, SIZE, COUNT, COUNT), may_wait=True)
                figures = {"stack": name, "way": way_name, "service limit bytes": 2 * IN_FLIGHT}
                figures |= {"service idle bytes": idle, "service peak bytes": rss(way.service.pid, peak=True)}
                if way_name == "pipe":
                    cost = client_cost(stack.deployment, Load(0, "alone", SIZE, COUNT, COUNT), may_wait=True)
                    figures |= {"client peak bytes": cost.memory, "client limit bytes": CLIENT_LIMIT}
            tell(
                f"{name}, {way_name}: {COUNT} messages of {SIZE} bytes, {figures['service peak bytes']} bytes of memory"
            )
            found.append(figures)
    return found


def complaints(found: list[dict[str, Any]]) -> list[str]:
    """Return which limits were passed."""
    passed = []
    for f in found:
        where, grown = f"{f['stack']}, {f['way']}", f["service peak bytes"] - f["service idle bytes"]
        if grown > f["service limit bytes"]:
            passed.append(f"{where}: the service grew by {grown} bytes, over {f['service limit bytes']}")
        if f.get("client peak bytes", 0) > CLIENT_LIMIT:
            passed.append(f"{where}: the pipe's program took {f['client peak bytes']} bytes, over {CLIENT_LIMIT}")
    return passed
