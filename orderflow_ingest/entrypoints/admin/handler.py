"""The command handler try: call the document handler with the documents of a mail, without a database or Postfix."""

import sys
import time
import traceback
from pathlib import Path
from typing import Any

import click

from orderflow_ingest.entrypoints.cli.terminal import (
    CommandGroup,
    examples,
    json_option,
    loaded,
    print_rows,
    printable,
    settings_option,
)
from orderflow_ingest.pipeline.handler import (
    Handler,
    HandlerUnavailable,
    OrderDocument,
    TryLater,
    check_result,
    load_handler,
)
from orderflow_ingest.testing import order_documents


@click.group("handler", cls=CommandGroup)
def handler() -> None:
    """Try the document handler."""


@handler.command(
    "try",
    epilog=examples(
        "orderflow-admin handler try order.eml", "orderflow-admin handler try order.eml --handler shop.orders:receive"
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--handler", "target", metavar="MODULE:FUNCTION", help="Another one than ORDERFLOW_DOCUMENT_HANDLER.")
@click.option("--org", "slug", default="acme", show_default=True, help="The organization that the handler sees.")
@json_option
@settings_option
def try_handler(file: Path, target: str | None, slug: str, *, as_json: bool, settings_file: str | None) -> None:
    """Call the handler with each document of FILE, an .eml file, and show how each call ended.

    Nothing is stored, and no database, archive or queue is opened. The current directory is searched for the
    handler's module too. Tracebacks are shown in full. The exit status is 1 if a call failed.
    """
    sys.path.insert(0, "")
    try:
        function = load_handler(target or loaded(settings_file).document_handler)
    except HandlerUnavailable as error:
        if error.__cause__ is not None:
            click.echo("".join(traceback.format_exception(error.__cause__)), err=True)
        raise click.ClickException(str(error)) from None
    try:
        documents = order_documents(file.read_bytes(), org=slug)
    except ValueError as error:
        raise click.ClickException(f"{file}: {error}") from None
    rows = [_call(function, order) for order in documents]
    print_rows(rows, as_json=as_json)
    if not rows:
        click.echo("the mail has no document", err=True)
    if any(row["outcome"] == "FAILED" for row in rows):
        raise SystemExit(1)


def _call(function: Handler, order: OrderDocument) -> dict[str, Any]:
    """Call the handler once, and return the row to print."""
    began, outcome, detail = time.monotonic(), "DONE", ""
    try:
        check_result(function(order))
    except TryLater as error:
        outcome, detail = "LATER", f"{error}; after {error.after or 'ORDERFLOW_RETRY_DELAY'}"
    except Exception as error:
        outcome, detail = "FAILED", f"{type(error).__name__}: {error}"
        click.echo(printable_lines(traceback.format_exc()), err=True)
    document = order.document
    return {
        "part": document.part_path,
        "filename": document.filename,
        "type": document.content_type,
        "size": document.size,
        "outcome": outcome,
        "seconds": round(time.monotonic() - began, 3),
        "detail": detail,
    }


def printable_lines(text: str) -> str:
    """Return a text whose lines are printable."""
    return "\n".join(printable(line.expandtabs()) for line in text.splitlines())
