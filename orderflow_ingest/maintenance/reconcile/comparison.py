"""Comparison of the rows and objects of one organization, with the repairs that a run may make.

Each finding is checked twice before it is reported. The header of `reconciler` lists the repairs.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime

from orderflow_ingest.app import App
from orderflow_ingest.domain.object_keys import is_decision
from orderflow_ingest.domain.states import EventKind, Status
from orderflow_ingest.maintenance.reference_index import (
    ReferenceGroup,
    ReferenceIndex,
    digest_of,
    join_by_key,
    key_prefix,
)
from orderflow_ingest.maintenance.retention import extract_again_where_deleted
from orderflow_ingest.pipeline.deliver import enqueue_extraction
from orderflow_ingest.storage.archive import (
    Listed,
    ObjectDamaged,
    ObjectMissing,
    has_object,
    has_whole_object,
    read_object,
)
from orderflow_ingest.storage.database import Area, Event, Kind, ObjectReference, Organization

from . import orphans
from .findings import DigestCheck, Finding, FindingKind, ReconcileOptions
from .orphans import OrphanKind

_MISSING = {
    Kind.MESSAGE: FindingKind.RAW_MISSING,
    Kind.HELD: FindingKind.HELD_MISSING,
    Kind.DOCUMENT: FindingKind.DOCUMENT_MISSING,
}
_DAMAGED = {
    Kind.MESSAGE: FindingKind.RAW_DAMAGED,
    Kind.HELD: FindingKind.RAW_DAMAGED,
    Kind.DOCUMENT: FindingKind.DOCUMENT_DAMAGED,
}


class Comparison:
    """Compares the rows and objects of one organization."""

    def __init__(self, org: Organization, scope: ReconcileOptions, app: App):
        self._org, self._scope, self._app = org, scope, app
        self._old = datetime.now(UTC) - scope.object_age
        self._samples: dict[Area, list[str]] = {area: [] for area in Area}

    def impossible_rows(self, index: ReferenceIndex) -> Iterator[Finding]:
        """Yield impossible rows, and messages whose number of documents differs from that of their extraction."""
        for row in index.odd():
            now = self._app.records.holdings.again(row)
            if now is not None and now.odd and self._scope.covers(now.received_at):
                yield self._finding(FindingKind.IMPOSSIBLE, f"{now.kind} {now.id}", now.odd)
        for row in index.wrong_document_counts():
            now = self._app.records.holdings.again(row)
            count = self._app.records.holdings.count_documents(row.org_id, row.id)
            if now is not None and now.documents not in (None, count) and self._scope.covers(now.received_at):
                says = f"{count} of {now.documents} documents have a row"
                yield self._finding(FindingKind.DOCUMENTS_LOST, f"message {row.id}", says, self._extract_again(row))

    def objects(self, index: ReferenceIndex, area: Area) -> Iterator[Finding]:
        """Join what is listed with what rows name."""
        listing = self._app.archive.iterate(key_prefix(self._org.id, area))
        seen = 0
        for listed, group in join_by_key(listing, index.groups(area)):
            if listed is None and group is not None:
                yield from self._missing(index, area, group) if group.needed else ()
            elif listed is not None and group is None:
                yield from self._without_row(index, area, listed)
            elif listed is not None and group is not None:
                seen += 1
                yield from self._both(index, area, listed, group, seen)
        for key in self._samples[area]:
            yield from self._verified(index, area, key)

    def orphan_documents(self, index: ReferenceIndex) -> Iterator[Finding]:
        """Yield documents that no row names, after the rows were read once more."""
        if next(index.orphan_candidates(), None) is None:
            return
        index.drop_orphan_candidates(self._app.records.holdings.iterate(self._org.id, Kind.DOCUMENT))
        for key, size in index.orphan_candidates():
            fixed = ""
            if self._scope.fix and self._scope.orphan_documents:
                index.record_deleted([key])
                self._app.archive.delete(key)
                fixed = "deleted"
            yield self._finding(FindingKind.DOCUMENT_ORPHAN, key, f"{size} bytes", fixed)
        extract_again_where_deleted(index, self._org.id, self._app, self._scope.actor, self._scope.run_id)

    def overdue(self) -> Iterator[Finding]:
        """Yield work that should have begun long ago, and enqueue it."""
        before = self._app.records.database.now() - self._scope.overdue
        queue = self._app.queue
        for kind, finding_kind, call in (
            (Kind.MESSAGE, FindingKind.MESSAGE_OVERDUE, queue.enqueue_extraction),
            (Kind.DOCUMENT, FindingKind.DOCUMENT_OVERDUE, queue.enqueue_hand_over),
        ):
            for id, due in self._app.records.holdings.overdue(self._org.id, kind, before):
                fixed = ""
                if self._scope.fix:
                    call(self._org.id, id)
                    fixed = "rung for"
                yield self._finding(finding_kind, f"{kind} {id}", f"due since {due:%Y-%m-%d %H:%M:%SZ}", fixed)

    def _both(
        self, index: ReferenceIndex, area: Area, listed: Listed, group: ReferenceGroup, seen: int
    ) -> Iterator[Finding]:
        if not group.needed:
            yield from self._left_behind(index, area, listed, group)
        elif self._scope.digests is DigestCheck.ALL:
            yield from self._verified(index, area, group.key)
        elif self._scope.digests is DigestCheck.SAMPLE:
            chosen = self._samples[area]
            if len(chosen) < self._scope.sample:
                chosen.append(group.key)
            elif (place := random.randrange(seen)) < self._scope.sample:  # noqa: S311
                chosen[place] = group.key

    def _left_behind(
        self, index: ReferenceIndex, area: Area, listed: Listed, group: ReferenceGroup
    ) -> Iterator[Finding]:
        if listed.put_at > self._old or not self._scope.covers(listed.put_at):
            return
        again = (self._app.records.holdings.again(row) for row in index.rows(area, group.key))
        if any(row is not None and row.erased_at is None for row in again):
            return
        fixed = ""
        if self._scope.fix:
            self._app.archive.delete(listed.key)
            fixed = "deleted"
        yield self._finding(FindingKind.LEFT_BEHIND, listed.key, f"{group.rows} rows say that it was erased", fixed)

    def _missing(self, index: ReferenceIndex, area: Area, group: ReferenceGroup) -> Iterator[Finding]:
        if has_object(self._org.id, group.key, self._app.archive):
            return
        yield from self._of_rows(index, area, group.key, _MISSING, "its object is not in the archive")

    def _verified(self, index: ReferenceIndex, area: Area, key: str) -> Iterator[Finding]:
        try:
            read_object(self._org.id, key, digest_of(key, self._org.id, area), self._app.archive)
        except ObjectDamaged:
            yield from self._of_rows(index, area, key, _DAMAGED, "its bytes are not those that were put")
        except ObjectMissing:  # it went since the listing: a retention, or a loss that the next run tells
            return

    def _of_rows(
        self, index: ReferenceIndex, area: Area, key: str, troubles: dict[Kind, FindingKind], says: str
    ) -> Iterator[Finding]:
        """Yield a finding for each row that still needs an object, and extract documents' messages again."""
        for row in index.rows(area, key):
            now = self._app.records.holdings.again(row)
            if now is None or now.erased_at is not None or not self._scope.covers(now.received_at):
                continue
            if area is Area.DOCUMENTS and self._is_to_be_extracted(now):
                continue
            fixed = self._extract_again(now) if area is Area.DOCUMENTS else ""
            yield self._finding(troubles[now.kind], f"{now.kind} {now.id}", says, fixed)

    def _is_to_be_extracted(self, row: ObjectReference) -> bool:
        """Return whether the message of a document will be extracted anyway, which writes its object again."""
        message = self._app.records.messages.get(row.org_id, row.message_id)
        return message is not None and message.status is Status.RECEIVED

    def _extract_again(self, row: ObjectReference) -> str:
        """Set the message of a row back to RECEIVED, if its raw mail is whole. Return what was done."""
        if not self._scope.fix:
            return ""
        message = self._app.records.messages.get(row.org_id, row.message_id)
        if message is None or message.erased_at:
            return ""
        if not has_whole_object(message.org_id, message.raw_key, message.digest, self._app.archive):
            return ""  # a message that cannot be read again would become FAILED by it
        now = datetime.now(UTC)
        event = Event(
            message.org_id, message.id, EventKind.REPLAYED, self._scope.actor, now, run_id=self._scope.run_id,
            details={"why": "reconcile"},
        )  # fmt: skip
        if self._app.records.documents.extract_again(message, self._app.swept_at(), event):
            enqueue_extraction(message, self._app, is_live=False)
        return f"message {message.id} is extracted again"

    def _without_row(self, index: ReferenceIndex, area: Area, listed: Listed) -> Iterator[Finding]:
        digest = digest_of(listed.key, self._org.id, area)
        if is_decision(listed.key):
            return
        if not digest:
            yield self._finding(FindingKind.FOREIGN, listed.key, "no program of ours gives such a key")
        elif listed.put_at > self._old or not self._scope.covers(listed.put_at):
            return
        elif area is Area.DOCUMENTS:
            index.add_orphan_candidate(listed.key, listed.size)
        else:
            yield from self._raw_orphan(listed, digest)

    def _raw_orphan(self, listed: Listed, digest: str) -> Iterator[Finding]:
        what, raw = orphans.classify_orphan(listed, digest, self._org, self._app)
        fixed = ""
        if self._scope.fix and self._org.is_active:
            mended = {
                OrphanKind.COPY: "deleted",
                OrphanKind.UNKNOWN: "recorded",
                OrphanKind.OTHER_CONTENT: "recorded, and held",
            }
            fixed = mended.get(what, "")
        if what is OrphanKind.NONE or (fixed and not self._mend_orphan(what, listed, digest, raw)):
            return  # a row names it by now
        yield self._finding(FindingKind.RAW_ORPHAN, listed.key, what.value, fixed)

    def _mend_orphan(self, what: OrphanKind, listed: Listed, digest: str, raw: bytes) -> bool:
        if what is OrphanKind.COPY:
            return orphans.remove_copy(listed, digest, raw, self._org, self._app)
        return orphans.record_orphan(listed, raw, self._org, self._app, self._scope.actor)

    def _finding(self, kind: FindingKind, about: str, says: str, fixed: str = "") -> Finding:
        return Finding(kind, self._org.slug, about, says, fixed)
