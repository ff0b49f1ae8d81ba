"""A clock and a backend for tests of the circuit breaker."""

import os
import time
from pathlib import Path

import pytest

from orderflow_ingest.storage.resilience.circuit_breaker import CircuitBreaker


class AwayError(Exception):
    """What the backend of these tests raises."""


def call(breaker: CircuitBreaker, fault: Exception | None = None, seconds: float = 0.0) -> None:
    with breaker():
        time.sleep(seconds)
        if fault:
            raise fault


def opened(breaker: CircuitBreaker, fault: Exception | None = None) -> None:
    with pytest.raises(type(fault or AwayError())):
        call(breaker, fault or AwayError("hangs"), seconds=0.1)


def is_through(breaker: CircuitBreaker) -> bool:
    try:
        call(breaker)
    except AwayError as away:
        assert str(away) == "backend: known to be unavailable, tried again within 2 s"
        return False
    return True


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))
