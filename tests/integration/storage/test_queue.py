"""The queue is a bell: it carries two ids as JSON, and says when it is away."""

import gc
import json
import pickle
import signal
import socket
import sqlite3
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from uuid import UUID, uuid4

import psycopg
import pytest
from huey.registry import Message

from orderflow_ingest.storage.queue import Queue, QueueUnavailable
from orderflow_ingest.storage.resilience import timeouts
from tests.support.lab.process import free_port, wait_until
from tests.support.lab.wire import Wire
from tests.support.queue_rows import EXTRACT, ID, JUNK, MESSAGE, SECRET, row


def empty(redis):
    """Return the URL of a database with nothing in it."""
    Queue(redis.url()).huey.storage.conn.flushdb()
    return redis.url()


@pytest.fixture(scope="module")
def database(postgres):
    return postgres.create_database(f"queue_{uuid4().hex}")


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def url(request, place):
    """Return the URL of a queue that is set up and empty."""
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
    queue.enqueue_extraction(7, MESSAGE)
    queue.enqueue_hand_over(8, MESSAGE)
    assert queue.depth() == 2
    assert queue.work() == [("extract", 7, MESSAGE), ("hand", 8, MESSAGE)] and queue.depth() == 0


def test_what_is_not_live_comes_behind_all_that_is_and_its_body_is_told(queue):
    queue.enqueue_extraction(1, MESSAGE, is_live=False)
    queue.enqueue_hand_over(2, MESSAGE, is_live=False)
    queue.enqueue_extraction(3, MESSAGE)
    assert [org_id for _, org_id, _ in queue.work()] == [3, 1, 2]
    assert queue.live == [True, False, False]


def test_a_process_without_bodies_rings_for_one_that_has_them(url, queue):
    Queue(url).enqueue_extraction(2**40, MESSAGE)
    assert queue.work() == [("extract", 2**40, MESSAGE)]


def test_a_process_without_bodies_runs_nothing(url):
    queue = Queue(url)
    queue.enqueue_extraction(7, MESSAGE)
    task = queue.huey.dequeue()
    with pytest.raises(RuntimeError, match="runs none"):
        task.execute()


def test_ringing_twice_runs_twice_since_the_row_decides(queue):
    for _ in range(2):
        queue.enqueue_extraction(7, MESSAGE)
    assert queue.work() == [("extract", 7, MESSAGE)] * 2


def test_a_body_that_raises_leaves_nothing_behind(url):
    def fail(*_):
        raise ValueError("a bug")

    queue = Queue(url, fail)
    queue.enqueue_extraction(7, MESSAGE)
    queue.huey.execute(queue.huey.dequeue())
    assert (queue.depth(), queue.huey.scheduled_count(), queue.huey.result_count()) == (0, 0, 0)


def test_each_task_goes_to_one_of_many_workers(url, queue):
    ids = [uuid4() for _ in range(30)]
    for id in ids:
        queue.enqueue_extraction(7, id)
    workers = [Worker(url) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        ran = [task for found in pool.map(Worker.work, workers) for task in found]
    assert sorted(task[2] for task in ran) == sorted(ids)


def test_threads_ring_at_the_same_time(queue):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: queue.enqueue_extraction(n, MESSAGE), range(1, 41)))
    assert sorted(task[1] for task in queue.work()) == list(range(1, 41))


def test_a_periodic_task_of_the_consumer_passes_through(queue):
    ran = []

    @queue.huey.periodic_task(lambda _: True)
    def sweep():
        ran.append("sweep")

    sweep()
    queue.work()
    assert ran == ["sweep"]


# A snapshot that is held


def pages(storage, statement, values) -> int:
    """Count the pages that a statement touches; what it does is undone."""
    with storage.db() as cursor:
        cursor.execute("BEGIN")
        (found,) = cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values).fetchone()
        cursor.execute("ROLLBACK")
    return found[0]["Plan"]["Shared Hit Blocks"] + found[0]["Plan"]["Shared Read Blocks"]


@pytest.fixture
def own_database(postgres):
    """Return a database of the test's own: it leaves so many dead rows that the queue of others would be estimated."""
    return postgres.create_database(f"queue_{uuid4().hex}")


def test_under_a_held_snapshot_a_take_reads_no_more_the_more_was_taken_before(postgres, own_database, monkeypatch):
    monkeypatch.setattr("orderflow_ingest.storage.queue._COMMIT_SECONDS", 0.0)
    queue = Worker(own_database)
    queue.create_tables()
    queue.huey.storage.flush_all()
    storage, of_all, of_next = queue.huey.storage, [], []
    with psycopg.connect(postgres.conninfo(own_database.rpartition("/")[2])) as dump:
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT 1 FROM huey_task")
        for _ in range(2):
            with storage.db() as cursor:  # what other workers have taken
                many = "SELECT 'orderflow', '', 0 FROM generate_series(1, 8000)"
                cursor.execute(f"INSERT INTO huey_task (queue, data, priority) {many}")
                cursor.execute("DELETE FROM huey_task")
            for is_live in (True, False) * 4:
                queue.enqueue_extraction(7, MESSAGE, is_live=is_live)
            storage._full_scan_at = float("-inf")
            for _ in range(6):
                assert storage._dequeue()
            of_all.append(pages(storage, storage.TAKE.format(storage.TAKE_ANY), (storage.name, 2000)))
            of_next.append(pages(storage, *storage.next_take()))
    assert of_all[1] > 1.5 * of_all[0] > 5 * of_next[0] and of_next[1] <= of_next[0] + 5, (of_all, of_next)
    queue.huey.storage.close()


def test_under_a_held_snapshot_a_count_reads_no_more_the_more_was_taken_before(postgres, own_database, monkeypatch):
    """From some rows on it is the server's estimate, which tells 3 of 3 here."""
    queue = Worker(own_database)
    queue.create_tables()
    queue.huey.storage.flush_all()
    storage, of_all, of_count = queue.huey.storage, [], []
    exactly = "select count(*) from huey_task where queue = %s"
    with psycopg.connect(postgres.conninfo(own_database.rpartition("/")[2])) as dump:
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT 1 FROM huey_task")
        for number in range(1, 3):
            with storage.db() as cursor:
                many = "SELECT 'orderflow', '', 0 FROM generate_series(1, 8000)"
                cursor.execute(f"INSERT INTO huey_task (queue, data, priority) {many}")
                cursor.execute("DELETE FROM huey_task")
            for _ in range(3):
                queue.enqueue_extraction(7, MESSAGE)
            storage.sql("SELECT pg_stat_force_next_flush()")
            assert queue.depth() == 3, "few rows are kept: they are counted"
            with monkeypatch.context() as changed:
                changed.setattr("orderflow_ingest.storage.queue._MOST_DEAD_ROWS", 8000 * number - 1)
                assert wait_until(partial(has_dead, storage, 8000 * number), 60)
                assert wait_until(lambda: queue.depth() == 3, 60), "the server's counts come some time later"
                of_count.append(pages(storage, storage.COUNT, storage.count_values()))
            of_all.append(pages(storage, exactly, (storage.name,)))
            with storage.db() as cursor:
                cursor.execute("DELETE FROM huey_task")
    assert of_all[1] > of_all[0] > 5 * (of_count[0] + 1) and of_count[1] <= of_count[0] + 5, (of_all, of_count)
    queue.huey.storage.close()


def has_dead(storage, number) -> bool:
    return storage.sql("SELECT pg_stat_get_dead_tuples('huey_task'::regclass)", results=True)[0][0] >= number


def test_a_task_that_was_committed_late_or_has_a_small_id_again_is_taken(postgres, own_database, monkeypatch):
    monkeypatch.setattr("orderflow_ingest.storage.queue._COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("orderflow_ingest.storage.queue._FULL_SCAN_SECONDS", 1000.0)
    queue = Worker(own_database)
    queue.create_tables()
    queue.huey.storage.flush_all()
    storage = queue.huey.storage
    for _ in range(5):
        queue.enqueue_extraction(7, MESSAGE)
        assert storage._dequeue()
    statement = "INSERT INTO huey_task (id, queue, data, priority) VALUES (%s, 'orderflow', '', %s)"
    with storage.db() as cursor:
        for id, priority in ((-7, 0), (-6, 0), (-5, 17), (-4, 18), (-3, -5)):
            cursor.execute(statement, (id, priority))
    assert storage._dequeue() is None
    storage._full_scan_at = float("-inf")  # after _FULL_SCAN_SECONDS
    assert [storage._dequeue() for _ in range(4)] == [b""] * 4, "another's priorities are taken one after the other"
    assert storage._dequeue() is None and storage.queue_size() == 1
    storage._full_scan_at = float("-inf")
    assert [storage._dequeue() for _ in range(2)] == [b"", None]
    queue.huey.storage.close()


# What lies in the queue


def test_what_lies_in_the_queue_is_json_with_the_ids_and_nothing_else(queue):
    queue.enqueue_extraction(7, MESSAGE)
    (data,) = queue.huey.storage.enqueued_items()
    id, name, *fields = json.loads(bytes(data))
    assert UUID(id) and name.endswith("extract")
    assert fields == [None, None, None, None, [7, str(MESSAGE)]]
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(data)


def test_the_names_in_the_queue_are_the_ones_that_lay_there_before(queue):
    queue.enqueue_extraction(7, MESSAGE)
    queue.enqueue_hand_over(7, MESSAGE)
    names = [json.loads(bytes(data))[1] for data in queue.huey.storage.enqueued_items()]
    assert sorted(names) == ["orderflow_ingest.queue.extract", "orderflow_ingest.queue.hand_over"]


@pytest.fixture
def log(caplog):
    caplog.set_level("INFO", logger="orderflow_ingest")
    return caplog


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_a_row_that_is_no_task_of_ours_is_dropped_with_one_record_and_the_next_one_taken(queue, log, junk):
    queue.huey.storage.enqueue(junk)
    queue.enqueue_extraction(7, MESSAGE)
    task = queue.huey.dequeue()
    assert list(task.args) == [7, str(MESSAGE)] and queue.depth() == 0
    (record,) = log.records
    assert record.message == "A row of the queue was refused." and "secret-word" not in str(vars(record))


FORGED = {
    "retries": {"retries": 10**9, "retry_delay": 0},
    "retries later": {"retries": 10**9, "retry_delay": 10**9, "retry_backoff": 2},
    "retries that are no number": {"retries": "many"},
    "a time to come": {"eta": "2999-01-01"},
    "a time that has gone by": {"eta": "1970-01-01", "expires": 1, "expires_resolved": "1970-01-01"},
    "no time at all": {"timeout": 1e-9},
    "a task on success": {"on_complete": json.loads(row())},
    "a task on failure": {"on_error": json.loads(row())},
    "a chord": {"chord_config": ["x", 1, 0, json.loads(row())]},
    "arguments by name": {"kwargs": {"task": 1, "org_id": 9}},
}


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "fails"])
@pytest.mark.parametrize("fields", FORGED.values(), ids=FORGED)
def test_what_a_row_says_beyond_its_task_is_ignored_and_it_runs_once(url, fields, fails):
    class Worker(Queue):
        ran = 0

        def body(self, *_):
            self.ran += 1
            if fails:
                raise ValueError("a bug")

    queue = Worker(url, lambda *_: queue.body(), lambda *_: queue.body(), time_limit=60)
    queue.huey.storage.enqueue(row(**fields))
    task = queue.huey.dequeue()
    assert task.timeout == 60
    queue.huey.execute(task)
    assert (queue.ran, queue.depth(), queue.huey.scheduled_count(), queue.huey.result_count()) == (1, 0, 0, 0)
    queue.huey.storage.close()


def test_a_row_of_the_version_before_is_read(queue):
    """That version wrote all fields of Huey's, and the time limit with them."""
    queue.huey.storage.enqueue(row(timeout=48.0, retries=0, retry_delay=0, retry_backoff=0))
    queue.huey.storage.enqueue(row(priority=-10, timeout=48.0), priority=-10)
    assert queue.work() == [("extract", 7, MESSAGE)] * 2 and queue.live == [True, False]


def test_the_version_before_reads_our_rows(queue):
    """It made a Message of whatever the list holds, where Huey fills in what is missing."""
    queue.enqueue_extraction(7, MESSAGE, is_live=False)
    (data,) = queue.huey.storage.enqueued_items()
    task = queue.huey._registry.create_task(Message(*json.loads(bytes(data))))
    assert (list(task.args), task.kwargs, task.retries, task.priority) == ([7, str(MESSAGE)], {}, 0, -10)


def test_what_goes_first_goes_before_a_backlog_and_while_the_queue_is_away(queue):
    for _ in range(3):
        queue.enqueue_extraction(7, MESSAGE)
    ran, due = [], ["sweep"]

    @queue.huey.task()
    def sweep():
        ran.append(queue.depth())

    queue.huey.first = lambda: sweep.s() if due and due.pop() else None
    assert len(queue.work()) == 3 and ran == [3]
    due.append("sweep")
    queue.huey.storage.dequeue = lambda: pytest.fail("the queue was asked")
    assert queue.huey.dequeue().name == "sweep"


def test_what_waits_is_known_by_organization_and_row_and_junk_is_skipped(queue, monkeypatch):
    monkeypatch.setattr("orderflow_ingest.storage.queue._PAGE", 3)
    ids = [uuid4() for _ in range(10)]
    for number, id in enumerate(ids):
        (queue.enqueue_extraction if number % 2 else queue.enqueue_hand_over)(7, id, is_live=number % 3 == 0)
    for junk in JUNK.values():
        queue.huey.storage.enqueue(junk)
    queue.huey.storage.enqueue(row(name="orderflow_ingest.tasks.sweep", args=()))
    assert queue.waiting_rows() == {(7, id) for id in ids}
    assert queue.depth() == 11 + len(set(JUNK.values()))


def test_a_periodic_task_takes_no_arguments_of_a_row(queue):
    ran = []

    @queue.huey.periodic_task(lambda _: True)
    def sweep():
        ran.append("sweep")

    queue.huey.storage.enqueue(row(name=f"{__name__}.sweep", args=()))
    queue.huey.storage.enqueue(row(name=f"{__name__}.sweep", args=(1, 2)))
    queue.work()
    assert ran == ["sweep"]


def test_what_lies_in_the_schedule_is_dropped_and_never_run(queue, log):
    queue.huey.storage.add_to_schedule(row(), datetime(2001, 1, 1))
    queue.huey.storage.add_to_schedule(row(id=str(uuid4()), retries=5), datetime(2999, 1, 1))
    assert queue.huey.read_schedule() == [] and queue.huey.scheduled_count() == 0 and queue.depth() == 0
    assert [record.rows for record in log.records] == [2]


@pytest.mark.parametrize("key", [f"r:{ID}", f"rt:{EXTRACT}"])
@pytest.mark.parametrize("value", [b"[null, false]", b"[null, true]", b"junk", b"[" * 100_000])
def test_what_another_wrote_about_revoked_tasks_stops_none(queue, key, value):
    queue.huey.storage.put_data(key, value)
    queue.huey.storage.enqueue(row())
    assert queue.work() == [("extract", 7, MESSAGE)]


@pytest.mark.parametrize("value", [b"", b"[]", b"7", b"[" * 1000, b"[" * 100_000, b'["\\u001b[31m", 1]', b'["a", NaN]',
                                   b'["a", 1e999]', b'["a", "b"]', b'[["a"], 1]'])  # fmt: skip
def test_what_another_wrote_about_the_last_sweep_is_no_sweep(queue, value):
    queue.huey.storage.put_data("orderflow.swept", value)
    assert queue.last_sweep() is None


@pytest.mark.parametrize("value", ["'[1]'", "5", "1.5", f"'{'x' * 5000}'", "zeroblob(20000000)"])
def test_a_column_of_sqlite_may_hold_anything(place, value):
    queue = Worker(f"sqlite:///{place}/queue.db")
    Queue(f"sqlite:///{place}/queue.db", create=True).create_tables()
    with sqlite3.connect(place / "queue.db") as connection:
        connection.execute(f"INSERT INTO task (queue, data, priority) VALUES ('orderflow', {value}, 'high')")
    connection.close()
    queue.enqueue_extraction(7, MESSAGE)
    assert queue.work() == [("extract", 7, MESSAGE)]


# Tables


def test_tables_are_created_twice_and_nothing_is_lost(queue):
    queue.enqueue_extraction(7, MESSAGE)
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


def test_a_queue_that_is_not_set_up_is_unavailable_and_ringing_creates_no_tables(place, postgres):
    database = f"queue_{uuid4().hex}"
    for url in (f"sqlite:///{place}/new.db", postgres.create_database(database)):
        refused(Queue(url))
    with psycopg.connect(postgres.conninfo(database)) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'huey%'").fetchone() == (0,)
    with sqlite3.connect(place / "new.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


# A queue that is away


@pytest.mark.parametrize("answer", [None, -1, "7", 1.5])
def test_a_length_that_is_no_number_of_tasks_is_a_queue_that_does_not_tell(place, monkeypatch, answer):
    queue = Queue(f"sqlite:///{place}/queue.db", create=True)
    monkeypatch.setattr(queue.huey.storage, "queue_size", lambda: answer)
    for ask in (queue.depth, queue.recent_depth):
        with pytest.raises(QueueUnavailable):
            ask()


def refused(queue, steps=("enqueue_extraction", "enqueue_hand_over", "depth")):
    for step in steps:
        with pytest.raises(QueueUnavailable) as away:
            getattr(queue, step)(*(() if step == "depth" else (7, MESSAGE)))
        assert SECRET not in str(away.value) and str(MESSAGE) not in str(away.value)


@pytest.mark.parametrize("form", ["postgresql+psycopg://of:{}@127.0.0.1:{}/of", "redis://:{}@127.0.0.1:{}/0"])
def test_a_queue_that_nobody_listens_for_is_unavailable(form):
    refused(Queue(form.format(SECRET, free_port())))


@pytest.mark.parametrize("form", ["postgresql+psycopg://of:{}@127.0.0.1:{}/of", "redis://:{}@127.0.0.1:{}/0"])
def test_a_queue_that_accepts_and_never_answers_is_unavailable_in_time(monkeypatch, form):
    monkeypatch.setattr(timeouts, "CONNECT", 2)  # the least that libpq knows
    monkeypatch.setattr(timeouts, "READ", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refused(Queue(form.format(SECRET, silent.getsockname()[1])), steps=["enqueue_extraction"])


@contextmanager
def hanging(postgres, place):
    """Return a queue that holds one task, and the wire to its server, which accepts and never answers."""
    name = f"queue_{uuid4().hex}"
    postgres.create_database(name)
    with Wire(place, postgres.port) as wire:
        queue = Queue(f"postgresql+psycopg://postgres@127.0.0.1:{wire.port}/{name}", lambda *_: None, lambda *_: None)
        queue.create_tables()
        queue.enqueue_extraction(1, uuid4())
        wire.turn("hang for good")
        yield queue, wire


def test_a_queue_serves_again_after_a_time_limit_has_cut_a_command_off(postgres, place):
    """As in a worker whose task is ended while PostgreSQL hangs."""
    with hanging(postgres, place) as (queue, wire):
        before = signal.signal(signal.SIGALRM, timeouts.raise_task_deadline)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(timeouts.TaskDeadlineReached):
                queue.enqueue_extraction(1, uuid4())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        wire.turn("pass")
        queue.enqueue_extraction(1, uuid4())
        assert queue.depth() == 2


@pytest.mark.parametrize("option", ["nope=1", "socket_timeout=soon"])
def test_an_option_that_redis_does_not_take_is_unavailable_at_once_and_not_told(option):
    with pytest.raises(QueueUnavailable, match="has an option that the Redis client does not take") as refused:
        Queue(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0?{option}")
    assert SECRET not in str(refused.value) and refused.value.__suppress_context__


def test_a_queue_whose_connection_is_silent_for_ever_is_unavailable_in_time_and_then_serves(postgres, place):
    with hanging(postgres, place) as (queue, wire):
        with pytest.raises(QueueUnavailable):
            queue.enqueue_extraction(1, uuid4())
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
        refused(queue, steps=["enqueue_extraction"])
        other.execute("ROLLBACK")
    queue.enqueue_extraction(7, MESSAGE)
    other.close()


def test_a_postgresql_that_ended_our_session_is_used_again(postgres):
    name = f"queue_{uuid4().hex}"
    queue = Worker(postgres.create_database(name))
    queue.create_tables()
    queue.enqueue_extraction(7, MESSAGE)
    with psycopg.connect(postgres.conninfo(name), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [name],
        )
    queue.enqueue_extraction(8, MESSAGE)
    assert [task[1] for task in queue.work()] == [7, 8]


def test_a_redis_that_ended_our_session_is_used_again(redis):
    queue = Worker(empty(redis))
    queue.enqueue_extraction(7, MESSAGE)
    with socket.create_connection(("127.0.0.1", redis.port), timeout=10) as other:
        other.sendall(b"CLIENT KILL TYPE normal\r\n")
        assert other.recv(100).startswith(b":")
    while queue.depth() < 2:
        try:
            queue.enqueue_extraction(8, MESSAGE)
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


def test_a_queue_that_hangs_is_waited_for_by_one(monkeypatch):
    """The others take the count before, and ask nothing."""
    for name in ("CONNECT", "QUEUE", "READ"):
        monkeypatch.setattr(timeouts, name, 60)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:
        queue = Queue(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/none")
        first = pool.submit(queue.recent_depth)
        asked = silent.accept()[0]
        assert [queue.recent_depth() for _ in range(5)] == [0] * 5 and not first.done()
        silent.close()
        asked.close()
        with pytest.raises(QueueUnavailable):
            first.result()
