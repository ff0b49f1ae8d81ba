"""What an operator can say in the same way to every program."""

from datetime import UTC, datetime, timedelta

import click
import pytest

from orderflow_ingest.entrypoints.cli.options import moment, org_id_of, organizations
from tests.support.fakes import embedded


def test_an_empty_name_is_no_organization_and_never_stands_for_all(place):
    parts = embedded(place)
    assert org_id_of(parts, None) is None and [org.slug for org in organizations(parts, None)] == ["acme", "beta"]
    assert org_id_of(parts, "ACME") == 1 and [org.slug for org in organizations(parts, "Beta")] == ["beta"]
    for ask in (org_id_of, organizations):
        with pytest.raises(click.ClickException, match="no organization is named"):
            ask(parts, "")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:30", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        ("2026-03-01T12:30:05", datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)),
    ],
)
def test_a_time_is_a_date_or_a_date_and_a_time_in_utc(text, meant):
    assert moment(text) == meant


@pytest.mark.parametrize(("text", "ago"), [("90m", 90), ("2h", 120), ("3d", 4320), ("1w", 10080)])
def test_or_how_long_ago(text, ago):
    assert abs(datetime.now(UTC) - timedelta(minutes=ago) - moment(text)) < timedelta(seconds=5)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "5", "h", "-1d", "99999d", "1.5h", "\u0663h"])
def test_anything_else_is_told_with_what_can_be_written(text):
    with pytest.raises(click.BadParameter, match="is no time: write 2026-03-01"):
        moment(text)
