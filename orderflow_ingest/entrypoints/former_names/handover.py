"""The former name of what a document handler imports, and of the handler that only logs."""

from orderflow_ingest.pipeline.handler import Handler, OrderDocument, log_document

__all__ = ["Handler", "OrderDocument", "log_document"]
