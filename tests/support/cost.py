"""What something costs, compared with other work of the same moment: a busy or a slow machine changes both alike."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

STEPS = 500_000  # some 10 ms of one core
# A loop lives in a core's own memory, and a mail does not, so neighbours slow the mail by more. Bounds are wide for
# that: what is quadratic exceeds them by far.


def unit() -> float:
    """Return the CPU time of a plain loop, the least of three times."""
    return min(_loop() for _ in range(3))


def _loop() -> float:
    began = time.process_time()
    for _ in range(STEPS):
        pass
    return time.process_time() - began


@contextmanager
def at_most(units: float) -> Iterator[None]:
    """Hold what the block costs this process to so many plain loops, which run before and after it."""
    before, began = unit(), time.process_time()
    yield
    spent = time.process_time() - began
    one = max(before, unit())
    assert spent < units * one, f"{spent / one:.1f} units"
