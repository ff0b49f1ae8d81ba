"""Findings of a reconcile run: their kinds in the words that an operator reads, and the options of the run."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID


class FindingKind(StrEnum):
    """A kind of finding."""

    RAW_MISSING = "raw mail missing"
    HELD_MISSING = "held mail missing"
    DOCUMENT_MISSING = "document missing"
    RAW_DAMAGED = "raw mail damaged"
    DOCUMENT_DAMAGED = "document damaged"
    RAW_ORPHAN = "raw mail without a row"
    DOCUMENT_ORPHAN = "document without a row"
    LEFT_BEHIND = "erased, but there"
    FOREIGN = "foreign object"
    NO_ORGANIZATION = "objects of no organization"
    MESSAGE_OVERDUE = "message overdue"
    DOCUMENT_OVERDUE = "document overdue"
    DOCUMENTS_LOST = "document rows missing"
    IMPOSSIBLE = "impossible row"
    SPOOLED = "spool entry left"
    DEAD = "dead letter"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: of which organization, with what, and what was done about it ("" for nothing)."""

    kind: FindingKind
    org: str
    subject: str
    detail: str
    fixed: str = ""


class DigestCheck(StrEnum):
    """Which objects are read to see that their bytes are what they were."""

    NONE = "none"
    SAMPLE = "sample"
    ALL = "all"


@dataclass(frozen=True)
class ReconcileOptions:
    """What is looked at, and what is done about it.

    `since` and `until` are about when mail was received and objects were put.
    """

    actor: str
    fix: bool = False
    run_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    digests: DigestCheck = DigestCheck.SAMPLE
    sample: int = 100
    overdue: timedelta = timedelta(minutes=15)
    object_age: timedelta = timedelta(hours=1)
    orphan_documents: bool = False

    def covers(self, moment: datetime) -> bool:
        """Return whether a time is selected."""
        return (self.since is None or self.since <= moment) and (self.until is None or moment < self.until)
