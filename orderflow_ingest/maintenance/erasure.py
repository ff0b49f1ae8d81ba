"""Erasure: delete everything about an organization, a sender within one, or one mail.

    spool       entries and dead letters of this host
    archive     raw mail and documents with their metadata. Of an organization, everything below its prefix; of a
                sender, also raw mail without a row
    database    messages, documents, skipped parts, held mail, events, what operators typed about the sender, and an
                organization's name and settings. The organization's row stays, disabled, so that nobody else gets its
                address
    queue       nothing: a task holds ids only, and finds no row

Objects are deleted before their rows. A run that was killed can therefore be repeated: it finds the objects by their
rows, and ends the same. Before that, the messages are taken from the workers, because a worker that extracts one
writes objects for it. A message that a worker has in hand stays, and is counted in `in_hand`. An object that another
row needs stays too: two buyers may send the same form. Mail that arrives after the start is new mail and stays. An
organization must be disabled first.

Held mail of another sender that reuses the Message-ID of an erased message stays held.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.identity import read_message
from orderflow_ingest.domain.object_keys import decision_key
from orderflow_ingest.pipeline.archive_manifest import delete
from orderflow_ingest.storage.archive import Listed, ObjectDamaged, ObjectMissing
from orderflow_ingest.storage.database import Area, Filter, Kind, ObjectReference, Organization

from .reconcile.spool import SpooledMail, read_entry
from .reference_index import ReferenceIndex, digest_of, join_by_key, key_prefix
from .retention import extract_again_where_deleted

_PAGE = 500
_LEASE = timedelta(hours=1)
_ORPHAN_AGE = timedelta(hours=1)


@dataclass(frozen=True)
class ErasureRequest:
    """What to erase of an organization: everything, the mail of a sender's address, or one mail."""

    org: Organization
    sender: str | None = None
    mail_id: UUID | None = None

    @property
    def is_of_all(self) -> bool:
        """Return whether the whole organization is to be erased."""
        return self.sender is None and self.mail_id is None


@dataclass
class ErasureResult:
    """What was erased, or would be. `in_hand`, `unreadable` and `shared` are what stays."""

    spool_entries: int = 0
    dead_letters: int = 0
    messages: int = 0
    held: int = 0
    raw_objects: int = 0
    document_objects: int = 0
    bytes: int = 0
    runs_blanked: int = 0
    extracted_again: int = 0
    shared: int = 0
    in_hand: int = 0
    unreadable: int = 0

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is left for another run."""
        return not self.in_hand


def erase(
    request: ErasureRequest,
    app: App,
    actor: str,
    run_id: UUID | None = None,
    on_progress: Callable[[int], object] = lambda number: None,
    *,
    dry_run: bool = True,
) -> ErasureResult:
    """Erase what a request names, or count what would go. Can be repeated after a kill."""
    done = ErasureResult()
    work = _Erasure(request, app, dry_run, done)
    work.spool()
    with ReferenceIndex() as index:
        in_hand = work.take()
        index.load(app.records.holdings, request.org.id, on_progress)
        work.choose(index, in_hand)
        for area in Area:
            work.objects(index, area)
        work.rows(index)
        work.left(in_hand)
        if not dry_run and not request.is_of_all:
            done.extracted_again = extract_again_where_deleted(index, request.org.id, app, actor, run_id)
    if request.is_of_all and not in_hand:
        work.rest()
    if request.sender and not dry_run:
        done.runs_blanked = app.records.erasure.forget_runs(request.sender)
    return done


@dataclass
class _Erasure:
    request: ErasureRequest
    app: App
    dry_run: bool
    done: ErasureResult
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def spool(self) -> None:
        """Erase entries that nobody is at, and dead letters."""
        for name in self.app.spool.entries():
            entry = read_entry(name, self.app, is_dead=False)
            if entry is None or not self._is_meant(entry):
                continue
            claimed = self.app.spool.claim(name)
            if claimed is None:  # a delivery has it in hand
                self.done.in_hand += 1
                continue
            if self.dry_run:
                claimed.release()
            else:
                self.app.spool.finish(claimed)
            self.done.spool_entries += 1
        for name, _ in self.app.spool.dead():
            entry = read_entry(name, self.app, is_dead=True)
            if entry is not None and self._is_meant(entry):
                self.done.dead_letters += 1
                if not self.dry_run:
                    self.app.spool.delete_dead(name)

    def take(self) -> set[UUID]:
        """Take the messages from the workers. Give those that one of them has in hand."""
        in_hand: set[UUID] = set()
        if not self.dry_run:
            now = self.app.records.database.now()
            for page in self._messages():
                in_hand |= self.app.records.erasure.take(self.request.org.id, page, now, _LEASE)
        self.done.in_hand += len(in_hand)
        return in_hand

    def choose(self, index: ReferenceIndex, in_hand: set[UUID]) -> None:
        """Choose the rows that are meant."""
        org_id, request = self.request.org.id, self.request
        if request.is_of_all:
            index.choose_all()
        else:
            for page in self._messages():
                index.choose(page)
            if request.sender:
                index.choose(self.app.records.erasure.held_from(org_id, request.sender, self.began))
            if request.mail_id:
                index.choose([request.mail_id])
            index.choose_held_of_chosen()
        index.choose(in_hand, chosen=False)

    def objects(self, index: ReferenceIndex, area: Area) -> None:
        """Delete the objects that chosen rows name and no other row needs, and those without a row."""
        org_id = self.request.org.id
        listing = self.app.archive.iterate(key_prefix(org_id, area))
        chosen = index.groups(area, "chosen")
        for listed, group in join_by_key(listing, chosen):
            if listed is None or (group is not None and not group.needed):
                continue
            if group is None:
                is_going = self._is_orphan_meant(listed, area)
            else:
                is_going = not any(_stays(row) for row in index.unchosen(area, group.key))
                self.done.shared += not is_going
            if is_going:
                self._delete(index, listed, area)

    def rows(self, index: ReferenceIndex) -> None:
        """Delete the chosen rows, held mail first."""
        erasure, org_id = self.app.records.erasure, self.request.org.id
        if not self.dry_run:
            for key in index.chosen_held():
                self.app.archive.delete(decision_key(key))  # where a retention has deleted the mail, it is alone
        for ids in _pages(index.chosen(Kind.HELD)):
            self.done.held += len(ids) if self.dry_run else erasure.delete_held(org_id, ids)
        for ids in _pages(index.chosen(Kind.MESSAGE)):
            self.done.messages += len(ids) if self.dry_run else erasure.delete_messages(org_id, ids)

    def left(self, in_hand: set[UUID]) -> None:
        """Count what is left: what was held, say, and has been accepted meanwhile."""
        if not self.dry_run:
            self.done.in_hand += sum(len(set(page) - in_hand) for page in self._messages())

    def rest(self) -> None:
        """Delete what lies below an organization's prefix still, and what its row says of it."""
        if self.dry_run:
            return
        for listed in self.app.archive.iterate(f"org/{self.request.org.id}/"):
            self.app.archive.delete(listed.key)
            self.done.raw_objects += f"/{Area.RAW}/" in listed.key
            self.done.document_objects += f"/{Area.DOCUMENTS}/" in listed.key
            self.done.bytes += listed.size
        self.app.records.erasure.forget_settings(self.request.org.id)

    def _delete(self, index: ReferenceIndex, listed: Listed, area: Area) -> None:
        self.done.raw_objects += area is Area.RAW
        self.done.document_objects += area is Area.DOCUMENTS
        self.done.bytes += listed.size
        if self.dry_run:
            return
        if area is Area.DOCUMENTS:
            index.record_deleted([listed.key])
        delete(listed.key, self.app.archive)

    def _messages(self) -> Iterator[list[UUID]]:
        """Yield the ids of the messages to erase, page by page."""
        request, last = self.request, None
        ids = (request.mail_id,) if request.mail_id else ()
        chosen = Filter(org_id=request.org.id, ids=ids, sender=request.sender, until=self.began)
        while page := self.app.records.messages.select(chosen, _PAGE, last):
            yield [message.id for message in page]
            last = page[-1]

    def _is_meant(self, entry: SpooledMail) -> bool:
        """Return whether a spool entry is to be erased. One that cannot be read is only counted."""
        if entry.envelope is None:
            self.done.unreadable += 1
            return False
        if entry.slug != self.request.org.slug or self.request.mail_id:
            return False
        return self.request.sender is None or self._is_from(entry.envelope.sender, entry.raw)

    def _is_from(self, envelope_sender: str, raw: bytes) -> bool:
        message = read_message(raw)
        addresses = (envelope_sender.lower(), message.from_email.lower() if message else "")
        return self.request.sender in addresses

    def _is_orphan_meant(self, listed: Listed, area: Area) -> bool:
        if self.request.is_of_all:
            return True
        is_old = listed.put_at < datetime.now(UTC) - _ORPHAN_AGE
        digest = digest_of(listed.key, self.request.org.id, area)
        if area is not Area.RAW or not self.request.sender or not is_old or not digest:
            return False
        try:
            sender = self.app.archive.describe(listed.key).metadata.get("sender", "")
            return self._is_from(sender, self.app.archive.read(listed.key, digest))
        except (ObjectMissing, ObjectDamaged):
            return False


def _stays(row: ObjectReference) -> bool:
    return row.erased_at is None


def _pages(ids: Iterator[UUID]) -> Iterator[list[UUID]]:
    while page := list(islice(ids, _PAGE)):
        yield page
