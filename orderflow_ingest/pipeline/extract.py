"""Extraction: from a recorded message to its documents.

extract() takes one attempt at a message (see `retry`): raw mail from the archive, verified. Attachments and
text bodies out of it. Each into the archive under its content's key. Rows. A task per document. It can be done twice at
every step, and a message that is finished, leased or not due yet is left alone. An attachment that cannot be
stored does not keep the others from the handler: they are recorded, and handed over, all the same.

Reading has a budget of CPU time for each part and for the mail: what goes over it is a document whole, with a defect.
Where an attempt ends within a part, by its time, its memory or its process, the next one gives that part out whole. Of
a mail with more than ORDERFLOW_MAX_DOCUMENTS documents the others are recorded as skipped parts. They stay in the raw
mail.
"""

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.object_keys import document_id, document_key
from orderflow_ingest.domain.org_settings import OrgSettingsError
from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.observability import metrics
from orderflow_ingest.observability.logs import error_location, event
from orderflow_ingest.parsing.documents import DocumentLimit, Part, ReadMonitor, accept_types, read_parts
from orderflow_ingest.parsing.documents.part import PartKind
from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.archive import Archive, read_object
from orderflow_ingest.storage.database import InboundMessage, NewDocument, SkippedPart
from orderflow_ingest.storage.queue import QueueUnavailable

from .retry import (
    OUTAGES,
    Attempt,
    LeaseLostError,
    MessageErased,
    Work,
    read_failed_parts,
    run_attempt,
)


class PartsFailed(OrderflowError):
    """Some attachments of a message could not be stored. The others were."""


def extract(
    org_id: int,
    message_id: UUID,
    app: App,
    bound: Callable[[bool], None] = lambda _: None,
    *,
    is_live: bool = True,
) -> None:
    """Take one attempt at a message. Unless it is live, its documents are enqueued behind all that is.

    `bound` is called with true as each part begins, and with false after the last: it may end a process that is stuck.
    """

    def do(attempt: Attempt[InboundMessage]) -> dict[str, Any]:
        row, messages = attempt.row, app.records.messages
        try:
            if row.status is Status.RECEIVED:
                _store(row, app, attempt.fields, _read_monitor(attempt, app, bound))
        finally:
            bound(False)  # noqa: FBT003 (a Callable has no keywords)
        documents = _enqueue_documents(row, app, is_live=is_live)
        if not messages.finish(row, {"documents": documents, "attempt": row.attempts}):
            raise LeaseLostError
        return {"attempt": row.attempts}

    run_attempt(_EXTRACTION, org_id, message_id, app, do)


_EXTRACTION = Work[InboundMessage](
    action="extract",
    kind=attempt_files.MESSAGE,
    id_name="message_id",
    store=lambda app: app.records.messages,
    log_fields=lambda row: {"queue_id": row.queue_id, "source_message_id": row.source_message_id},
    subject="Message",
    done="Message parsed.",
    retried="Attempt failed; another follows.",
    end="parsed",
    counter=metrics.EXTRACTIONS,
    seconds=metrics.EXTRACTION_SECONDS,
    outages=(*OUTAGES, ImportError, OrgSettingsError),
)


def _read_monitor(attempt: Attempt[InboundMessage], app: App, bound: Callable[[bool], None]) -> ReadMonitor:
    """Return the limits of an attempt's reading, by the parts that earlier attempts failed at."""
    settings, row = app.settings, attempt.row
    failed_parts, opens_none = read_failed_parts(row.attempts, row.error_json)
    return ReadMonitor(
        settings.part_time,
        settings.mail_time,
        failed_parts,
        keeps_all=opens_none,
        on_change=attempt.set_part,
        on_part=partial(bound, True),  # noqa: FBT003 (a Callable has no keywords)
    )


def _store(attempt: InboundMessage, app: App, names: dict[str, Any], monitor: ReadMonitor) -> None:
    """Store and record every attachment that can be stored, whatever becomes of the others."""
    if attempt.erased_at is not None:
        raise MessageErased("the raw mail was erased")
    raw = read_object(attempt.org_id, attempt.raw_key, attempt.digest, app.archive)
    found: list[NewDocument] = []
    skipped: list[SkippedPart] = []
    errors: list[tuple[str, Exception]] = []
    limit = DocumentLimit(app.settings.max_documents)
    for part in limit.apply(accept_types(read_parts(raw, monitor), allowed_types(attempt.org_id, app))):
        if not part.is_document:
            skipped.append(skipped_part(part))
            continue
        try:
            found.append(_archived(attempt, part, app.archive))
        except (*OUTAGES, MemoryError):
            raise
        except Exception as error:
            errors.append((part.path, error))
    if not app.records.documents.record(attempt, found, skipped, app.swept_at(), is_complete=not errors):
        raise LeaseLostError
    event(
        "store",
        "Documents stored." if found else "Message has no document.",
        logging.INFO if found else logging.WARNING,
        **names,
        documents=len(found),
        bodies=sum(new.kind is PartKind.BODY for new in found),
        skipped=len(skipped),
        failed=len(errors),
    )
    if limit.over:
        sentence = "Message has more documents than ORDERFLOW_MAX_DOCUMENTS; the others stay in its raw mail."
        event("store", sentence, logging.WARNING, **names, documents=len(found), left=limit.over)
    if errors:
        raise PartsFailed(
            "; ".join(f"part {path}: {error_location(error)}" for path, error in errors[:10])
        ) from errors[0][1]


def allowed_types(org_id: int, app: App) -> tuple[str, ...]:
    """Return the types of attachments that an organization takes as documents. All if it names none."""
    org = app.records.organizations.get(org_id)
    return org.settings.document_types if org else ()


def skipped_part(part: Part) -> SkippedPart:
    """Return the row of a part that is no document."""
    return SkippedPart(
        part.path,
        part.filename,
        part.declared_type,
        part.detected_type,
        part.size,
        part.reason.value,
        list(part.defects),
    )


def new_document(org_id: int, message_id: UUID, part: Part) -> NewDocument:
    """Return the row of a part that is a document. The same part with the same content has the same id."""
    digest = hashlib.sha256(part.data).hexdigest()
    return NewDocument(
        id=document_id(message_id, part.path, digest),
        part_path=part.path,
        kind=part.kind,
        filename=part.filename,
        claimed_filename=part.claimed_filename,
        declared_type=part.declared_type,
        detected_type=part.detected_type,
        content_type=part.content_type,
        charset=part.charset,
        reason=part.reason.value,
        defects=list(part.defects),
        size=part.size,
        digest=digest,
        object_key=document_key(org_id, digest),
    )


def _archived(attempt: InboundMessage, part: Part, archive: Archive) -> NewDocument:
    new = new_document(attempt.org_id, attempt.id, part)
    archive.put(new.object_key, part.data, new.digest)
    return new


def _enqueue_documents(attempt: InboundMessage, app: App, *, is_live: bool) -> int:
    """Enqueue the hand-over of each document that waits for it, and return the number of all documents."""
    documents = app.records.documents.of_message(attempt.org_id, attempt.id)
    try:
        for document in documents:
            if document.handover is HandOver.PENDING:
                app.queue.enqueue_hand_over(attempt.org_id, document.id, is_live=is_live)
    except QueueUnavailable as error:
        event("enqueue", "Tasks left to the sweep.", logging.WARNING, message_id=attempt.id, reason=error)
    return len(documents)
