"""The commands message and handover: replay messages, or the hand-over of their documents."""

from math import isnan
from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.states import Status
from orderflow_ingest.entrypoints.cli.safety import changes_many, confirm
from orderflow_ingest.entrypoints.cli.selection import Command, build_filter, selection, selects_anything
from orderflow_ingest.entrypoints.cli.terminal import command_line, examples, json_option, load_app, settings_option
from orderflow_ingest.storage.database import Filter

from .actions import ACTIONS
from .audit import start_logging
from .progress import print_preview, run_to_end
from .run import RunPlan, start_run


class _Rate(click.FloatRange):
    """A number per second. Refuse nan, which no bound refuses."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        rate = super().convert(value, param, ctx)
        return self.fail(f"{value} is no number", param, ctx) if isnan(rate) else rate


_RATE = _Rate(0.001, 1e6)
_RUN_OPTIONS = (
    click.option("--limit", type=click.IntRange(1), help="At most so many messages, newest first."),
    click.option(
        "--concurrency", default=4, show_default=True, type=click.IntRange(1, 15), help="So many at the same time."
    ),
    click.option("--rate", type=_RATE, metavar="N", help="At most N a second."),
    click.option(
        "--max-waiting",
        default=500,
        show_default=True,
        type=click.IntRange(0),
        metavar="N",
        help="Wait while N tasks wait in the queue, so that live mail does not; 0: never.",
    ),
)


def _run_options(command: Command) -> Command:
    """Add the options of a run over messages."""
    command = changes_many(json_option(settings_option(command)))
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return selection(command)


@click.command(
    "message",
    epilog=examples(
        "orderflow-replay message --org acme --since 2d --dry-run", "orderflow-replay message --error ValueError"
    ),
)
@_run_options
def replay_messages(**given: Any) -> None:
    """Extract messages again from the archive, by IDS or by options.

    Without IDS, FAILED messages are chosen, unless --status, --message-id, --error, --document-id or --unseen says
    more. Documents keep their ids and are handed over again.
    """
    says_more = ("ids", "status", "message_id", "error", "document_id", "unseen")
    if selects_anything(_selected(given)) and not any(given[name] for name in says_more):
        given["status"] = (Status.FAILED.value,)
    _run("message", given)


@click.command(
    "handover", epilog=examples("orderflow-replay handover --org acme --document-type application/pdf --rate 5")
)
@_run_options
def hand_over_again(**given: Any) -> None:
    """Hand documents over to the document handler again, as they are in the archive, by IDS of messages or by options.

    Chosen are all documents of the messages, or those that --document, --document-id, --document-type, --error and
    --unseen mean. What a worker has in hand is left to it.
    """
    _run("handover", given)


def _selected(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that select messages."""
    others = ("limit", "concurrency", "rate", "max_waiting", "dry_run", "yes", "as_json", "settings_file")
    return {name: value for name, value in given.items() if name not in others}


def _run(kind: str, given: dict[str, Any]) -> None:
    """Start a run and finish it, or print a preview."""
    if not selects_anything(_selected(given)):
        raise click.UsageError("say which: IDS, --org, --status, --since or another option that selects")
    app = load_app(given["settings_file"])
    meant, limit = build_filter(app, _selected(given)), given["limit"]
    if given["dry_run"]:
        print_preview(kind, meant, limit, app, as_json=given["as_json"])
        return
    count, what = _count(kind, meant, app)
    selected = min(count, limit or count)
    question = f"Replay {what}?" if selected == count else f"Replay {selected} of {what}, the newest first?"
    confirm(question, yes=given["yes"] or bool(meant.ids or meant.document_ids))
    start_logging(app)
    plan = RunPlan(kind, meant, limit, given["concurrency"], given["rate"], given["max_waiting"])
    run_to_end(start_run(plan, command_line(), selected, app), app, as_json=given["as_json"])


def _count(kind: str, meant: Filter, app: App) -> tuple[int, str]:
    """Return how many messages are selected, and warn of unknown ids. Raise ClickException if there are none."""
    count, what = ACTIONS[kind].count(meant, app)
    if meant.ids and count < len(meant.ids):
        click.echo(f"{len(meant.ids) - count} of these ids are not known, or are not meant by the options", err=True)
    if not count:
        raise click.ClickException("no message is selected")
    return count, what
