"""A circuit file that the file system does not let go stops nobody."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from orderflow_ingest.storage.resilience import circuit_breaker as module
from orderflow_ingest.storage.resilience.circuit_breaker import CircuitBreaker
from tests.support.breakers import AwayError, age, is_through, opened


@pytest.fixture
def path(place, monkeypatch):
    monkeypatch.setattr(module, "SLOW", 0.05)
    return place / "circuits" / "backend"


@pytest.fixture
def breaker(path):
    return CircuitBreaker(path, "backend", AwayError)


def test_a_file_that_cannot_be_removed_stops_nobody(breaker, path):
    """As on a file system that became read-only."""
    opened(breaker)
    age(path, module.PROBE + 1)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", path.parent], check=True)
    try:
        path.touch()
        age(path, module.PROBE + 1)
        subprocess.run(["mount", "-o", "remount,ro", path.parent], check=True)
        assert [is_through(breaker) for _ in range(3)] == [True] * 3
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda _: is_through(breaker), range(20)))
    finally:
        subprocess.run(["umount", "--lazy", path.parent], check=True)
