"""The figures for people: tables on the terminal, throughput.md, and one plot, throughput.svg.

    python -m benchmarks.harness.report FILE.json [DIRECTORY]

Nothing in these files is written by hand: `script/benchmark --save` measures and writes them, the command above
writes them again from the figures.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]
Columns = Sequence[tuple[str, Callable[[Figures], str]]]
_PLOTTED = 50_000
_SVG = "throughput.svg"
_COLOURS = {"pipe": "#2b6cb0", "lmtp": "#2f855a", "before-queue": "#b7791f", "in-process": "#718096"}


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _size(size: int) -> str:
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1000} KB"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f}"


COLUMNS: Columns = (
    ("stack", lambda c: c["stack"]),
    ("way", lambda c: c["way"]),
    ("size", lambda c: _size(c["size"])),
    ("messages", lambda c: str(c["messages"])),
    ("per s", lambda c: number(c["rate"])),
    ("ceiling", lambda c: number(c["ceiling"])),
    ("of it", lambda c: f"{100 * c['ratio']:.0f} %"),
    *((f"p{percent} ms", lambda c, p=f"p{percent}": number(c["delay ms"][p])) for percent in (50, 95, 99)),
    ("client ms", lambda c: number(c["client CPU ms"])),
    ("service ms", lambda c: number(c["service CPU ms"])),
    ("all ms", lambda c: number(c["machine CPU ms"])),
    ("worker ms", lambda c: number(c["worker CPU ms"])),
    ("client MB", lambda c: _megabytes(c["client peak bytes"])),
    ("service MB", lambda c: _megabytes(c["service peak bytes"])),
    ("grown MB", lambda c: _megabytes(c["service peak bytes"] - c["service idle bytes"])),
)
MEMORY: Columns = (
    ("stack", lambda c: c["stack"]),
    ("way", lambda c: c["way"]),
    ("service idle MB", lambda c: _megabytes(c["service idle bytes"])),
    ("service peak MB", lambda c: _megabytes(c["service peak bytes"])),
    ("grown MB", lambda c: _megabytes(c["service peak bytes"] - c["service idle bytes"])),
    ("at most", lambda c: _megabytes(c["service limit bytes"])),
    ("client MB", lambda c: _megabytes(c["client peak bytes"])),
)
FACTS: Columns = (("machine", lambda c: c["what"]), ("", lambda c: str(c["value"])))
IMPORTS: Columns = (
    ("import ms", lambda c: number(c["ms"])),
    ("modules", lambda c: str(c["modules"])),
    ("beyond the interpreter's own", lambda c: ", ".join(c["beyond the interpreter's own"])),
)
HOW = """\
Made by `sudo script/benchmark --save`, all in one run; how each figure is taken stands in the headers of `benchmarks/`.
No figure is of a load of which a message was lost, doubled, refused or put off; the memory's may be put off."""
LEGEND = """\
Messages per second: from the first SMTP connection to the last message durable, with all sessions busy; beside it the
ceiling, Postfix's pipe(8) to a program that only reads, measured right before and after. p50 to p99: milliseconds from
the end of DATA to durable, at half that rate. CPU in ms per message: the program that pipe(8) starts; the service; all
processes of the machine, Postfix, backends and the sender too; the worker, later. Memory: the most that the program and
the service held; what the service grew over idle."""


def tables(found: Figures) -> list[tuple[str, list[list[str]]]]:
    """Return all tables there are figures for, each with what stands above it."""
    facts = [{"what": what, "value": value} for what, value in found["machine"].items()]
    known: list[tuple[str, Columns, Sequence[Figures]]] = [
        ("The machine, the versions, and what one fsync takes on its disk.", FACTS, facts),
        (LEGEND, COLUMNS, found.get("cases", ())),
        ("Memory: 8 messages of 25 MB at a time, with ORDERFLOW_MAX_IN_FLIGHT at 64 MB.", MEMORY,
         found.get("memory", ())),
        ("What the pipe's program imports before it asks the service.", IMPORTS,
         [found["imports"]] if "imports" in found else ()),
    ]  # fmt: skip
    return [(title, cells(columns, rows)) for title, columns, rows in known if rows]


def cells(columns: Columns, rows: Sequence[Figures]) -> list[list[str]]:
    def cell(value: Callable[[Figures], str], row: Figures) -> str:
        try:
            return value(row)
        except KeyError:  # a way without a client has no cost of one
            return "-"

    return [[head for head, _ in columns], *([cell(value, row) for _, value in columns] for row in rows)]


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def text(found: Figures) -> str:
    """Write the figures as tables that a terminal shows and Markdown reads."""
    return "\n\n".join(f"{title}\n\n{table(rows)}" for title, rows in tables(found))


def page(found: Figures) -> str:
    """Return the text of throughput.md."""
    plot = f"![messages per second by stack and way]({_SVG})\n\n" if plotted(found) else ""
    return f"# Throughput\n\n{HOW}\n\n{plot}{text(found)}\n"


def plotted(found: Figures) -> list[Figures]:
    """Choose what the plot shows: one size, 50 KB if it was measured."""
    sizes = [case["size"] for case in found.get("cases", ())]
    chosen = _PLOTTED if _PLOTTED in sizes else next(iter(sizes), 0)
    return [case for case in found.get("cases", ()) if case["size"] == chosen]


def svg(cases: Sequence[Figures]) -> str:
    """Draw a bar for each stack and way, and a line across each at its ceiling."""
    top, bar, left, scale = 40, 26, 190, 480 / max(max(c["rate"], c["ceiling"]) for c in cases)
    drawn, y = [], top
    for stack, group in groupby(cases, key=lambda case: case["stack"]):
        drawn.append(f'<text x="10" y="{y + 14}" font-weight="bold">{stack}</text>')
        y += 22
        for case in group:
            end, ceiling = left + case["rate"] * scale, left + case["ceiling"] * scale
            drawn += [
                f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{case["way"]}</text>',
                f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="{bar - 6}" '
                f'fill="{_COLOURS[case["way"]]}"/>',
                f'<line x1="{ceiling:.1f}" x2="{ceiling:.1f}" y1="{y - 3}" y2="{y + bar - 3}" stroke="#c53030" '
                'stroke-width="2"/>',
                f'<text x="{max(end, ceiling) + 8:.1f}" y="{y + 15}">{number(case["rate"])}</text>',
            ]
            y += bar
        y += 10
    title = f"messages of {_size(cases[0]['size'])} per second; red: Postfix's ceiling"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="22" font-size="15">{title}</text>',
        *drawn,
        "</svg>\n",
    ])  # fmt: skip


def write(found: Figures, directory: Path) -> None:
    """Write the page, the plot and the figures themselves into a directory."""
    directory.mkdir(exist_ok=True)
    (directory / "throughput.md").write_text(page(found))
    (directory / "throughput.json").write_text(json.dumps(found, indent=1) + "\n")
    if cases := plotted(found):
        (directory / _SVG).write_text(svg(cases))


if __name__ == "__main__":
    place = Path(*sys.argv[2:3])
    write(json.loads(Path(sys.argv[1]).read_text()), place)
