"""Messages per second, delay, CPU and memory of every way into every stack, and Postfix's ceiling in the same run.

    script/benchmark [--stacks NAMES] [--ways NAMES] [--sizes BYTES] [--messages N] [--sessions N] [--rounds N]
                     [--throughput] [--memory] [--imports] [--json FILE] [--docs]

A case is one size of message on one way into one stack; `stage` says which there are, `sender` what is sent,
`measure` how. In each case:

1. The ceiling, then the way, in turns, the ceiling last too; as many sessions as --sessions at a time. The rate
   is that of these rounds, and its ratio is to the mean of the ceilings around it: the machine may be noisy.
2. Messages come at half of that rate, whoever is ready: from this the delays.
3. The service's CPU is that of the first part, per message, its peak of memory that of both; idle is what it
   held before its first message. The client's cost is told apart, by running it again. The worker's CPU is
   told once for each stack and size, with all that waits: it does not depend on the way.

After each load all messages must be there, once, whole, and each with a task that waits, and Postfix must not
have put off or bounced one; else nothing is printed but what is wrong, and the command ends with 1.
--throughput, --memory (see `memory`) and --imports (see `machine`) choose; without them all is measured. --messages is
the number for messages up to 100 KB; larger ones are fewer, and so are those delivered in-process. --docs writes
docs/benchmarks.{json,md,svg}. TMPDIR says on which disk all of it lies.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import machine, memory, report
from benchmarks.measure import BenchmarkFailed, Course, checked, client_cost, cpu, forget_peak, percentile, rss
from benchmarks.sender import Load
from benchmarks.stage import STACKS, WAYS, Site, open_stack
from tests.lab.process import scratch, wait_until

SIZES = (5_000, 50_000, 1_000_000, 10_000_000)
_DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Options:
    """What the command was asked for."""

    stacks: tuple[str, ...]
    ways: tuple[str, ...]
    sizes: tuple[int, ...]
    messages: int
    sessions: int
    rounds: int

    def count(self, way: str, size: int) -> int:
        """Give how many messages a load has."""
        count = self.messages // (1 if size <= 100_000 else 10 if size <= 1_000_000 else 50)
        return max(2, min(count, 20) if way == "in-process" else count)


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Case:
    """One size on one way into one stack."""

    site: Site
    ceiling: Site
    size: int
    options: Options
    sender: Executor
    idle: int = 0

    def measure(self) -> dict[str, Any]:
        """Take all figures of the case but the worker's."""
        site, count, sessions = self.site, self.options.count(self.site.way, self.size), self.options.sessions
        pid = site.service.pid if site.service else None
        self._send("warm", min(20, count))
        if pid:
            forget_peak(pid)
        used = cpu(pid) if pid else 0.0
        ceilings, rounds = [], []
        for number in range(self.options.rounds):
            ceilings.append(self._ceiling(f"before{number}"))
            rounds.append(self._send(f"full{number}", count, sessions))
        used = (cpu(pid) if pid else 0.0) - used
        ceilings.append(self._ceiling("after"))
        rate, ceiling = (statistics.fmean(course.rate for course in courses) for courses in (rounds, ceilings))
        paced = self._send("paced", count, rate=rate / 2)
        figures = {
            "stack": site.stack.name, "way": site.way, "size": self.size, "messages": count, "sessions": sessions,
            "rates": [course.rate for course in rounds], "rate": rate,
            "ceilings": [course.rate for course in ceilings], "ceiling": ceiling, "ratio": rate / ceiling,
            "delay ms": delays(paced), "delay ms at full load": delays(rounds[-1]),
            "sender CPU ms": 1000 * rounds[-1].report.cpu / count,
        }  # fmt: skip
        if pid:
            figures["service CPU ms"] = 1000 * used / (count * self.options.rounds)
            figures |= {"service idle bytes": self.idle, "service peak bytes": rss(pid, peak=True)}
        if site.way in ("pipe", "in-process"):
            cost = client_cost(site.deployment, self._load("client", min(count, 50), sessions=1))
            figures |= {"client CPU ms": 1000 * cost.cpu, "client peak bytes": cost.memory}
        return figures

    def _load(self, run: str, count: int, sessions: int = 20, rate: float = 0.0, site: Site | None = None) -> Load:
        port = (site or self.site).postfix.smtp_port
        return Load(port, f"{self.site.way}-{self.size}-{run}", self.size, count, sessions, rate)

    def _send(self, run: str, count: int, sessions: int = 20, rate: float = 0.0) -> Course:
        return checked(self.site, self._load(run, count, sessions, rate), self.sender)

    def _ceiling(self, run: str) -> Course:
        count, sessions = self.options.count("ceiling", self.size), self.options.sessions
        return checked(self.ceiling, self._load(run, count, sessions, site=self.ceiling), self.sender)


def delays(course: Course) -> dict[str, float]:
    """Give the percentiles of a course in milliseconds."""
    return {f"p{percent}": 1000 * percentile(course.delays, percent) for percent in (50, 95, 99)}


def worker_cost(site: Site) -> float:
    """Let the worker do all that waits, and give its CPU milliseconds per message, without those of its start."""
    count, worker = site.tasks(), site.deployment.worker
    with worker:
        used = cpu(worker.pid)
        if not wait_until(lambda: site.unfinished() == 0, 300, interval=0.5):
            raise BenchmarkFailed([f"{site.stack.name}: {site.unfinished()} messages or documents are not finished"])
        return 1000 * (cpu(worker.pid) - used) / count


def cases(options: Options, place: Path) -> Iterator[dict[str, Any]]:
    """Measure each case."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as sender:
        for name in options.stacks:
            tell(f"{name}: starting")
            with open_stack(name, place / name) as stack, Site(stack, "ceiling", place / name).running() as ceiling:
                worker: dict[int, float] = {}
                for way in options.ways:
                    with Site(stack, way, place / name).running() as site:
                        idle = rss(site.service.pid) if site.service else 0
                        for size in options.sizes:
                            figures = Case(site, ceiling, size, options, sender, idle).measure()
                            if size not in worker:
                                worker[size] = worker_cost(site)
                            tell(
                                f"{name}, {way}, {size} bytes: {figures['rate']:.1f}/s, "
                                f"{100 * figures['ratio']:.0f} % of the ceiling"
                            )
                            yield figures | {"worker CPU ms": worker[size]}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks as the command line says."""
    chosen = _parser().parse_args(arguments)
    options = Options(chosen.stacks, chosen.ways, chosen.sizes, chosen.messages, chosen.sessions, chosen.rounds)
    every = not (chosen.throughput or chosen.memory or chosen.imports)
    found: dict[str, Any] = {"machine": machine.facts()}
    try:
        with scratch() as place:
            if every or chosen.throughput:
                found["cases"] = list(cases(options, place / "cases"))
            if every or chosen.memory:
                found["memory"] = memory.check(options.stacks, place / "memory", tell)
            if every or chosen.imports:
                found["imports"] = machine.import_cost()
    except BenchmarkFailed as failed:
        sys.exit(f"FAILED: {failed}")
    print(report.text(found))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    if chosen.docs:
        report.write(found, _DOCS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="script/benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--stacks", type=_names(STACKS), default=STACKS, help="comma separated, of " + ", ".join(STACKS))
    add("--ways", type=_names(WAYS), default=WAYS, help="comma separated, of " + ", ".join(WAYS))
    add("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=SIZES, help="bytes, comma separated")
    add("--messages", type=int, default=600, help="how many messages of up to 100 KB a load has")
    add("--sessions", type=int, default=20, help="SMTP sessions at a time")
    add("--rounds", type=int, default=1, help="how often each way is measured at full load")
    add("--throughput", action="store_true", help="measure the cases")
    add("--memory", action="store_true", help="measure the memory that 8 messages of 25 MB at a time take")
    add("--imports", action="store_true", help="measure what the pipe's program takes to import")
    add("--json", type=Path, help="a file for all figures")
    add("--docs", action="store_true", help="write docs/benchmarks.json, .md and .svg")
    return parser


def _names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"there are: {', '.join(known)}")
        return chosen

    return names


if __name__ == "__main__":
    main()
