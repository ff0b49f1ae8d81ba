"""The queue: a bell that wakes a worker sooner than the sweep would.

Huey's own storages, chosen by URL: sqlite, postgresql (LISTEN/NOTIFY, any number of consumers), redis.
Huey deletes a task when a worker takes it, so tasks are lost with a killed worker; nothing depends on
them; so its commit does not wait for the disk. A task holds an organisation's and a row's id and
nothing else. Tasks travel as JSON: who can write the queue can ring, but not make a worker run code,
as with Huey's default, pickle.

A task's name is part of what lies in the queue: renaming one makes old tasks unknown, and the sweep
has to find their rows. Only create_tables() creates Huey's tables; a program started per message must not.
"""

import json
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
from huey import Huey, PriorityRedisHuey
from huey.api import Task
from huey.exceptions import TaskTimeout
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import PostgresStorage, SqliteStorage
from psycopg import sql
from psycopg.pq import TransactionStatus

from . import database_answers, limits, metrics
from .answered import AnsweredConnection
from .grouping import Grouped
from .sampled import Sampled

try:
    import redis
except ImportError:  # an extra: needed where QUEUE_URL names Redis
    redis = None  # type: ignore[assignment]

Body = Callable[[int, UUID, bool], None]
NAME = "orderflow"
_SWEPT = "orderflow.swept"
_COUNTED = 1.0  # seconds
_BEHIND = -10  # Huey's priority of a task; the usual one is 0, and the highest goes first
_HEARD = 1.0  # seconds
_ANSWER = 2.0 * limits.QUEUE  # seconds; the server's own statement timeout comes first, where it lives
_CLIENT_ERRORS = (sqlite3.Error, psycopg.Error, *((redis.RedisError,) if redis else ()))


class QueueUnavailable(Exception):
    """The queue is away, refusing, or not set up."""


def is_client_error(error: BaseException) -> bool:
    """Tell whether an error comes from the client of the queue's database."""
    return isinstance(error, _CLIENT_ERRORS)


class JsonSerializer(Serializer):  # type: ignore[misc]
    """Huey's messages as JSON lists of their fields."""

    def _serialize(self, data: Message) -> bytes:
        return json.dumps(list(data)).encode()

    def _deserialize(self, data: bytes) -> Message:
        return Message(*json.loads(data))


class _GroupedEnqueue:
    """Adds the tasks of all threads that wait in one commit: one connection with a lock is all that Huey has.

    The commit does not wait for the disk: a machine that crashes may lose the last tasks, as a killed worker does.
    """

    INSERT: str
    NOTIFY: str | None = None

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._enqueue_grouped = Grouped(self._enqueue_all, shared=_CLIENT_ERRORS)

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        """Add a task."""
        self._enqueue_grouped((self.name, data, priority or 0))  # type: ignore[attr-defined]

    def _enqueue_all(self, tasks: list[tuple[str, bytes, float]]) -> list[bool]:
        with self.db(commit=True) as cursor:  # type: ignore[attr-defined]
            cursor.executemany(self.INSERT, tasks)
            if self.NOTIFY:
                cursor.execute(self.NOTIFY, (self.channel, ""))  # type: ignore[attr-defined]
        return [True] * len(tasks)


class _Sqlite(_GroupedEnqueue, SqliteStorage):  # type: ignore[misc]
    INSERT = "insert into task (queue, data, priority) values (?, ?, ?)"

    def _create_connection(self) -> Any:
        connection = super()._create_connection()
        connection.execute("pragma synchronous=normal")
        return connection


class _Postgres(_GroupedEnqueue, PostgresStorage):  # type: ignore[misc]
    INSERT = "insert into huey_task (queue, data, priority) values (%s, %s, %s)"
    NOTIFY = "select pg_notify(%s, %s)"
    _conn: Any

    def _connect(self) -> Any:
        connection = AnsweredConnection.connect(self.dsn, **self.connection_params)
        connection.answer_within = _ANSWER
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

    An SQLite file must be there unless `create` is set. A task that runs longer than `time_limit` seconds is
    ended by an exception in a worker of type process; the limit travels with the task, so all must give it.
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
        self.recent_depth = Sampled(self.depth, _COUNTED, 0, errors=(QueueUnavailable,))
        self._extract = _declare(self.huey, "extract", extract, time_limit)
        self._hand_over = _declare(self.huey, "hand_over", hand_over, time_limit)

    def extract(self, org_id: int, message_id: UUID, is_live: bool = True) -> None:
        """Ring for the extraction of a message; what is not live comes behind all that is. Raises QueueUnavailable."""
        self._twice(lambda: self._extract(org_id, str(message_id), priority=None if is_live else _BEHIND))

    def hand_over(self, org_id: int, document_id: UUID, is_live: bool = True) -> None:
        """Ring for the hand-over of a document, as extract() does. Raises QueueUnavailable."""
        self._twice(lambda: self._hand_over(org_id, str(document_id), priority=None if is_live else _BEHIND))

    def depth(self) -> int:
        """Count the waiting tasks. Raises QueueUnavailable."""
        return int(self._twice(self.huey.pending_count))

    def note_sweep(self, who: str, at: float) -> None:
        """Note who swept last, of all hosts, and when (seconds since 1970). Raises QueueUnavailable.

        Idempotent by the one key; Redis and SQL storages alike keep it beside the tasks.
        """
        self._twice(lambda: self.huey.storage.put_data(_SWEPT, json.dumps([who, at]).encode()))

    def last_sweep(self) -> tuple[str, float] | None:
        """Give what note_sweep() noted last. Raises QueueUnavailable, also where this role may not read it."""
        found = self._twice(lambda: self.huey.storage.peek_data(_SWEPT))
        try:
            who, at = json.loads(found)
            return str(who), float(at)
        except (TypeError, ValueError):  # nothing is there, or not by us
            return None

    def rings(self) -> bool:
        """Tell whether PostgreSQL's NOTIFY reaches who LISTENs; of other storages it is true. Raises QueueUnavailable.

        Between us and the server may stand a transaction pooler, which gives a session to somebody else.
        """
        storage = self.huey.storage
        return not isinstance(storage, _Postgres) or bool(self._twice(storage.is_heard))

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
            if time.monotonic() - began > limits.QUEUE / 2:
                raise self._unavailable(error) from error
        try:
            return call()
        except _CLIENT_ERRORS as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> QueueUnavailable:
        metrics.count(metrics.BACKEND_ERRORS, "queue")
        return QueueUnavailable(f"queue {database_answers.explained(error, 'QUEUE_URL', self._url)}")


def _open(url: str, create: bool) -> Huey:
    common: dict[str, Any] = {"results": False, "serializer": JsonSerializer()}
    if url.startswith("sqlite"):
        file = f"file:{quote(url.removeprefix('sqlite:///'))}?mode={'rwc' if create else 'rw'}"
        sqlite = {"filename": file, "uri": True, "timeout": limits.QUEUE}
        return Huey(NAME, storage_class=_Sqlite, create_tables=False, **sqlite, **common)
    if url.startswith("postgresql"):
        dsn = "postgresql://" + url.partition("://")[2]
        postgresql = limits.postgresql(limits.CONNECT, limits.QUEUE)
        postgresql |= {"dsn": dsn, "options": f"{postgresql['options']} -c synchronous_commit=off"}
        return Huey(NAME, storage_class=_Postgres, create_tables=False, **postgresql, **common)
    if redis is None:
        raise QueueUnavailable("queue: QUEUE_URL names Redis; install orderflow-ingest[redis]")
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    times = {"socket_connect_timeout": limits.QUEUE, "socket_timeout": limits.QUEUE, "retry": Retry(NoBackoff(), 0)}
    # The host name is verified by every version of the client unless the URL says otherwise, as the certificate is.
    verified = {"ssl_check_hostname": True} if url.startswith("rediss") else {}
    try:
        pool = redis.ConnectionPool.from_url(url, **times, **verified)
        pool.connection_class(**pool.connection_kwargs)  # connects nothing, and knows every option
    except (ValueError, TypeError):
        # From none: the error's own text can hold what stood in the URL.
        raise QueueUnavailable("queue: QUEUE_URL has an option that the Redis client does not take") from None
    return PriorityRedisHuey(NAME, connection_pool=pool, **common)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Let the time limit that Huey tells a worker process by SIGALRM raise TimeUp inside."""
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.signal(signal.SIGALRM, limits.time_up)  # Huey puts the one before its own back
    try:
        yield
    except limits.TimeUp:
        raise TaskTimeout("time limit") from None


def _declare(huey: Huey, name: str, body: Body | None, time_limit: float | None) -> Any:
    def run(org_id: int, id: str, task: Task) -> None:
        if body is None:
            raise RuntimeError("this process rings for tasks and runs none")
        with _time_limit():
            body(org_id, UUID(id), (task.priority or 0) > _BEHIND)

    return huey.task(name=name, timeout=time_limit, context=True)(run)
