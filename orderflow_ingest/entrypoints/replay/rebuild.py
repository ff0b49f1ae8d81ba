"""The command archive: rebuild the rows from the archive alone.

It shows what it found, asks, and makes the rows of organizations, messages and documents. Existing rows stay. A run
that was stopped continues with --resume. Started again without it, it ends the same, with a few more queries.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from orderflow_ingest.app import App, publish_recipients
from orderflow_ingest.domain.ascii_case import ascii_lower
from orderflow_ingest.domain.org_settings import OrgSettingsError, read_settings
from orderflow_ingest.entrypoints.cli.options import moment, org_option, period_options
from orderflow_ingest.entrypoints.cli.safety import changes_many, confirm
from orderflow_ingest.entrypoints.cli.terminal import (
    Row,
    examples,
    json_option,
    load_app,
    print_rows,
    printable,
    settings_option,
)
from orderflow_ingest.maintenance.rebuild.organizations import find_organizations
from orderflow_ingest.maintenance.rebuild.parse_object import RebuildOptions
from orderflow_ingest.maintenance.rebuild.rebuilder import RebuildProgress, orphan_documents, rebuild_organizations
from orderflow_ingest.storage.database import (
    OrganizationMismatchError,
    OrganizationRecord,
    Presence,
    Run,
    operator_name,
)

from .actions import count_text

COMMAND = "archive"
_SHOWN = 1.0  # seconds


@dataclass
class _Organizations:
    """The organizations of an archive: those to rebuild, and remarks on others."""

    chosen: list[OrganizationRecord] = field(default_factory=list)
    new: int = 0
    lost: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@click.command("archive", epilog=examples("orderflow-replay archive --dry-run", "orderflow-replay archive --org acme"))
@org_option
@period_options
@click.option("--hand-over", is_flag=True, help="Hand every document over again; otherwise they count as handed over.")
@click.option(
    "--erased-before",
    type=moment,
    metavar="TIME",
    help="Mail received before this time (UTC) whose document is not in the archive counts as done, the document as "
    "erased; otherwise the worker takes it out again.",
)
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 64), help="So many readers.")
@click.option("--resume", type=click.UUID, metavar="RUN", help="Go on with the run of this id, as it was begun.")
@changes_many
@json_option
@settings_option
def rebuild_from_archive(
    slug: str | None,
    since: datetime | None,
    until: datetime | None,
    *,
    hand_over: bool,
    erased_before: datetime | None,
    concurrency: int,
    resume: UUID | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Rebuild the rows from the archive alone: organizations, messages, documents, held mail.

    The database may be empty, after init. Existing rows stay as they are. A mail whose documents are all archived is
    not handed over again without --hand-over. One that lacks a document goes to the worker, who hands all of them over.
    """
    app = load_app(settings_file)
    run = _resumed(resume, app) if resume else None
    if run is None:
        run = _new_run(slug, since, until, erased_before, hand_over=hand_over)
    slug, choice = run.chosen["org"], _choice(run)
    found = _find(slug, app)
    for line in found.remarks:
        click.echo(printable(line), err=True)
    if not found.chosen and not found.lost:
        raise click.ClickException("the archive has no such organization" if slug else "the archive is empty")
    if not dry_run:
        confirm(f"Rebuild the rows of {count_text(len(found.chosen), 'organization')}?", yes=yes)
        for org in found.chosen:
            app.records.rebuild_writes.add_organization(org)
        publish_recipients(app)
        app.records.runs.begin(run)
    tally = _run(found.chosen, run, choice, app, concurrency, dry_run=dry_run)
    is_all = not (dry_run or choice.since or choice.until)
    stray = sum(1 for org in found.chosen for _ in orphan_documents(org, app)) if is_all else None
    rows = _rows(found, tally, stray)
    print_rows(rows, as_json=as_json)
    for key, trouble in tally.troubles:
        click.echo(printable(f"{trouble.value}: {key}"), err=True)
    if found.lost or any(note.is_loss for note in tally.notes):
        raise SystemExit(1)


def _run(
    orgs: list[OrganizationRecord], run: Run, choice: RebuildOptions, app: App, processes: int, *, dry_run: bool
) -> RebuildProgress:
    """Rebuild, save the progress after each batch, and print how to resume after Ctrl-C."""
    tally = RebuildProgress(position=run.position or "")
    if not dry_run:
        click.echo(f"run {run.id}", err=True)
    try:
        with _speed() as show:
            for _ in rebuild_organizations(orgs, choice, app, processes, tally, dry_run=dry_run):
                show(tally.looked_at)
                if not dry_run:
                    _advance(run, tally, app)
    except KeyboardInterrupt:
        if not dry_run:
            click.echo(f"ended; go on with: orderflow-replay archive --resume {run.id}", err=True)
        raise
    if not dry_run:
        _advance(run, tally, app, is_over=True)
    return tally


def _advance(run: Run, tally: RebuildProgress, app: App, *, is_over: bool = False) -> None:
    """Save the progress of a run, with the counts from before it was resumed."""
    came = tally.presences
    done = came[Presence.BACK] + came[Presence.HELD_BACK] + came[Presence.CLASH]
    failed = sum(number for note, number in tally.notes.items() if note.is_trouble)
    app.records.runs.advance(
        run.id,
        tally.position,
        run.done + done,
        run.passed_over + came[Presence.THERE] + came[Presence.COPY],
        run.failed + failed,
        datetime.now(UTC),
        is_over=is_over,
    )


def _find(slug: str | None, app: App) -> _Organizations:
    """Return the organizations of the archive, without those that differ from the database."""
    found = _Organizations()
    for one in find_organizations(app.archive):
        org = one.org
        if org is None:
            if slug is None:
                found.remarks.append(one.why if one.org_id is None else f"organization {one.org_id} {one.why}")
                found.lost += [] if one.org_id is None else [str(one.org_id)]
            continue
        if slug not in (None, org.slug):
            continue
        try:
            read_settings(org.settings)
            found.new += not app.records.rebuild_writes.has_organization(org)
        except (OrganizationMismatchError, OrgSettingsError) as error:
            found.remarks.append(f"organization {org.slug} is left out: {error}")
            found.lost.append(org.slug)
            continue
        found.chosen.append(org)
        if one.why:
            found.remarks.append(f"organization {org.slug} {one.why}")
    return found


def _rows(found: _Organizations, tally: RebuildProgress, stray: int | None) -> list[Row]:
    numbers: list[tuple[str, int]] = [("organizations that came back", found.new)]
    numbers.append(("organizations there already", len(found.chosen) - found.new))
    if found.lost:
        numbers.append(("organizations left out", len(found.lost)))
    numbers += [(came.value, tally.presences[came]) for came in Presence if tally.presences[came] or came in _ALWAYS]
    numbers += [(note.value, number) for note, number in sorted(tally.notes.items())]
    if stray:
        numbers.append(("documents whose mail is not there any more", stray))
    return [{"name": name, "count": number} for name, number in numbers]


_ALWAYS = (Presence.BACK, Presence.THERE)


def _new_run(
    slug: str | None,
    since: datetime | None,
    until: datetime | None,
    erased_before: datetime | None,
    *,
    hand_over: bool,
) -> Run:
    chosen: dict[str, Any] = {"org": slug and ascii_lower(slug), "hand_over": hand_over}
    times = {"since": since, "until": until, "erased_before": erased_before}
    chosen |= {name: at and at.isoformat() for name, at in times.items()}
    return Run.new(COMMAND, chosen)


def _resumed(id: UUID, app: App) -> Run:
    run = app.records.runs.get(id)
    if run is None or run.command != COMMAND:
        raise click.ClickException("no run of this command has this id")
    if run.ended_at:
        raise click.ClickException("this run has come to its end")
    return replace(run, actor=operator_name())


def _choice(run: Run) -> RebuildOptions:
    names = ("since", "until", "erased_before")
    times = {name: run.chosen[name] and datetime.fromisoformat(run.chosen[name]) for name in names}
    return RebuildOptions(datetime.now(UTC), run.actor, run.id, hand_over=run.chosen["hand_over"], **times)


@contextmanager
def _speed() -> Iterator[Any]:
    """Show how many mails are done, and how many in a second, on a terminal's standard error. Nothing elsewhere."""
    begun = last = time.monotonic()

    def show(number: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SHOWN and sys.stderr.isatty():
            click.echo(f"\r{number:,} mails, {number / (now - begun):,.0f}/s ", nl=False, err=True)
            last = now

    yield show
    if last != begun:
        click.echo(err=True)
