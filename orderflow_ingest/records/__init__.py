"""The rows: the truth about every organisation, message and document. See `tables`."""

from datetime import timedelta

from ..breaker import Guard, unguarded
from ..limits import Times
from .census import Census, take_census
from .conflicts import Conflict, Conflicts, IdentityTaken
from .database import EVERY, NO_TENANT, Database, RecordsUnavailable
from .documents import Document, Documents, NewDocument, SkippedPart
from .erasure import Erasure
from .events import Event, Events, add_events, operator_name
from .figures import Figures, Numbers, Share, Slot, quantile
from .holdings import ODD_KEY, Area, Holding, Holdings, Keeping, Kind
from .messages import InboundMessage, Known, Mail, Messages, NewMessage
from .organizations import Organization, OrganizationExists, Organizations, recipients_path
from .overview import LastError, Lately, OfOrganization, Overview
from .restoring import Came, Charter, OfHeld, OfMessage, OrganizationDiffers, Restoring
from .runs import Run, Runs
from .selection import Filter, Place

__all__ = [
    "EVERY",
    "NO_TENANT",
    "ODD_KEY",
    "Area",
    "Came",
    "Census",
    "Charter",
    "Conflict",
    "Conflicts",
    "Database",
    "Document",
    "Documents",
    "Erasure",
    "Event",
    "Events",
    "Figures",
    "Filter",
    "Holding",
    "Holdings",
    "IdentityTaken",
    "InboundMessage",
    "Keeping",
    "Kind",
    "Known",
    "LastError",
    "Lately",
    "Mail",
    "Messages",
    "NewDocument",
    "NewMessage",
    "Numbers",
    "OfHeld",
    "OfMessage",
    "OfOrganization",
    "Organization",
    "OrganizationDiffers",
    "OrganizationExists",
    "Organizations",
    "Overview",
    "Place",
    "Records",
    "RecordsUnavailable",
    "Restoring",
    "Run",
    "Runs",
    "Share",
    "SkippedPart",
    "Slot",
    "add_events",
    "operator_name",
    "quantile",
    "recipients_path",
    "take_census",
]


class Records:
    """The tables behind one database URL; `Database` says what the arguments are."""

    def __init__(
        self,
        url: str,
        create: bool = False,
        times: Times | None = None,
        guard: Guard = unguarded,
        longest_delay: timedelta | None = None,
    ):
        self.database = Database(url, create, times, guard, longest_delay)
        self.organizations = Organizations(self.database)
        self.messages = Messages(self.database)
        self.conflicts = Conflicts(self.database, self.messages)
        self.documents = Documents(self.database, self.messages)
        self.events = Events(self.database)
        self.runs = Runs(self.database)
        self.overview = Overview(self.database)
        self.holdings = Holdings(self.database)
        self.erasure = Erasure(self.database)
        self.restoring = Restoring(self.database)
        self.figures = Figures(self.database)
