"""Extraction: from a recorded message to its documents, and each document to the handler.

extract() takes one attempt at a message: raw mail from the archive, verified; attachments out of it;
each into the archive under its content's key; rows; a task per document. It can be done twice at every
step, and a message that is finished, leased or not due yet is left alone. hand_over() takes one attempt
at one document: it calls the deployment's handler with a typed value.

A failure is noted on the row with the time of the next attempt, which the sweep enqueues. After the
last one the row is FAILED with error_json: what, where, when, how often. A backend that is away or a
deploy that does not import does not use up the last attempt, however long it lasts. A worker that is
killed leaves its lease behind; when that is over the next attempt begins, and a message that took every
worker with it is FAILED too. An attachment that cannot be stored does not keep the others from their
handler, which is called at least once per document: it must know one that comes again by its id.
"""

import hashlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from io import BytesIO
from typing import Any, BinaryIO
from uuid import UUID, uuid4

from .archive import Archive, ArchiveUnavailable, document_key
from .assembly import Parts
from .attachments import Part, read_parts
from .logs import event, place
from .queue import QueueUnavailable
from .records import ATTEMPTS, Document, InboundMessage, NewDocument, RecordsUnavailable, SkippedPart
from .status import HandOver, Status

SWEEP_LIMIT = 1000
_BACKOFF = 4
_OUTAGES = (ArchiveUnavailable, RecordsUnavailable, ImportError)


@dataclass(frozen=True)
class OrderDocument:
    """What a document handler is called with: the document, its message, and a way to its bytes."""

    org_id: int
    message: InboundMessage
    document: Document
    _archive: Archive

    def read(self) -> bytes:
        """Read the document's bytes, verified. Raises what the archive raises."""
        return self._archive.read(self.document.object_key, self.document.digest)

    def open(self) -> BinaryIO:
        """Open the document's bytes as a file."""
        return BytesIO(self.read())


Handler = Callable[[OrderDocument], None]


class PartsFailed(Exception):
    """Some attachments of a message could not be stored; the others were."""


class WorkersLost(Exception):
    """Every attempt ended without a word: the worker was killed, or ran out of memory or time."""


class LeaseLost(Exception):
    """Another worker has taken the message over: this one writes nothing more."""


def extract(org_id: int, message_id: UUID, parts: Parts) -> None:
    """Take one attempt at a message."""
    lease = timedelta(seconds=parts.settings.lease)
    attempt = parts.records.messages.claim(org_id, message_id, worker_name(), _now(), lease)
    if attempt is None:
        event("extract", "Nothing to do for this message.", org_id=org_id, message_id=message_id)
        return
    try:
        if attempt.attempts > ATTEMPTS:
            raise WorkersLost
        if attempt.status is Status.RECEIVED:
            _store(attempt, parts)
        _ring_for_documents(attempt, parts)
        if not parts.records.messages.move(attempt, Status.PARSED):
            raise LeaseLost
    except LeaseLost:
        event(
            "extract",
            "Lease was lost to another worker.",
            logging.WARNING,
            org_id=org_id,
            message_id=message_id,
        )
    except Exception as error:
        _note_failure(attempt, error, parts)
    else:
        event("extract", "Message parsed.", org_id=org_id, message_id=message_id, attempt=attempt.attempts)


def hand_over(org_id: int, document_id: UUID, parts: Parts) -> None:
    """Take one attempt at handing a document to the handler."""
    documents = parts.records.documents
    attempt = documents.claim(org_id, document_id, worker_name(), _now(), timedelta(seconds=parts.settings.lease))
    if attempt is None:
        event("hand_over", "Nothing to do for this document.", org_id=org_id, document_id=document_id)
        return
    try:
        if attempt.attempts > ATTEMPTS:
            raise WorkersLost
        message = parts.records.messages.get(org_id, attempt.inbound_message_id)
        if message is None:
            raise LookupError("the document's message is gone")
        load_handler(parts.settings.document_handler)(OrderDocument(org_id, message, attempt, parts.archive))
    except Exception as error:
        _note_handler_failure(attempt, error, parts)
    else:
        documents.finish(attempt)
        event("hand_over", "Document handed over.", org_id=org_id, document_id=document_id)


def sweep(parts: Parts) -> int:
    """Enqueue what is due and may have no task: give the number of tasks.

    Where many tasks wait, these are enough; theirs come first.
    """
    if parts.queue.depth() >= SWEEP_LIMIT:
        return 0
    messages = parts.records.messages.due(_now(), SWEEP_LIMIT)
    documents = parts.records.documents.due(_now(), SWEEP_LIMIT)
    for org_id, message_id in messages:
        parts.queue.extract(org_id, message_id)
    for org_id, document_id in documents:
        parts.queue.hand_over(org_id, document_id)
    if messages or documents:
        event("sweep", "Due work enqueued.", messages=len(messages), documents=len(documents))
    return len(messages) + len(documents)


def load_handler(target: str) -> Handler:
    """Import the handler that ORDERFLOW_DOCUMENT_HANDLER names. Raises ImportError, AttributeError."""
    module, _, function = target.partition(":")
    handler: Handler = getattr(import_module(module), function)
    return handler


def log_document(order: OrderDocument) -> None:
    """Log a document's coming: the handler of a deployment that has none yet."""
    event(
        "document",
        "Document received; no handler is configured.",
        org_id=order.org_id,
        message_id=order.message.id,
        document_id=order.document.id,
        content_type=order.document.detected_type or order.document.declared_type,
        size=order.document.size,
    )


def worker_name() -> str:
    """Name this worker on the rows it has in hand."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _store(attempt: InboundMessage, parts: Parts) -> None:
    """Store every attachment and record it; those that can be, whatever becomes of the others."""
    raw = parts.archive.read(attempt.raw_key, attempt.digest)
    found: list[NewDocument] = []
    skipped: list[SkippedPart] = []
    errors: list[tuple[str, Exception]] = []
    for part in read_parts(raw):
        if not part.taken:
            skipped.append(SkippedPart(part.path, part.filename, part.declared_type, part.size, part.reason))
            continue
        try:
            found.append(_archived(attempt.org_id, part, parts.archive))
        except _OUTAGES:
            raise
        except Exception as error:
            errors.append((part.path, error))
    due = _now() + timedelta(seconds=parts.settings.sweep_after)
    if not parts.records.documents.record(attempt, found, skipped, due, is_complete=not errors):
        raise LeaseLost
    event(
        "store",
        "Attachments stored." if found else "Message has no attachment.",
        org_id=attempt.org_id,
        message_id=attempt.id,
        documents=len(found),
        skipped=len(skipped),
        failed=len(errors),
    )
    if errors:
        raise PartsFailed("; ".join(f"part {path}: {place(error)}" for path, error in errors[:10])) from errors[0][1]


def _archived(org_id: int, part: Part, archive: Archive) -> NewDocument:
    digest = hashlib.sha256(part.data).hexdigest()
    key = document_key(org_id, digest)
    archive.put(key, part.data, digest)
    return NewDocument(
        id=uuid4(),
        part_path=part.path,
        filename=part.filename,
        claimed_filename=part.claimed_filename,
        declared_type=part.declared_type,
        detected_type=part.detected_type,
        size=part.size,
        digest=digest,
        object_key=key,
    )


def _ring_for_documents(attempt: InboundMessage, parts: Parts) -> None:
    documents = parts.records.documents.of_message(attempt.org_id, attempt.id)
    try:
        for document in documents:
            if document.handover is HandOver.PENDING:
                parts.queue.hand_over(attempt.org_id, document.id)
    except QueueUnavailable as error:
        event("enqueue", "Tasks left to the sweep.", logging.WARNING, message_id=attempt.id, reason=error)


def _note_failure(attempt: InboundMessage, error: Exception, parts: Parts) -> None:
    messages, told = parts.records.messages, _told(attempt.attempts, error)
    names = {"org_id": attempt.org_id, "message_id": attempt.id}
    if _is_last(attempt.attempts, error):
        messages.give_up(attempt, told)
        event("extract", "Message failed for good.", logging.ERROR, **names, **told)
    else:
        messages.retry_later(attempt, told, *_next(attempt.attempts, error, parts))
        event("extract", "Attempt failed; another follows.", logging.WARNING, **names, **told)


def _note_handler_failure(attempt: Document, error: Exception, parts: Parts) -> None:
    documents, told = parts.records.documents, _told(attempt.attempts, error)
    names = {"org_id": attempt.org_id, "document_id": attempt.id}
    if _is_last(attempt.attempts, error):
        documents.give_up(attempt, told)
        event("hand_over", "Hand-over failed for good.", logging.ERROR, **names, **told)
    else:
        documents.retry_later(attempt, told, *_next(attempt.attempts, error, parts))
        event("hand_over", "Hand-over failed; another attempt follows.", logging.WARNING, **names, **told)


def _is_last(attempts: int, error: Exception) -> bool:
    return attempts >= ATTEMPTS and not isinstance(error, _OUTAGES)


def _next(attempts: int, error: Exception, parts: Parts) -> tuple[int, datetime]:
    """Give the attempts that count so far, and when the next may begin."""
    counted = min(attempts, ATTEMPTS - 1) if isinstance(error, _OUTAGES) else attempts
    return counted, _now() + timedelta(seconds=parts.settings.retry_delay * _BACKOFF ** (counted - 1))


def _told(attempts: int, error: Exception) -> dict[str, Any]:
    """Tell a failure for error_json. Texts of foreign errors stay out: they can hold content."""
    detail = str(error) if type(error).__module__.startswith("orderflow_ingest") else ""
    at = _now().isoformat(timespec="seconds")
    return {
        "error": type(error).__name__,
        "detail": detail,
        "where": place(error),
        "at": at,
        "attempt": attempts,
    }


def _now() -> datetime:
    return datetime.now(UTC)
