"""The command find: one line for each mail that matches, the newest first.

Words match from their beginning, in the sender's addresses and the subject, or in the names of documents. See
`storage.database.selection`. Held mail is found too, but not by a document, since none was extracted yet. By its
Message-ID, mail is found that was held and discarded. `orderflow-admin show ID` then shows the history of one.
"""

from collections import Counter
from datetime import datetime
from typing import Any

import click

from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.entrypoints.cli.options import mail_options, org_id_of, org_option, whole_message_id
from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    json_option,
    load_app,
    local_option,
    print_rows,
    settings_option,
)
from orderflow_ingest.storage.database import Filter, HeldMail, InboundMessage

_HELD = "HELD"
_STATUSES = click.Choice([*(status.value for status in Status), _HELD], case_sensitive=False)


@click.command(
    epilog=examples(
        "orderflow-admin find 4711 --since 7d", "orderflow-admin find --org acme --sender @shop.example --status failed"
    )
)
@click.argument("sought", nargs=-1, metavar="[WORDS]...")
@org_option
@mail_options
@click.option("--status", "statuses", multiple=True, type=_STATUSES, help="Of this status; may be repeated.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10000), help="At most so many.")
@local_option
@json_option
@settings_option
def find(
    sought: tuple[str, ...],
    slug: str | None,
    since: datetime | None,
    until: datetime | None,
    sender: str | None,
    words: str | None,
    message_id: str | None,
    document: str | None,
    statuses: tuple[str, ...],
    limit: int,
    *,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Find mail by WORDS of its sender and subject and by the options, the newest first."""
    app = load_app(settings_file)
    chosen = Filter(
        org_id=org_id_of(app, slug),
        statuses=tuple(Status(name.upper()) for name in statuses if name.upper() != _HELD),
        since=since,
        until=until,
        message_id=message_id and whole_message_id(message_id),
        sender=sender and sender.strip(),
        words=" ".join([*sought, words or ""]).strip() or None,
        document_words=document,
    )
    of_status = {name.upper() for name in statuses}
    found = app.records.messages.select(chosen, limit) if of_status != {_HELD} else []
    hand_overs = app.records.overview.hand_overs(found)
    mails: list[InboundMessage | HeldMail] = [*found]
    if not document and (not of_status or _HELD in of_status):
        mails += app.records.held_mail.find(chosen, limit)
    mails.sort(key=lambda mail: mail.received_at, reverse=True)
    slugs = app.records.organizations.slug
    rows = [
        _row(mail, slugs(mail.org_id), hand_overs.get((mail.org_id, mail.id), Counter()), as_json=as_json)
        for mail in mails[:limit]
    ]
    print_rows(rows, as_json=as_json)
    if not rows and not as_json:
        click.echo("nothing is found", err=True)
    if document:
        click.echo("held mail was not looked at: nothing is taken out of it before it is accepted", err=True)


def _row(
    message: InboundMessage | HeldMail, org: str, documents: Counter[HandOver], *, as_json: bool
) -> dict[str, Any]:
    summary = ", ".join(f"{documents[state]} {state.value}" for state in HandOver if documents[state])
    return {
        "id": message.id,
        "received": message.received_at,
        "org": org,
        "status": message.status.value if isinstance(message, InboundMessage) else message.resolution or _HELD,
        "sender": message.from_email or message.envelope_sender,
        "subject": message.subject if as_json else message.subject[:60],
        "documents": {state.value: documents[state] for state in HandOver} if as_json else summary,
    }
