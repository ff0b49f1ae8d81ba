"""Messages per second, delay, CPU and memory of every way into every stack, and Postfix's ceiling in the same run.

    script/benchmark [--stacks NAMES] [--ways NAMES] [--sizes BYTES] [--messages N] [--sessions N] [--rounds N]
                     [--throughput] [--memory] [--imports] [--json FILE] [--save]

A case is one size of message on one way into one stack; `stage` says which there are, `sender` what is sent,
`measure` how. In each case:

1. The ceiling, then the way, in turns, the ceiling last too; as many sessions as --sessions at a time. The rate
   is that of these rounds, and its ratio is to the mean of the ceilings around it: the machine may be noisy.
2. Messages come at half of that rate, whoever is ready: from this the delays.
3. The service's CPU is that of the first part, per message, its peak of memory that of both; idle is what it
   held before its first message. The client's cost is measured by running it again. The worker's CPU is
   measured once for each stack and size, with all that waits: it does not depend on the way.

After each load all messages must be there, once, whole, and each with a task that waits, and Postfix must not
have put off or bounced one; else nothing is printed but what is wrong, and the command ends with 1.
--throughput, --memory (see `memory`) and --imports (see `machine`) choose; without them all is measured. --messages is
the number for messages up to 100 KB; larger ones are fewer, and so are those delivered in-process. --save writes
benchmarks/results/throughput.{md,svg,json}. TMPDIR says on which disk all of it lies.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import machine, report
from benchmarks.harness.measure import BenchmarkError, Course, checked, client_cost, cpu, forget_peak, percentile, rss
from benchmarks.harness.sender import Load
from benchmarks.harness.stage import CEILING, STACKS, WAYS, Stack, Way, open_stack
from benchmarks.throughput import memory
from tests.support.lab.process import scratch, wait_until

SIZES = (5_000, 50_000, 1_000_000, 10_000_000)
_IN_PROCESS = 8  # messages at the most: each takes a third of a second of CPU
INSTANCES = os.cpu_count() or 1  # of the service: as many as there are cores, see systemd/
_ROOT = Path(__file__).parents[2]


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def count(way: str, size: int, messages: int) -> int:
    """Return how many messages a load has."""
    fewer = messages // (1 if size <= 100_000 else 10 if size <= 1_000_000 else 50)
    return max(2, min(fewer, _IN_PROCESS) if way == "in-process" else fewer)


@dataclass
class Case:
    """One size on one way into one stack."""

    way: Way
    ceiling: Way
    size: int
    options: argparse.Namespace
    idle: int

    def measure(self) -> dict[str, Any]:
        """Take all figures of the case but the worker's."""
        way, service, sessions = self.way, self.way.service, self.options.sessions
        messages = count(way.name, self.size, self.options.messages)
        self._send(way, "warm", min(20, messages))
        if service:
            forget_peak(service.pid)
        used, ceilings, rounds = cpu(service.pid) if service else 0.0, [], []
        for number in range(self.options.rounds):
            ceilings.append(self._ceiling(f"ceiling{number}"))
            rounds.append(self._send(way, f"full{number}", messages, sessions))
        used = cpu(service.pid) - used if service else 0.0
        ceilings.append(self._ceiling("ceiling"))
        rate, ceiling = (statistics.fmean(course.rate for course in courses) for courses in (rounds, ceilings))
        paced = self._send(way, "paced", messages, rate=rate / 2)
        figures = {
            "stack": way.stack.name, "way": way.name, "size": self.size, "messages": messages, "sessions": sessions,
            "rates": [course.rate for course in rounds], "rate": rate,
            "ceilings": [course.rate for course in ceilings], "ceiling": ceiling, "ratio": rate / ceiling,
            "delay ms": delays(paced), "delay ms at full load": delays(rounds[-1]),
            "sender CPU ms": 1000 * rounds[-1].report.cpu / messages,
            "machine CPU ms": 1000 * rounds[-1].busy / messages,
        }  # fmt: skip
        if service:
            figures["service CPU ms"] = 1000 * used / (messages * self.options.rounds)
            figures |= {"service idle bytes": self.idle, "service peak bytes": rss(service.pid, peak=True)}
        if way.name in ("pipe", "in-process"):
            alone = self._load(way, "client", min(messages, 50), sessions=1)
            cost = client_cost(way.stack.deployment, alone)
            figures |= {"client CPU ms": 1000 * cost.cpu, "client peak bytes": cost.memory}
        return figures

    def _load(self, way: Way, run: str, messages: int, sessions: int = 20, rate: float = 0.0) -> Load:
        return Load(way.postfix.smtp_port, f"{self.way.name}-{self.size}-{run}", self.size, messages, sessions, rate)

    def _send(self, way: Way, run: str, messages: int, sessions: int = 20, rate: float = 0.0) -> Course:
        return checked(way, self._load(way, run, messages, sessions, rate))

    def _ceiling(self, run: str) -> Course:
        messages = count(CEILING, self.size, self.options.messages)
        return self._send(self.ceiling, run, messages, self.options.sessions)


def delays(course: Course) -> dict[str, float]:
    """Return the percentiles of a course in milliseconds."""
    return {f"p{percent}": 1000 * percentile(course.delays, percent) for percent in (50, 95, 99)}


def worker_cost(stack: Stack) -> float:
    """Let the worker do all that waits, and return its CPU milliseconds per message, without those of its start."""
    waiting, worker = stack.tasks(), stack.deployment.worker
    with worker:
        used = cpu(worker.pid)
        if not wait_until(lambda: stack.unfinished() == 0, 600, interval=0.5):
            raise BenchmarkError([f"{stack.name}: {stack.unfinished()} messages or documents are not finished"])
        return 1000 * (cpu(worker.pid) - used) / waiting


def cases(name: str, place: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure each way into a stack, each with each size."""
    worker: dict[int, float] = {}
    with open_stack(name, place, INSTANCES) as stack, stack.way(CEILING) as ceiling:
        for way_name in options.ways:
            with stack.way(way_name) as way:
                idle = rss(way.service.pid) if way.service else 0
                for size in options.sizes:
                    figures = Case(way, ceiling, size, options, idle).measure()
                    if size not in worker:
                        worker[size] = worker_cost(stack)
                    share = f"{100 * figures['ratio']:.0f} % of the ceiling"
                    tell(f"{name}, {way_name}, {size} bytes: {figures['rate']:.1f}/s, {share}")
                    yield figures | {"worker CPU ms": worker[size]}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks as the command line says."""
    options = _parser().parse_args(arguments)
    every = not (options.throughput or options.memory or options.imports)
    found: dict[str, Any] = {"machine": machine.facts()}
    try:
        with scratch() as place:
            if every or options.throughput:
                found["cases"] = [c for s in options.stacks for c in cases(s, place / s, options)]
            if every or options.memory:
                found["memory"] = [m for s in options.stacks for m in memory.measure(s, place / f"{s}-m", tell)]
            if every or options.imports:
                found["imports"] = machine.import_cost()
    except BenchmarkError as failed:
        sys.exit(f"FAILED: {failed}")
    print(report.text(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.save:
        report.write(found, _ROOT / "benchmarks" / "results")
    if passed := memory.complaints(found.get("memory", [])):
        sys.exit(f"FAILED: {'; '.join(passed)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="script/benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--stacks", type=_names(STACKS), default=STACKS, help="comma separated, of " + ", ".join(STACKS))
    add("--ways", type=_names(WAYS), default=WAYS, help="comma separated, of " + ", ".join(WAYS))
    add("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=SIZES, help="bytes, comma separated")
    add("--messages", type=int, default=400, help="how many messages of up to 100 KB a load has")
    add("--sessions", type=int, default=20, help="SMTP sessions at a time")
    add("--rounds", type=int, default=1, help="how often each way is measured at full load")
    add("--throughput", action="store_true", help="measure the cases")
    add("--memory", action="store_true", help="measure the memory that 8 messages of 25 MB at a time take")
    add("--imports", action="store_true", help="measure what the pipe's program takes to import")
    add("--json", type=Path, help="a file for all figures")
    add("--save", action="store_true", help="write throughput.md, .svg and .json into benchmarks/results")
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
