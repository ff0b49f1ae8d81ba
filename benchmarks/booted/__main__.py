"""The installation under a real systemd: restarted, suspended, cut off and failed over under load, by each way.

    sudo script/benchmark booted --directory DIR [--ways pipe lmtp before-queue] [--scenarios NAME…] [--rate N]
                                 [--json FILE]

A Debian lies in DIR/root, made by mmdebstrap at the first run. From it each run makes a disk, which systemd-nspawn
boots with a network of its own. The programs are this environment's, so its Python has to be that Debian's. What the
README says is done there: user, tables, units, Postfix. Then each scenario is played by each way while mail is sent
at a steady rate, and the answers of clients are compared with rows, objects and Postfix's queue.

SCENARIOS

A table in seconds and counts goes to standard output, and all figures to --json. The status is 1 if anything was wrong.
The answers that each client got stand in DIR/notes. Bounds of memory are not in force where the host has no cgroup v2
controllers to give.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.plant import own_mounts

from . import scenarios
from .machine import WAY, Machine

WAYS = ("pipe", "lmtp", "before-queue")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="script/benchmark booted",
        description=(__doc__ or "").replace("SCENARIOS", (scenarios.__doc__ or "").partition("\n\n")[2].rstrip()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--directory", type=Path, required=True, help="where the Debian lies, or is made")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY")
    parser.add_argument("--scenarios", nargs="+", choices=scenarios.SCENARIOS, default=list(scenarios.SCENARIOS))
    parser.add_argument("--rate", type=float, default=6, help="mails a second")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    chosen = parser.parse_args()
    if not own_mounts():
        parser.error("it needs root, to mount a disk and to boot a machine")
    directory = chosen.directory.resolve()
    notes = directory / "notes"
    notes.mkdir(exist_ok=True)
    machine, found = Machine(directory), list[dict[str, Any]]()
    machine.make()
    print(_line(COLUMNS), flush=True)
    with machine.booted():
        for way in chosen.ways:
            machine.run(WAY.format(way))
            for name in chosen.scenarios:
                found.append(scenarios.one(machine, way, name, chosen.rate, notes))
                print(row(found[-1]), flush=True)
                if chosen.json:
                    chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(one["wrong"] for one in found))


COLUMNS = (
    "scenario", "way", "sent", "answers", "p50", "p99", "slowest", "without 250", "away", "RCPT known", "unknown",
    "put off", "quiet after",
)  # fmt: skip
WIDTHS = (10, 12, 4, 22, 5, 5, 7, 11, 5, 16, 16, 7, 11)
MORE = ("replaced after", "in hand", "booted in", "lost")


def row(one: dict[str, Any]) -> str:
    """Return the figures of one scenario by one way as a line of the table, and a line for each thing that is wrong."""
    known, unknown = (_counts(one["RCPT"][who]) for who in ("known", "unknown"))
    seconds = [one[name] for name in ("p50", "p99", "slowest", "longest run without 250", "away")]
    cells = [one["scenario"], one["way"], str(one["sent"]), _counts(one["answers"]), *map(_seconds, seconds)]
    cells += [known, unknown, str(one["put off by Postfix"]), _seconds(one["quiet after"])]
    more = "  ".join(f"{name} {_seconds(one[name])}" for name in MORE if name in one)
    return "\n".join([f"{_line(cells)}  {more}".rstrip(), *(f"    WRONG: {what}" for what in one["wrong"])])


def _line(cells: Sequence[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True))


def _seconds(value: object) -> str:
    if value is None:
        return "never"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _counts(counts: dict[str, int]) -> str:
    return " ".join(f"{what}:{number}" for what, number in sorted(counts.items()))


if __name__ == "__main__":
    main()
