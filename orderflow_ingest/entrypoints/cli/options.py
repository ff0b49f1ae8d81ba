"""What an operator can say in the same way to every program: which organization and which mail is meant, and when.

A time is a date, or a date and a time, in UTC, or how long ago: `2h`, `3d`.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import reduce
from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.ascii_case import ascii_lower
from orderflow_ingest.storage.database import Organization

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d{1,4})([mhdw])", re.ASCII)
_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")
_MAIL = (
    click.option("--sender", metavar="ADDRESS", help="From this address, or from a domain written @domain."),
    click.option("--words", metavar="WORDS", help="With all these words in sender and subject, or their beginnings."),
    click.option("--message-id", metavar="ID", help="With this Message-ID."),
    click.option("--document", metavar="WORDS", help="With all these words in a document's file name."),
)


def moment(text: str | datetime) -> datetime:
    """Read a time that was typed: the type of an option. Raises click.BadParameter."""
    if isinstance(text, datetime):
        return text
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    for form in _FORMS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    raise click.BadParameter(f"{text!r} is no time: write 2026-03-01, 2026-03-01T12:00 (UTC), or how long ago: 2h, 3d")


def whole_message_id(text: str) -> str:
    """Return a Message-ID as it is recorded, whether it was typed with its <> or without."""
    text = text.strip()
    return f"<{text}>" if "@" in text and not text.startswith("<") else text


def org_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --org."""
    return click.option("--org", "slug", help="Of this organization alone.")(command)


def period_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --since and --until, which say when a mail was received."""
    since = click.option(
        "--since", type=moment, metavar="TIME", help="Received at this time (UTC) or later; or 2h, 3d ago."
    )
    until = click.option("--until", type=moment, metavar="TIME", help="Received before this time (UTC); or 2h, 3d ago.")
    return since(until(command))


def mail_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options by which every program selects mail, whatever else each has."""
    return period_options(reduce(lambda made, option: option(made), reversed(_MAIL), command))


def named_org(app: App, slug: str) -> Organization:
    """Return the organization of a slug. An error in one line if there is none."""
    org = app.records.organizations.find(ascii_lower(slug))
    if org is None:
        similar = get_close_matches(ascii_lower(slug), [one.slug for one in app.records.organizations.all()])
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise click.ClickException(f"no organization is named {slug}{hint}")
    return org


def org_id_of(app: App, slug: str | None) -> int | None:
    """Return the id of the organization that is named. None stands for all."""
    return None if slug is None else named_org(app, slug).id


def organizations(app: App, slug: str | None) -> list[Organization]:
    """Return the organization that is named, or all."""
    return list(app.records.organizations.all()) if slug is None else [named_org(app, slug)]
