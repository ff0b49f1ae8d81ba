"""The queue: a bell that wakes a worker sooner than the sweep would.

Huey's own storages, chosen by URL: sqlite, postgresql (LISTEN/NOTIFY, any number of consumers), redis.
Huey deletes a task when a worker takes it, so tasks are lost with a killed worker; nothing depends on
them. A task holds an organisation's and a row's id and nothing else. Tasks travel as JSON: who can
write the queue can ring, but not make a worker run code, as with Huey's default, pickle.

A task's name is part of what lies in the queue: renaming one makes old tasks unknown, and the sweep
has to find their rows. Only tables() creates Huey's tables; a program started per message must not.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from huey import Huey, PostgresHuey, PriorityRedisHuey, SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer
from psycopg.errors import DuplicateTable, UniqueViolation

try:
    import redis
except ImportError:  # an extra: needed where QUEUE_URL names Redis
    redis = None  # type: ignore[assignment]

Body = Callable[[int, UUID], None]
NAME = "orderflow"
CONNECT_TIMEOUT, READ_TIMEOUT = 5, 10
_CLIENT_ERRORS = (sqlite3.Error, psycopg.Error, *((redis.RedisError,) if redis else ()))


class QueueUnavailable(Exception):
    """The queue is away, refusing, or not set up."""


class JsonSerializer(Serializer):  # type: ignore[misc]
    """Huey's messages as JSON lists of their fields."""

    def _serialize(self, data: Message) -> bytes:
        return json.dumps(list(data)).encode()

    def _deserialize(self, data: bytes) -> Message:
        return Message(*json.loads(data))


class Queue:
    """Rings for the two kinds of work; a worker gives their bodies, all others only ring."""

    def __init__(self, url: str, extract: Body | None = None, hand_over: Body | None = None):
        self.huey = _open(url)
        self._extract = _declare(self.huey, "extract", extract)
        self._hand_over = _declare(self.huey, "hand_over", hand_over)

    def extract(self, org_id: int, message_id: UUID) -> None:
        """Ring for the extraction of a message. Raises QueueUnavailable."""
        with _translated():
            self._extract(org_id, str(message_id))

    def hand_over(self, org_id: int, document_id: UUID) -> None:
        """Ring for the hand-over of a document. Raises QueueUnavailable."""
        with _translated():
            self._hand_over(org_id, str(document_id))

    def depth(self) -> int:
        """Count the waiting tasks. Raises QueueUnavailable."""
        with _translated():
            return int(self.huey.pending_count())

    def create_tables(self) -> None:
        """Create what the storage needs; safe to repeat. Raises QueueUnavailable."""
        create = getattr(self.huey.storage, "initialize_schema", lambda: None)
        with _translated():
            try:
                create()
            except (UniqueViolation, DuplicateTable):  # two at once: IF NOT EXISTS does not see the other's
                create()


def _open(url: str) -> Huey:
    common: dict[str, Any] = {"results": False, "serializer": JsonSerializer()}
    if url.startswith("sqlite"):
        return SqliteHuey(NAME, filename=url.removeprefix("sqlite:///"), timeout=10, create_tables=False, **common)
    if url.startswith("postgresql"):
        dsn = "postgresql://" + url.partition("://")[2]
        limits = {"connect_timeout": CONNECT_TIMEOUT, "prepare_threshold": None, "application_name": NAME}
        return PostgresHuey(NAME, dsn=dsn, create_tables=False, **limits, **common)
    if redis is None:
        raise QueueUnavailable("queue: QUEUE_URL names Redis; install orderflow-ingest[redis]")
    pool = redis.ConnectionPool.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT, socket_timeout=READ_TIMEOUT)
    return PriorityRedisHuey(NAME, connection_pool=pool, **common)


def _declare(huey: Huey, name: str, body: Body | None) -> Any:
    def run(org_id: int, id: str) -> None:
        if body is None:
            raise RuntimeError("this process rings for tasks and runs none")
        body(org_id, UUID(id))

    return huey.task(name=name)(run)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _CLIENT_ERRORS as error:
        raise QueueUnavailable(f"queue: {type(error).__name__}") from error
