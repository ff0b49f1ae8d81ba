"""Held mail: its reason, the message it clashes with, and an operator's decision, which becomes an event.

A decision is made once: a mail that is decided already stays as it is. Discarded mail stays in the archive.
"""

from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from orderflow_ingest.app import App
from orderflow_ingest.domain.states import HoldReason
from orderflow_ingest.observability import logs
from orderflow_ingest.pipeline import replay
from orderflow_ingest.pipeline.archive_manifest import read_why_held
from orderflow_ingest.storage.archive import read_object
from orderflow_ingest.storage.database import IdentityTakenError

from . import downloads
from .filters import line
from .message import beginning
from .scope import Scope, actor, get_held_mail_or_404, require_write

_LIMIT, _LONGEST = 100, 500
REASON_TEXTS = {
    HoldReason.MESSAGE_ID_REUSED: "Its Message-ID is known with other content: a mail that was changed on its way, a "
    "broken mailer, or somebody who wants a later order to be taken for an earlier one.",
    HoldReason.SENDER_NOT_ALLOWED: "The organization takes no mail from this sender by itself.",
}
_DONE = {
    "accepted": "It is a message of its own now, and a worker takes it up.",
    "discarded": "It is closed. Its raw mail stays in the archive.",
    "taken": "It stays held: each Message-ID that it could have is another message's by now.",
    "erased": "Its raw mail is erased: there is nothing left to accept.",
    "closed": "Somebody has decided about it already.",
    "reason": "Say why: the reason stays with the mail for good.",
}


def pages(app: App) -> Blueprint:
    """Return the pages."""
    blueprint = Blueprint("held", __name__, url_prefix="/held")

    @blueprint.get("")
    def listed() -> str:
        scope = Scope(app)
        found = scope.held(_LIMIT)
        mails = [(scope.slug_of(one.org_id), one) for one in found]
        is_all, done = len(found) < _LIMIT, _DONE.get(request.args.get("done", ""))
        return render_template("held.html", mails=mails, why=REASON_TEXTS, is_all=is_all, limit=_LIMIT, done=done)

    @blueprint.get("/<slug>/<uuid:id>")
    def page(slug: str, id: UUID) -> str:
        mail = get_held_mail_or_404(app, slug, id)
        known = mail.inbound_message_id and app.records.messages.get(mail.org_id, mail.inbound_message_id)
        done = _DONE.get(request.args.get("done", ""))
        why = {"why": REASON_TEXTS[mail.reason], "difference": read_why_held(mail.raw_key, app.archive)}
        return render_template("held_mail.html", slug=slug, mail=mail, known=known, done=done, **why)

    @blueprint.post("/<slug>/<uuid:id>/<any(accept, discard):decision>")
    def decide(slug: str, id: UUID, decision: str) -> Response:
        require_write()
        mail = get_held_mail_or_404(app, slug, id)
        reason = line(request.form.get("why", "").strip(), _LONGEST)
        if not reason:
            return redirect(url_for("held.page", slug=slug, id=id, done="reason"), 303)
        if decision == "accept" and mail.erased_at:
            return redirect(url_for("held.page", slug=slug, id=id, done="erased"), 303)
        resolve = replay.accept_held if decision == "accept" else replay.discard_held
        try:
            is_done = resolve(mail, app, actor(), reason)
        except IdentityTakenError:
            return redirect(url_for("held.page", slug=slug, id=id, done="taken"), 303)
        logs.event(decision, "Held mail decided." if is_done else "Held mail was closed.", org=slug, held=id,
                   operator=actor())  # fmt: skip
        return redirect(url_for("held.listed", done=f"{decision}ed" if is_done else "closed"), 303)

    @blueprint.get("/<slug>/<uuid:id>/raw")
    def raw(slug: str, id: UUID) -> Response:
        mail = get_held_mail_or_404(app, slug, id)
        return downloads.attachment_response(
            read_object(mail.org_id, mail.raw_key, mail.digest, app.archive), f"{id}.eml"
        )

    @blueprint.get("/<slug>/<uuid:id>/source")
    def source(slug: str, id: UUID) -> str:
        mail = get_held_mail_or_404(app, slug, id)
        text, is_cut = beginning(read_object(mail.org_id, mail.raw_key, mail.digest, app.archive))
        back = url_for("held.page", slug=slug, id=id)
        return render_template("source.html", text=text, is_cut=is_cut, subject=mail.subject, back=back)

    return blueprint
