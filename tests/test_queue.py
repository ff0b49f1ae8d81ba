"""The queue is a bell: it carries two ids as JSON, and says when it is away."""

import gc
import json
import pickle
import signal
import socket
import sqlite3
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from orderflow_ingest import limits
from orderflow_ingest.queue import Queue, QueueUnavailable
from tests.lab.process import free_port
from tests.lab.wire import Wire

SECRET = "not-for-any-log"
MESSAGE = UUID("0b5a3a52-7d0c-4c1e-8f64-0c6d5b1f2a17")


def empty(redis):
    """Give the URL of a database with nothing in it."""
    Queue(redis.url()).huey.storage.conn.flushdb()
    return redis.url()


@pytest.fixture(scope="module")
def database(postgres):
    return postgres.create_database(f"queue_{uuid4().hex}")


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def url(request, place):
    """Give the URL of a queue that is set up and empty."""
    if request.param == "sqlite":
        url = f"sqlite:///{place}/queue.db"
    elif request.param == "postgresql":
        url = request.getfixturevalue("database")
    else:
        return empty(request.getfixturevalue("redis"))
    queue = Queue(url, create=True)
    queue.create_tables()
    queue.huey.storage.flush_all()
    queue.huey.storage.close()
    return url


@pytest.fixture
def queue(url):
    queue = Worker(url)
    yield queue
    queue.huey.storage.close()


class Worker(Queue):
    """A queue with bodies that note what they were called with."""

    def __init__(self, url):
        self.ran, self.live = [], []
        super().__init__(url, partial(self._note, "extract"), partial(self._note, "hand"))

    def _note(self, name, org_id, id, is_live):
        self.ran.append((name, org_id, id))
        self.live.append(is_live)

    def work(self):
        """Do what a consumer does, until the queue is empty."""
        while self.depth():
            if task := self.huey.dequeue():
                self.huey.execute(task)
        return self.ran


def test_what_is_rung_for_is_run_with_the_ids(queue):
    queue.extract(7, MESSAGE)
    queue.hand_over(8, MESSAGE)
    assert queue.depth() == 2
    assert queue.work() == [("extract", 7, MESSAGE), ("hand", 8, MESSAGE)] and queue.depth() == 0


def test_what_is_not_live_comes_behind_all_that_is_and_its_body_is_told(queue):
    queue.extract(1, MESSAGE, is_live=False)
    queue.hand_over(2, MESSAGE, is_live=False)
    queue.extract(3, MESSAGE)
    assert [org_id for _, org_id, _ in queue.work()] == [3, 1, 2]
    assert queue.live == [True, False, False]


def test_a_process_without_bodies_rings_for_one_that_has_them(url, queue):
    Queue(url).extract(2**40, MESSAGE)
    assert queue.work() == [("extract", 2**40, MESSAGE)]


def test_a_process_without_bodies_runs_nothing(url):
    queue = Queue(url)
    queue.extract(7, MESSAGE)
    task = queue.huey.dequeue()
    with pytest.raises(RuntimeError, match="runs none"):
        task.execute()


def test_ringing_twice_runs_twice_since_the_row_decides(queue):
    for _ in range(2):
        queue.extract(7, MESSAGE)
    assert queue.work() == [("extract", 7, MESSAGE)] * 2


def test_a_body_that_raises_leaves_nothing_behind(url):
    def fail(*_):
        raise ValueError("a bug")

    queue = Queue(url, fail)
    queue.extract(7, MESSAGE)
    queue.huey.execute(queue.huey.dequeue())
    assert (queue.depth(), queue.huey.scheduled_count(), queue.huey.result_count()) == (0, 0, 0)


def test_each_task_goes_to_one_of_many_workers(url, queue):
    ids = [uuid4() for _ in range(30)]
    for id in ids:
        queue.extract(7, id)
    workers = [Worker(url) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        ran = [task for found in pool.map(Worker.work, workers) for task in found]
    assert sorted(task[2] for task in ran) == sorted(ids)


def test_threads_ring_at_the_same_time(queue):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: queue.extract(n, MESSAGE), range(1, 41)))
    assert sorted(task[1] for task in queue.work()) == list(range(1, 41))


def test_a_periodic_task_of_the_consumer_passes_through(queue):
    ran = []

    @queue.huey.periodic_task(lambda _: True)
    def sweep():
        ran.append("sweep")

    sweep()
    queue.work()
    assert ran == ["sweep"]


# What lies in the queue


def test_what_lies_in_the_queue_is_json_with_the_ids_and_nothing_else(queue):
    queue.extract(7, MESSAGE)
    (data,) = queue.huey.storage.enqueued_items()
    id, name, *fields = json.loads(bytes(data))
    assert UUID(id) and name.endswith("extract")
    assert [field for field in fields if field not in (None, 0, {}, [])] == [[7, str(MESSAGE)]]
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(data)


def test_the_names_in_the_queue_are_the_ones_that_lay_there_before(queue):
    queue.extract(7, MESSAGE)
    queue.hand_over(7, MESSAGE)
    names = [json.loads(bytes(data))[1] for data in queue.huey.storage.enqueued_items()]
    assert sorted(names) == ["orderflow_ingest.queue.extract", "orderflow_ingest.queue.hand_over"]


class Bomb:
    """What a pickle of it would do to who reads it."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


@pytest.mark.parametrize("junk", ["a pickle", b"", b"[]", b"null", b"{}", b"[1, 2]", b'["a", "os.system"]', b"\xff"])
def test_what_another_wrote_into_the_queue_runs_nothing_and_keeps_nothing_waiting(queue, place, junk):
    queue.huey.storage.enqueue(pickle.dumps(Bomb(place / "exploded")) if junk == "a pickle" else junk)
    queue.extract(7, MESSAGE)
    served = []
    while queue.depth():
        try:
            served.append(queue.huey.dequeue())
        except Exception as error:  # huey's consumer logs it and goes on
            assert not isinstance(error, QueueUnavailable)
    assert [list(task.args) for task in served] == [[7, str(MESSAGE)]]
    assert not (place / "exploded").exists()


# Tables


def test_tables_are_created_twice_and_nothing_is_lost(queue):
    queue.extract(7, MESSAGE)
    queue.create_tables()
    assert queue.work() == [("extract", 7, MESSAGE)]


def test_tables_are_created_by_two_at_once(place, postgres):
    for url in (f"sqlite:///{place}/new.db", postgres.create_database(f"queue_{uuid4().hex}")):
        start = threading.Barrier(4)

        def create(url=url, start=start):
            start.wait(30)
            Queue(url, create=True).create_tables()

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(create) for _ in range(4)]:
                done.result()
        assert Queue(url).depth() == 0


def test_opening_a_queue_connects_to_nothing_and_creates_nothing(place):
    Queue(f"sqlite:///{place}/queue.db")
    Queue(f"postgresql+psycopg://of:{SECRET}@127.0.0.1:{free_port()}/of")
    Queue(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0")
    assert list(place.iterdir()) == []


def test_a_queue_that_is_not_set_up_is_unavailable_and_ringing_creates_no_tables(place, postgres):
    database = f"queue_{uuid4().hex}"
    for url in (f"sqlite:///{place}/new.db", postgres.create_database(database)):
        refused(Queue(url))
    with psycopg.connect(postgres.conninfo(database)) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'huey%'").fetchone() == (0,)
    with sqlite3.connect(place / "new.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


# A queue that is away


def refused(queue, steps=("extract", "hand_over", "depth")):
    for step in steps:
        with pytest.raises(QueueUnavailable) as away:
            getattr(queue, step)(*(() if step == "depth" else (7, MESSAGE)))
        assert SECRET not in str(away.value) and str(MESSAGE) not in str(away.value)


@pytest.mark.parametrize("form", ["postgresql+psycopg://of:{}@127.0.0.1:{}/of", "redis://:{}@127.0.0.1:{}/0"])
def test_a_queue_that_nobody_listens_for_is_unavailable(form):
    refused(Queue(form.format(SECRET, free_port())))


@pytest.mark.parametrize("form", ["postgresql+psycopg://of:{}@127.0.0.1:{}/of", "redis://:{}@127.0.0.1:{}/0"])
def test_a_queue_that_accepts_and_never_answers_is_unavailable_in_time(monkeypatch, form):
    monkeypatch.setattr(limits, "CONNECT", 2)  # the least that libpq knows
    monkeypatch.setattr(limits, "READ", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        refused(Queue(form.format(SECRET, silent.getsockname()[1])), steps=["extract"])
    assert time.monotonic() - started < 20


@contextmanager
def hanging(postgres, place):
    """Give a queue that holds one task, and the wire to its server, which accepts and never answers."""
    name = f"queue_{uuid4().hex}"
    postgres.create_database(name)
    with Wire(place, postgres.port) as wire:
        queue = Queue(f"postgresql+psycopg://postgres@127.0.0.1:{wire.port}/{name}", lambda *_: None, lambda *_: None)
        queue.create_tables()
        queue.extract(1, uuid4())
        wire.turn("hang for good")
        yield queue, wire


def test_a_queue_serves_again_after_a_time_limit_has_cut_a_command_off(postgres, place):
    """As in a worker whose task is ended while PostgreSQL hangs."""
    with hanging(postgres, place) as (queue, wire):
        before = signal.signal(signal.SIGALRM, limits.time_up)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(limits.TimeUp):
                queue.extract(1, uuid4())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        wire.turn("pass")
        queue.extract(1, uuid4())
        assert queue.depth() == 2


@pytest.mark.parametrize("option", ["nope=1", "socket_timeout=soon"])
def test_an_option_that_redis_does_not_take_is_unavailable_at_once_and_not_told(option):
    with pytest.raises(QueueUnavailable, match="has an option that the Redis client does not take") as refused:
        Queue(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0?{option}")
    assert SECRET not in str(refused.value) and refused.value.__suppress_context__


def test_a_queue_whose_connection_is_silent_for_ever_is_unavailable_in_time_and_then_serves(postgres, place):
    with hanging(postgres, place) as (queue, wire):
        began = time.monotonic()
        with pytest.raises(QueueUnavailable):
            queue.extract(1, uuid4())
        assert time.monotonic() - began < 60
        wire.turn("pass")
        assert queue.depth() == 1
        assert queue.huey.dequeue() is not None
        assert queue.huey.dequeue() is None


def test_a_wrong_password_is_unavailable(redis):
    refused(Queue(f"redis://nobody:{SECRET}@127.0.0.1:{redis.port}/0"))


def test_a_database_that_is_not_there_is_unavailable(postgres, place):
    refused(Queue(f"postgresql+psycopg://postgres:{SECRET}@127.0.0.1:{postgres.port}/missing"))
    refused(Queue(f"sqlite:///{place}/missing/queue.db"))


def test_a_file_that_is_no_database_is_unavailable(place):
    (place / "queue.db").write_bytes(b"not a database, but long enough to be one" * 100)
    refused(Queue(f"sqlite:///{place}/queue.db"))


def test_a_file_that_another_process_keeps_locked_is_unavailable(place):
    url = f"sqlite:///{place}/queue.db"
    Queue(url, create=True).create_tables()
    queue = Queue(url)
    queue.huey.storage._timeout = 0.1
    with sqlite3.connect(place / "queue.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused(queue, steps=["extract"])
        other.execute("ROLLBACK")
    queue.extract(7, MESSAGE)
    other.close()


def test_a_postgresql_that_ended_our_session_is_used_again(postgres):
    name = f"queue_{uuid4().hex}"
    queue = Worker(postgres.create_database(name))
    queue.create_tables()
    queue.extract(7, MESSAGE)
    with psycopg.connect(postgres.conninfo(name), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [name],
        )
    queue.extract(8, MESSAGE)
    assert [task[1] for task in queue.work()] == [7, 8]


def test_a_redis_that_ended_our_session_is_used_again(redis):
    queue = Worker(empty(redis))
    queue.extract(7, MESSAGE)
    with socket.create_connection(("127.0.0.1", redis.port), timeout=10) as other:
        other.sendall(b"CLIENT KILL TYPE normal\r\n")
        assert other.recv(100).startswith(b":")
    while queue.depth() < 2:
        try:
            queue.extract(8, MESSAGE)
        except QueueUnavailable:
            continue
    assert [task[1] for task in queue.work()] == [7, 8]


def test_a_queue_that_is_away_is_asked_once_a_second_and_keeps_nothing_of_who_asked(place):
    """The error that is remembered must not hold the frames, and so the message, of the delivery that met it."""
    queue = Queue(f"sqlite:///{place}/none.db")

    class Message:
        pass

    def deliver():
        message = Message()
        with pytest.raises(QueueUnavailable):
            queue.recent_depth()
        return weakref.ref(message)

    gc.disable()
    try:
        assert [deliver()() for _ in range(3)] == [None] * 3
    finally:
        gc.enable()


def test_a_queue_that_hangs_is_waited_for_by_one(place):
    """The others take the count before; in a row each would wait as long again."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        queue = Queue(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/none")

        def ask(_):
            began = time.monotonic()
            try:
                queue.recent_depth()
            except QueueUnavailable:
                return time.monotonic() - began
            return time.monotonic() - began

        with ThreadPoolExecutor(6) as pool:
            waits = sorted(pool.map(ask, range(6)))
    assert waits[-2] < 1, "all but one"
    assert waits[-1] < 3 * limits.CONNECT
