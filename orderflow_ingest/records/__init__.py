"""The rows: the truth about every organisation, message and document. See `tables`."""

from contextlib import nullcontext

from ..breaker import Guard
from ..limits import Times
from .conflicts import Conflict, Conflicts
from .database import EVERY, NO_TENANT, Database, RecordsUnavailable
from .documents import Document, Documents, NewDocument, SkippedPart
from .events import Event, Events, add_events, operator_name
from .messages import InboundMessage, Known, Mail, Messages, NewMessage
from .organizations import Organization, OrganizationExists, Organizations, recipients_path
from .restoring import Came, Charter, OfHeld, OfMessage, OrganizationDiffers, Restoring
from .runs import Run, Runs
from .selection import Filter

__all__ = [
    "EVERY",
    "NO_TENANT",
    "Came",
    "Charter",
    "Conflict",
    "Conflicts",
    "Database",
    "Document",
    "Documents",
    "Event",
    "Events",
    "Filter",
    "InboundMessage",
    "Known",
    "Mail",
    "Messages",
    "NewDocument",
    "NewMessage",
    "OfHeld",
    "OfMessage",
    "Organization",
    "OrganizationDiffers",
    "OrganizationExists",
    "Organizations",
    "Records",
    "RecordsUnavailable",
    "Restoring",
    "Run",
    "Runs",
    "SkippedPart",
    "add_events",
    "operator_name",
    "recipients_path",
]


class Records:
    """The tables behind one database URL; `Database` says what the arguments are."""

    def __init__(self, url: str, create: bool = False, times: Times | None = None, guard: Guard = nullcontext):
        self.database = Database(url, create, times, guard)
        self.organizations = Organizations(self.database)
        self.messages = Messages(self.database)
        self.conflicts = Conflicts(self.database, self.messages)
        self.documents = Documents(self.database, self.messages)
        self.events = Events(self.database)
        self.runs = Runs(self.database)
        self.restoring = Restoring(self.database)
