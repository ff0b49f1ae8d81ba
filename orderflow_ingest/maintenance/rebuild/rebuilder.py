"""Rebuild: make the rows of a deployment from its archive.

Organizations come first, under their ids. Then each mail in the order of keys, with its documents in one transaction.
The last step looks for documents whose mail is gone. Rows that exist are left alone, so a rebuild can be repeated. It
continues at a run's position, which costs nothing, or by asking for the ids of the mails, which costs little. Memory
holds a page of keys and the mails in hand.

An object that no row can be made of is counted and reported, and does not end the run. An organization that the
database has under another id is refused, so that two organizations never get mixed up.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from orderflow_ingest.app import App
from orderflow_ingest.domain.object_keys import document_prefix, held_id, message_id, raw_prefix, read_raw_key
from orderflow_ingest.storage.archive import Listed
from orderflow_ingest.storage.database import OrganizationRecord, Presence

from .parse_object import ObjectNote, ParsedObject, RebuildOptions
from .process_pool import Chunk, ProcessPool

_PAGE = 200
_CHUNK = 20


@dataclass
class RebuildProgress:
    """What a run has come to: how many mails of each kind, what was noted, and the last key that is done."""

    position: str = ""
    presences: Counter[Presence] = field(default_factory=Counter)
    notes: Counter[ObjectNote] = field(default_factory=Counter)
    troubles: list[tuple[str, ObjectNote]] = field(default_factory=list)  # the first of them

    @property
    def looked_at(self) -> int:
        """Count the mails that were looked at."""
        return sum(self.presences.values()) + sum(n for note, n in self.notes.items() if note.is_trouble)

    def note(self, one: ParsedObject) -> None:
        """Count what was noted of an object."""
        self.notes.update(one.notes)
        for note in one.notes:
            if note.is_trouble and len(self.troubles) < 100:
                self.troubles.append((one.key, note))


@dataclass
class _Batch:
    """Mails up to a key: those that are there already, and those that readers have in hand."""

    org: OrganizationRecord
    last: str
    known: int
    unread: Chunk


def rebuild_organizations(
    orgs: list[OrganizationRecord],
    choice: RebuildOptions,
    app: App,
    processes: int,
    tally: RebuildProgress,
    *,
    dry_run: bool = False,
) -> Iterator[RebuildProgress]:
    """Rebuild the messages of these organizations after the position of `tally`. Yield it after each batch.

    Can be done twice, by the ids. Raise ArchiveUnavailable, DatabaseUnavailable.
    """
    in_hand: deque[_Batch] = deque()

    def chunks() -> Iterator[tuple[OrganizationRecord, Chunk]]:
        for batch in _batches(orgs, app, tally.position):
            in_hand.append(batch)
            yield batch.org, batch.unread

    writes = app.records.rebuild_writes
    with ProcessPool(app, choice, processes) as readers:
        for read in readers.read(chunks()):
            batch = in_hand.popleft()
            mails = [one.mail for one in read if one.mail]
            if mails:
                came = writes.judge(batch.org.id, mails) if dry_run else writes.restore(batch.org.id, mails)
                tally.presences.update(came)
            tally.presences[Presence.THERE] += batch.known
            for one in read:
                tally.note(one)
            tally.position = batch.last
            yield tally


def orphan_documents(org: OrganizationRecord, app: App) -> Iterator[Listed]:
    """Yield the archive's documents without a row: their mail was erased, or is damaged."""
    known = app.records.rebuild_writes.digests_of_documents(org.id)
    prefix, digest = document_prefix(org.id), next(known, None)
    for one in app.archive.iterate(prefix):
        name = one.key.removeprefix(prefix)
        while digest is not None and digest < name:
            digest = next(known, None)
        if digest != name:
            yield one


def _batches(orgs: list[OrganizationRecord], app: App, position: str) -> Iterator[_Batch]:
    """Yield the mails by key, asking the database for the ids of a page at once."""
    for org in sorted(orgs, key=lambda org: raw_prefix(org.id)):
        prefix = raw_prefix(org.id)
        if position > prefix and not position.startswith(prefix):
            continue
        listed = app.archive.iterate(prefix, position if position.startswith(prefix) else "")
        while page := list(islice(listed, _PAGE)):
            yield from _split(org, page, app)


def _split(org: OrganizationRecord, page: list[Listed], app: App) -> Iterator[_Batch]:
    """Leave out existing rows, and cut the rest in chunks. A decision is read with the mail that it is on."""
    names = [(one, read_raw_key(one.key)) for one in page]
    mails = [one.key for one, name in names if name and not name.is_held]
    held = [one.key for one, name in names if name and name.is_held and not name.is_decision]
    known = app.records.rebuild_writes.known(org.id, [*map(message_id, mails)], [*map(held_id, held)])
    there = {key for key in mails if message_id(key) in known} | {key for key in held if held_id(key) in known}
    left = [(one.key, one.put_at) for one, name in names if one.key not in there and not (name and name.is_decision)]
    chunks = [left[n : n + _CHUNK] for n in range(0, len(left), _CHUNK)] or [[]]
    for number, chunk in enumerate(chunks):
        is_last = number == len(chunks) - 1
        yield _Batch(org, page[-1].key if is_last else chunk[-1][0], len(there) if is_last else 0, chunk)
