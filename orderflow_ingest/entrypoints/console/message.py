"""A message's page: where it came from, what was in it, what happened to it. Its files to look at or save. Replay."""

from typing import NamedTuple
from uuid import UUID

from flask import Blueprint, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from orderflow_ingest.app import App
from orderflow_ingest.observability import logs
from orderflow_ingest.parsing.documents.part import PartKind
from orderflow_ingest.pipeline import replay
from orderflow_ingest.storage.archive import ArchiveUnavailable, ObjectDamaged, ObjectMissing, read_object
from orderflow_ingest.storage.database import Document, InboundMessage, SkippedPart

from . import downloads
from .filters import lines
from .preview import PICTURE_LIMIT, Kind, kind_of, preview
from .scope import actor, get_message_or_404, require_write

_BODIES, _BODY_LIMIT, _SOURCE_LIMIT = 5, 64 << 10, 64 << 10
_DONE = {
    "replayed": "It was led back to RECEIVED, and a worker takes it up.",
    "erased": "Its raw mail is erased: there is nothing left to extract.",
    "moved": "It moved meanwhile, and nothing was changed: look again before you replay it.",
}


class Body(NamedTuple):
    """A text that was typed into a message. `note` where it cannot be shown."""

    part_path: str
    text: str
    is_cut: bool
    note: str


def pages(app: App) -> Blueprint:
    """Return the pages."""
    blueprint = Blueprint("message", __name__, url_prefix="/messages/<slug>/<uuid:id>")

    @blueprint.get("")
    def page(slug: str, id: UUID) -> str:
        message = get_message_or_404(app, slug, id)
        documents = app.records.documents.of_message(message.org_id, id)
        skipped = app.records.documents.skipped(message.org_id, id)
        both: list[Document | SkippedPart] = [*documents, *skipped]
        return render_template(
            "message.html",
            slug=slug,
            message=message,
            bodies=_bodies(app, documents),
            parts=sorted(both, key=_in_order),
            shows=_shows,
            events=[*message.first_events(), *app.records.events.of(message.org_id, message.id)],
            names={one.id: one.filename or "the text" for one in documents},
            done=_DONE.get(request.args.get("done", "")),
        )

    @blueprint.post("/replay")
    def run_again(slug: str, id: UUID) -> Response:
        require_write()
        message = get_message_or_404(app, slug, id)
        if request.form.get("seen") != message.updated_at.isoformat():
            return redirect(url_for("message.page", slug=slug, id=id, done="moved"), 303)
        if replay.skip_reason(message):
            return redirect(url_for("message.page", slug=slug, id=id, done="erased"), 303)
        is_done = replay.replay_message(message, app, actor())
        logs.event("replay", "Message replayed." if is_done else "Message moved meanwhile.", org=slug, message_id=id,
                   operator=actor())  # fmt: skip
        return redirect(url_for("message.page", slug=slug, id=id, done="replayed" if is_done else "moved"), 303)

    @blueprint.get("/raw")
    def raw(slug: str, id: UUID) -> Response:
        message = get_message_or_404(app, slug, id)
        return downloads.attachment_response(_raw(app, message), f"{id}.eml")

    @blueprint.get("/source")
    def source(slug: str, id: UUID) -> str:
        message = get_message_or_404(app, slug, id)
        text, is_cut = beginning(_raw(app, message))
        back = url_for("message.page", slug=slug, id=id)
        return render_template("source.html", text=text, is_cut=is_cut, subject=message.subject, back=back)

    @blueprint.get("/documents/<uuid:document_id>")
    def save(slug: str, id: UUID, document_id: UUID) -> Response:
        document = _document(app, slug, id, document_id)
        data = read_object(document.org_id, document.object_key, document.digest, app.archive)
        return downloads.attachment_response(data, document.filename or f"part-{document.part_path}.txt")

    @blueprint.get("/documents/<uuid:document_id>/picture")
    def picture(slug: str, id: UUID, document_id: UUID) -> Response:
        document = _document(app, slug, id, document_id)
        if kind_of(document.content_type) is not Kind.PICTURE or document.size > PICTURE_LIMIT:
            abort(404)
        return downloads.picture_response(
            read_object(document.org_id, document.object_key, document.digest, app.archive)
        )

    @blueprint.get("/documents/<uuid:document_id>/preview")
    def look(slug: str, id: UUID, document_id: UUID) -> str:
        document = _document(app, slug, id, document_id)
        if not _shows(document):
            abort(404)
        data = read_object(document.org_id, document.object_key, document.digest, app.archive)
        made = preview(data, document.content_type, "utf-8" if document.kind is PartKind.BODY else document.charset)
        return render_template("preview.html", slug=slug, id=id, document=document, preview=made)

    return blueprint


def beginning(raw: bytes) -> tuple[str, bool]:
    """Return the first lines of a raw mail as text, and whether there are more."""
    return lines(raw[:_SOURCE_LIMIT].decode("utf-8", "replace")), len(raw) > _SOURCE_LIMIT


def _raw(app: App, message: InboundMessage) -> bytes:
    return read_object(message.org_id, message.raw_key, message.digest, app.archive)


def _document(app: App, slug: str, id: UUID, document_id: UUID) -> Document:
    """Return a document of a message. NOT FOUND if there is none, or the user may not know of it."""
    message = get_message_or_404(app, slug, id)
    documents = app.records.documents.of_message(message.org_id, id)
    return next((one for one in documents if one.id == document_id), None) or abort(404)


def _shows(part: Document | SkippedPart) -> bool:
    """Return whether a part can be looked at."""
    if not isinstance(part, Document) or part.erased_at or kind_of(part.content_type) is Kind.NONE:
        return False
    return kind_of(part.content_type) is not Kind.PICTURE or part.size <= PICTURE_LIMIT


def _bodies(app: App, documents: list[Document]) -> list[Body]:
    """Read what was typed into a message. An archive that is away takes nothing else from the page."""
    found: list[Body] = []
    for document in [one for one in documents if one.kind is PartKind.BODY][:_BODIES]:
        try:
            made = preview(
                read_object(document.org_id, document.object_key, document.digest, app.archive)[:_BODY_LIMIT],
                "text/plain",
                "utf-8",
            )
            found.append(Body(document.part_path, made.text, document.size > _BODY_LIMIT, ""))
        except ArchiveUnavailable:
            found.append(Body(document.part_path, "", is_cut=False, note="The archive does not answer just now."))
            break
        except (ObjectMissing, ObjectDamaged):
            found.append(
                Body(document.part_path, "", is_cut=False, note="The archive does not have this text any more.")
            )
    return found


def _in_order(part: Document | SkippedPart) -> list[int]:
    return [int(number) for number in part.part_path.split(".") if number.isdigit()]
