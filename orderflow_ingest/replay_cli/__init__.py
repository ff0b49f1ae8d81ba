"""orderflow-replay: put messages, spool entries, dead letters and conflicts through again.

    orderflow-replay list          show messages
    orderflow-replay documents     show a message's documents
    orderflow-replay message       extract messages again
    orderflow-replay spool         deliver what was left in the spool
    orderflow-replay dead          show or deliver what was set aside
    orderflow-replay conflicts     show, accept or discard what was held
    orderflow-replay archive       make the rows anew from the archive alone
    orderflow-replay import        take in mail of the past: files, mbox, Maildir

Everything that changes something has --dry-run. Every replay can be stopped and begun again: rows say
what is done, and what was led back is found by the sweep.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from .. import __version__, delivery, logs, replay
from ..assembly import Parts
from ..deadline import deadline
from ..envelope import decode
from ..records import Document, Filter, InboundMessage, SkippedPart, operator_name
from ..status import Status
from ..terminal import json_option, opened, print_rows, program, progress, settings_option
from .archive import rebuild_from_archive
from .imports import import_mail

PAGE = 500
STATUSES = click.Choice([status.value for status in Status], case_sensitive=False)
MOMENT = click.DateTime(formats=("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"))


def selection(command: Any) -> Any:
    """Add the options that select messages."""
    for option in (
        click.option("--until", type=MOMENT, metavar="TIME", help="Received before this time (UTC)."),
        click.option("--since", type=MOMENT, metavar="TIME", help="Received at this time (UTC) or later."),
        click.option("--status", "statuses", multiple=True, type=STATUSES, help="Of this status; may be repeated."),
        click.option("--org", "slug", help="Of this organisation."),
    ):
        command = option(command)
    return command


dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(help="Put messages, spool entries, dead letters and conflicts through again.")
@click.version_option(__version__)
def cli() -> None:
    """See the module's header."""


cli.add_command(rebuild_from_archive)
cli.add_command(import_mail)


@cli.command("list")
@selection
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@json_option
@settings_option
def list_messages(
    slug: str | None,
    statuses: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    limit: int,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Show messages, the newest first."""
    parts = opened(settings_file)
    chosen = _filter(parts, (), slug, statuses, since, until)
    print_rows([_row(message, parts) for message in _pages(chosen, parts, limit)], as_json)


@cli.command("documents")
@click.argument("id", type=click.UUID)
@json_option
@settings_option
def list_documents(id: UUID, as_json: bool, settings_file: str | None) -> None:
    """Show the documents of the message ID, and the parts of it that were passed over."""
    parts = opened(settings_file)
    found = parts.records.messages.select(Filter(ids=(id,)), 1)
    if not found:
        raise click.ClickException("no message has this id")
    documents = parts.records.documents.of_message(found[0].org_id, id)
    skipped = parts.records.documents.skipped(found[0].org_id, id)
    rows = [_part_row(d, d.content_type, d.handover.value) for d in documents]
    rows += [_part_row(s, s.detected_type or s.declared_type, "passed over") for s in skipped]
    print_rows(sorted(rows, key=lambda row: [int(number) for number in row["part"].split(".") if number]), as_json)


@cli.command("message")
@click.argument("ids", nargs=-1, type=click.UUID)
@selection
@dry_run_option
@yes_option
@json_option
@settings_option
def replay_messages(
    ids: tuple[UUID, ...],
    slug: str | None,
    statuses: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Extract messages again from the archive, by IDS or by options.

    Without IDS, FAILED messages are chosen unless --status says otherwise. Documents keep their ids and
    are handed over again.
    """
    if not (ids or slug or statuses or since or until):
        raise click.UsageError("say which: IDS, --org, --status, --since or --until")
    parts = opened(settings_file)
    chosen = _filter(parts, ids, slug, statuses or (() if ids else (Status.FAILED.value,)), since, until)
    count = parts.records.messages.count(chosen)
    if dry_run:
        print_rows([_row(message, parts) for message in _pages(chosen, parts)], as_json)
        return
    if ids and count < len(set(ids)):
        click.echo(f"{len(set(ids)) - count} of these ids are not known", err=True)
    if not count:
        raise click.ClickException("no message is selected")
    if not yes:
        click.confirm(f"Replay {count} messages?", abort=True, err=True)
    _start_log(parts)
    done = 0
    with progress(count, "Replaying") as bar:
        for message in _pages(chosen, parts):
            done += replay.replay_message(message, parts, operator_name())
            bar.update(1)
    click.echo(f"{done} messages were led back to RECEIVED and enqueued")


@cli.command("spool")
@dry_run_option
@json_option
@settings_option
def drain_spool(dry_run: bool, as_json: bool, settings_file: str | None) -> None:
    """Deliver what was left in the spool of this host."""
    parts = opened(settings_file)
    names = parts.spool.entries()
    if dry_run:
        print_rows([{"entry": name} for name in names], as_json)
        return
    _start_log(parts)
    rows = []
    with progress(len(names), "Draining") as bar:
        for name, ended in delivery.drain(parts, lambda: deadline(parts.settings.deadline)):
            rows.append({"entry": name, **_ended(ended)})
            bar.update(1)
    print_rows(rows, as_json)


@cli.command("dead")
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
@dry_run_option
@json_option
@settings_option
def deliver_dead(names: tuple[str, ...], every: bool, dry_run: bool, as_json: bool, settings_file: str | None) -> None:
    """Show what was set aside in the spool; with NAMES or --all, deliver it again."""
    parts = opened(settings_file)
    dead = dict(parts.spool.dead())
    unknown = [name for name in names if name not in dead]
    if unknown:
        raise click.ClickException(f"no dead letter is named {unknown[0]}")
    chosen = list(dead) if every or not names else list(names)
    if dry_run or not (names or every):
        print_rows([_dead_row(name, dead[name], parts) for name in chosen], as_json)
        return
    _start_log(parts)
    rows = []
    with progress(len(chosen), "Delivering") as bar:
        for name in chosen:
            ended = replay.revive(name, parts)
            rows.append({"entry": name, **(_ended(ended) if ended else {"outcome": "in other hands"})})
            bar.update(1)
    print_rows(rows, as_json)


@cli.command("conflicts")
@click.argument("ids", nargs=-1, type=click.UUID)
@click.option("--org", "slug", help="Of this organisation.")
@click.option("--accept", "decision", flag_value="accept", help="Make each of IDS a message of its own.")
@click.option("--discard", "decision", flag_value="discard", help="Close each of IDS without making it a message.")
@dry_run_option
@json_option
@settings_option
def resolve_conflicts(
    ids: tuple[UUID, ...],
    slug: str | None,
    decision: str | None,
    dry_run: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Show messages that are held since their Message-ID is known with other content; accept or discard IDS."""
    if decision and not ids:
        raise click.UsageError(f"--{decision} needs IDS")
    parts = opened(settings_file)
    found = parts.records.conflicts.open(_org_id(parts, slug), ids)
    if dry_run or not decision:
        print_rows(
            [
                {
                    "id": conflict.id,
                    "received": conflict.received_at,
                    "reason": conflict.reason.value,
                    "clashes_with": conflict.inbound_message_id,
                    "recipient": conflict.envelope_recipient,
                    "from": conflict.from_email,
                    "subject": conflict.subject,
                }
                for conflict in found
            ],
            as_json,
        )
        return
    resolve = replay.accept_conflict if decision == "accept" else replay.discard_conflict
    done = sum(resolve(conflict, parts, operator_name()) for conflict in found)
    click.echo(f"{done} of {len(set(ids))} conflicts: {decision}ed")


def _filter(
    parts: Parts,
    ids: tuple[UUID, ...],
    slug: str | None,
    statuses: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
) -> Filter:
    chosen = tuple(Status(name.upper()) for name in statuses)
    return Filter(_org_id(parts, slug), ids, chosen, since and _utc(since), until and _utc(until))


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


def _org_id(parts: Parts, slug: str | None) -> int | None:
    if slug is None:
        return None
    org = parts.records.organizations.find(slug.lower())
    if org is None:
        raise click.ClickException(f"no organisation is named {slug}")
    return org.id


def _pages(chosen: Filter, parts: Parts, limit: int | None = None) -> Iterator[InboundMessage]:
    """Go through the selected messages, the newest first, page by page."""
    last, left = None, limit
    while left is None or left > 0:
        page = parts.records.messages.select(chosen, min(PAGE, left or PAGE), last)
        yield from page
        if not page:
            return
        last, left = page[-1], left and left - len(page)


def _row(message: InboundMessage, parts: Parts) -> dict[str, Any]:
    return {
        "id": message.id,
        "received": message.received_at,
        "status": message.status.value,
        "attempts": message.attempts,
        "recipient": message.envelope_recipient,
        "sender": message.envelope_sender,
        "from": message.from_email,
        "subject": message.subject,
        "traits": ", ".join(message.traits),
        "error": (message.error_json or {}).get("error"),
    }


def _part_row(part: Document | SkippedPart, content_type: str, state: str) -> dict[str, Any]:
    told = {"part": part.part_path, "filename": part.filename, "type": content_type, "size": part.size}
    return {**told, "state": state, "why": part.reason, "defects": "; ".join(part.defects)}


def _dead_row(name: str, why: str, parts: Parts) -> dict[str, Any]:
    try:
        recipient = decode(parts.spool.read_dead(name)[0]).recipient
    except Exception as error:
        recipient = f"unreadable: {type(error).__name__}"
    return {"entry": name, "recipient": recipient, "why": why.splitlines()[-1]}


def _ended(ended: delivery.Delivery) -> dict[str, Any]:
    return {"outcome": ended.outcome.name, "org": ended.org, "message": ended.message_id}


def _start_log(parts: Parts) -> None:
    logs.configure(parts.settings.log, "replay", parts.settings.state_dir, on_standard_error=False)


def main() -> None:
    """Run the program."""
    program(cli)
