"""A clock and a backend for tests of the circuit breaker."""

import os
import time

import pytest


class AwayError(Exception):
    """What the backend of these tests raises."""


def call(breaker, fault=None, seconds=0.0):
    with breaker():
        time.sleep(seconds)
        if fault:
            raise fault


def opened(breaker, fault=None):
    with pytest.raises(type(fault or AwayError())):
        call(breaker, fault or AwayError("hangs"), seconds=0.1)


def is_through(breaker) -> bool:
    try:
        call(breaker)
    except AwayError as away:
        assert str(away) == "backend: known to be unavailable, tried again within 2 s"
        return False
    return True


def age(path, seconds):
    os.utime(path, (time.time() - seconds, time.time() - seconds))
