"""What all openers share: first bytes, how failures are told, and how far a compressed container may unpack.

Guarantees: within reading(), whatever is raised leaves as NotOpened with the words given, but for MemoryError and
ImportError, which tell of this machine and not of the mail. Recursion that goes too deep is a RuntimeError of Python's
and leaves as NotOpened too.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from . import Budget, NotOpened

# Deflate reaches 1032:1 on zeros alone; spreadsheets and logs reach 20:1.
_RATIO = 100
_ALWAYS = 10 * 1024 * 1024
BLOCK = 65536

TNEF = b"\x78\x9f\x3e\x22"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
GZIP = b"\x1f\x8b\x08"


@contextmanager
def reading(reason: str) -> Iterator[None]:
    """Raise NotOpened(reason) for all that goes wrong inside."""
    try:
        yield
    except (NotOpened, ImportError, MemoryError):
        raise
    except Exception as error:
        raise NotOpened(reason) from error


class Outflow:
    """Counts what comes out of one compressed container, against the mail's budget and the container's own size."""

    def __init__(self, size: int, budget: Budget) -> None:
        self._room = max(_ALWAYS, _RATIO * size)
        self._budget = budget

    def take(self, size: int) -> None:
        """Count bytes that were unpacked. Raises NotOpened."""
        self._room -= size
        if self._room < 0:
            raise NotOpened("ratio too high")
        self._budget.take(size)
