"""The rows: the truth about every organization, message and document. See `tables`."""

from datetime import timedelta

from orderflow_ingest.storage.resilience.circuit_breaker import Guard, unguarded
from orderflow_ingest.storage.resilience.timeouts import Timeouts

from .backlog import Backlog, count_backlog
from .connection import ALL_TENANTS, NO_TENANT, Database, DatabaseUnavailable
from .documents import Documents
from .erasure import Erasure
from .events import Events, add_events, operator_name
from .held_mail import HeldMails, IdentityTakenError
from .messages import ExistingMessage, Messages
from .object_references import ODD_KEY, Area, Keeping, Kind, ObjectReference, ObjectReferences
from .organizations import Organization, OrganizationExistsError, Organizations, recipients_path
from .overview import LastError, OrganizationCounts, Overview, RecentCounts
from .rebuild_writes import (
    OrganizationMismatchError,
    OrganizationRecord,
    Presence,
    RebuildWrites,
    RebuiltHeld,
    RebuiltMessage,
)
from .rows import Document, Event, HeldMail, InboundMessage, Mail, NewDocument, NewMessage, SkippedPart
from .runs import Run, Runs
from .selection import Cursor, Filter
from .statistics import Figures, Numbers, OrgCount, TimeBucket, quantile

__all__ = [
    "ALL_TENANTS",
    "NO_TENANT",
    "ODD_KEY",
    "Area",
    "Backlog",
    "Cursor",
    "Database",
    "DatabaseUnavailable",
    "Document",
    "Documents",
    "Erasure",
    "Event",
    "Events",
    "ExistingMessage",
    "Figures",
    "Filter",
    "HeldMail",
    "HeldMails",
    "IdentityTakenError",
    "InboundMessage",
    "Keeping",
    "Kind",
    "LastError",
    "Mail",
    "Messages",
    "NewDocument",
    "NewMessage",
    "Numbers",
    "ObjectReference",
    "ObjectReferences",
    "OrgCount",
    "Organization",
    "OrganizationCounts",
    "OrganizationExistsError",
    "OrganizationMismatchError",
    "OrganizationRecord",
    "Organizations",
    "Overview",
    "Presence",
    "RebuildWrites",
    "RebuiltHeld",
    "RebuiltMessage",
    "RecentCounts",
    "Records",
    "Run",
    "Runs",
    "SkippedPart",
    "TimeBucket",
    "add_events",
    "count_backlog",
    "operator_name",
    "quantile",
    "recipients_path",
]


class Records:
    """The tables behind one database URL. `Database` says what the arguments are."""

    def __init__(
        self,
        url: str,
        times: Timeouts | None = None,
        guard: Guard = unguarded,
        longest_delay: timedelta | None = None,
        *,
        create: bool = False,
    ):
        self.database = Database(url, times, guard, longest_delay, create=create)
        self.organizations = Organizations(self.database)
        self.messages = Messages(self.database)
        self.held_mail = HeldMails(self.database, self.messages)
        self.documents = Documents(self.database, self.messages)
        self.events = Events(self.database)
        self.runs = Runs(self.database)
        self.overview = Overview(self.database)
        self.holdings = ObjectReferences(self.database)
        self.erasure = Erasure(self.database)
        self.rebuild_writes = RebuildWrites(self.database)
        self.statistics = Figures(self.database)
