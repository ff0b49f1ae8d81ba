"""A ledger: what an organisation's rows say of objects, sorted by key, outside of the database that they are in.

It is an SQLite database without a name: SQLite keeps it in a file in the directory for temporary files, with no name
there either, and beyond some megabytes nothing of it in memory. It is gone with the process, however that ends. It
holds ids, digests, times and flags, some 250 bytes a row, and nothing that a sender wrote.

Rows are read before the archive is listed: an object is put before its row is written, so that a row whose object is
not listed was without one. An object that is listed and has no row may be of mail that came meanwhile.
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
class Group:
    """All rows that name one object: how many, and how many of them need it."""

    key: str
    rows: int
    needed: int
    erased: int


class ReferenceIndex:
    """The rows of one organisation that name objects, sorted by key."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(_TABLES)
        self._org_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    def read(
        self,
        holdings: ObjectReferences,
        org_id: int,
        walked: Callable[[int], object] = lambda number: None,
        with_events: bool = False,
    ) -> None:
        """Read an organisation's rows; `walked` is told how many messages were read, now and then.

        A message whose documents are unfinished or failed counts as such itself.
        """
        self._org_id = org_id
        # What is held first: accepting one commits its message with it, so that one of the two is seen in need of it.
        for kind in (Kind.HELD, Kind.MESSAGE, Kind.DOCUMENT):
            self._db.execute("BEGIN")
            self._add(_counted(holdings.iterate(org_id, kind, with_events), walked, kind))
            self._db.execute("COMMIT")
        self._db.executescript(_INDEXES)

    def groups(self, area: Area, needs: str = "erased IS NULL", **values: Any) -> Iterator[Group]:
        """Go through the objects that rows name, by key; `needs` says, in SQL, when a row needs its object."""
        statement = (
            f"SELECT key, count(*), sum({needs}), sum(erased IS NOT NULL) FROM holding "  # noqa: S608
            "WHERE area = :area GROUP BY key ORDER BY key"
        )
        for row in self._db.execute(statement, {"area": area.value, **values}):
            yield Group(*row)

    def rows(self, area: Area, key: str) -> Iterator[ObjectReference]:
        """Go through the rows that name an object."""
        return self._where("area = ? AND key = ?", area.value, key)

    def odd(self) -> Iterator[ObjectReference]:
        """Go through the rows that say what cannot be."""
        return self._where("odd != ''")

    def short(self) -> Iterator[ObjectReference]:
        """Go through the messages that have fewer or more documents than their last extraction told of."""
        return self._where(
            "documents IS NOT NULL AND documents != "
            "(SELECT count(*) FROM holding d WHERE d.message = holding.message AND d.area = 'documents')"
        )

    def choose(self, ids: Iterable[UUID], chosen: bool = True) -> None:
        """Choose messages with all their documents, or held mail, by their ids; or take that back."""
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
        """Go through the ids of the chosen rows of a kind."""
        for (id,) in self._db.execute("SELECT id FROM holding WHERE chosen AND kind = ?", (kind.value,)):
            yield UUID(id)

    def chosen_held(self) -> Iterator[str]:
        """Go through the keys of the chosen held mail."""
        statement = "SELECT DISTINCT key FROM holding WHERE chosen AND kind = ?"
        for (key,) in self._db.execute(statement, (Kind.HELD.value,)):
            yield key

    def unchosen(self, area: Area, key: str) -> Iterator[ObjectReference]:
        """Go through the rows that name an object and are not chosen."""
        return self._where("area = ? AND key = ? AND NOT chosen", area.value, key)

    def note_gone(self, keys: Iterable[str]) -> None:
        """Note documents that were deleted, to look again whether a row has come that names one."""
        self._db.executemany("INSERT OR IGNORE INTO gone VALUES (?)", ((key,) for key in keys))

    def is_gone(self, key: str) -> bool:
        """Tell whether a document was noted as deleted."""
        return self._db.execute("SELECT 1 FROM gone WHERE key = ?", (key,)).fetchone() is not None

    def has_gone(self) -> bool:
        """Tell whether any document was noted as deleted."""
        return self._db.execute("SELECT 1 FROM gone LIMIT 1").fetchone() is not None

    def suspect(self, key: str, size: int) -> None:
        """Note a document that no row names, to be looked at again."""
        self._db.execute("INSERT OR IGNORE INTO suspect VALUES (?, ?)", (key, size))

    def acquit(self, rows: Iterable[ObjectReference]) -> None:
        """Drop the suspects that rows name by now."""
        self._db.executemany("DELETE FROM suspect WHERE key = ?", ((one.key,) for one in rows))

    def suspects(self) -> Iterator[tuple[str, int]]:
        """Go through the documents that no row names: key and size."""
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


def prefix(org_id: int, area: Area) -> str:
    """Give what the keys of an organisation's objects begin with."""
    return raw_prefix(org_id) if area is Area.RAW else document_prefix(org_id)


def joined(listing: Iterable[Listed], groups: Iterable[Group]) -> Iterator[tuple[Listed | None, Group | None]]:
    """Join what is listed with what rows name, each in the order of keys, with one of each in memory."""
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
    """Take the digest out of an object's key; "" if it is no key of a mail or a document of this organisation."""
    if area is Area.RAW:
        name = read_raw_key(key)
        return name.digest if name and not name.is_decision and name.org_id == org_id else ""
    digest = key.removeprefix(prefix(org_id, area))
    is_ours = len(digest) == 64 and _HEX.issuperset(digest) and key == document_key(org_id, digest)
    return digest if is_ours else ""


def _key(one: ObjectReference) -> str:
    """Give the key of a row's object; of one that cannot be, the one that it should have."""
    if one.odd != ODD_KEY:
        return one.key
    return document_key(one.org_id, one.digest) if one.kind is Kind.DOCUMENT else raw_key(one.org_id, one.digest)


def _counted(rows: Iterator[ObjectReference], walked: Callable[[int], object], kind: Kind) -> Iterator[ObjectReference]:
    for number, row in enumerate(rows, 1):
        if number % 1000 == 0 and kind is Kind.MESSAGE:
            walked(1000)
        yield row
