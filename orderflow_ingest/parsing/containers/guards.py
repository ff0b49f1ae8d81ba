"""What all openers share: first bytes, how failures are raised, and how much work one mail may cause.

One UnpackBudget goes through all containers of a mail, those inside others too. It is asked for each member, for each
block that is unpacked, and for each step that costs time without giving bytes: an entry of a directory, an attribute, a
property, a word of RTF. A step is about a microsecond, so that MOST_STEPS bounds the time of a mail whose containers
are small and claim much, and it does so in the same way on a busy machine. `check` is asked as well, so that a caller
with a clock can end the work: it raises ContainerError.

Guarantees: within reading(), whatever is raised leaves as ContainerError with the words given, but for MemoryError and
ImportError, which concern this machine and not the mail. Recursion that goes too deep is a RuntimeError of Python's
and leaves as ContainerError too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

UNPACKED_LIMIT = 128 << 20
MOST_MEMBERS = 10_000
# An honest mail of 25 MB takes under 100,000.
MOST_STEPS = 2_000_000
# To guess the charset of a name takes up to a millisecond.
MOST_GUESSES = 500
_CHECK_AFTER = 4096

# Deflate reaches 1032:1 on zeros alone; spreadsheets and logs reach 20:1.
_RATIO = 100
_ALWAYS = 10 * 1024 * 1024
BLOCK = 65536
# The reason of an archive of a kind that nothing here opens, which is the defect as well.
UNREAD_ARCHIVE = "archive not opened"
# The defect of what stands for another file, or for none.
LINK_NOT_FOLLOWED = "link or device, not followed"

TNEF = b"\x78\x9f\x3e\x22"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
GZIP = b"\x1f\x8b\x08"
BZIP2 = b"BZh"
XZ = b"\xfd7zXZ\0"
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"
RAR = b"Rar!\x1a\x07"


class ContainerError(Exception):
    """A container that stays whole. The text is short fixed words that say why, never a sender's."""


class UnpackBudget:
    """What the containers of one mail may still take: bytes, members, steps, and names whose charset is guessed."""

    def __init__(
        self, size: int = UNPACKED_LIMIT, members: int = MOST_MEMBERS, check: Callable[[], None] | None = None
    ) -> None:
        self.size = size
        self.members = members
        self.steps = MOST_STEPS
        self.guesses = MOST_GUESSES
        self._check = check
        self._unchecked = 0

    def check_time(self) -> None:
        """Ask the caller's clock, if there is one. Raise ContainerError."""
        self._unchecked = 0
        if self._check is not None:
            self._check()

    def take_member(self) -> None:
        """Count one member. Raise ContainerError."""
        self.check_time()
        if self.members < 1:
            raise ContainerError("too many members")
        self.members -= 1

    def take(self, size: int) -> None:
        """Count bytes that are about to be unpacked, or just were. Raise ContainerError."""
        self.check_time()
        if size > self.size:
            raise ContainerError("too large when unpacked")
        self.size -= size

    def step(self, count: int = 1) -> None:
        """Count steps of about a microsecond that give no bytes. Raise ContainerError."""
        if count > self.steps:
            raise ContainerError("too much to read")
        self.steps -= count
        self._unchecked += count
        if self._unchecked >= _CHECK_AFTER:
            self.check_time()

    def take_guess(self) -> bool:
        """Count one name whose charset is to be guessed. Return False if there were too many."""
        self.guesses -= 1
        return self.guesses >= 0


@contextmanager
def reading(reason: str) -> Iterator[None]:
    """Raise ContainerError(reason) for all that goes wrong inside."""
    try:
        yield
    except (ContainerError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise ContainerError(reason) from error


class UnpackLimit:
    """Counts what comes out of one compressed container, against the mail's budget and the container's own size."""

    def __init__(self, size: int, budget: UnpackBudget) -> None:
        self._left = max(_ALWAYS, _RATIO * size)
        self._budget = budget

    def take(self, size: int) -> None:
        """Count bytes that were unpacked. Raise ContainerError."""
        self._left -= size
        if self._left < 0:
            raise ContainerError("ratio too high")
        self._budget.take(size)
