"""The former name of the kinds and states that a document handler compares."""

from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.parsing.documents.part import PartKind

__all__ = ["HandOver", "PartKind", "Status"]
