"""What the commands that show something share: which organisation is meant, and when."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from ..assembly import Parts
from ..records import Organization

MOMENT = click.DateTime(formats=("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"))


def org_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --org."""
    return click.option("--org", "slug", help="Of this organisation alone.")(command)


def named_org(parts: Parts, slug: str) -> Organization:
    """Give the organisation of a slug; an error in one line if there is none."""
    org = parts.records.organizations.find(slug.lower())
    if org is None:
        raise click.ClickException(f"no organisation is named {slug}")
    return org


def org_id_of(parts: Parts, slug: str | None) -> int | None:
    """Give the id of the organisation that is named, if one is."""
    return named_org(parts, slug).id if slug else None


def utc(moment: datetime | None) -> datetime | None:
    """Give a moment that was typed as UTC."""
    return moment.replace(tzinfo=UTC) if moment else None
