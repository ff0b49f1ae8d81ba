"""Hand-over: each document to the deployment's handler, at least once.

The handler is `package.module:function`, called with an OrderDocument. It must know a document that comes
again by its id: a worker can be killed after the handler returned and before that is noted. What it raises,
SystemExit and the like included, is a failed attempt (see `attempts`); a handler that cannot be loaded is an outage.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from io import BytesIO
from typing import Any, BinaryIO
from uuid import UUID

from . import metrics
from .archive import Archive
from .assembly import Parts
from .attempts import (
    OUTAGES,
    Erased,
    HandlerUnavailable,
    LeaseLost,
    need_no_loss,
    note_failure,
    told,
    worker_name,
)
from .logs import event
from .records import Document, InboundMessage


@dataclass(frozen=True)
class OrderDocument:
    """What a document handler is called with: organisation, message, document, and a way to its bytes."""

    org: str
    message: InboundMessage
    document: Document
    _archive: Archive

    def read(self) -> bytes:
        """Read the document's bytes, verified. Raises what the archive raises."""
        return self._archive.read(self.document.object_key, self.document.digest)

    def open(self) -> BinaryIO:
        """Open the document's bytes as a file."""
        return BytesIO(self.read())


Handler = Callable[[OrderDocument], object]


def hand_over(org_id: int, document_id: UUID, parts: Parts) -> None:
    """Take one attempt at handing a document to the handler."""
    began, documents = time.monotonic(), parts.records.documents
    org = parts.records.organizations.slug(org_id)
    names: dict[str, Any] = {"org": org, "document_id": document_id}
    lease, now = timedelta(seconds=parts.settings.lease), parts.records.database.now()
    attempt = documents.claim(org_id, document_id, worker_name(), now, lease)
    if attempt is None:
        event("hand_over", "Nothing to do for this document.", **names)
        return
    names["message_id"] = attempt.inbound_message_id
    try:
        need_no_loss(attempt.attempts, attempt.error_json)
        _call_handler(attempt, org, parts)
        if not documents.finish(attempt):
            raise LeaseLost
    except LeaseLost:
        end = "lost"
        event("hand_over", "Lease was lost to another worker.", logging.WARNING, **names)
    except KeyboardInterrupt:  # Huey's, who ends the worker
        raise
    except BaseException as error:  # whatever a handler raises: Rust's libraries have one of their own
        end = "failed" if _note_failure(attempt, error, parts, names) else "retry"
    else:
        end = "done"
        event("hand_over", "Document handed over.", **names)
    metrics.count(metrics.HANDOVERS, org, end)
    metrics.observe(metrics.HANDOVER_SECONDS, time.monotonic() - began)


def load_handler(target: str) -> Handler:
    """Import the handler that ORDERFLOW_DOCUMENT_HANDLER names. Raises HandlerUnavailable."""
    module, _, function = target.partition(":")
    try:
        handler: Handler = getattr(import_module(module), function)
    except (Exception, SystemExit) as error:
        raise HandlerUnavailable(f"{target} cannot be loaded: {type(error).__name__}") from error
    return handler


def log_document(order: OrderDocument) -> None:
    """Log a document's coming: the handler of a deployment that has none yet."""
    event(
        "document",
        "Document received; no handler is configured.",
        org=order.org,
        message_id=order.message.id,
        document_id=order.document.id,
        kind=order.document.kind.value,
        content_type=order.document.detected_type,
        size=order.document.size,
    )


def _call_handler(attempt: Document, org: str, parts: Parts) -> None:
    message = parts.records.messages.get(attempt.org_id, attempt.inbound_message_id)
    if message is None:
        raise LookupError("the document's message is gone")
    if attempt.erased_at is not None:
        raise Erased("the document was erased")
    handler = load_handler(parts.settings.document_handler)
    handler(OrderDocument(org, message, attempt, parts.archive))


def _note_failure(attempt: Document, error: BaseException, parts: Parts, names: dict[str, Any]) -> bool:
    """Note a failed attempt, and tell whether it was the last one."""
    documents, why = parts.records.documents, told(attempt.attempts, error, is_ours=False)
    writes = (partial(documents.give_up, attempt), partial(documents.retry_later, attempt))
    is_last = note_failure(attempt.attempts, error, isinstance(error, OUTAGES), why, parts, *writes)
    if is_last:
        event("hand_over", "Hand-over failed for good.", logging.ERROR, **names, **why)
    else:
        event("hand_over", "Hand-over failed; another attempt follows.", logging.WARNING, **names, **why)
    return is_last
