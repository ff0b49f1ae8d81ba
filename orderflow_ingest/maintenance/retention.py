"""Retention: the objects that their organisation does not keep any longer go; the rows stay, and say so.

An object goes when none of the rows that name it needs it any more. A row needs its object while it is younger than
the organisation keeps such objects, and while there is something to do: a message that is not PARSED, a document that
is not handed over, held mail that nobody has decided on; what FAILED stays for a replay unless `also_failed`. Raw mail
stays as long as any of its message's documents is not handed over.

The rows are marked, with an event each, and then the object is deleted. Killed in between, the next run finds an
object in the listing all of whose rows are marked, and deletes it. A document may come again with new mail in the
moment in which it is deleted: so at the end what workers have in hand is begun anew, since they put objects before
rows; then the rows are read once more, and the message of one whose document is gone is extracted again from its raw
mail.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.org_settings import MOST_DAYS
from orderflow_ingest.domain.states import EventKind
from orderflow_ingest.pipeline.archive_manifest import delete
from orderflow_ingest.pipeline.deliver import enqueue_extraction
from orderflow_ingest.storage.archive import has_object
from orderflow_ingest.storage.database import Area, Event, Kind, ObjectReference, Organization

from .reference_index import ReferenceIndex, joined, prefix

_BATCH = 200
NEEDS = "erased IS NULL AND (unfinished OR received >= :cutoff OR (failed AND NOT :also_failed))"


@dataclass(frozen=True)
class Rule:
    """How many days an organisation's objects are kept since their mail came (None: for ever); also of what FAILED."""

    raw_days: int | None
    document_days: int | None
    also_failed: bool = False

    @property
    def is_any(self) -> bool:
        """Tell whether anything goes at all."""
        return self.raw_days is not None or self.document_days is not None

    def cutoff(self, area: Area, now: datetime) -> datetime | None:
        """Say what objects must be older than, by the time their mail came, to go."""
        days = self.raw_days if area is Area.RAW else self.document_days
        return None if days is None else now - timedelta(days=min(days, MOST_DAYS))


@dataclass
class Retained:
    """What a retention did, or would do, with one kind of an organisation's objects."""

    area: Area
    kept: int = 0
    objects: int = 0
    bytes: int = 0
    rows: int = 0
    busy: int = 0
    extracted_again: int = 0


def rule_of(org: Organization, app: App, raw_days: int | None, document_days: int | None, also_failed: bool) -> Rule:
    """Give an organisation's rule: its settings, or what is said instead."""
    own = app.records.holdings.keeping(org.id)
    return Rule(
        own.raw_days if raw_days is None else raw_days,
        own.document_days if document_days is None else document_days,
        also_failed,
    )


def retain(
    org: Organization,
    rule: Rule,
    app: App,
    actor: str,
    run_id: UUID | None = None,
    is_dry: bool = True,
    walked: Callable[[int], object] = lambda number: None,
) -> list[Retained]:
    """Delete what an organisation does not keep any longer, or tell what would go."""
    now = datetime.now(UTC)
    cutoffs = {area: cutoff for area in Area if (cutoff := rule.cutoff(area, now)) is not None}
    if not cutoffs:
        return []
    with ReferenceIndex() as ledger:
        ledger.read(app.records.holdings, org.id, walked)
        return [
            _Pass(org, rule, app, actor, run_id, ledger, is_dry, area, cutoff).run() for area, cutoff in cutoffs.items()
        ]


@dataclass
class _Pass:
    """One pass over one kind of an organisation's objects."""

    org: Organization
    rule: Rule
    app: App
    actor: str
    run_id: UUID | None
    ledger: ReferenceIndex
    is_dry: bool
    area: Area
    cutoff: datetime

    def run(self) -> Retained:
        done = Retained(self.area)
        values = {"cutoff": self.cutoff.timestamp(), "also_failed": self.rule.also_failed}
        groups = self.ledger.groups(self.area, NEEDS, **values)
        listing = self.app.archive.iterate(prefix(self.org.id, self.area))
        sizes: dict[str, int] = {}
        for listed, group in joined(listing, groups):
            if listed is None or group is None:
                continue
            if group.needed:
                done.kept += 1
                continue
            sizes[group.key] = listed.size
            if len(sizes) >= _BATCH:
                self._delete(sizes, done)
                sizes = {}
        self._delete(sizes, done)
        if self.area is Area.DOCUMENTS and not self.is_dry:
            done.extracted_again = look_again(self.ledger, self.org.id, self.app, self.actor, self.run_id)
        return done

    def _delete(self, sizes: dict[str, int], done: Retained) -> None:
        """Mark the rows of some objects, and delete those objects that nobody has come to need since."""

        def rows() -> Iterator[ObjectReference]:
            for key in sizes:
                yield from self.ledger.rows(self.area, key)

        going = set(sizes)
        if sizes and not self.is_dry:
            going = self.app.records.erasure.mark(self.org.id, rows, self._needs, self._told)
            if self.area is Area.DOCUMENTS:
                self.ledger.note_gone(going)
            for key in sorted(going):
                delete(key, self.app.archive)
        done.busy += len(sizes) - len(going)
        done.objects += len(going)
        done.bytes += sum(sizes[key] for key in going)
        done.rows += sum(row.key in going and row.erased_at is None for row in rows())

    def _needs(self, row: ObjectReference) -> bool:
        """Tell whether a row needs its object by now: the same as NEEDS says in SQL."""
        has_work = row.is_unfinished or row.received_at >= self.cutoff
        return row.erased_at is None and (has_work or (row.is_failed and not self.rule.also_failed))

    def _told(self, row: ObjectReference) -> Event:
        return erased_event(row, self.actor, self.run_id, "retention")


def erased_event(row: ObjectReference, actor: str, run_id: UUID | None, why: str) -> Event:
    """Tell that a row's object was erased."""
    document = row.id if row.kind is Kind.DOCUMENT else None
    details = {"what": row.kind.area.value, "why": why}
    return Event(
        row.org_id, row.message_id, EventKind.ERASED, actor, datetime.now(UTC), document, run_id=run_id, details=details
    )


def look_again(ledger: ReferenceIndex, org_id: int, app: App, actor: str, run_id: UUID | None) -> int:
    """Find rows that came while their object was deleted, and have their messages extracted again: give how many.

    Who is at a message, and may have put such an object already, loses it, and it is begun anew.
    """
    if not ledger.has_gone():
        return 0
    for id in app.records.erasure.unseat(org_id, app.records.database.now()):
        if begun := app.records.messages.get(org_id, id):
            enqueue_extraction(begun, app)
    found = 0
    for row in _live(app.records.holdings.iterate(org_id, Kind.DOCUMENT)):
        if not ledger.is_gone(row.key) or has_object(row.org_id, row.key, app.archive):
            continue
        message = app.records.messages.get(org_id, row.message_id)
        now = datetime.now(UTC)
        told = Event(org_id, row.message_id, EventKind.REPLAYED, actor, now, run_id=run_id, details={"why": "erasure"})
        if message is not None and app.records.documents.extract_again(message, app.swept_at(), told):
            enqueue_extraction(message, app, is_live=False)
            found += 1
    return found


def _live(rows: Iterable[ObjectReference]) -> Iterator[ObjectReference]:
    return (row for row in rows if row.erased_at is None)
