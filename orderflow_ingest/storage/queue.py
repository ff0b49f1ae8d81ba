"""The task queue: each task wakes a worker sooner than the sweep would.

Huey's own storages, chosen by URL: sqlite, postgresql (LISTEN/NOTIFY, any number of consumers), redis. A task holds the
id of an organization and the id of a row, and nothing else.

Huey deletes a task when a worker takes it, so a killed worker loses its task. No work depends on a task: the sweep
finds it in the rows of the database. So the commit of a task does not wait for the disk.

Whoever can write the queue can cause an attempt at a row, and nothing more. JsonSerializer reads four fields of a task:
Huey's id, its name, its arguments, its priority. Retries, delays, callbacks, groups and time limits in a row are
ignored. A row that is no such task is dropped with one log record that holds nothing of it. Huey's schedule is dropped
as well, and its list of revoked tasks is not read: this package writes neither.

The names of tasks are stored in the queue. A renamed task is unknown to a newer worker, and its work waits for the
sweep. Only create_tables() creates Huey's tables. A program started per message must not.
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

TaskHandler = Callable[[int, UUID, bool], None]
NAME = "orderflow"
# Where Huey logs. A filter does not see the records of a logger below its own.
HUEY_LOGGERS = ("huey", "huey.consumer", "huey.consumer.Worker", "huey.consumer.Scheduler", "huey.serializer")
_LAST_SWEEP = "orderflow.swept"
_DEPTH_SECONDS = 1.0  # seconds
_MOST_DEAD_ROWS = 20_000  # deleted and not yet vacuumed; a count that passes them takes about 5 ms
_LOW_PRIORITY = -10  # of a Huey task; the default is 0, and the highest goes first
# Part of the names of tasks, which are stored: with another one the tasks of an older version would be unknown.
_TASKS_MODULE = "orderflow_ingest.queue"
_TASK_NAMES = (f"{_TASKS_MODULE}.extract", f"{_TASKS_MODULE}.hand_over")
_LONGEST_ROW = 2000  # bytes of a row; ours have about 200
_LARGEST_ID = 2**63 - 1
_PAGE = 10_000
_MOST_REFUSED = 1000
_COMMIT_SECONDS = 2.0  # seconds in which a transaction that adds a task is committed
_FULL_SCAN_SECONDS = 10.0  # seconds
_NOTIFY_SECONDS = 1.0  # seconds
_RESPONSE_TIMEOUT = 2.0 * timeouts.QUEUE  # seconds; the server's own statement timeout comes first, where it lives
_CLIENT_ERRORS = (sqlite3.Error, psycopg.Error, *((redis.RedisError,) if redis else ()))


class QueueUnavailable(BackendUnavailable):
    """The queue cannot be reached, refuses, or is not set up."""

    backend = "queue"


def is_client_error(error: BaseException) -> bool:
    """Return whether an error comes from the client of the queue's database."""
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
        if not isinstance(data, bytes | bytearray) or len(data) > _LONGEST_ROW:
            raise InvalidTaskError("not bytes, or too many")
        try:
            id, name, _, _, _, priority, arguments, *_ = _as_list(json.loads(data))
            if priority not in (None, 0, _LOW_PRIORITY):
                raise InvalidTaskError("an unknown priority")
            if not isinstance(name, str):
                raise InvalidTaskError("a name that is no text")
            check = _work_arguments if name in _TASK_NAMES else _no_arguments
            arguments = check(*_as_list(arguments))
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
    """Return the arguments of a periodic task. The registry knows their names."""
    return ()


class _TaskQueue(Huey):  # type: ignore[misc]
    """A Huey that takes from its storage only tasks of this package that are to run now.

    `first` returns a task that goes before all others, or None. See `periodic`.
    """

    first: Callable[[], Task | None] | None = None

    def dequeue(self) -> Task | None:
        """Return the next task. Drop rows that are none, at most _MOST_REFUSED at a time, so that a stop is noticed."""
        if self.first and (task := self.first()):
            return task
        for _ in range(_MOST_REFUSED):
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
        """Return nothing: no task of this package is ever scheduled. Drop the rows of the schedule unread."""
        if rows := self.storage.schedule_size():
            self.storage.flush_schedule()
            event("dequeue", "Rows of the queue's schedule were dropped.", WARNING, rows=rows)
        return []

    def is_revoked(self, task: Any, timestamp: Any = None, peek: bool = True) -> bool:  # noqa: FBT001, FBT002 (as Huey's)
        """Return False: no task is ever revoked, and a row that revokes one would stop all work."""
        return False


class _GroupCommitStorage:
    """Add the tasks of all waiting threads in one commit: Huey has one connection, with a lock.

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
        """Yield the rows of the queue, read in pages. A row that is too long for a task comes empty."""
        last = 0
        while page := self.sql(self.ROWS, (_LONGEST_ROW, self.name, last, _PAGE), results=True):  # type: ignore[attr-defined]
            yield from (bytes(data) for _, data in page)
            last = page[-1][0]


class _Sqlite(_GroupCommitStorage, SqliteStorage):  # type: ignore[misc]
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
        """Take the next row. One that is too long for a task comes back empty, so that it is never read."""
        if not self.queue_size():  # without the lock
            return None
        with self.db(commit=True) as cursor:
            row = cursor.execute(self.NEXT, (_LONGEST_ROW, self.name)).fetchone()
            if row is None:
                return None
            cursor.execute("delete from task where id = ?", (row[0],))
            return bytes(row[1])

    def _create_connection(self) -> Any:
        connection = super()._create_connection()
        connection.execute("pragma synchronous=normal")
        return connection


class _LowestId:
    """The lowest id at which the search for rows of one priority begins: one taken _COMMIT_SECONDS ago or more.

    A row below it would have been committed later than that. In that case, and where ids start again, it goes down.
    """

    def __init__(self) -> None:
        self.id = 0
        self._next, self._at = 0, time.monotonic()

    def advance(self, id: int) -> None:
        """Advance behind a row that was taken."""
        now = time.monotonic()
        if id < self.id:
            self.id = self._next = id
        if now - self._at >= _COMMIT_SECONDS:
            self.id, self._next, self._at = self._next, id, now


class _Postgres(_GroupCommitStorage, PostgresStorage):  # type: ignore[misc]
    INSERT = "insert into huey_task (queue, data, priority) values (%s, %s, %s)"
    NOTIFY = "select pg_notify(%s, %s)"
    TAKE = (
        "delete from huey_task where id = {}"
        " returning id, priority, case when octet_length(data) <= %s then data else '' end"
    )
    TAKE_ANY = "(select id from huey_task where queue = %s order by priority desc, id limit 1 for update skip locked)"
    TAKE_FROM = (
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
        self._lowest_ids = {0.0: _LowestId(), float(_LOW_PRIORITY): _LowestId()}
        self._full_scan_at = -math.inf

    def _dequeue(self) -> bytes | None:
        """Take the next row. One that is too long for a task comes back empty, so that it is never read."""
        statement, values = self.next_take()
        with self.db() as cursor:
            row = cursor.execute(statement, values).fetchone()
        if row is None:
            return None
        id, priority, data = row
        if lowest := self._lowest_ids.get(priority):
            lowest.advance(id)
        else:  # a row of another program, and there may be many
            self._full_scan_at = -math.inf
        return bytes(data)

    def next_take(self) -> tuple[str, tuple[Any, ...]]:
        """Return the statement that takes the next row, and its values.

        While a session holds a snapshot (pg_dump, say), deleted rows stay in the table and its index, and a search for
        the smallest id reads them all each time. So the search begins at the rows that were taken lately. Every
        _FULL_SCAN_SECONDS it begins at the first row: a row may have been committed late, or with another priority.
        """
        now = time.monotonic()
        if now - self._full_scan_at >= _FULL_SCAN_SECONDS:
            self._full_scan_at = now
            return self.TAKE.format(self.TAKE_ANY), (self.name, _LONGEST_ROW)
        values = [(self.name, priority, lowest.id) for priority, lowest in self._lowest_ids.items()]
        chosen = f"coalesce({', '.join([self.TAKE_FROM] * len(values))})"
        return self.TAKE.format(chosen), (*(value for one in values for value in one), _LONGEST_ROW)

    def queue_size(self) -> int:
        """Return the number of waiting tasks, or PostgreSQL's estimate where many deleted rows are still kept.

        A count would read each of them: 66 ms after 300,000 tasks under one snapshot, at each delivery's admission. The
        estimate is some seconds late, and every role may read it.
        """
        (size,) = self.sql(self.COUNT, self.count_values(), results=True)[0]
        return int(size)

    def count_values(self) -> tuple[int, str]:
        """Return the values of COUNT."""
        return _MOST_DEAD_ROWS, self.name

    def _connect(self) -> Any:
        connection = connect(self.dsn, self.connection_params, _RESPONSE_TIMEOUT)
        connection.autocommit = True
        return connection

    _create_connection = _connect

    def notify_works(self) -> bool:
        """Return whether one new connection receives in time what another one notifies."""
        channel = f"{self.channel}.{uuid4().hex}"
        with closing(self._connect()) as hearer, closing(self._connect()) as caller:
            hearer.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            caller.execute("SELECT pg_notify(%s, '')", (channel,))
            return any(heard.channel == channel for heard in hearer.notifies(timeout=_NOTIFY_SECONDS, stop_after=1))

    @property
    def conn(self) -> Any:
        """Return the connection. The caller holds the lock.

        A connection that a time limit has left in a command or in a transaction is replaced: it would refuse every
        later command, and the worker would take no more tasks.
        """
        held = self._conn
        if held is not None and held.pgconn.transaction_status != TransactionStatus.IDLE:
            self._close_quiet(held)
            self._conn = None
        return super().conn


class Queue:
    """Enqueues the two kinds of work. Only a worker passes handlers for them.

    A handler gets the organization, the row, and whether the work is live, which is stored as the task's priority.

    `recent_depth` is depth(), measured at most once a second. A QueueUnavailable is remembered as long.

    An SQLite file must exist unless `create` is set. A task that runs longer than the worker's `time_limit` seconds is
    ended by an exception, in a worker of type process.
    """

    def __init__(
        self,
        url: str,
        extract: TaskHandler | None = None,
        hand_over: TaskHandler | None = None,
        time_limit: float | None = None,
        *,
        create: bool = False,
    ):
        self._url = url
        self.huey = _open(url, create=create)
        self.recent_depth = CachedMeasurement(self.depth, _DEPTH_SECONDS, 0, errors=(QueueUnavailable,))
        self._extract = _register(self.huey, "extract", extract, time_limit)
        self._hand_over = _register(self.huey, "hand_over", hand_over, time_limit)

    def enqueue_extraction(self, org_id: int, message_id: UUID, *, is_live: bool = True) -> None:
        """Enqueue the extraction of a message, behind all live work unless `is_live`. Raise QueueUnavailable."""
        self._call_with_retry(lambda: self._extract(org_id, str(message_id), priority=_priority(is_live=is_live)))

    def enqueue_hand_over(self, org_id: int, document_id: UUID, *, is_live: bool = True) -> None:
        """Enqueue the hand-over of a document, as enqueue_extraction() does. Raise QueueUnavailable."""
        self._call_with_retry(lambda: self._hand_over(org_id, str(document_id), priority=_priority(is_live=is_live)))

    def depth(self) -> int:
        """Return the number of waiting tasks, or an estimate, as `_Postgres` says.

        Raise QueueUnavailable, also for an answer that is no number of tasks.
        """
        number = self._call_with_retry(self.huey.pending_count)
        if not isinstance(number, int) or number < 0:
            raise QueueUnavailable("queue: it gave no number of waiting tasks")
        return number

    def waiting_rows(self) -> set[tuple[int, UUID]]:
        """Return the organization and the row of each waiting task. Raise QueueUnavailable."""
        return set(self._call_with_retry(lambda: list(self._waiting_rows())))

    def _waiting_rows(self) -> Iterator[tuple[int, UUID]]:
        storage = self.huey.storage
        rows = storage.rows() if isinstance(storage, _GroupCommitStorage) else storage.enqueued_items()
        for data in rows:
            with suppress(InvalidTaskError):  # the worker that takes it reports it
                if arguments := self.huey.serializer.deserialize(data).args:
                    yield arguments[0], UUID(arguments[1])

    def record_sweep(self, who: str, at: float) -> None:
        """Record who swept last, of all hosts, and when (seconds since 1970). Raise QueueUnavailable.

        Idempotent by the one key, which Redis and SQL storages keep beside the tasks.
        """
        self._call_with_retry(lambda: self.huey.storage.put_data(_LAST_SWEEP, json.dumps([who, at]).encode()))

    def last_sweep(self) -> tuple[str, float] | None:
        """Return what record_sweep() recorded last. Raise QueueUnavailable, also where this role may not read it."""
        found = self._call_with_retry(lambda: self.huey.storage.peek_data(_LAST_SWEEP))
        try:
            if len(found) > _LONGEST_ROW:
                return None
            who, at = json.loads(found)
            is_ours = isinstance(who, str) and who.isprintable() and math.isfinite(at)
            return (who, float(at)) if is_ours else None
        except (TypeError, ValueError, OverflowError, RecursionError):  # no record, or one of another program
            return None

    def notify_works(self) -> bool:
        """Return whether PostgreSQL's NOTIFY reaches a session that LISTENs, or True for other storages.

        A transaction pooler before the server breaks it, since it gives the session to another client. Raises
        QueueUnavailable.
        """
        storage = self.huey.storage
        return not isinstance(storage, _Postgres) or bool(self._call_with_retry(storage.notify_works))

    def query(self, statement: str) -> list[tuple[Any, ...]] | None:
        """Return the rows of a statement where the queue is in PostgreSQL. None elsewhere. Raise QueueUnavailable."""
        storage = self.huey.storage
        if not isinstance(storage, _Postgres):
            return None
        return list(self._call_with_retry(lambda: storage.sql(statement, results=True)))

    def create_tables(self) -> None:
        """Create what the storage needs. Safe to repeat. Raise QueueUnavailable."""
        self._call_with_retry(getattr(self.huey.storage, "initialize_schema", lambda: None))

    def _call_with_retry(self, call: Callable[[], Any]) -> Any:
        """Call, and once more after an error that came at once: Huey notices by an error that its connection is lost.

        Two calls of CREATE TABLE IF NOT EXISTS at the same time may also need the second try.
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


def _open(url: str, *, create: bool) -> Huey:
    common: dict[str, Any] = {"results": False, "serializer": JsonSerializer()}
    if url.startswith("sqlite"):
        file = f"file:{quote(url.removeprefix('sqlite:///'))}?mode={'rwc' if create else 'rw'}"
        sqlite = {"filename": file, "uri": True, "timeout": timeouts.QUEUE}
        return _TaskQueue(NAME, storage_class=_Sqlite, create_tables=False, **sqlite, **common)
    if url.startswith("postgresql"):
        postgresql = timeouts.postgresql(timeouts.CONNECT, timeouts.QUEUE)
        postgresql |= {"dsn": url, "options": f"{postgresql['options']} -c synchronous_commit=off"}
        return _TaskQueue(NAME, storage_class=_Postgres, create_tables=False, **postgresql, **common)
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
    return _TaskQueue(NAME, storage_class=PriorityRedisStorage, connection_pool=pool, **common)


def _priority(*, is_live: bool) -> int | None:
    return None if is_live else _LOW_PRIORITY


@contextmanager
def _time_limit() -> Iterator[None]:
    """Make the SIGALRM by which Huey ends a task in a worker process raise TaskDeadlineReached inside."""
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.signal(signal.SIGALRM, timeouts.raise_task_deadline)  # Huey puts the one before its own back
    try:
        yield
    except timeouts.TaskDeadlineReached:
        raise TaskTimeout("time limit") from None


def _register(huey: Huey, name: str, handler: TaskHandler | None, time_limit: float | None) -> Any:
    def run(org_id: int, id: str, task: Task) -> None:
        if handler is None:
            raise RuntimeError("this process enqueues tasks and runs none")
        with _time_limit():
            handler(org_id, UUID(id), (task.priority or 0) > _LOW_PRIORITY)

    run.__module__ = _TASKS_MODULE
    return huey.task(name=name, timeout=time_limit, context=True)(run)
