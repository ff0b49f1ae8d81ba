"""Sphinx directives that write tables from the code, so that a page and the code cannot differ.

```{orderflow-table} outcomes``` writes one of the tables of TABLES.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from orderflow_ingest.config import KEYS
from orderflow_ingest.domain import org_settings, outcomes
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints.exporter.gauges import GAUGES
from orderflow_ingest.observability.metrics import COUNTERS, HISTOGRAMS
from orderflow_ingest.parsing.documents import part
from orderflow_ingest.parsing.documents.part import Reason

Row = Sequence[str]


def settings() -> Iterable[Row]:
    """Yield the head and a row for each setting."""
    yield "key", "default", "meaning"
    for key in KEYS:
        yield f"`{key.name}`", key.default_meaning or f"`{key.default}`", key.meaning


def organization_settings() -> Iterable[Row]:
    """Yield the head and a row for each setting of an organization."""
    yield "key", "default", "meaning"
    for key in org_settings.KEYS:
        yield f"`{key.name}`", key.default_meaning or f"`{key.default}`", key.meaning


def outcome_rows() -> Iterable[Row]:
    """Yield the head and a row for each outcome of a delivery."""
    yield "outcome", "when", "exit status", "D.S.N", "reply", "text"
    for one in Outcome:
        meaning = outcomes.MEANINGS[one]
        yield f"`{one.name}`", meaning, str(one.exit_status), one.dsn_code, str(one.reply_code), one.text


def part_reasons() -> Iterable[Row]:
    """Yield the head and a row for each reason of a part."""
    yield "reason", "document?", "meaning"
    for reason in Reason:
        yield f"`{reason}`", "yes" if reason in part.DOCUMENT_REASONS else "no", part.MEANINGS[reason]


def counters() -> Iterable[Row]:
    """Yield the head and a row for each counter."""
    return _metrics(COUNTERS)


def histograms() -> Iterable[Row]:
    """Yield the head and a row for each histogram."""
    return _metrics(HISTOGRAMS)


def gauges() -> Iterable[Row]:
    """Yield the head and a row for each gauge."""
    return _metrics(GAUGES)


def _metrics(declared: Iterable[Any]) -> Iterable[Row]:
    yield "metric", "labels", "meaning"
    for one in declared:
        yield f"`{one.name}`", ", ".join(f"`{label}`" for label in getattr(one, "labels", ())), one.meaning


TABLES: dict[str, Callable[[], Iterable[Row]]] = {
    "settings": settings,
    "organization-settings": organization_settings,
    "outcomes": outcome_rows,
    "part-reasons": part_reasons,
    "counters": counters,
    "gauges": gauges,
    "histograms": histograms,
}


def markdown(rows: Iterable[Row]) -> str:
    """Return a table in Markdown; the first row is the head."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class OrderflowTable(SphinxDirective):
    """The directive: its argument names the table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the table."""
        return self.parse_text_to_nodes(markdown(TABLES[self.arguments[0]]()))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("orderflow-table", OrderflowTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
