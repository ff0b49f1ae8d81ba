"""How fast the attachments of a mail are read, and in how much memory: ours beside the standard library and two peers.

    script/benchmark extraction [--mails NAMES] [--corpus DIR] [--turns N] [--seconds S] [--json FILE] [--save]
    python -m benchmarks.extraction ...                                        without root, with what is installed

`parsers` says what each reader does, `orders` which mails they get. For each mail:

1. The readers come in turns, each turn beginning with the next of them; a turn reads the mail as often as fits into
   --seconds, once at least. Time is CPU time of this process: other work on the machine must not count. What is printed
   is the median of the turns; ratios are those of medians, within this run.
2. Each reads a mail of 100 KB or more once more in a process of its own. Its memory is the most that it held (VmHWM)
   less what it held before the mail was there and after it had read a small one; the mail itself counts.

--corpus is a directory of mails, one to a file, which each reader gets as a whole. What a reader fails at is
counted, and costs its time. --save writes both into benchmarks/results. A peer that is
not installed is left out.

What has to hold, or the command ends with 1: read_parts takes no more time than `email` with any mail, at most a third
from 1 MB on, and there at most three times the mail's size in memory.
"""

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.extraction import parsers
from benchmarks.extraction.orders import MAILS, small
from benchmarks.extraction.parsers import OURS, PARSERS, STANDARD, Reader
from benchmarks.harness import machine, report

_ROOT = Path(__file__).parents[2]
_LARGE = 1_000_000 * 0.95
_MEASURABLE = 100_000  # a smaller mail may fit into what the interpreter has free
_TIMES_FASTER, _TIMES_MEMORY = 3.0, 3.0
_FACTS = ("date", "commit", "CPU", "cores", "memory GB", "kernel", "Python")
_COLUMNS: report.Columns = (
    ("mail", lambda c: c["mail"]),
    ("MB", lambda c: f"{c['bytes'] / 1e6:.3f}"),
    ("reader", lambda c: c["reader"]),
    ("MB/s", lambda c: report.number(c["MB per s"])),
    ("mails/s", lambda c: report.number(c["mails per s"])),
    ("read_parts is", lambda c: f"{c['read_parts is']:.2f} x"),
    ("parts", lambda c: str(c["parts"])),
    ("failed", lambda c: str(c["failed"])),
    ("memory", lambda c: f"{c['memory']:.2f} x"),
)
_LEGEND = """\
MB and mails a second are of CPU time and the median of {turns} turns. "read_parts is" tells how many times as fast
read_parts is as this reader. Parts: contents given, containers of ours without one too. Failed: mails at which the
reader raised an error. Memory: the most held while reading, the mail included, in sizes of the mail. A corpus is a
directory of mails given with `--corpus`."""


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def measure(name: str, mails: Sequence[bytes], turns: int, seconds: float) -> list[dict[str, Any]]:
    """Measure all readers with some mails; a case is one of them with all of these."""
    readers = {reader: PARSERS[reader]() for reader in parsers.installed()}
    size = sum(map(len, mails))
    counts = {reader: _read_all(read, mails) for reader, read in readers.items()}
    times: dict[str, list[float]] = {reader: [] for reader in readers}
    for turn in range(turns):
        order = list(readers)
        for reader in order[turn % len(order) :] + order[: turn % len(order)]:
            times[reader].append(_time(readers[reader], mails, seconds))
    medians = {reader: statistics.median(taken) for reader, taken in times.items()}
    tell(f"{name}, {size} bytes: " + ", ".join(f"{r} {1000 * t:.2f} ms" for r, t in medians.items()))
    return [
        {
            "mail": name, "mails": len(mails), "bytes": size, "reader": reader, "seconds": times[reader],
            "MB per s": size / 1e6 / taken, "mails per s": len(mails) / taken,
            "read_parts is": taken / medians[OURS], "parts": counts[reader][0], "failed": counts[reader][1],
        }
        for reader, taken in medians.items()
    ]  # fmt: skip


def _time(read: Reader, mails: Sequence[bytes], seconds: float) -> float:
    """Return the CPU seconds that reading all mails takes, over as many times as fit."""
    gc.collect()
    times, began = 0, time.process_time()
    while (taken := time.process_time() - began) < seconds or not times:
        _read_all(read, mails)
        times += 1
    return taken / times


def _read_all(read: Reader, mails: Sequence[bytes]) -> tuple[int, int]:
    """Read mails, and return how many contents there were and how many mails failed."""
    contents = failed = 0
    for raw in mails:
        try:
            for _ in read(raw):
                contents += 1
        except KeyboardInterrupt:
            raise
        except BaseException:  # a panic of Rust is no Exception
            failed += 1
    return contents, failed


def memory(raw: bytes) -> dict[str, float]:
    """Return the most memory that each reader holds while it reads a mail, in sizes of the mail."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(raw)
        file.flush()
        found = {}
        for reader in parsers.installed():
            command = [sys.executable, "-m", "benchmarks.extraction", "--peak", reader, file.name]
            ended = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found[reader] = int(ended.stdout) / len(raw)
    return found


def peak(reader: str, path: str) -> int:
    """Return the bytes that this process grows by while it reads a file and then the mail in it."""
    read = PARSERS[reader]()
    _read_all(read, [small()])
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak; what a parent held is gone with its program
    before = _status("VmRSS")
    _read_all(read, [Path(path).read_bytes()])
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


def complaints(cases: Sequence[dict[str, Any]]) -> list[str]:
    """Return where read_parts is not as fast or as frugal as it has to be."""
    found = []
    for case in cases:
        large = case["bytes"] >= _LARGE * case["mails"]
        wanted = _TIMES_FASTER if large else 1.0
        if case["reader"] == STANDARD and case["read_parts is"] < wanted:
            found.append(f"{case['mail']}: {case['read_parts is']:.2f} times as fast as email, not {wanted:.0f}")
        if case["reader"] == OURS and large and case.get("memory", 0.0) > _TIMES_MEMORY:
            found.append(f"{case['mail']}: {case['memory']:.2f} times its size in memory")
    return found


def facts() -> dict[str, Any]:
    """Name the machine and the versions that these figures belong to."""
    known = machine.facts()
    return {name: known[name] for name in _FACTS} | parsers.versions()


def text(found: report.Figures) -> str:
    """Write the figures as tables."""
    told = [{"what": what, "value": value} for what, value in found["machine"].items()]
    machine_table = report.table(report.cells(report.FACTS, told))
    return f"{machine_table}\n\n{_LEGEND.format(**found)}\n\n{report.table(report.cells(_COLUMNS, found['cases']))}"


def write(found: report.Figures, directory: Path) -> None:
    """Write the figures as a page and as JSON into a directory."""
    how = "Made by `sudo script/benchmark extraction --save`; the headers of `benchmarks/extraction/`"
    page = f"# Reading attachments\n\n{how}\nsay how each figure is taken.\n\n{text(found)}\n"
    (directory / "extraction.md").write_text(page)
    (directory / "extraction.json").write_text(json.dumps(found, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark as the command line says."""
    options = _parser().parse_args(arguments)
    if options.peak:
        print(peak(*options.peak))
        return
    for name in sorted(PARSERS.keys() - set(parsers.installed())):
        tell(f"{name} is not installed, and left out")
    cases = []
    for name in options.mails:
        raw = MAILS[name]()
        held = memory(raw) if len(raw) >= _MEASURABLE else {}
        for case in measure(name, [raw], options.turns, options.seconds):
            cases.append(case | {"memory": held[case["reader"]]} if held else case)
    if options.corpus:
        files = sorted(path for path in options.corpus.rglob("*") if path.is_file())
        mails = [path.read_bytes() for path in files]
        random.Random(4711).shuffle(mails)
        cases += measure(f"corpus of {len(mails)}", mails, options.turns, options.seconds)
    found = {"machine": facts(), "turns": options.turns, "cases": cases}
    print(text(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.save:
        write(found, _ROOT / "benchmarks" / "results")
    if missed := complaints(cases):
        sys.exit(f"FAILED: {'; '.join(missed)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="script/benchmark extraction", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--mails", type=_mails, default=tuple(MAILS), help="comma separated, of " + ", ".join(MAILS))
    add("--corpus", type=Path, help="a directory of mails, one to a file")
    add("--turns", type=int, default=5, help="how often each reader is measured")
    add("--seconds", type=float, default=0.2, help="how long a turn lasts at least")
    add("--json", type=Path, help="a file for all figures")
    add("--save", action="store_true", help="write extraction.md and extraction.json into benchmarks/results")
    add("--peak", nargs=2, metavar=("READER", "FILE"), help="print the bytes that one reader takes, and end")
    return parser


def _mails(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    if not set(chosen) <= set(MAILS):
        raise argparse.ArgumentTypeError(f"there are: {', '.join(MAILS)}")
    return chosen


if __name__ == "__main__":
    main()
