"""orderflow-admin status: what is where, at a glance, of all organizations, of one, or of each (`--by-org`).

It asks for what is unfinished, failed or held, and for the last seven days, so that it takes no longer however long the
history grows. A part that is unavailable is shown as such, with the rest. Errors are shown by class and place: nothing
of a message stands in them.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.errors import BackendUnavailable
from orderflow_ingest.domain.states import UNFINISHED, HoldReason, Status
from orderflow_ingest.entrypoints.cli.options import org_id_of, org_option
from orderflow_ingest.entrypoints.cli.terminal import (
    Row,
    examples,
    explain,
    json_option,
    load_app,
    local_option,
    print_rows,
    settings_option,
    time_text,
)
from orderflow_ingest.storage.database import LastError
from orderflow_ingest.storage.queue import QueueUnavailable

from .postfix.mail_queue import deferred_mail

DAY, WEEK = timedelta(hours=24), timedelta(days=7)
_ERRORS = 10

_REASONS = {HoldReason.MESSAGE_ID_REUSED: "reused_message_id", HoldReason.SENDER_NOT_ALLOWED: "sender_not_allowed"}


@click.command(epilog=examples("orderflow-admin status --org acme", "orderflow-admin status --by-org --watch 10"))
@org_option
@click.option("--by-org", is_flag=True, help="A line for each organization, those with the most trouble first.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="At most so many organizations.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value=5.0,
    type=click.FloatRange(0.2),
    metavar="[SECONDS]",
    help="Show it again every so many seconds, 5 if none are given, until Ctrl-C.",
)
@click.option("--postfix-config", metavar="DIR", help="Postfix's configuration directory; default: the system's.")
@local_option
@json_option
@settings_option
def status(
    slug: str | None,
    *,
    by_org: bool,
    limit: int,
    watch: float | None,
    postfix_config: str | None,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Show what is unfinished, failed or held, the last 24 hours and 7 days, spool, queues and the last errors."""
    if by_org and slug:
        raise click.UsageError("--by-org or --org, not both")
    deferred = deferred_mail(postfix_config)  # while this is root still, who may ask any instance
    app = load_app(settings_file)
    org_id = org_id_of(app, slug)

    def draw(waiting: int | None) -> None:
        if by_org:
            print_rows(_by_organization(app, limit), as_json=as_json)
        else:
            _print(_facts(app, org_id, waiting), as_json=as_json)

    if watch is None:
        draw(deferred)
    else:
        _watch(watch, lambda: draw(deferred_mail(postfix_config)), as_json=as_json)


def _watch(seconds: float, draw: Callable[[], None], *, as_json: bool) -> None:
    """Draw again and again: over the screen of a terminal, one below the other elsewhere. Ctrl-C ends it."""
    try:
        while True:
            if sys.stdout.isatty() and not as_json:
                click.clear()
            if not as_json:
                click.echo(f"{time_text(datetime.now(UTC))}, every {seconds:g} s, Ctrl-C ends it")
            try:
                draw()
            except BackendUnavailable as error:
                click.echo(f"error: {explain(error)}", err=True)
            sys.stdout.flush()
            time.sleep(seconds)
    except KeyboardInterrupt:
        return


def _facts(app: App, org_id: int | None, deferred: int | None) -> dict[str, Any]:
    """Return the numbers by their names, which are the keys of the JSON object."""
    now, records = datetime.now(UTC), app.records
    counts = records.messages.count_by_status(now - DAY, org_id)
    lately = records.overview.recent_counts(now - DAY, now - WEEK, org_id)
    facts: dict[str, Any] = {f"messages_{s.lower()}": counts[s] for s in (*UNFINISHED, Status.FAILED)}
    for span, days in (("last_24_hours", "day"), ("last_7_days", "week")):
        for status in (Status.PARSED, Status.FAILED):
            facts[f"messages_{status.lower()}_{span}"] = getattr(lately[status], days)
        facts[f"messages_arrived_{span}"] = sum(getattr(one, days) for one in lately.values())
    facts |= {f"documents_{s.lower()}": n for s, n in records.documents.count_undone(org_id).items()}
    facts["oldest_unfinished_message_at"] = records.messages.oldest_unfinished(org_id)
    held = records.held_mail.count_open_by_reason(org_id)
    facts["held_mail"] = sum(held.values())
    facts |= {f"held_mail_{_REASONS[reason]}": count for reason, count in held.items()}
    if org_id is None:
        facts["spool_entries"] = len(app.spool.entries())
        facts["dead_letters"] = app.spool.count_dead()
        facts |= _depth(app)
        facts["overdue_seconds"] = round(records.messages.lag(records.database.now()))
        facts["deferred_by_postfix"] = deferred
    errors = records.overview.last_errors(now - WEEK, _ERRORS, org_id)
    return facts | {"last_errors": [_error(error) for error in errors]}


def _error(error: LastError) -> dict[str, Any]:
    return asdict(replace(error, where=error.where.removeprefix(f"{error.error} at ")))


def _depth(app: App) -> dict[str, Any]:
    try:
        return {"tasks_waiting": app.queue.depth()}
    except QueueUnavailable as error:
        return {"tasks_waiting": None, "queue_error": str(error)}


def _print(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_rows([facts], as_json=True)
        return
    rows = [{"name": name.replace("_", " "), "value": value} for name, value in facts.items() if name != "last_errors"]
    print_rows(rows, as_json=False)
    if facts["last_errors"]:
        click.echo("\nLAST ERRORS")
        print_rows(facts["last_errors"], as_json=False)


def _by_organization(app: App, limit: int) -> list[Row]:
    now, slug = datetime.now(UTC), app.records.organizations.slug
    found = app.records.overview.by_organization(now - DAY, now - WEEK)
    return [
        {
            "org": slug(one.org_id),
            "failed": one.counts["FAILED"],
            "held": one.counts["held"],
            "documents_failed": one.counts["documents FAILED"],
            "unfinished": one.counts["unfinished"],
            "documents_pending": one.counts["documents PENDING"],
            "oldest_unfinished": one.oldest_unfinished,
            "last_24_h": one.counts["day"],
            "last_7_days": one.counts["week"],
        }
        for one in found[:limit]
    ]
