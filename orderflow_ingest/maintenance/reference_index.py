"""ReferenceIndex: which rows of an organization name which objects, sorted by key.

Retention, erasure and reconcile join it with the listing of the archive, which comes in the order of keys. It is a
temporary SQLite database without a name. SQLite keeps it in an unnamed file in the directory for temporary files, so
it is gone with the process, and memory holds only a few megabytes of it. A row takes about 250 bytes: ids, digests,
times and flags, and nothing that a sender wrote.

Load the index before the archive is listed. A delivery writes the object before the row, so a row whose object is not
in the later listing really has none. A listed object without a row may belong to mail that arrived in between.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from orderflow_ingest.domain.object_keys import document_key, document_prefix, raw_key, raw_prefix, read_raw_key
from orderflow_ingest.storage.archive import Listed
from orderflow_ingest.storage.database import ODD_KEY, Area, Kind, ObjectReference, ObjectReferences

_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8000;
CREATE TABLE holding (
    area TEXT, digest TEXT, kind TEXT, id TEXT, message TEXT, key TEXT, received REAL, erased REAL,
    unfinished INT, failed INT, odd TEXT, documents INT, chosen INT DEFAULT 0
);
CREATE TABLE gone (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE suspect (key TEXT PRIMARY KEY, size INT) WITHOUT ROWID;
"""
_INDEXES = """
CREATE INDEX of_object ON holding (area, key);
CREATE INDEX of_message ON holding (message, area);
UPDATE holding SET unfinished = 1 WHERE area = 'raw' AND message IN (
    SELECT message FROM holding WHERE area = 'documents' AND unfinished);
UPDATE holding SET failed = 1 WHERE area = 'raw' AND message IN (
    SELECT message FROM holding WHERE area = 'documents' AND failed);
"""
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class ReferenceGroup:
    """All rows that name one object: how many, and how many of them need it."""

    key: str
    rows: int
    needed: int
    erased: int


class ReferenceIndex:
    """The rows of one organization that name objects, sorted by key."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(_TABLES)
        self._org_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    def load(
        self,
        holdings: ObjectReferences,
        org_id: int,
        on_progress: Callable[[int], object] = lambda number: None,
        *,
        with_events: bool = False,
    ) -> None:
        """Read an organization's rows, and report to `on_progress` how many messages were read since the last call.

        A message whose documents are unfinished or failed counts as such itself.
        """
        self._org_id = org_id
        # What is held first: accepting one commits its message with it, so that one of the two is seen in need of it.
        for kind in (Kind.HELD, Kind.MESSAGE, Kind.DOCUMENT):
            self._db.execute("BEGIN")
            self._add(_counted(holdings.iterate(org_id, kind, with_events=with_events), on_progress, kind))
            self._db.execute("COMMIT")
        self._db.executescript(_INDEXES)

    def groups(self, area: Area, needs: str = "erased IS NULL", **values: Any) -> Iterator[ReferenceGroup]:
        """Yield the objects that rows name, by key. `needs` says, in SQL, when a row needs its object."""
        statement = (
            f"SELECT key, count(*), sum({needs}), sum(erased IS NOT NULL) FROM holding "  # noqa: S608
            "WHERE area = :area GROUP BY key ORDER BY key"
        )
        for row in self._db.execute(statement, {"area": area.value, **values}):
            yield ReferenceGroup(*row)

    def rows(self, area: Area, key: str) -> Iterator[ObjectReference]:
        """Yield the rows that name an object."""
        return self._where("area = ? AND key = ?", area.value, key)

    def odd(self) -> Iterator[ObjectReference]:
        """Yield the rows with values that contradict each other."""
        return self._where("odd != ''")

    def wrong_document_counts(self) -> Iterator[ObjectReference]:
        """Yield the messages whose number of documents differs from that of their last extraction."""
        return self._where(
            "documents IS NOT NULL AND documents != "
            "(SELECT count(*) FROM holding d WHERE d.message = holding.message AND d.area = 'documents')"
        )

    def choose(self, ids: Iterable[UUID], *, chosen: bool = True) -> None:
        """Choose messages with all their documents, or held mail, by their ids, or take that back."""
        for id in ids:
            self._db.execute("UPDATE holding SET chosen = ? WHERE message = ?", (chosen, id.hex))

    def choose_all(self) -> None:
        """Choose every row."""
        self._db.execute("UPDATE holding SET chosen = 1")

    def choose_held_of_chosen(self) -> None:
        """Choose the held mail whose object is a chosen message's: it was accepted as that."""
        self._db.execute(
            "UPDATE holding SET chosen = 1 WHERE area = 'raw' AND kind = ? AND key IN "
            "(SELECT key FROM holding WHERE area = 'raw' AND chosen AND kind = ?)",
            (Kind.HELD.value, Kind.MESSAGE.value),
        )

    def chosen(self, kind: Kind) -> Iterator[UUID]:
        """Yield the ids of the chosen rows of a kind."""
        for (id,) in self._db.execute("SELECT id FROM holding WHERE chosen AND kind = ?", (kind.value,)):
            yield UUID(id)

    def chosen_held(self) -> Iterator[str]:
        """Yield the keys of the chosen held mail."""
        statement = "SELECT DISTINCT key FROM holding WHERE chosen AND kind = ?"
        for (key,) in self._db.execute(statement, (Kind.HELD.value,)):
            yield key

    def unchosen(self, area: Area, key: str) -> Iterator[ObjectReference]:
        """Yield the rows that name an object and are not chosen."""
        return self._where("area = ? AND key = ? AND NOT chosen", area.value, key)

    def record_deleted(self, keys: Iterable[str]) -> None:
        """Record documents that were deleted, to check later whether a new row names one."""
        self._db.executemany("INSERT OR IGNORE INTO gone VALUES (?)", ((key,) for key in keys))

    def was_deleted(self, key: str) -> bool:
        """Return whether a document was recorded as deleted."""
        return self._db.execute("SELECT 1 FROM gone WHERE key = ?", (key,)).fetchone() is not None

    def has_deleted(self) -> bool:
        """Return whether any document was recorded as deleted."""
        return self._db.execute("SELECT 1 FROM gone LIMIT 1").fetchone() is not None

    def add_orphan_candidate(self, key: str, size: int) -> None:
        """Record a document that no row names, to be checked again."""
        self._db.execute("INSERT OR IGNORE INTO suspect VALUES (?, ?)", (key, size))

    def drop_orphan_candidates(self, rows: Iterable[ObjectReference]) -> None:
        """Drop the candidates that a row names by now."""
        self._db.executemany("DELETE FROM suspect WHERE key = ?", ((one.key,) for one in rows))

    def orphan_candidates(self) -> Iterator[tuple[str, int]]:
        """Yield key and size of the documents that no row names."""
        yield from self._db.execute("SELECT key, size FROM suspect ORDER BY key")

    def _add(self, rows: Iterable[ObjectReference]) -> None:
        self._db.executemany(
            "INSERT INTO holding VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                (
                    one.kind.area.value, one.digest, one.kind.value, one.id.hex, one.message_id.hex,
                    _key(one), one.received_at.timestamp(),
                    one.erased_at and one.erased_at.timestamp(), one.is_unfinished, one.is_failed, one.odd,
                    one.documents,
                )
                for one in rows
            ),
        )  # fmt: skip

    def _where(self, condition: str, *values: Any) -> Iterator[ObjectReference]:
        columns = "digest, kind, id, message, key, received, erased, unfinished, failed, odd, documents"
        statement = f"SELECT {columns} FROM holding WHERE {condition}"  # noqa: S608
        for digest, kind, id, message, key, received, erased, unfinished, failed, odd, documents in self._db.execute(
            statement, values
        ):
            yield ObjectReference(
                kind=Kind(kind),
                org_id=self._org_id,
                id=UUID(id),
                message_id=UUID(message),
                digest=digest,
                key=key,
                received_at=datetime.fromtimestamp(received, UTC),
                erased_at=None if erased is None else datetime.fromtimestamp(erased, UTC),
                is_unfinished=bool(unfinished),
                is_failed=bool(failed),
                odd=odd,
                documents=documents,
            )


def key_prefix(org_id: int, area: Area) -> str:
    """Return what the keys of an organization's objects begin with."""
    return raw_prefix(org_id) if area is Area.RAW else document_prefix(org_id)


def join_by_key(
    listing: Iterable[Listed], groups: Iterable[ReferenceGroup]
) -> Iterator[tuple[Listed | None, ReferenceGroup | None]]:
    """Join listed objects with references. Both come in the order of keys. Memory holds one of each."""
    left = iter(groups)
    group = next(left, None)
    for listed in listing:
        while group is not None and group.key < listed.key:
            yield None, group
            group = next(left, None)
        if group is not None and group.key == listed.key:
            yield listed, group
            group = next(left, None)
        else:
            yield listed, None
    while group is not None:
        yield None, group
        group = next(left, None)


def digest_of(key: str, org_id: int, area: Area) -> str:
    """Take the digest out of an object's key, or "" if it is no key of a mail or a document of this organization."""
    if area is Area.RAW:
        name = read_raw_key(key)
        return name.digest if name and not name.is_decision and name.org_id == org_id else ""
    digest = key.removeprefix(key_prefix(org_id, area))
    is_ours = len(digest) == 64 and _HEX.issuperset(digest) and key == document_key(org_id, digest)
    return digest if is_ours else ""


def _key(one: ObjectReference) -> str:
    """Return the key of a row's object, or the key it should have where the row names an impossible one."""
    if one.odd != ODD_KEY:
        return one.key
    return document_key(one.org_id, one.digest) if one.kind is Kind.DOCUMENT else raw_key(one.org_id, one.digest)


def _counted(
    rows: Iterator[ObjectReference], on_progress: Callable[[int], object], kind: Kind
) -> Iterator[ObjectReference]:
    for number, row in enumerate(rows, 1):
        if number % 1000 == 0 and kind is Kind.MESSAGE:
            on_progress(1000)
        yield row
