"""The options that select messages, for every program, and the filter that they make."""

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.states import Status
from orderflow_ingest.storage.database import Cursor, Filter, InboundMessage

from .options import mail_options, org_id_of, whole_message_id

Command = Callable[..., Any]

PAGE = 500

_STATUSES = click.Choice([status.value for status in Status], case_sensitive=False)
_SELECTION = (
    click.argument("ids", nargs=-1, type=click.UUID),
    click.option("--org", help="Of this organization."),
    click.option("--status", multiple=True, type=_STATUSES, help="Of this status; may be repeated."),
    mail_options,
    click.option("--error", metavar="CLASS", help="With this error, of the message or of a document."),
    click.option("--document-type", metavar="TYPE", help="With a document of this content type; image/* for a kind."),
    click.option("--document-id", multiple=True, type=click.UUID, metavar="ID", help="With this document; repeatable."),
    click.option("--unseen", is_flag=True, help="With a document that the handler has not taken."),
)


def selection(command: Command) -> Command:
    """Add the options that select messages. `build_filter` makes a Filter of them."""
    return reduce(lambda made, option: option(made), reversed(_SELECTION), command)


def selects_anything(selected: dict[str, Any]) -> bool:
    """Return whether any option selects messages."""
    return any(selected.values())


def build_filter(app: App, selected: dict[str, Any]) -> Filter:
    """Return the Filter of the options that `selection` adds."""
    return Filter(
        org_id=org_id_of(app, selected["org"]),
        ids=tuple(dict.fromkeys(selected["ids"])),
        statuses=tuple(Status(name.upper()) for name in selected["status"]),
        since=selected["since"],
        until=selected["until"],
        message_id=selected["message_id"] and whole_message_id(selected["message_id"]),
        sender=selected["sender"],
        words=selected["words"],
        document_words=selected["document"],
        document_type=selected["document_type"],
        error=selected["error"],
        unseen=selected["unseen"],
        document_ids=tuple(dict.fromkeys(selected["document_id"])),
    )


def pages(
    chosen: Filter, app: App, limit: int | None = None, after: Cursor | None = None
) -> Iterator[list[InboundMessage]]:
    """Yield the selected messages page by page, the newest first."""
    last: InboundMessage | Cursor | None = after
    left = limit
    while left is None or left > 0:
        page = app.records.messages.select(chosen, min(PAGE, left or PAGE), last)
        if not page:
            return
        yield page
        last, left = page[-1], left and left - len(page)
