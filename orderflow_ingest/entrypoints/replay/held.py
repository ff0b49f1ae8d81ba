"""The command held: accept mail that is held as a message of its own, or discard it."""

from typing import Any
from uuid import UUID

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.entrypoints.cli.message_rows import held_row
from orderflow_ingest.entrypoints.cli.options import org_id_of
from orderflow_ingest.entrypoints.cli.safety import changes_many, confirm
from orderflow_ingest.entrypoints.cli.terminal import examples, json_option, load_app, print_rows, settings_option
from orderflow_ingest.pipeline import replay
from orderflow_ingest.storage.archive import ObjectDamaged, ObjectMissing
from orderflow_ingest.storage.database import HeldMail, IdentityTakenError, operator_name

from .actions import count_text
from .audit import RunCounts, recorded_run

_MOST = 100_000
_TAKEN = "each Message-ID that it could have is another message's: discard it, or leave it"
_ERASED = "its mail is erased: it can only be discarded"
_CLOSED = "not held: it is closed, or not known"


@click.command(
    "held",
    epilog=examples(
        "orderflow-replay held affc48ec-2e50-5295-91af-610245f60b40 --accept --why 'they called'",
        "orderflow-replay held --org acme --all --discard",
    ),
)
@click.argument("ids", nargs=-1, type=click.UUID)
@click.option("--org", help="Of this organization.")
@click.option("--accept", is_flag=True, help="Make each of them a message of its own.")
@click.option("--discard", is_flag=True, help="Close each of them without making it a message.")
@click.option("--all", "every", is_flag=True, help="Decide on all that --org has, instead of IDS.")
@click.option("--why", default="", metavar="TEXT", help="The reason, for the trace.")
@changes_many
@json_option
@settings_option
def decide_held_mail(
    ids: tuple[UUID, ...],
    org: str | None,
    *,
    accept: bool,
    discard: bool,
    every: bool,
    why: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Accept or discard the held mail IDS, or all of an organization.

    `orderflow-admin held` shows it. Without --accept and --discard, this command shows it too.
    """
    if accept and discard:
        raise click.UsageError("say one of --accept and --discard")
    decision = "accept" if accept else "discard" if discard else None
    if decision and not ids and not (every and org):
        raise click.UsageError(f"--{decision} needs IDS, or --org with --all")
    if every and (ids or not decision):
        raise click.UsageError("--all goes with --accept or --discard, and without IDS")
    app = load_app(settings_file)
    found = app.records.held_mail.open(org_id_of(app, org), ids, _MOST)
    if not decision:
        print_rows([held_row(mail) for mail in found], as_json=as_json)
        return
    unknown = [id for id in dict.fromkeys(ids) if id not in {mail.id for mail in found}]
    if dry_run:
        rows = [{**held_row(mail), "outcome": _foreseen(mail, decision, app)} for mail in found]
        rows += [_closed(id, rows) for id in unknown]
        print_rows(rows, as_json=as_json)
        return
    confirm(f"{decision.capitalize()} {count_text(len(found), 'held mail')} of {org}?", yes=yes or not every)
    with recorded_run(app, "held", [mail.id for mail in found]) as tally:
        ended = {mail.id: _resolve(mail, decision, why, app, tally) for mail in found}
    outcomes = [*ended.items(), *((id, _CLOSED) for id in unknown)]
    if as_json:
        print_rows([{"id": id, "outcome": outcome} for id, outcome in outcomes], as_json=as_json)
        return
    for id, outcome in outcomes:
        if outcome != f"{decision}ed":
            click.echo(f"{id}: {outcome}", err=True)
    click.echo(f"{tally.done} of {len(outcomes)} held mails: {decision}ed")


def _resolve(held: HeldMail, decision: str, why: str, app: App, tally: RunCounts) -> str:
    """Decide on one mail, count it, and return how that ended."""
    try:
        if decision == "discard":
            is_done = replay.discard_held(held, app, operator_name(), why, tally.run_id)
        else:
            is_done = replay.accept_held(held, app, operator_name(), why, tally.run_id)
    except (IdentityTakenError, ObjectMissing, ObjectDamaged) as error:
        tally.failed += 1
        return _TAKEN if isinstance(error, IdentityTakenError) else f"its mail cannot be read: {os_reason(error)}"
    tally.done += is_done
    tally.passed_over += not is_done
    if is_done:
        return f"{decision}ed"
    return _ERASED if held.erased_at and decision == "accept" else _CLOSED


def _foreseen(held: HeldMail, decision: str, app: App) -> str:
    """Return what the decision would do."""
    if decision == "discard":
        return "discarded"
    if held.erased_at:
        return _ERASED
    try:
        identity = replay.identity_of(held, app)
    except (ObjectMissing, ObjectDamaged) as error:
        return f"its mail cannot be read: {os_reason(error)}"
    return f"accepted as {identity}" if identity else _TAKEN


def _closed(id: UUID, like: list[dict[str, Any]]) -> dict[str, Any]:
    names = like[0] if like else {"id": id, "outcome": ""}
    return {**dict.fromkeys(names), "id": id, "outcome": _CLOSED}
