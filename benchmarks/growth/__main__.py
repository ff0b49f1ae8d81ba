"""What the statements on the rows cost as history grows: the same calls on a small and on a large database.

    script/benchmark growth [--rows N] [--small N] [--organizations N] [--partitions N] [--calls N]
                            [--directory DIR] [--json FILE] [--save]

1. A PostgreSQL server of its own gets a database of --small messages and one of --rows, made by the project's own
   migrations and filled by `history`, which says what is in them: they differ in history alone. With --partitions
   a third one, of --rows too, has its tenant tables in so many partitions (`partitions`).
   fsync is off while they are filled; then the server starts again with fsync on and 3 GB of shared buffers, and
   the indexes of all are read into memory once (pg_prewarm). Autovacuum is off, so that it disturbs nobody's turn.
2. Each measure calls a function of `orderflow_ingest.storage.database` on one database after the other, in changing
   order, as the role that calls it in production: for all that delivery and worker do a member of orderflow_worker,
   whom row-level security binds to the organizations that a transaction names; for `status` and lists a member of
   orderflow_operator. The rows it asks for are its own, drawn from all organizations and both years. Told is the
   median time of a call, round trips included, and the ratio of the medians. Commits do not wait for the disk, so that
   its time hides nothing, except where it says so.
3. Each statement that was sent is explained on the large database (ANALYZE, BUFFERS), as that role and with the
   parameters of the last call (`plans`); what explaining writes is undone.

What has to hold, or the command ends with 1: no ratio is over 1.5, and no statement reads a tenant table from end to
end (Seq Scan). A message by its id alone is looked up in each organization: its cost is that of their number, and
a table of next to nothing is read faster; its ratio is printed and not held. Nor is that of what `find` asks for: a
word costs what its list in the index is long, and that is history. Nor that of the counts of a week of all
organizations: the databases have the same last 24 hours, but the large one ten times the last week. Held are the same
counts over as many messages of each, the newest ones.

--directory keeps the databases there, and takes those that it finds. --save writes growth.md,
growth.json and growth-plans.md into benchmarks/results.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa

from benchmarks.growth import history, partitions, plans
from benchmarks.harness import report
from benchmarks.harness.machine import facts
from orderflow_ingest.config import load as load_settings
from orderflow_ingest.domain.states import Status
from orderflow_ingest.entrypoints.admin import roles
from orderflow_ingest.parsing.documents.part import PartKind
from orderflow_ingest.storage.database import Filter, InboundMessage, NewDocument, NewMessage, Records, schema
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import scratch

_ROOT = Path(__file__).parents[2]
_LIMIT = 1.5
_NEWEST = history.RECENT + 50  # about what the small database has of a week
_LEASE, _MINUTE, _HOUR = timedelta(minutes=10), timedelta(minutes=1), timedelta(hours=1)
_SERVER = {"shared_buffers": "3GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off"}


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def url_of(server: Postgres, name: str) -> str:
    """Return the URL of a database that is there already."""
    return f"postgresql+psycopg://postgres@127.0.0.1:{server.port}/{name}"


def load(directory: Path, sizes: dict[str, int], organizations: int, parts: int) -> datetime:
    """Make and fill the databases that are not there; return the moment that is `now` for all of them."""
    moment = directory / "now"
    if not moment.exists():
        moment.write_text(datetime.now(UTC).isoformat())
    now = datetime.fromisoformat(moment.read_text())
    with Postgres(directory / "postgres", fsync=False, **_SERVER) as server:
        for name, rows in sizes.items():
            if (directory / name).exists():
                continue
            began = time.monotonic()
            engine = sa.create_engine(server.create_database(name))
            if name == "partitioned":
                partitions.build(engine, parts)
            else:
                records = Records(url_of(server, name))
                schema.upgrade(records.database)
                records.database.close()
            history.fill(engine, rows, organizations, now, tell)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("CHECKPOINT")  # or stopping the server would take longer than it is given
            engine.dispose()
            (directory / name).touch()
            tell(f"{name}: {rows} messages in {time.monotonic() - began:.0f} s")
    return now


@dataclass
class Side:
    """One of the databases as its roles see it, and rows of it to ask for."""

    name: str
    records: Records  # as the worker
    operator: Records
    owner: sa.Engine
    now: datetime
    organizations: int
    identities: list[tuple[int, UUID, str]] = field(default_factory=list)
    pages: list[InboundMessage] = field(default_factory=list)
    written: int = 0

    @cached_property
    def newest_since(self) -> datetime:
        """Return the moment since which the newest messages came, as many on each side."""
        newest = f"SELECT received_at FROM inbound_message ORDER BY received_at DESC LIMIT {_NEWEST}"
        with self.owner.connect() as connection:
            found: datetime = connection.exec_driver_sql(f"SELECT min(received_at) FROM ({newest}) n").scalar_one()
        return found

    def draw(self) -> None:
        """Draw messages of all organizations and of both years."""
        lots = random.Random(4711)
        orgs = [1 + 769 * n % self.organizations for n in range(2000)]
        began = self.now - history.DAY - history.YEARS
        moments = [began + lots.random() * history.YEARS for _ in orgs]
        statement = sa.text(
            "SELECT m.org_id, m.id, m.source_message_id FROM unnest(CAST(:orgs AS bigint[]), "
            "CAST(:moments AS timestamptz[])) AS lot (org_id, moment), LATERAL (SELECT * FROM inbound_message "
            "WHERE org_id = lot.org_id AND received_at >= lot.moment ORDER BY received_at LIMIT 1) m"
        )
        with self.owner.connect() as connection:
            rows = connection.execute(statement, {"orgs": orgs, "moments": moments})
            self.identities = [(row.org_id, row.id, row.source_message_id) for row in rows]
        for org_id, id, _ in self.identities[:50]:
            found = self.records.messages.get(org_id, id)
            assert found is not None
            self.pages.append(found)

    def new(self, org_id: int) -> NewMessage:
        """Make a message that comes now; `clean` knows it by its time."""
        self.written += 1
        id, digest = uuid4(), uuid4().hex * 2
        return NewMessage(
            org_id=org_id, id=id, source="EMAIL", source_message_id=f"<{digest[:40]}@mail.example.com>",
            message_id_is_synthetic=False, envelope_sender="buyer-1@customer.example.com",
            envelope_recipient=f"orders+org-{org_id}@orders.example.com", queue_id="4XYZ", client_address="192.0.2.17",
            from_email="buyer-1@customer.example.com", subject="Purchase order, to be delivered".ljust(60, "."),
            sent_at=self.now, received_at=self.now + timedelta(milliseconds=self.written),
            raw_key=f"org/{org_id}/raw/{digest}.eml", size=50_000, digest=digest, fingerprint=digest[::-1],
            traits=[],
        )  # fmt: skip

    def inserted(self, org_id: int) -> NewMessage:
        """Insert a message that is due."""
        new = self.new(org_id)
        assert self.records.messages.insert(new, self.now)
        return new

    def claimed(self, org_id: int) -> InboundMessage:
        """Insert a message and begin an attempt at it."""
        attempt = self.records.messages.claim(org_id, self.inserted(org_id).id, "benchmark", self.now, _LEASE)
        assert attempt is not None
        return attempt

    def clean(self) -> None:
        """Take out again what was written."""
        with self.owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            late = sa.text("SELECT org_id, id FROM inbound_message WHERE received_at > :now").bindparams(now=self.now)
            keys = [tuple(row) for row in connection.execute(late)]
            for org_id, id in keys:
                values = {"org_id": org_id, "id": id}
                of_message = "WHERE org_id = :org_id AND inbound_message_id = :id"
                for table in ("document", "skipped_part", "message_event"):
                    connection.execute(sa.text(f"DELETE FROM {table} {of_message}"), values)
                connection.execute(sa.text("DELETE FROM inbound_message WHERE org_id = :org_id AND id = :id"), values)
            held = sa.text("DELETE FROM held_mail WHERE received_at > :now AND resolution IS NULL")
            connection.execute(held, {"now": self.now})
            connection.exec_driver_sql("VACUUM inbound_message, document, held_mail, message_event")

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        for records in (self.records, self.operator):
            records.database.close()
        self.owner.dispose()


def open_side(server: Postgres, name: str, now: datetime, organizations: int) -> Side:
    """Grant the roles what they may do in a database, and give it as two that log in see it."""
    settings = load_settings(environ={"DATABASE_URL": url_of(server, name)})
    server.run_script(name, roles.postgresql(settings, "public"))
    for group in ("worker", "operator"):
        with suppress(psycopg.errors.DuplicateObject):  # made for another database of the cluster
            server.create_role(f"growth_{group}", f"orderflow_{group}")
    worker, operator = (
        Records(server.url(name, f"growth_{group}"), longest_delay=_LONGEST) for group in ("worker", "operator")
    )
    assert not schema.rls_bypass_reason(worker.database)
    return Side(name, worker, operator, sa.create_engine(url_of(server, name)), now, organizations)


def _part(org_id: int) -> NewDocument:
    digest = uuid4().hex * 2
    return NewDocument(
        id=uuid4(), part_path="2", kind=PartKind.ATTACHMENT, filename="order.pdf", claimed_filename="order.pdf",
        declared_type="application/octet-stream", detected_type="application/pdf", content_type="application/pdf",
        charset=None, reason="attachment", defects=[], size=40_000, digest=digest,
        object_key=f"org/{org_id}/documents/{digest}",
    )  # fmt: skip


Calls = Iterator[Callable[[], Any]]


def _each_org(side: Side) -> Iterator[int]:
    number = 0
    while True:
        yield 1 + 769 * number % side.organizations
        number += 1


def _each(rows: Sequence[Any]) -> Iterator[Any]:
    while True:
        yield from rows


def _inserts(side: Side) -> Calls:
    for org_id in _each_org(side):
        yield partial(side.records.messages.insert, side.new(org_id), side.now)


def _duplicates(side: Side) -> Calls:
    for org_id, _, known in _each(side.identities):
        new = replace(side.new(org_id), source_message_id=known)
        yield partial(side.records.messages.insert, new, side.now)


def _hits(side: Side) -> Calls:
    for org_id, _, known in _each(side.identities):
        yield partial(side.records.messages.find_identity, org_id, "EMAIL", known)


def _misses(side: Side) -> Calls:
    for org_id in _each_org(side):
        yield partial(side.records.messages.find_identity, org_id, "EMAIL", f"<{uuid4().hex}@mail.example.com>")


def _claims(side: Side) -> Calls:
    for org_id in _each_org(side):
        id = side.inserted(org_id).id
        yield partial(side.records.messages.claim, org_id, id, "benchmark", side.now, _LEASE)


def _records(side: Side) -> Calls:
    for org_id in _each_org(side):
        attempt, found = side.claimed(org_id), [_part(org_id), replace(_part(org_id), part_path="1")]
        yield partial(side.records.documents.record, attempt, found, [], side.now + _LEASE, is_complete=True)


def _parsed(side: Side) -> Calls:
    for org_id in _each_org(side):
        attempt = side.claimed(org_id)
        side.records.documents.record(attempt, [_part(org_id)], [], side.now + _LEASE, is_complete=True)
        yield partial(side.records.messages.finish, attempt, {"documents": 2})


def _hand_over(side: Side, org_id: int, id: UUID) -> None:
    taken = side.records.documents.claim(org_id, id, "benchmark", side.now, _LEASE)
    assert taken is not None and side.records.documents.finish(taken)


def _hand_overs(side: Side) -> Calls:
    documents = side.records.documents
    for org_id in _each_org(side):
        attempt, part = side.claimed(org_id), _part(org_id)
        documents.record(attempt, [part], [], side.now, is_complete=True)
        yield partial(_hand_over, side, org_id, part.id)


def _held_mail(side: Side) -> Calls:
    for org_id, _, known in _each(side.identities):
        found = side.records.messages.find_identity(org_id, "EMAIL", known)
        assert found is not None
        yield partial(side.records.held_mail.insert, found, side.new(org_id))


def _found(choose: Callable[[Side, int], Filter]) -> Callable[[Side], Calls]:
    """Find the newest 50 messages by what `choose` gives for one number after the other."""

    def calls(side: Side) -> Calls:
        number = 0
        while True:
            yield partial(side.operator.messages.select, choose(side, number), 50)
            number += 1

    return calls


def _known_id(side: Side, number: int) -> str:
    return side.identities[number % len(side.identities)][2]


def _common(side: Side, number: int) -> int:
    return 1 + number % _BUSY


def _same(call: Callable[[Side], Any]) -> Callable[[Side], Calls]:
    def calls(side: Side) -> Calls:
        while True:
            yield partial(call, side)

    return calls


def _of_org(call: Callable[[Side, int], Any], most: int | None = None) -> Callable[[Side], Calls]:
    def calls(side: Side) -> Calls:
        for number, org_id in enumerate(_each_org(side)):
            yield partial(call, side, 1 + number % most if most else org_id)

    return calls


def _of_message(call: Callable[[Side, int, UUID], Any]) -> Callable[[Side], Calls]:
    def calls(side: Side) -> Calls:
        for org_id, id, _ in _each(side.identities):
            yield partial(call, side, org_id, id)

    return calls


def _later_pages(side: Side) -> Calls:
    for last in _each(side.pages):
        yield partial(side.operator.messages.select, Filter(), 50, last)


_FAILED = (Status.FAILED,)
_WEEK = 7 * history.DAY
_BY_ORGANIZATIONS = "a message of unknown organization"
_OTHERWISE_BOUND = (_BY_ORGANIZATIONS, "status: a day and a week", "status: each organization")
_LONGEST = timedelta(hours=1)  # that a row can have to wait
_BUSY = 40  # organizations that have 20 messages even where there are 10,000 in all
MEASURES: dict[str, Callable[[Side], Calls]] = {
    "identity, unknown": _misses,
    "identity, known": _hits,
    "insert of a known identity": _duplicates,
    "sweep: messages due": _same(lambda s: s.records.messages.due(s.now, 1000)),
    "sweep: documents due": _same(lambda s: s.records.documents.due(s.now, 1000)),
    "lag": _same(lambda s: s.records.messages.lag(s.now)),
    "oldest unfinished": _same(lambda s: s.operator.messages.oldest_unfinished()),
    "oldest unfinished of an organization": _of_org(lambda s, org: s.operator.messages.oldest_unfinished(org)),
    "status: messages": _same(lambda s: s.operator.messages.count_by_status(s.now - history.DAY)),
    "status: messages of an organization": _of_org(
        lambda s, org: s.operator.messages.count_by_status(s.now - history.DAY, org)
    ),
    "status: documents": _same(lambda s: s.operator.documents.count_undone()),
    "status: documents of an organization": _of_org(lambda s, org: s.operator.documents.count_undone(org)),
    "status: held mail": _same(lambda s: s.operator.held_mail.count_open()),
    "status: held mail of an organization": _of_org(lambda s, org: s.operator.held_mail.count_open(org)),
    "figures of an hour": _same(lambda s: s.operator.statistics.over(s.now - _HOUR, s.now, 120)),
    "figures of an organization": _of_org(
        lambda s, org: s.operator.statistics.over(s.now - history.DAY, s.now, 3600, org)
    ),
    "figures of an hour by organization": _same(lambda s: s.operator.statistics.by_organization(s.now - _HOUR, s.now)),
    "list: 50 newest": _same(lambda s: s.operator.messages.select(Filter(), 50)),
    "list: 50 somewhere in history": _later_pages,
    "list: 20 newest of an organization": _of_org(
        lambda s, org: s.operator.messages.select(Filter(org_id=org), 20), _BUSY
    ),
    "list: 50 newest FAILED": _same(lambda s: s.operator.messages.select(Filter(statuses=_FAILED), 50)),
    "list: FAILED of an organization": _of_org(
        lambda s, org: s.operator.messages.select(Filter(org_id=org, statuses=_FAILED), 50)
    ),
    "list: not PARSED": _same(
        lambda s: s.operator.messages.select(Filter(statuses=(Status.RECEIVED, Status.STORED, Status.FAILED)), 50)
    ),
    "count of FAILED": _same(lambda s: s.operator.messages.count(Filter(statuses=_FAILED))),
    "find: words of one mail": _found(lambda s, n: Filter(words=f"purchase {4000 + n % 500}")),
    "find: words of every mail": _found(lambda s, n: Filter(words="purchase order")),
    "find: words of every mail, of an organization": _found(
        lambda s, n: Filter(org_id=_common(s, n), words="purchase order")
    ),
    "find: words of no mail": _found(lambda s, n: Filter(words=f"purchase none{n}")),
    "find: a sender": _found(lambda s, n: Filter(sender=f"buyer-{n % 97}@customer.example.com")),
    "find: a sender of an organization": _found(
        lambda s, n: Filter(org_id=_common(s, n), sender=f"buyer-{n % 97}@customer.example.com")
    ),
    "find: a sender's domain": _found(lambda s, n: Filter(sender="@customer.example.com")),
    "find: a document": _found(lambda s, n: Filter(document_words=f"{s.pages[n % 50].digest[:8]} pdf")),
    "find: documents that every mail has": _found(lambda s, n: Filter(document_words="order pdf")),
    "find: a document that nobody has": _found(lambda s, n: Filter(document_words=f"none{n}")),
    "find: a Message-ID": _found(lambda s, n: Filter(message_id=_known_id(s, n))),
    "find: what is held": _same(
        lambda s: s.operator.held_mail.find(Filter(words="purchase order", sender="@customer.example.com"), 50)
    ),
    "find: documents of a page": _same(lambda s: s.operator.overview.hand_overs(s.pages)),
    "show: the beginning of an id": _of_message(
        lambda s, org, id: s.operator.overview.ids_that_begin(org, id.hex[:8], 3)
    ),
    "show: held mail of a message": _of_message(lambda s, org, id: s.operator.held_mail.of_message(org, id)),
    "show: a held mail of unknown organization": _of_message(lambda s, _, id: s.operator.held_mail.of_id(id)),
    "status: a day and a week": _same(lambda s: s.operator.overview.recent_counts(s.now - history.DAY, s.now - _WEEK)),
    "status: a day and a week of an organization": _of_org(
        lambda s, org: s.operator.overview.recent_counts(s.now - history.DAY, s.now - _WEEK, org)
    ),
    "status: each organization": _same(
        lambda s: s.operator.overview.by_organization(s.now - history.DAY, s.now - _WEEK)
    ),
    "status: a day and the newest": _same(
        lambda s: s.operator.overview.recent_counts(s.now - history.DAY, s.newest_since)
    ),
    "status: each organization, the newest": _same(
        lambda s: s.operator.overview.by_organization(s.now - history.DAY, s.newest_since)
    ),
    "status: last errors": _same(lambda s: s.operator.overview.last_errors(s.now - _WEEK, 10)),
    "status: last errors of an organization": _of_org(
        lambda s, org: s.operator.overview.last_errors(s.now - _WEEK, 10, org)
    ),
    "status: what is held": _same(lambda s: s.operator.held_mail.count_open_by_reason()),
    "held of this content": _of_org(lambda s, org: s.records.held_mail.alone(org, uuid4().hex * 2)),
    "list: held mail": _same(lambda s: s.operator.held_mail.open()),
    "a message": _of_message(lambda s, org, id: s.records.messages.get(org, id)),
    _BY_ORGANIZATIONS: _of_message(lambda s, _, id: s.operator.messages.select(Filter(ids=(id,)), 1)),
    "documents of a message": _of_message(lambda s, org, id: s.records.documents.of_message(org, id)),
    "insert": _inserts,
    "insert, on disk": _inserts,
    "claim": _claims,
    "record of two documents": _records,
    "to PARSED": _parsed,
    "hand-over of a document": _hand_overs,
    "insert of a held mail": _held_mail,
}
_ON_DISK = "insert, on disk"


def explained(side: Side, calls: Calls) -> list[str]:
    """Explain what a call sends, and undo what explaining wrote."""
    engines = {records.database.engine for records in (side.records, side.operator)}
    return plans.explain(engines, side.owner, next(calls))


def measure(what: str, sides: Sequence[Side], calls: int) -> dict[str, Any]:
    """Take the median time of a call on each database, and its plans."""
    each = {side.name: MEASURES[what](side) for side in sides}
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for turn in range(calls + calls // 10):
        for side in [*sides[turn % len(sides) :], *sides[: turn % len(sides)]]:
            call = next(each[side.name])
            began = time.perf_counter()
            call()
            times[side.name].append(time.perf_counter() - began)
    warm = {name: taken[calls // 10 :] for name, taken in times.items()}
    found = {side.name: explained(side, each[side.name]) for side in sides}
    case = {"what": what, "calls": calls, "plans": found["large"], "ms": {}, "pages": {}}
    for name, taken in warm.items():
        case["ms"][name] = 1000 * statistics.median(taken)
        case["pages"][name] = sum(map(plans.buffers, found[name]))
    case["indexes"] = list(dict.fromkeys(index for plan in found["large"] for index in plans.indexes(plan)))
    case["ratio"] = case["ms"]["large"] / case["ms"]["small"]
    case["scans"] = [table for plan in found["large"] for table in plans.scans(plan)]
    tell(f"{what}: " + ", ".join(f"{n} {ms:.3f} ms" for n, ms in case["ms"].items()) + f", {case['ratio']:.2f}")
    return case


def complaints(cases: Sequence[dict[str, Any]]) -> list[str]:
    """Return what does not hold."""
    bound = [c for c in cases if c["what"] not in _OTHERWISE_BOUND and not c["what"].startswith("find: ")]
    slow = [f"{c['what']}: {c['ratio']:.2f} times the time" for c in bound if c["ratio"] > _LIMIT]
    return slow + [f"{c['what']}: Seq Scan on {', '.join(c['scans'])}" for c in cases if c["scans"]]


def _commits(sides: Sequence[Side], wait: bool) -> None:
    for side in sides:
        with side.owner.begin() as connection:
            name = side.owner.url.database
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit = {'on' if wait else 'off'}")
        side.close()  # what connects from now on has the setting


def run(directory: Path, sizes: dict[str, int], organizations: int, parts: int, calls: int) -> dict[str, Any]:
    """Fill the databases and measure everything."""
    now = load(directory, sizes, organizations, parts)
    with Postgres(directory / "postgres", **_SERVER) as server:
        sides = [open_side(server, name, now, organizations) for name in sizes]
        kept: dict[str, Any] = {}
        for side in sides:
            kept[side.name] = _warm(side)
            side.draw()
        cases = []
        for what in MEASURES:
            _commits(sides, wait=what == _ON_DISK)
            cases.append(measure(what, sides, calls))
        for side in sides:
            side.clean()
            side.close()
    return {
        "machine": {k: v for k, v in facts().items() if k not in ("Postfix", "Ceph")},
        "rows": sizes, "organizations": organizations, "partitions": parts, "bytes": kept, "cases": cases,
    }  # fmt: skip


def _warm(side: Side) -> dict[str, int]:
    """Read all indexes into memory, and return the size of the tables and of the indexes."""
    with side.owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
        relations = "FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = "
        connection.exec_driver_sql(f"SELECT sum(pg_prewarm(oid)) {relations}'i'").all()
        sizes = {
            what: int(
                connection.exec_driver_sql(f"SELECT sum(pg_relation_size(oid)) {relations}'{kind}'").scalar() or 0
            )
            for what, kind in (("tables", "r"), ("indexes", "i"))
        }
    return sizes


def columns(found: dict[str, Any]) -> report.Columns:
    """Return the table's columns, which name the sizes that were measured."""
    sizes = found["rows"]
    chosen = [
        ("", lambda c: c["what"]),
        *((f"ms at {sizes[n]:,}", lambda c, n=n: f"{c['ms'][n]:.2f}") for n in ("small", "large")),
        ("ratio", lambda c: f"{c['ratio']:.2f}"),
        ("pages", lambda c: f"{c['pages']['small']}, {c['pages']['large']}"),
    ]
    if "partitioned" in sizes:
        chosen.append(("ms in partitions", lambda c: f"{c['ms']['partitioned']:.2f}"))
    return [*chosen, ("indexes", lambda c: ", ".join(f"`{name}`" for name in c["indexes"]))]


def text(found: dict[str, Any]) -> str:
    """Write the figures as tables that a terminal shows and Markdown reads."""
    named = [{"what": what, "value": value} for what, value in found["machine"].items()]
    for name, size in found["bytes"].items():
        value = f"tables {size['tables'] / 1e9:.2f} GB, indexes {size['indexes'] / 1e9:.2f} GB"
        named.append({"what": f"{name}, {found['rows'][name]:,} messages", "value": value})
    tables = [report.cells(report.FACTS, named), report.cells(columns(found), found["cases"])]
    return "\n\n".join(map(report.table, tables))


def plan_page(found: dict[str, Any]) -> str:
    """Write docs/growth-plans.md."""
    sections = []
    for case in found["cases"]:
        sections.append(f"## {case['what']}\n\n" + "\n\n".join(f"```\n{plan}\n```" for plan in case["plans"]))
    head = (
        f"# Plans at {found['rows']['large']:,} messages\n\nEach statement as it was sent, and EXPLAIN (ANALYZE, "
        "BUFFERS) of it. Written by `script/benchmark growth --save`; the figures stand in [growth.md](growth.md).\n"
    )
    return "\n".join([head, *(f"{section}\n" for section in sections)])


def write(found: dict[str, Any], directory: Path) -> None:
    """Write the figures as a page and as JSON, and the plans, into a directory."""
    how = "Made by `script/benchmark growth --save`. The header of `benchmarks/growth/__main__.py` says how."
    page = f"# What the statements cost as the history grows\n\n{how}\n\n{text(found)}\n"
    (directory / "growth.md").write_text(page)
    (directory / "growth-plans.md").write_text(plan_page(found))
    (directory / "growth.json").write_text(json.dumps(found, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark as the command line says."""
    options = _parser().parse_args(arguments)
    sizes = {"small": options.small, "large": options.rows}
    sizes |= {"partitioned": options.rows} if options.partitions else {}
    with _place(options.directory) as directory:
        found = run(directory, sizes, options.organizations, options.partitions, options.calls)
    print(text(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.save:
        write(found, _ROOT / "benchmarks" / "results")
    if missed := complaints(found["cases"]):
        sys.exit(f"FAILED: {'; '.join(missed)}")


@contextmanager
def _place(directory: Path | None) -> Iterator[Path]:
    if directory is None:
        with scratch() as made:
            yield made
    else:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="script/benchmark growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, default=5_000_000, help="messages in the large database")
    add("--small", type=int, default=10_000, help="messages in the small one")
    add("--organizations", type=int, default=2_000, help="organizations in each")
    add("--partitions", type=int, default=0, help="measure a database of so many partitions, too")
    add("--calls", type=int, default=300, help="how often each function is called on each database")
    add("--directory", type=Path, help="where the databases are kept, and found again")
    add("--json", type=Path, help="a file for all figures")
    add("--save", action="store_true", help="write growth.md, growth.json and growth-plans.md into benchmarks/results")
    return parser


if __name__ == "__main__":
    main()
