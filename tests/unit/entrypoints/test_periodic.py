"""rounds.py: what a host's workers do once a minute goes before all that waits, and never twice at a time."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orderflow_ingest.entrypoints import periodic
from orderflow_ingest.entrypoints.periodic import PeriodicTasks


def in_a_process(do) -> list[str]:
    """Return what a forked process tells; it is killed at its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, " ".join(str(one) for one in do()).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told:
        return told.read().split()


def test_each_round_is_due_at_first_and_once(monkeypatch):
    both = PeriodicTasks("sweep", "drain")
    assert [both.take() for _ in range(4)] == ["sweep", "drain", None, None]
    both.postpone("drain", 0)
    assert [both.take() for _ in range(2)] == ["drain", None]


def test_a_round_is_due_again_for_any_process_after_its_time(monkeypatch):
    monkeypatch.setattr(periodic, "INTERVAL", 0.0)
    one = PeriodicTasks("sweep")
    assert in_a_process(lambda: [one.take()]) == ["sweep"]
    assert in_a_process(lambda: [one.take(), one.take()]) == ["sweep", "sweep"]


def test_a_round_that_one_does_is_begun_by_no_other_however_long_it_takes(monkeypatch):
    monkeypatch.setattr(periodic, "INTERVAL", 0.0)
    one = PeriodicTasks("sweep")
    assert one.take() == "sweep"
    assert in_a_process(lambda: [one.take()]) == ["None"]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(one.take).result() is None
    assert one.take() == "sweep", "who asks again has ended the one before"


def test_a_process_that_is_killed_in_a_round_and_a_thread_that_ends_in_one_hold_nothing(monkeypatch):
    monkeypatch.setattr(periodic, "INTERVAL", 0.0)
    one = PeriodicTasks("sweep")
    assert in_a_process(lambda: [one.take()]) == ["sweep"]
    thread = threading.Thread(target=one.take)
    thread.start()
    thread.join()
    assert one.take() == "sweep"


@pytest.mark.parametrize("workers", [8])
def test_of_processes_that_ask_at_the_same_time_one_gets_the_round(workers):
    one, (reading, writing), (waiting, go) = PeriodicTasks("sweep"), os.pipe(), os.pipe()
    children = []
    for _ in range(workers):
        if (child := os.fork()) == 0:
            os.close(go)
            os.read(waiting, 1)  # till all are there
            os.write(writing, f"{one.take()}\n".encode())
            os._exit(0)
        children.append(child)
    os.close(go)
    for child in children:
        os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert sorted(told.read().split()) == ["None"] * (workers - 1) + ["sweep"]
