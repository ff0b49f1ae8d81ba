"""The commands spool and dead: deliver what is left in the spool of this host, and its dead letters."""

from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.dead_letters import check_spool, export_dead, find_dead, print_dead, show_dead
from orderflow_ingest.entrypoints.cli.safety import changes_many, confirm
from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    json_option,
    load_app,
    print_rows,
    progress,
    settings_option,
)
from orderflow_ingest.entrypoints.deadline import deadline
from orderflow_ingest.pipeline import receive, replay
from orderflow_ingest.pipeline.deliver import Delivery

from .actions import count_text
from .audit import recorded_run, start_logging


@click.command("spool", epilog=examples("orderflow-replay spool"))
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@json_option
@settings_option
def drain_spool(*, dry_run: bool, as_json: bool, settings_file: str | None) -> None:
    """Deliver the mail that is left in the spool of this host.

    The service and its timer do the same by themselves, so no question is asked.
    """
    app = load_app(settings_file)
    check_spool(app)
    names = app.spool.entries()
    if dry_run:
        print_rows([{"entry": name} for name in names], as_json=as_json)
        return
    start_logging(app)
    rows = []
    with progress(len(names), "Draining") as bar:
        for name, ended in receive.drain(app, lambda: deadline(app.settings.deadline)):
            rows.append({"entry": name, **_ended(ended)})
            bar.update(1)
    print_rows(rows, as_json=as_json)


@click.command("dead", epilog=examples("orderflow-replay dead --all"))
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
@click.option("--show", metavar="NAME", hidden=True)
@click.option("--export", nargs=2, metavar="NAME FILE", hidden=True)
@click.option("--force", is_flag=True, hidden=True)
@changes_many
@json_option
@settings_option
def deliver_dead(
    names: tuple[str, ...],
    *,
    every: bool,
    show: str | None,
    export: tuple[str, str] | None,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Deliver the dead letters NAMES again, or --all. The exit status is 1 if some are left.

    `orderflow-admin dead` shows them. Without NAMES and --all, this command shows them too.
    """
    if sum(map(bool, (names, every, show, export))) > 1:
        raise click.UsageError("NAMES, --all, --show and --export exclude each other")
    if export:
        export_dead(*export, settings_file, force=force)
        return
    app = load_app(settings_file)
    dead = find_dead((show,) if show else names, app)
    if show:
        show_dead(show, dead[show], app, as_json=as_json)
    elif dry_run or not (names or every):
        print_dead(dead, app, as_json=as_json)
    else:
        confirm(f"Deliver {count_text(len(dead), 'dead letter')} again?", yes=yes or bool(names))
        rows, left = _deliver(list(dead), app)
        print_rows(rows, as_json=as_json)
        if left:
            raise SystemExit(1)


def _deliver(names: list[str], app: App) -> tuple[list[dict[str, Any]], int]:
    """Deliver dead letters again. Return the outcome of each, and how many are left."""
    rows = []
    with recorded_run(app, "dead", names) as tally, progress(len(names), "Delivering") as bar:
        for name in names:
            ended = replay.redeliver_dead_letter(name, app)
            rows.append({"entry": name, **(_ended(ended) if ended else {"outcome": "in other hands"})})
            is_done = ended is not None and ended.outcome.is_accepted
            tally.done += is_done
            tally.failed += not is_done
            bar.update(1)
    return rows, tally.failed


def _ended(ended: Delivery) -> dict[str, Any]:
    return {"outcome": ended.outcome.name, "org": ended.org, "message": ended.message_id}
