"""What a campaign found, for people and machines: the table, the findings, faults.md and faults.json.

    python -m benchmarks.faults.report FILE.json... DIRECTORY

writes the two files again from what several campaigns have kept by --json.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.report import table

from .campaign import Result
from .load import Identity
from .reconcile import KINDS, Finding, Verdict

_COLUMNS: Sequence[tuple[str, Callable[[Result], str]]] = (
    ("fault", lambda r: r.name),
    ("messages", lambda r: str(r.sent)),
    ("accepted", lambda r: str(r.accepted)),
    ("sent again", lambda r: str(r.again)),
    ("deferred, then delivered", lambda r: str(r.deferred)),
    ("held", lambda r: str(r.held)),
    ("dead letters", lambda r: str(r.set_aside)),
    *((kind, lambda r, kind=kind: str(r.count(kind))) for kind in KINDS),  # type: ignore[misc]
    ("hit", lambda r: str(r.hit)),
    ("recovered s", lambda r: "never" if r.recovered is None else f"{r.recovered:.0f}"),
)
LEGEND = """\
Each row is a load through Postfix while the fault was on, before and after it. Accepted: a client got 250; sent again:
not at once, its queue had to try again. Held: the same Message-ID with other content, as it should be. Hit: what the
fault really met: processes killed, or connections, answers and requests at the wire; where that cannot be counted,
attempts and clients that were put off. Recovered: seconds from the end of the fault until the last message and
document was final; nobody did anything for it. A campaign that was broken off goes on with a new stack, at the rate
that is printed; the reconciliation of all rounds together is that of the last stack. Of the named steps `_conclude` is
the spool's, which mail by LMTP does not pass. All that stands from `lost` to `unfinished` is a broken promise."""


@dataclass(frozen=True)
class Report:
    """All results of a campaign, and what the reconciliation of all rounds together found; None: it is not over."""

    facts: dict[str, Any]
    results: Sequence[Result]
    verdict: Verdict | None
    skipped: dict[str, str]

    @property
    def is_kept(self) -> bool:
        """Return whether every promise was kept, to the end."""
        return self.verdict is not None and not self._is_broken

    @property
    def _is_broken(self) -> bool:
        rounds = any(result.findings for result in self.results)
        return rounds or (self.verdict is not None and bool(self.verdict.findings))

    def rows(self) -> list[list[str]]:
        """Return the table, the sums last."""
        rows = [[head for head, _ in _COLUMNS], *([cell(r) for _, cell in _COLUMNS] for r in self.results)]
        sums = [str(sum(int(row[column]) for row in rows[1:])) for column in range(1, len(_COLUMNS) - 1)]
        slowest = max((r.recovered for r in self.results if r.recovered is not None), default=0.0)
        return [*rows, ["all", *sums, f"at most {slowest:.0f}"]]

    def text(self) -> str:
        """Write the table and all findings."""
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        parts = [facts, table(self.rows())]
        parts += [f"Not injected: {name} {why}" for name, why in self.skipped.items()]
        for result in self.results:
            if result.details:
                parts.append(f"{result.name}: {result.details}")
        for result in self.results:
            parts += [f"BROKEN, {result.name}: {finding}" for finding in result.findings]
        if idle := ", ".join(result.name for result in self.results if not result.hit):
            parts.append(f"Met nothing, and so shows nothing: {idle}.")
        if missed := ", ".join(step for step, count in self.steps().items() if not count):
            parts.append(f"Steps at which nothing was killed in any round: {missed}.")
        if self.verdict is None:
            parts.append("The campaign is not over: the rounds have not been reconciled together.")
        else:
            parts += [f"BROKEN, all rounds together: {finding}" for finding in self.verdict.findings]
        parts.append("NOT every promise was kept." if self._is_broken else "Every promise was kept.")
        return "\n\n".join(parts)

    def steps(self) -> Counter[str]:
        """Count over all rounds how often something was killed at each named step."""
        counts: Counter[str] = Counter()
        for result in self.results:
            for one in result.details.split("; "):
                step, _, count = one.rpartition(": ")
                if count.isdecimal():
                    counts[step] += int(count)
        return counts

    def json(self) -> str:
        """Write all of it for machines."""
        found = {
            "facts": self.facts,
            "kept": self.is_kept,
            "results": [asdict(result) for result in self.results],
            "all": self.verdict and asdict(self.verdict),
            "skipped": self.skipped,
        }
        return json.dumps(found, indent=1, default=str) + "\n"


def write(reports: Sequence[Report], directory: Path) -> None:
    """Write faults.md and faults.json into a directory."""
    (directory / "faults.json").write_text("[" + ",".join(report.json() for report in reports) + "]\n")
    parts = ["# Fault-injection results", "Made by `sudo script/benchmark faults --save`, nothing by hand.", LEGEND]
    for report in reports:
        parts.append(report.text())
    (directory / "faults.md").write_text("\n\n".join(parts) + "\n")


def read(text: str) -> Report:
    """Read what Report.json() wrote."""
    found = json.loads(text)
    results = [Result(**one | {"findings": list(_findings(one))}) for one in found["results"]]
    verdict = found["all"] and Verdict(**found["all"] | {"findings": tuple(_findings(found["all"]))})
    return Report(found["facts"], results, verdict, found["skipped"])


def _findings(found: dict[str, Any]) -> Iterator[Finding]:
    return (Finding(one["kind"], Identity(**one["identity"]), one["detail"]) for one in found["findings"])


if __name__ == "__main__":
    *files, place = map(Path, sys.argv[1:])
    write([read(file.read_text()) for file in files], place)
