"""orderflow-admin show: the whole story of one mail, or its raw bytes, or one of its documents.

A mail is named by its id, by the beginning of one of an organization (`--org`), or by its Message-ID in <>. A mail that
is held has an id too. What is named twice is refused, with the ids to choose from.
"""

import json
import re
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import click

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.options import org_id_of, org_option
from orderflow_ingest.entrypoints.cli.output_file import Write, output
from orderflow_ingest.entrypoints.cli.table import fold
from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    json_option,
    load_app,
    local_option,
    print_rows,
    printable,
    settings_option,
    terminal_width,
)
from orderflow_ingest.storage.archive import read_object
from orderflow_ingest.storage.database import Document, Filter, HeldMail, InboundMessage, SkippedPart

from .history import MailHistory, held_mail_history, mail_history

_BEGINNING = re.compile(r"[0-9a-fA-F-]{4,36}")
_SEVERAL = 10
# A worker's mark and the keys by which rows are the same are not shown.
_HIDDEN_FIELDS = ("worker", "next_attempt_at", "claimed_filename")

Mail = InboundMessage | HeldMail


@click.command(
    epilog=examples(
        "orderflow-admin show '<order-4711@shop.example>'",
        "orderflow-admin show b516e273 --org acme --document 2 order.pdf",
    )
)
@click.argument("message")
@org_option
@click.option("--raw", "raw_file", metavar="FILE", help="Write the raw mail as an .eml file; - is standard output.")
@click.option(
    "--document", "document", nargs=2, metavar="PART FILE", help="Write the document of this part; - as for --raw."
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@local_option
@json_option
@settings_option
def show(
    message: str,
    slug: str | None,
    raw_file: str | None,
    document: tuple[str, str] | None,
    *,
    force: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Show the whole story of MESSAGE: an id, the beginning of one with --org, or a Message-ID in <>."""
    if raw_file and document:
        raise click.UsageError("--raw or --document, not both")
    target = document[1] if document else raw_file
    with output(target, overwrite=force) if target else nullcontext(_nowhere) as write:
        app = load_app(settings_file)
        mail = _named(message, org_id_of(app, slug), app)
        if document:
            _write_document(mail, document[0], write, app)
        elif target:
            _write_raw(mail, write, app)
        else:
            _show(
                mail_history(mail, app) if isinstance(mail, InboundMessage) else held_mail_history(mail, app),
                as_json=as_json,
            )


def _nowhere(data: bytes) -> None:
    raise RuntimeError("no file was asked for")


def _named(name: str, org_id: int | None, app: App) -> Mail:
    """Find the one mail that is meant."""
    found = list(_candidates(name, org_id, app))
    if not found:
        raise click.ClickException("no such mail; orderflow-admin find looks for it")
    if len(found) > 1:
        raise click.ClickException(f"several are named so: {', '.join(str(one.id) for one in found)}")
    return found[0]


def _candidates(name: str, org_id: int | None, app: App) -> list[Mail]:
    messages = app.records.messages
    if name.startswith("<") or name.startswith("synthetic:"):
        named = Filter(org_id=org_id, message_id=name)
        # Mail that is held because of a message is shown with that message.
        return [*messages.select(named, _SEVERAL)] or [*app.records.held_mail.find(named, _SEVERAL)]
    digits = name.replace("-", "").lower()
    if not _BEGINNING.fullmatch(name) or len(digits) > 32:
        raise click.UsageError("MESSAGE is an id, the beginning of one with --org, or a Message-ID in <>")
    if len(digits) < 32:
        if org_id is None:
            raise click.UsageError("the beginning of an id needs --org")
        ids = tuple(app.records.overview.ids_that_begin(org_id, digits, _SEVERAL))
        found = messages.select(Filter(org_id=org_id, ids=ids), _SEVERAL) if ids else []
        return [*found, *app.records.held_mail.that_begin(org_id, digits, _SEVERAL)]
    id = UUID(digits)
    return [*messages.select(Filter(org_id=org_id, ids=(id,)), _SEVERAL), *app.records.held_mail.of_id(id, org_id)]


def _write_raw(mail: Mail, write: Write, app: App) -> None:
    if mail.erased_at:
        raise click.ClickException(f"the raw mail was erased at {mail.erased_at:%Y-%m-%d %H:%MZ}")
    write(read_object(mail.org_id, mail.raw_key, mail.digest, app.archive))


def _write_document(mail: Mail, path: str, write: Write, app: App) -> None:
    documents = app.records.documents.of_message(mail.org_id, mail.id)
    found = next((one for one in documents if one.part_path == path), None)
    if found is None:
        known = ", ".join(one.part_path for one in documents) or "none"
        raise click.ClickException(f"no document has this part; there are: {known}")
    if found.erased_at:
        raise click.ClickException(f"the document was erased at {found.erased_at:%Y-%m-%d %H:%MZ}")
    write(read_object(found.org_id, found.object_key, found.digest, app.archive))


def _show(history: MailHistory, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_as_json(history), default=_plain))
        return
    print_rows([{"name": name, "value": value} for name, value in _facts(history).items()], as_json=False)
    click.echo("\nHEADER FIELDS")
    lines = [f"{name}: {printable(value)}" for name, value in history.header]
    lines += [printable(history.missing_reason)] if history.missing_reason else []
    for line in lines:
        for piece in fold(line, terminal_width()):
            click.echo(piece)
    tables = {"parts": [_part(part) for part in history.parts], "events": _events(history)}
    tables["held, since it clashes with this one"] = [_held(one) for one in history.held]
    for title, rows in tables.items():
        if rows:
            click.echo(f"\n{title.upper()}")
            print_rows(rows, as_json=False)


def _facts(history: MailHistory) -> dict[str, Any]:
    mail = history.mail
    facts: dict[str, Any] = {"id": mail.id, "organization": history.org}
    if isinstance(mail, InboundMessage):
        facts["status"] = f"{mail.status.value}, attempts: {mail.attempts}"
        facts["error"] = _error(mail.error_json)
    else:
        facts["status"] = f"HELD ({mail.reason.value}), {mail.resolution or 'not decided'}"
        facts["clashes with"] = mail.inbound_message_id
        facts["not believed"] = history.rejection or None
        facts["what differs"] = history.difference or None
    facts |= {"received": mail.received_at, "client": mail.client_address, "queue id": mail.queue_id}
    facts |= {"envelope": f"{mail.envelope_sender or '<>'} -> {mail.envelope_recipient}"}
    facts |= {"from": mail.from_email, "subject": mail.subject}
    if isinstance(mail, InboundMessage):
        facts |= {"sent": mail.sent_at, "source": mail.source}
    facts["Message-ID"] = mail.source_message_id
    if isinstance(mail, InboundMessage):
        facts |= {"traits": ", ".join(mail.traits) or None, "size": mail.size}
    return facts | {"digest": mail.digest, "key": mail.raw_key, "fingerprint": mail.fingerprint}


def _part(part: Document | SkippedPart) -> dict[str, Any]:
    return {
        "part": part.part_path,
        "filename": part.filename,
        "type": part.content_type if isinstance(part, Document) else part.detected_type or part.declared_type,
        "size": part.size,
        "reason": part.reason,
        "state": part.handover.value if isinstance(part, Document) else "skipped",
        "attempts": part.attempts if isinstance(part, Document) else None,
        "error": _error(part.error_json) if isinstance(part, Document) else None,
        "defects": "; ".join(part.defects) or None,
        "erased": part.erased_at if isinstance(part, Document) else None,
    }


def _events(history: MailHistory) -> list[dict[str, Any]]:
    paths = {part.id: part.part_path for part in history.parts if isinstance(part, Document)}
    return [
        {
            "at": event.at,
            "event": event.kind.value,
            "part": paths.get(event.document_id, str(event.document_id)) if event.document_id else None,
            "by": event.actor or None,
            "details": _details(event.details),
        }
        for event in history.events
    ]


def _details(details: dict[str, Any]) -> str | None:
    """Return an event's details. Of an error that is its place, which has the class too, and not its time again."""
    hidden = ("error", "at") if details.get("where") else ()
    return ", ".join(f"{n}: {v}" for n, v in details.items() if v not in ("", None) and n not in hidden) or None


def _held(held: HeldMail) -> dict[str, Any]:
    return {
        "id": held.id,
        "received": held.received_at,
        "reason": held.reason.value,
        "resolution": held.resolution,
        "from": held.from_email,
        "subject": held.subject,
    }


def _error(error: Any) -> str | None:
    if not error:
        return None
    detail = f": {error['detail']}" if error.get("detail") else ""
    return f"{error.get('where') or error.get('error')}{detail}, attempt {error.get('attempt')}"


def _as_json(history: MailHistory) -> dict[str, Any]:
    def row(of: Any) -> dict[str, Any]:
        return {name: value for name, value in asdict(of).items() if name not in _HIDDEN_FIELDS}

    skipped = [row(part) for part in history.parts if isinstance(part, SkippedPart)]
    return {
        "org": history.org,
        "kind": "message" if isinstance(history.mail, InboundMessage) else "held",
        "mail": row(history.mail),
        "header": [{"name": name, "value": value} for name, value in history.header],
        "header_missing": history.missing_reason or None,
        "documents": [row(part) for part in history.parts if isinstance(part, Document)],
        "skipped": skipped,
        "passed_over": skipped,  # its name before 0.1.0
        "events": [row(event) for event in history.events],
        "held": [row(one) for one in history.held],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else str(value)
