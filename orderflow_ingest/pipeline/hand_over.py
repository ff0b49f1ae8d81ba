"""Hand-over: each document to the deployment's handler, at least once, see `handler`.

An attempt that fails is tried again for ORDERFLOW_HANDOVER_RETRY seconds, each time later, see `retry`.
"""

import logging
import traceback
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.observability import metrics
from orderflow_ingest.observability.logs import error_location, event
from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.database import Document, InboundMessage

from .handler import OrderDocument, TryLater, check_result, handler_place, load_handler
from .retry import OUTAGES, Attempt, LeaseLostError, MessageErased, Work, run_attempt


def hand_over(org_id: int, document_id: UUID, app: App) -> None:
    """Take one attempt at handing a document to the handler."""

    def do(attempt: Attempt[Document]) -> None:
        row = attempt.row
        message = app.records.messages.get(row.org_id, row.inbound_message_id)
        attempt.fields["source_message_id"] = message and message.source_message_id
        _call_handler(row, message, attempt.org, app)
        if not app.records.documents.finish(row):
            raise LeaseLostError

    run_attempt(_HAND_OVER, org_id, document_id, app, do)


def _call_handler(attempt: Document, message: InboundMessage | None, org: str, app: App) -> None:
    if message is None:
        raise LookupError("the document's message is gone")
    if attempt.erased_at is not None:
        raise MessageErased("the document was erased")
    handler = load_handler(app.settings.document_handler)
    check_result(handler(OrderDocument(org, message, attempt, app.archive)))


def _location(error: BaseException, app: App) -> str:
    """Return an error as its class and the deepest line of the handler's own package that it came through."""
    return error_location(error, within=handler_place(app.settings.document_handler))


def _log_traceback(error: BaseException, attempt: Attempt[Document], app: App) -> None:
    """Log the text and the traceback of a handler's error, where ORDERFLOW_LOG_TRACEBACKS asks for it."""
    if app.settings.log_tracebacks and not isinstance(error, TryLater):
        lines = "".join(traceback.format_exception(error))
        event("hand_over", "Handler raised an exception.", logging.WARNING, **attempt.fields, traceback=lines)


_HAND_OVER = Work[Document](
    action="hand_over",
    kind=attempt_files.DOCUMENT,
    id_name="document_id",
    store=lambda app: app.records.documents,
    log_fields=lambda row: {"message_id": row.inbound_message_id},
    subject="Hand-over",
    done="Document handed over.",
    retried="Hand-over failed; another attempt follows.",
    end="done",
    counter=metrics.HANDOVERS,
    seconds=metrics.HANDOVER_SECONDS,
    outages=OUTAGES,
    location=_location,
    retry_for=lambda app: app.settings.handover_retry,
    on_error=_log_traceback,
)
