"""A long value of a setting is read in a time that grows as its length."""

import time
from contextlib import suppress

import pytest

from orderflow_ingest.config import KEYS


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_long_value_is_read_in_a_time_that_grows_as_its_length(key):
    """By counted CPU time of this thread: four times the length is not sixteen times the work."""

    def took(text: str) -> float:
        before = time.thread_time()
        with suppress(ValueError):
            key.read(text)
        return time.thread_time() - before

    for begin in ("", "postgresql://", "postgresql://u:", "sqlite:////", "s3://abc/", "http://", "unix:/"):
        for run in ("a", "1", ".", "%41", ":", "/", " ", "a.", "[", "a@", "x,", "=&"):
            short, long = (min(took(f"{begin}{run * n}!") for _ in range(2)) for n in (10_000, 40_000))
            assert short < 0.005 or long < 9 * short, (begin, run)
