"""Dead letters of this host's spool: their reasons, and another delivery of them.

A dead letter has no row, and hence no organization: users that do not see every organization get NOT FOUND. None can be
discarded here: the spool holds the only copy, and no order is lost by a click.
"""

from dataclasses import dataclass
from datetime import datetime

from flask import Blueprint, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from orderflow_ingest.app import App
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.observability import logs
from orderflow_ingest.pipeline import replay
from orderflow_ingest.storage.envelope_header import EnvelopeError, decode_envelope
from orderflow_ingest.storage.spool import EntryDamagedError

from . import downloads
from .scope import actor, require_all_organizations, require_write

_LIMIT = 50
_OUTCOMES = {outcome.name: outcome for outcome in Outcome}


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter. Without a time if its envelope does not read."""

    name: str
    why: tuple[str, ...]
    recipient: str
    sender: str
    received_at: datetime | None
    size: int


def pages(app: App) -> Blueprint:
    """Return the pages."""
    blueprint = Blueprint("dead", __name__, url_prefix="/dead-letters")

    @blueprint.before_request
    def _need() -> None:
        require_all_organizations()

    @blueprint.get("")
    def listed() -> str:
        found = app.spool.dead()
        letters = [_read_dead_letter(app, name, why) for name, why in found[:_LIMIT]]
        outcome = _OUTCOMES.get(request.args.get("outcome", ""))
        return render_template("dead.html", letters=letters, number=len(found), outcome=outcome, limit=_LIMIT,
                               is_gone="gone" in request.args)  # fmt: skip

    @blueprint.post("/<name>/deliver")
    def deliver(name: str) -> Response:
        require_write()
        _require_dead_letter(app, name)
        try:
            ended = replay.redeliver_dead_letter(name, app)
        except FileNotFoundError:
            ended = None
        outcome = ended.outcome.name if ended else None
        logs.event("redeliver", "Dead letter delivered again.", entry=name, outcome=outcome, operator=actor())
        return redirect(url_for("dead.listed", outcome=outcome, gone=None if outcome else "1"), 303)

    @blueprint.get("/<name>/raw")
    def raw(name: str) -> Response:
        _require_dead_letter(app, name)
        try:
            return downloads.attachment_response(app.spool.read_dead(name)[1], f"{name}.eml")
        except (FileNotFoundError, EntryDamagedError):
            abort(404)

    return blueprint


def _require_dead_letter(app: App, name: str) -> None:
    if name not in {known for known, _ in app.spool.dead()}:
        abort(404)


def _read_dead_letter(app: App, name: str, why: str) -> DeadLetter:
    lines = tuple(why.splitlines()[-5:])
    try:
        header, raw = app.spool.read_dead(name)
        envelope = decode_envelope(header)
    except (FileNotFoundError, EntryDamagedError, EnvelopeError):
        return DeadLetter(name, lines, "unreadable", "", None, 0)
    return DeadLetter(name, lines, envelope.recipient, envelope.sender, envelope.received_at, len(raw))
