"""Sampled: a measure is taken once for all who ask within its time."""

import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from orderflow_ingest.storage.resilience.cached_measurement import CachedMeasurement


class AwayError(Exception):
    """What a measure raises."""


def test_it_is_taken_once_within_its_time():
    taken = []
    sampled = CachedMeasurement(lambda: taken.append(1) or len(taken), 60, 0, errors=())
    assert [sampled(), sampled(), sampled()] == [1, 1, 1]


def test_it_is_taken_again_when_its_time_is_over():
    taken = []
    sampled = CachedMeasurement(lambda: taken.append(1) or len(taken), 0.05, 0, errors=())
    assert sampled() == 1
    time.sleep(0.06)
    assert sampled() == 2


def test_what_it_raised_is_remembered_for_a_second_and_holds_no_frame():
    class Held:
        pass

    taken, held = [], []

    def measure():
        mail = Held()
        held.append(weakref.ref(mail))
        taken.append(1)
        raise AwayError("away")

    sampled = CachedMeasurement(measure, 60, 0, errors=(AwayError,))
    for _ in range(3):
        with pytest.raises(AwayError, match="away"):
            sampled()
    gc.collect()
    assert len(taken) == 1 and held[0]() is None
    time.sleep(1)
    with pytest.raises(AwayError):
        sampled()
    assert len(taken) == 2


def test_an_error_that_is_not_named_is_not_remembered():
    answers = iter([ValueError(), 7])

    def measure():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    sampled = CachedMeasurement(measure, 60, 0, errors=(AwayError,))
    with pytest.raises(ValueError):
        sampled()
    assert sampled() == 7


def test_while_one_takes_it_the_others_have_the_one_before():
    taking, over = Event(), Event()

    def measure():
        taking.set()
        assert over.wait(10)
        return 5

    sampled = CachedMeasurement(measure, 60, 0, errors=())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(sampled)
        assert taking.wait(10)
        assert sampled() == 0
        over.set()
        assert first.result() == 5
    assert sampled() == 5
