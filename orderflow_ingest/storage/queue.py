"""The queue: a bell that wakes a worker sooner than the sweep would.

Huey's own storages, chosen by URL: sqlite, postgresql (LISTEN/NOTIFY, any number of consumers), redis.
Huey deletes a task when a worker takes it, so tasks are lost with a killed worker; nothing depends on
them; so its commit does not wait for the disk. A task holds an organisation's and a row's id and
nothing else.

Whoever can write the queue can ring a bell, once for each row, and nothing more. Of a row JsonSerializer takes
Huey's id of the task, its name, its arguments and whether it is live. Retries, delays, callbacks, groups and the
time limit of a row are ignored. A row that is no such task is dropped with one log record that holds nothing of
it, and the next one is taken; the sweep finds the work. What lies in Huey's schedule is dropped too, and what its
store says of revoked tasks is not read: nothing of ours writes either.

A task's name is part of what lies in the queue: renaming one makes old tasks unknown, and the sweep
has to find their rows. Only create_tables() creates Huey's tables; a program started per message must not.
"""

import json
import math
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
from huey import Huey
from huey.api import Task
from huey.exceptions import HueyException, TaskTimeout
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import PostgresStorage, PriorityRedisStorage, SqliteStorage
from psycopg import sql
from psycopg.pq import TransactionStatus

from orderflow_ingest.domain.errors import BackendUnavailable, OrderflowError
from orderflow_ingest.observability import metrics
from orderflow_ingest.observability.logs import WARNING, event

from .resilience import error_hints, timeouts
from .resilience.cached_measurement import CachedMeasurement
from .resilience.group_commit import GroupCommit
from .resilience.pg_connection import connect

try:
    import redis
except ImportError:  # an extra: needed where QUEUE_URL names Redis
    redis = None  # type: ignore[assignment]

Body = Callable[[int, UUID, bool], None]
NAME = "orderflow"
# Where Huey logs. A filter is not asked about the records of a logger below its own.
HUEY_LOGGERS = ("huey", "huey.consumer", "huey.consumer.Worker", "huey.consumer.Scheduler", "huey.serializer")
_SWEPT = "orderflow.swept"
_COUNTED = 1.0  # seconds
_COUNTED_DEAD = 20_000  # rows that were taken and are kept; to count beside them takes about 5 ms
_BEHIND = -10  # Huey's priority of a task; the usual one is 0, and the highest goes first
# The names of tasks stand in rows of the queue: with other names the tasks of an older version would be left behind.
_TASKS_MODULE = "orderflow_ingest.queue"
_WORK = (f"{_TASKS_MODULE}.extract", f"{_TASKS_MODULE}.hand_over")
_LONGEST = 2000  # bytes of a row; ours have about 200
_LARGEST_ID = 2**63 - 1
_PAGE = 10_000
_REFUSED_AT_A_TIME = 1000
_SETTLED = 2.0  # seconds in which a transaction that adds a task is committed
_ALL = 10.0  # seconds
_HEARD = 1.0  # seconds
_ANSWER = 2.0 * timeouts.QUEUE  # seconds; the server's own statement timeout comes first, where it lives
_CLIENT_ERRORS = (sqlite3.Error, psycopg.Error, *((redis.RedisError,) if redis else ()))


class QueueUnavailable(BackendUnavailable):
    """The queue is away, refusing, or not set up."""

    backend = "queue"


def is_client_error(error: BaseException) -> bool:
    """Tell whether an error comes from the client of the queue's database."""
    return isinstance(error, _CLIENT_ERRORS)


class InvalidTaskError(OrderflowError, ValueError):
    """A row of the queue that is no task of ours."""


class JsonSerializer(Serializer):  # type: ignore[misc]
    """Huey's messages as JSON lists of their first seven fields, of which four are used.

    The order of the fields is Huey's, and longer lists, which versions before wrote, are read too.
    """

    def _serialize(self, data: Message) -> bytes:
        return json.dumps([data.id, data.name, None, None, None, data.priority, list(data.args)]).encode()

    def _deserialize(self, data: object) -> Message:
        """Return the task of a row. Raise InvalidTaskError, with a text that holds nothing of the row."""
        if not isinstance(data, bytes | bytearray) or len(data) > _LONGEST:
            raise InvalidTaskError("not bytes, or too many")
        try:
            id, name, _, _, _, priority, arguments, *_ = _as_list(json.loads(data))
            if priority not in (None, 0, _BEHIND):
                raise InvalidTaskError("a priority that is not ours")
            if not isinstance(name, str):
                raise InvalidTaskError("a name that is no text")
            arguments = _work_arguments(*_as_list(arguments)) if name in _WORK else _no_arguments(*_as_list(arguments))
            return Message(id=str(UUID(id)), name=name, priority=priority, args=arguments, kwargs={})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise (
                error if isinstance(error, InvalidTaskError) else InvalidTaskError("fields that are not ours")
            ) from None


def _as_list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidTaskError("not a list")
    return value


def _work_arguments(org_id: object, id: str) -> tuple[int, str]:
    if type(org_id) is not int or not 0 < org_id <= _LARGEST_ID:
        raise InvalidTaskError("not an organization's id")
    return org_id, str(UUID(id))


def _no_arguments() -> tuple[()]:
    """Return what a periodic task gets; the registry knows their names."""
    return ()


class _Bell(Huey):  # type: ignore[misc]
    """A Huey that takes from its storage nothing but tasks of ours that are to run now.

    `first` returns a task that goes before all that waits there, or None; see `periodic`.
    """

    first: Callable[[], Task | None] | None = None

    def dequeue(self) -> Task | None:
        """Return the next task; rows that are none are dropped, so many at a time that a stop is heard in between."""
        if self.first and (task := self.first()):
            return task
        for _ in range(_REFUSED_AT_A_TIME):
            data = self.storage.dequeue()
            if data is None:
                return None
            try:
                return self.deserialize_task(data)
            except (InvalidTaskError, HueyException) as error:
                why = str(error) if isinstance(error, InvalidTaskError) else "a name that is not registered here"
                event("dequeue", "A row of the queue was refused.", WARNING, reason=why)
        return None

    def read_schedule(self, timestamp: Any = None) -> list[Task]:
        """Return nothing: no task of ours is ever scheduled, and what lies there is dropped unread."""
        if rows := self.storage.schedule_size():
            self.storage.flush_schedule()
            event("dequeue", "Rows of the queue's schedule were dropped.", WARNING, rows=rows)
        return []

    def is_revoked(self, task: Any, timestamp: Any = None, peek: bool = True) -> bool:
        """Return False: nothing of ours is ever revoked, and a row that says so would stop all work."""
        return False


class _GroupedEnqueue:
    """Adds the tasks of all threads that wait in one commit: one connection with a lock is all that Huey has.

    The commit does not wait for the disk: a machine that crashes may lose the last tasks, as a killed worker does.
    """

    INSERT: str
    NOTIFY: str | None = None

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._enqueue_grouped = GroupCommit(self._enqueue_all, shared=_CLIENT_ERRORS)

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        """Add a task."""
        self._enqueue_grouped((self.name, data, priority or 0))  # type: ignore[attr-defined]

    def _enqueue_all(self, tasks: list[tuple[str, bytes, float]]) -> list[bool]:
        with self.db(commit=True) as cursor:  # type: ignore[attr-defined]
            cursor.executemany(self.INSERT, tasks)
            if self.NOTIFY:
                cursor.execute(self.NOTIFY, (self.channel, ""))  # type: ignore[attr-defined]
        return [True] * len(tasks)

    def rows(self) -> Iterator[bytes]:
        """Yield what lies in the queue, a page at a time; what is too long for a task comes empty."""
        last = 0
        while page := self.sql(self.ROWS, (_LONGEST, self.name, last, _PAGE), results=True):  # type: ignore[attr-defined]
            yield from (bytes(data) for _, data in page)
            last = page[-1][0]


class _Sqlite(_GroupedEnqueue, SqliteStorage):  # type: ignore[misc]
    INSERT = "insert into task (queue, data, priority) values (?, ?, ?)"
    # A column of SQLite holds values of any type, and of any length.
    NEXT = (
        "select id, case when typeof(data) = 'blob' and length(data) <= ? then data else x'' end"
        " from task where queue = ? order by priority desc, id limit 1"
    )

    ROWS = (
        "select id, case when typeof(data) = 'blob' and length(data) <= ? then data else x'' end"
        " from task where queue = ? and id > ? order by id limit ?"
    )

    def dequeue(self) -> bytes | None:
        """Take the next row; one that is too long for a task comes back empty, so that it is never read."""
        if not self.queue_size():  # without the lock
            return None
        with self.db(commit=True) as cursor:
            row = cursor.execute(self.NEXT, (_LONGEST, self.name)).fetchone()
            if row is None:
                return None
            cursor.execute("delete from task where id = ?", (row[0],))
            return bytes(row[1])

    def _create_connection(self) -> Any:
        connection = super()._create_connection()
        connection.execute("pragma synchronous=normal")
        return connection


class _Floor:
    """From which id on the rows of one priority are looked for: one that was taken _SETTLED seconds ago or more.

    A row below it would have been committed later than that; then, and where ids begin again, it goes down.
    """

    def __init__(self) -> None:
        self.id = 0
        self._next, self._at = 0, time.monotonic()

    def note(self, id: int) -> None:
        """Note that a row was taken."""
        now = time.monotonic()
        if id < self.id:
            self.id = self._next = id
        if now - self._at >= _SETTLED:
            self.id, self._next, self._at = self._next, id, now


class _Postgres(_GroupedEnqueue, PostgresStorage):  # type: ignore[misc]
    INSERT = "insert into huey_task (queue, data, priority) values (%s, %s, %s)"
    NOTIFY = "select pg_notify(%s, %s)"
    TAKE = (
        "delete from huey_task where id = {}"
        " returning id, priority, case when octet_length(data) <= %s then data else '' end"
    )
    ANY = "(select id from huey_task where queue = %s order by priority desc, id limit 1 for update skip locked)"
    FROM = (
        "(select id from huey_task where queue = %s and priority = %s and id >= %s"
        " order by id limit 1 for update skip locked)"
    )
    ROWS = (
        "select id, case when octet_length(data) <= %s then data else '' end"
        " from huey_task where queue = %s and id > %s order by id limit %s"
    )
    # The table's name is of the search path's schema; of the CASE PostgreSQL runs one arm alone.
    COUNT = (
        "select case when pg_stat_get_dead_tuples('huey_task'::regclass) <= %s"
        " then (select count(*) from huey_task where queue = %s)"
        " else pg_stat_get_live_tuples('huey_task'::regclass) end"
    )
    _conn: Any

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._floors = {0.0: _Floor(), float(_BEHIND): _Floor()}
        self._looked_at_all = -math.inf

    def _dequeue(self) -> bytes | None:
        """Take the next row; one that is too long for a task comes back empty, so that it is never read."""
        statement, values = self.next_take()
        with self.db() as cursor:
            row = cursor.execute(statement, values).fetchone()
        if row is None:
            return None
        id, priority, data = row
        if floor := self._floors.get(priority):
            floor.note(id)
        else:  # another's row, and there may be many
            self._looked_at_all = -math.inf
        return bytes(data)

    def next_take(self) -> tuple[str, tuple[Any, ...]]:
        """Return the statement that takes the next row, and its values.

        While somebody holds a snapshot (pg_dump, say), the rows that were taken stay in the table and its index, and
        a look for the smallest one reads them all each time. So it begins at the rows that were taken lately. Every
        _ALL seconds it begins at the first: a row may have been committed late, and another's priority is not ours.
        """
        now = time.monotonic()
        if now - self._looked_at_all >= _ALL:
            self._looked_at_all = now
            return self.TAKE.format(self.ANY), (self.name, _LONGEST)
        values = [(self.name, priority, floor.id) for priority, floor in self._floors.items()]
        chosen = f"coalesce({', '.join([self.FROM] * len(values))})"
        return self.TAKE.format(chosen), (*(value for one in values for value in one), _LONGEST)

    def queue_size(self) -> int:
        """Count the waiting tasks; where many rows that were taken are kept, return PostgreSQL's own estimate.

        A count would read each of them: 66 ms after 300,000 tasks under one snapshot, at each delivery's admission. The
        server counts as sessions tell it, some seconds late, and tells every role.
        """
        (size,) = self.sql(self.COUNT, self.count_values(), results=True)[0]
        return int(size)

    def count_values(self) -> tuple[int, str]:
        """Return the values of COUNT."""
        return _COUNTED_DEAD, self.name

    def _connect(self) -> Any:
        connection = connect(self.dsn, self.connection_params, _ANSWER)
        connection.autocommit = True
        return connection

    _create_connection = _connect

    def is_heard(self) -> bool:
        """Tell whether one new connection hears in time what another one notifies."""
        channel = f"{self.channel}.{uuid4().hex}"
        with closing(self._connect()) as hearer, closing(self._connect()) as caller:
            hearer.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            caller.execute("SELECT pg_notify(%s, '')", (channel,))
            return any(heard.channel == channel for heard in hearer.notifies(timeout=_HEARD, stop_after=1))

    @property
    def conn(self) -> Any:
        """Give the connection, asked for under the lock: none that a time limit has left in mid-command or
        in a transaction.

        It would refuse every command to come, and the worker would take no task any more.
        """
        held = self._conn
        if held is not None and held.pgconn.transaction_status != TransactionStatus.IDLE:
            self._close_quiet(held)
            self._conn = None
        return super().conn


class Queue:
    """Rings for the two kinds of work; a worker gives their bodies, all others only ring.

    A body is told whether its task was live: by the task's priority, so that no more lies in the queue than ids.

    `recent_depth` is depth(), asked for at most once a second; that the queue is away is remembered as long.

    An SQLite file must be there unless `create` is set. A task that runs longer than the worker's `time_limit`
    seconds is ended by an exception in a worker of type process.
    """

    def __init__(
        self,
        url: str,
        extract: Body | None = None,
        hand_over: Body | None = None,
        create: bool = False,
        time_limit: float | None = None,
    ):
        self._url = url
        self.huey = _open(url, create)
        self.recent_depth = CachedMeasurement(self.depth, _COUNTED, 0, errors=(QueueUnavailable,))
        self._extract = _declare(self.huey, "extract", extract, time_limit)
        self._hand_over = _declare(self.huey, "hand_over", hand_over, time_limit)

    def extract(self, org_id: int, message_id: UUID, is_live: bool = True) -> None:
        """Ring for the extraction of a message; what is not live comes behind all that is. Raises QueueUnavailable."""
        self._twice(lambda: self._extract(org_id, str(message_id), priority=None if is_live else _BEHIND))

    def hand_over(self, org_id: int, document_id: UUID, is_live: bool = True) -> None:
        """Ring for the hand-over of a document, as extract() does. Raises QueueUnavailable."""
        self._twice(lambda: self._hand_over(org_id, str(document_id), priority=None if is_live else _BEHIND))

    def depth(self) -> int:
        """Count the waiting tasks, or estimate them, as `_Postgres` says.

        Raises QueueUnavailable, also for an answer that is no number of tasks.
        """
        number = self._twice(self.huey.pending_count)
        if not isinstance(number, int) or number < 0:
            raise QueueUnavailable("queue: it does not tell how many tasks wait")
        return number

    def known(self) -> set[tuple[int, UUID]]:
        """Return the organization and the row of each task that waits. Raises QueueUnavailable."""
        return set(self._twice(lambda: list(self._known())))

    def _known(self) -> Iterator[tuple[int, UUID]]:
        storage = self.huey.storage
        rows = storage.rows() if isinstance(storage, _GroupedEnqueue) else storage.enqueued_items()
        for data in rows:
            with suppress(InvalidTaskError):  # whoever takes it reports it
                if arguments := self.huey.serializer.deserialize(data).args:
                    yield arguments[0], UUID(arguments[1])

    def note_sweep(self, who: str, at: float) -> None:
        """Note who swept last, of all hosts, and when (seconds since 1970). Raises QueueUnavailable.

        Idempotent by the one key; Redis and SQL storages alike keep it beside the tasks.
        """
        self._twice(lambda: self.huey.storage.put_data(_SWEPT, json.dumps([who, at]).encode()))

    def last_sweep(self) -> tuple[str, float] | None:
        """Give what note_sweep() noted last. Raises QueueUnavailable, also where this role may not read it."""
        found = self._twice(lambda: self.huey.storage.peek_data(_SWEPT))
        try:
            if len(found) > _LONGEST:
                return None
            who, at = json.loads(found)
            is_ours = isinstance(who, str) and who.isprintable() and math.isfinite(at)
            return (who, float(at)) if is_ours else None
        except (TypeError, ValueError, OverflowError, RecursionError):  # nothing is there, or not by us
            return None

    def rings(self) -> bool:
        """Tell whether PostgreSQL's NOTIFY reaches who LISTENs; of other storages it is true. Raises QueueUnavailable.

        Between us and the server may stand a transaction pooler, which gives a session to somebody else.
        """
        storage = self.huey.storage
        return not isinstance(storage, _Postgres) or bool(self._twice(storage.is_heard))

    def ask(self, statement: str) -> list[tuple[Any, ...]] | None:
        """Return what PostgreSQL answers where the queue is in it; None elsewhere. Raises QueueUnavailable."""
        storage = self.huey.storage
        if not isinstance(storage, _Postgres):
            return None
        return list(self._twice(lambda: storage.sql(statement, results=True)))

    def create_tables(self) -> None:
        """Create what the storage needs; safe to repeat. Raises QueueUnavailable."""
        self._twice(getattr(self.huey.storage, "initialize_schema", lambda: None))

    def _twice(self, call: Callable[[], Any]) -> Any:
        """Call, and once more after an error that came at once: Huey finds out by one that its connection is gone.

        In two calls of CREATE TABLE IF NOT EXISTS at the same time, too, the second try is the one that works.
        """
        began = time.monotonic()
        try:
            return call()
        except _CLIENT_ERRORS as error:
            if time.monotonic() - began > timeouts.QUEUE / 2:
                raise self._unavailable(error) from error
        try:
            return call()
        except _CLIENT_ERRORS as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> QueueUnavailable:
        metrics.count(metrics.BACKEND_ERRORS, "queue")
        return QueueUnavailable(f"queue {error_hints.explain_database_error(error, 'QUEUE_URL', self._url)}")


def _open(url: str, create: bool) -> Huey:
    common: dict[str, Any] = {"results": False, "serializer": JsonSerializer()}
    if url.startswith("sqlite"):
        file = f"file:{quote(url.removeprefix('sqlite:///'))}?mode={'rwc' if create else 'rw'}"
        sqlite = {"filename": file, "uri": True, "timeout": timeouts.QUEUE}
        return _Bell(NAME, storage_class=_Sqlite, create_tables=False, **sqlite, **common)
    if url.startswith("postgresql"):
        postgresql = timeouts.postgresql(timeouts.CONNECT, timeouts.QUEUE)
        postgresql |= {"dsn": url, "options": f"{postgresql['options']} -c synchronous_commit=off"}
        return _Bell(NAME, storage_class=_Postgres, create_tables=False, **postgresql, **common)
    if redis is None:
        raise QueueUnavailable("queue: QUEUE_URL names Redis; install orderflow-ingest[redis]")
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    times = {"socket_connect_timeout": timeouts.QUEUE, "socket_timeout": timeouts.QUEUE, "retry": Retry(NoBackoff(), 0)}
    # The host name is verified by every version of the client unless the URL says otherwise, as the certificate is.
    verified = {"ssl_check_hostname": True} if url.startswith("rediss") else {}
    try:
        pool = redis.ConnectionPool.from_url(url, **times, **verified)
        pool.connection_class(**pool.connection_kwargs)  # connects nothing, and knows every option
    except (ValueError, TypeError):
        # From none: the error's own text can hold what stood in the URL.
        raise QueueUnavailable("queue: QUEUE_URL has an option that the Redis client does not take") from None
    return _Bell(NAME, storage_class=PriorityRedisStorage, connection_pool=pool, **common)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Let the time limit that Huey tells a worker process by SIGALRM raise TaskDeadlineReached inside."""
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.signal(signal.SIGALRM, timeouts.raise_task_deadline)  # Huey puts the one before its own back
    try:
        yield
    except timeouts.TaskDeadlineReached:
        raise TaskTimeout("time limit") from None


def _declare(huey: Huey, name: str, body: Body | None, time_limit: float | None) -> Any:
    def run(org_id: int, id: str, task: Task) -> None:
        if body is None:
            raise RuntimeError("this process rings for tasks and runs none")
        with _time_limit():
            body(org_id, UUID(id), (task.priority or 0) > _BEHIND)

    run.__module__ = _TASKS_MODULE
    return huey.task(name=name, timeout=time_limit, context=True)(run)
