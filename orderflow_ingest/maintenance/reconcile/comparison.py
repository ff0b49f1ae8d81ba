"""Rows and objects of one organisation, held against each other; each finding is looked at twice before it is told.

Its mends are in the header of `reconcile`.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime

from orderflow_ingest.app import App
from orderflow_ingest.domain.object_keys import is_decision
from orderflow_ingest.domain.states import EventKind, Status
from orderflow_ingest.maintenance.reference_index import Group, ReferenceIndex, digest_of, joined, prefix
from orderflow_ingest.maintenance.retention import look_again
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
from .findings import Digests, Finding, Scope, Trouble
from .orphans import Orphan

_MISSING = {
    Kind.MESSAGE: Trouble.RAW_MISSING,
    Kind.HELD: Trouble.HELD_MISSING,
    Kind.DOCUMENT: Trouble.DOCUMENT_MISSING,
}
_DAMAGED = {
    Kind.MESSAGE: Trouble.RAW_DAMAGED,
    Kind.HELD: Trouble.RAW_DAMAGED,
    Kind.DOCUMENT: Trouble.DOCUMENT_DAMAGED,
}


class Comparison:
    """One organisation's rows and objects, held against each other as a scope says."""

    def __init__(self, org: Organization, scope: Scope, app: App):
        self._org, self._scope, self._app = org, scope, app
        self._old = datetime.now(UTC) - scope.object_age
        self._samples: dict[Area, list[str]] = {area: [] for area in Area}

    def odd_rows(self, ledger: ReferenceIndex) -> Iterator[Finding]:
        """Tell rows that say what cannot be, and messages whose documents are fewer or more than was told."""
        for row in ledger.odd():
            now = self._app.records.holdings.again(row)
            if now is not None and now.odd and self._scope.covers(now.received_at):
                yield self._finding(Trouble.IMPOSSIBLE, f"{now.kind} {now.id}", now.odd)
        for row in ledger.short():
            now = self._app.records.holdings.again(row)
            count = self._app.records.holdings.count_documents(row.org_id, row.id)
            if now is not None and now.documents not in (None, count) and self._scope.covers(now.received_at):
                says = f"{count} of {now.documents} documents have a row"
                yield self._finding(Trouble.DOCUMENTS_LOST, f"message {row.id}", says, self._extract_again(row))

    def objects(self, ledger: ReferenceIndex, area: Area) -> Iterator[Finding]:
        """Join what is listed with what rows name."""
        listing = self._app.archive.iterate(prefix(self._org.id, area))
        seen = 0
        for listed, group in joined(listing, ledger.groups(area)):
            if listed is None and group is not None:
                yield from self._missing(ledger, area, group) if group.needed else ()
            elif listed is not None and group is None:
                yield from self._without_row(ledger, area, listed)
            elif listed is not None and group is not None:
                seen += 1
                yield from self._both(ledger, area, listed, group, seen)
        for key in self._samples[area]:
            yield from self._verified(ledger, area, key)

    def orphan_documents(self, ledger: ReferenceIndex) -> Iterator[Finding]:
        """Tell documents that no row names, when the rows were read once more."""
        if next(ledger.suspects(), None) is None:
            return
        ledger.acquit(self._app.records.holdings.iterate(self._org.id, Kind.DOCUMENT))
        for key, size in ledger.suspects():
            fixed = ""
            if self._scope.fix and self._scope.orphan_documents:
                ledger.note_gone([key])
                self._app.archive.delete(key)
                fixed = "deleted"
            yield self._finding(Trouble.DOCUMENT_ORPHAN, key, f"{size} bytes", fixed)
        look_again(ledger, self._org.id, self._app, self._scope.actor, self._scope.run_id)

    def overdue(self) -> Iterator[Finding]:
        """Tell what should have been begun long ago, and ring for it."""
        before = self._app.records.database.now() - self._scope.overdue
        queue = self._app.queue
        for kind, trouble, call in (
            (Kind.MESSAGE, Trouble.MESSAGE_OVERDUE, queue.enqueue_extraction),
            (Kind.DOCUMENT, Trouble.DOCUMENT_OVERDUE, queue.enqueue_hand_over),
        ):
            for id, due in self._app.records.holdings.overdue(self._org.id, kind, before):
                fixed = ""
                if self._scope.fix:
                    call(self._org.id, id)
                    fixed = "rung for"
                yield self._finding(trouble, f"{kind} {id}", f"due since {due:%Y-%m-%d %H:%M:%SZ}", fixed)

    def _both(self, ledger: ReferenceIndex, area: Area, listed: Listed, group: Group, seen: int) -> Iterator[Finding]:
        if not group.needed:
            yield from self._left_behind(ledger, area, listed, group)
        elif self._scope.digests is Digests.ALL:
            yield from self._verified(ledger, area, group.key)
        elif self._scope.digests is Digests.SAMPLE:
            chosen = self._samples[area]
            if len(chosen) < self._scope.sample:
                chosen.append(group.key)
            elif (place := random.randrange(seen)) < self._scope.sample:  # noqa: S311
                chosen[place] = group.key

    def _left_behind(self, ledger: ReferenceIndex, area: Area, listed: Listed, group: Group) -> Iterator[Finding]:
        if listed.put_at > self._old or not self._scope.covers(listed.put_at):
            return
        again = (self._app.records.holdings.again(row) for row in ledger.rows(area, group.key))
        if any(row is not None and row.erased_at is None for row in again):
            return
        fixed = ""
        if self._scope.fix:
            self._app.archive.delete(listed.key)
            fixed = "deleted"
        yield self._finding(Trouble.LEFT_BEHIND, listed.key, f"{group.rows} rows say that it was erased", fixed)

    def _missing(self, ledger: ReferenceIndex, area: Area, group: Group) -> Iterator[Finding]:
        if has_object(self._org.id, group.key, self._app.archive):
            return
        yield from self._of_rows(ledger, area, group.key, _MISSING, "its object is not in the archive")

    def _verified(self, ledger: ReferenceIndex, area: Area, key: str) -> Iterator[Finding]:
        try:
            read_object(self._org.id, key, digest_of(key, self._org.id, area), self._app.archive)
        except ObjectDamaged:
            yield from self._of_rows(ledger, area, key, _DAMAGED, "its bytes are not those that were put")
        except ObjectMissing:  # it went since the listing: a retention, or a loss that the next run tells
            return

    def _of_rows(
        self, ledger: ReferenceIndex, area: Area, key: str, troubles: dict[Kind, Trouble], says: str
    ) -> Iterator[Finding]:
        """Tell what is wrong with an object for each row that needs it still, and extract documents' messages again."""
        for row in ledger.rows(area, key):
            now = self._app.records.holdings.again(row)
            if now is None or now.erased_at is not None or not self._scope.covers(now.received_at):
                continue
            if area is Area.DOCUMENTS and self._is_to_be_extracted(now):
                continue
            fixed = self._extract_again(now) if area is Area.DOCUMENTS else ""
            yield self._finding(troubles[now.kind], f"{now.kind} {now.id}", says, fixed)

    def _is_to_be_extracted(self, row: ObjectReference) -> bool:
        """Tell whether the message of a document will be extracted anyway, which puts the document's object again."""
        message = self._app.records.messages.get(row.org_id, row.message_id)
        return message is not None and message.status is Status.RECEIVED

    def _extract_again(self, row: ObjectReference) -> str:
        """Lead the message of a row back to RECEIVED, if its raw mail is whole; say what was done."""
        if not self._scope.fix:
            return ""
        message = self._app.records.messages.get(row.org_id, row.message_id)
        if message is None or message.erased_at:
            return ""
        if not has_whole_object(message.org_id, message.raw_key, message.digest, self._app.archive):
            return ""  # a message that cannot be read again would become FAILED by it
        now = datetime.now(UTC)
        told = Event(
            message.org_id, message.id, EventKind.REPLAYED, self._scope.actor, now, run_id=self._scope.run_id,
            details={"why": "reconcile"},
        )  # fmt: skip
        if self._app.records.documents.extract_again(message, self._app.swept_at(), told):
            enqueue_extraction(message, self._app, is_live=False)
        return f"message {message.id} is extracted again"

    def _without_row(self, ledger: ReferenceIndex, area: Area, listed: Listed) -> Iterator[Finding]:
        digest = digest_of(listed.key, self._org.id, area)
        if is_decision(listed.key):
            return
        if not digest:
            yield self._finding(Trouble.FOREIGN, listed.key, "no program of ours gives such a key")
        elif listed.put_at > self._old or not self._scope.covers(listed.put_at):
            return
        elif area is Area.DOCUMENTS:
            ledger.suspect(listed.key, listed.size)
        else:
            yield from self._raw_orphan(listed, digest)

    def _raw_orphan(self, listed: Listed, digest: str) -> Iterator[Finding]:
        what, raw = orphans.judge(listed, digest, self._org, self._app)
        fixed = ""
        if self._scope.fix and self._org.is_active:
            mended = {Orphan.COPY: "deleted", Orphan.UNKNOWN: "recorded", Orphan.OTHER_CONTENT: "recorded, and held"}
            fixed = mended.get(what, "")
        if what is Orphan.NONE or (fixed and not self._mend_orphan(what, listed, digest, raw)):
            return  # a row names it by now
        yield self._finding(Trouble.RAW_ORPHAN, listed.key, what.value, fixed)

    def _mend_orphan(self, what: Orphan, listed: Listed, digest: str, raw: bytes) -> bool:
        if what is Orphan.COPY:
            return orphans.remove_copy(listed, digest, raw, self._org, self._app)
        return orphans.record(listed, raw, self._org, self._app, self._scope.actor)

    def _finding(self, trouble: Trouble, about: str, says: str, fixed: str = "") -> Finding:
        return Finding(trouble, self._org.slug, about, says, fixed)
