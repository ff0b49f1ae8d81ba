"""The memory that large messages take: 8 of 25 MB at a time, through the pipe and by LMTP.

With ORDERFLOW_MAX_IN_FLIGHT at 64 MB the service must not grow over idle by more than twice that, and the
pipe's programs must stay below 16 MB each. What is over the bound is put off and comes again, so delays do not
count here; that each message is there once and whole does.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.measure import BenchmarkFailed, checked, client_cost, forget_peak, rss
from benchmarks.sender import Load
from benchmarks.stage import Site, open_stack

WAYS = ("pipe", "lmtp")
SIZE, COUNT = 25_000_000, 8
IN_FLIGHT = 64_000_000
CLIENT_LIMIT = 16_000_000


def check(stacks: Sequence[str], place: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure both ways into each stack. Raises BenchmarkFailed if a limit was passed."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as sender:
        found = [figures for stack in stacks for figures in _ways(stack, place / stack, sender, tell)]
    failed = [
        f"{f['stack']}, {f['way']}: the service grew from {f['service idle bytes']} to {f['service peak bytes']} bytes"
        for f in found
        if f["service peak bytes"] - f["service idle bytes"] > f["limit bytes"]
    ]
    failed += [
        f"{f['stack']}: the pipe's program took {f['client peak bytes']} bytes"
        for f in found
        if f.get("client peak bytes", 0) > CLIENT_LIMIT
    ]
    if failed:
        raise BenchmarkFailed(failed)
    return found


def _ways(name: str, place: Path, sender: Executor, tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    with open_stack(name, place) as stack:
        for way in WAYS:
            with Site(stack, way, place, ORDERFLOW_MAX_IN_FLIGHT=str(IN_FLIGHT)).running() as site:
                idle = rss(site.service.pid)
                forget_peak(site.service.pid)
                load = Load(site.postfix.smtp_port, "large", SIZE, COUNT, sessions=COUNT)
                checked(site, load, sender, may_wait=True)
                figures = {"stack": name, "way": way, "limit bytes": 2 * IN_FLIGHT, "service idle bytes": idle}
                figures["service peak bytes"] = rss(site.service.pid, peak=True)
                if way == "pipe":
                    cost = client_cost(site.deployment, Load(0, "alone", SIZE, COUNT, COUNT), may_wait=True)
                    figures["client peak bytes"] = cost.memory
            tell(f"{name}, {way}: 8 messages of 25 MB took the service from {idle} to {figures['service peak bytes']}")
            yield figures
