"""Retention: delete objects that their organization no longer keeps. The rows stay and record it.

An object is deleted when none of its rows needs it any more. A row needs its object while it is younger than the
organization's limit, and while work is left: a message that is not PARSED, a document that is not handed over, held
mail without a decision. What FAILED stays for a replay, unless `also_failed` is set. Raw mail stays as long as any
document of its message is not handed over.

The rows are marked first, with an event each. Then the object is deleted. After a kill in between, the next run finds
an object whose rows are all marked, and deletes it. The same document may arrive in new mail at that moment. So at the
end, attempts that workers have in hand are started again, since they write objects before rows. Then the rows are read
once more, and a message whose document is gone is extracted again from its raw mail.
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

from .reference_index import ReferenceIndex, join_by_key, key_prefix

_BATCH = 200
NEEDS_SQL = "erased IS NULL AND (unfinished OR received >= :cutoff OR (failed AND NOT :also_failed))"


@dataclass(frozen=True)
class RetentionRule:
    """For how many days objects are kept since their mail came (None: for ever), and whether of what FAILED too."""

    raw_days: int | None
    document_days: int | None
    also_failed: bool = False

    @property
    def is_any(self) -> bool:
        """Return whether the rule deletes anything."""
        return self.raw_days is not None or self.document_days is not None

    def cutoff(self, area: Area, now: datetime) -> datetime | None:
        """Return the time before which an object's mail must have been received for it to go."""
        days = self.raw_days if area is Area.RAW else self.document_days
        return None if days is None else now - timedelta(days=min(days, MOST_DAYS))


@dataclass
class RetentionResult:
    """What a retention did, or would do, with one kind of an organization's objects."""

    area: Area
    kept: int = 0
    objects: int = 0
    bytes: int = 0
    rows: int = 0
    busy: int = 0
    extracted_again: int = 0


def retention_rule(
    org: Organization, app: App, raw_days: int | None, document_days: int | None, *, also_failed: bool
) -> RetentionRule:
    """Return an organization's rule: its settings, or the given values in their place."""
    own = app.records.holdings.keeping(org.id)
    return RetentionRule(
        own.raw_days if raw_days is None else raw_days,
        own.document_days if document_days is None else document_days,
        also_failed,
    )


def apply_retention(
    org: Organization,
    rule: RetentionRule,
    app: App,
    actor: str,
    run_id: UUID | None = None,
    on_progress: Callable[[int], object] = lambda number: None,
    *,
    dry_run: bool = True,
) -> list[RetentionResult]:
    """Delete objects that an organization no longer keeps, or count what would go."""
    now = datetime.now(UTC)
    cutoffs = {area: cutoff for area in Area if (cutoff := rule.cutoff(area, now)) is not None}
    if not cutoffs:
        return []
    with ReferenceIndex() as index:
        index.load(app.records.holdings, org.id, on_progress)
        return [
            _RetentionPass(org, rule, app, actor, run_id, index, dry_run, area, cutoff).run()
            for area, cutoff in cutoffs.items()
        ]


@dataclass
class _RetentionPass:
    """One pass over one kind of an organization's objects."""

    org: Organization
    rule: RetentionRule
    app: App
    actor: str
    run_id: UUID | None
    index: ReferenceIndex
    dry_run: bool
    area: Area
    cutoff: datetime

    def run(self) -> RetentionResult:
        done = RetentionResult(self.area)
        values = {"cutoff": self.cutoff.timestamp(), "also_failed": self.rule.also_failed}
        groups = self.index.groups(self.area, NEEDS_SQL, **values)
        listing = self.app.archive.iterate(key_prefix(self.org.id, self.area))
        sizes: dict[str, int] = {}
        for listed, group in join_by_key(listing, groups):
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
        if self.area is Area.DOCUMENTS and not self.dry_run:
            done.extracted_again = extract_again_where_deleted(
                self.index, self.org.id, self.app, self.actor, self.run_id
            )
        return done

    def _delete(self, sizes: dict[str, int], done: RetentionResult) -> None:
        """Mark the rows of some objects, and delete those objects that nobody has come to need since."""

        def rows() -> Iterator[ObjectReference]:
            for key in sizes:
                yield from self.index.rows(self.area, key)

        going = set(sizes)
        if sizes and not self.dry_run:
            going = self.app.records.erasure.mark(self.org.id, rows, self._needs, self._erased_event)
            if self.area is Area.DOCUMENTS:
                self.index.record_deleted(going)
            for key in sorted(going):
                delete(key, self.app.archive)
        done.busy += len(sizes) - len(going)
        done.objects += len(going)
        done.bytes += sum(sizes[key] for key in going)
        done.rows += sum(row.key in going and row.erased_at is None for row in rows())

    def _needs(self, row: ObjectReference) -> bool:
        """Return whether a row needs its object by now: NEEDS_SQL in Python."""
        has_work = row.is_unfinished or row.received_at >= self.cutoff
        return row.erased_at is None and (has_work or (row.is_failed and not self.rule.also_failed))

    def _erased_event(self, row: ObjectReference) -> Event:
        return erased_event(row, self.actor, self.run_id, "retention")


def erased_event(row: ObjectReference, actor: str, run_id: UUID | None, why: str) -> Event:
    """Return the event that records the erasure of a row's object."""
    document = row.id if row.kind is Kind.DOCUMENT else None
    details = {"what": row.kind.area.value, "why": why}
    return Event(
        row.org_id, row.message_id, EventKind.ERASED, actor, datetime.now(UTC), document, run_id=run_id, details=details
    )


def extract_again_where_deleted(index: ReferenceIndex, org_id: int, app: App, actor: str, run_id: UUID | None) -> int:
    """Extract messages again whose row came while its object was deleted. Return how many.

    A worker that holds a message, and may have put such an object already, loses its lease, and another attempt begins.
    """
    if not index.has_deleted():
        return 0
    for id in app.records.erasure.unseat(org_id, app.records.database.now()):
        if begun := app.records.messages.get(org_id, id):
            enqueue_extraction(begun, app)
    found = 0
    for row in _live(app.records.holdings.iterate(org_id, Kind.DOCUMENT)):
        if not index.was_deleted(row.key) or has_object(row.org_id, row.key, app.archive):
            continue
        message = app.records.messages.get(org_id, row.message_id)
        now = datetime.now(UTC)
        event = Event(org_id, row.message_id, EventKind.REPLAYED, actor, now, run_id=run_id, details={"why": "erasure"})
        if message is not None and app.records.documents.extract_again(message, app.swept_at(), event):
            enqueue_extraction(message, app, is_live=False)
            found += 1
    return found


def _live(rows: Iterable[ObjectReference]) -> Iterator[ObjectReference]:
    return (row for row in rows if row.erased_at is None)
