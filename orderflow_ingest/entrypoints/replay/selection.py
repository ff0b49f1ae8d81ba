"""The options that select messages, and the filter that they make.

A run saves its filter as JSON, so that it can be resumed: by then `--since 2h` would mean another time, and mail that
arrived later must not be selected. The names in that JSON are fields of `Filter`; runs of an earlier version are read.
"""

from collections.abc import Callable
from datetime import datetime
from functools import reduce
from typing import Any
from uuid import UUID

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.states import Status
from orderflow_ingest.entrypoints.cli.options import mail_options, org_id_of, whole_message_id
from orderflow_ingest.storage.database import Filter

Command = Callable[..., Any]

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
dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
limit_option = click.option("--limit", type=click.IntRange(1), help="At most so many messages, newest first.")


def selection(command: Command) -> Command:
    """Add the options that select messages; `build_filter` makes a Filter of them."""
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


def filter_to_json(chosen: Filter) -> dict[str, Any]:
    """Return a Filter as JSON, without empty fields."""
    return {name: _plain(value) for name, value in vars(chosen).items() if value}


def filter_from_json(values: dict[str, Any]) -> Filter:
    """Return the Filter that filter_to_json() has written."""
    read = dict(values)
    for name in ("since", "until"):
        if name in read:
            read[name] = datetime.fromisoformat(read[name])
    for name in ("ids", "document_ids"):
        read[name] = tuple(UUID(id) for id in read.get(name, ()))
    read["statuses"] = tuple(Status(name) for name in read.get("statuses", ()))
    return Filter(**read)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [str(one) for one in value]
    return value.isoformat() if isinstance(value, datetime) else value
