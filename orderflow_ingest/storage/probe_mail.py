"""Probes: mail that `orderflow-admin check` sends itself, to see the header that a delivery gets.

Guarantees: a mail is a probe only if its Message-ID names a file in the state directory that check has made minutes
ago. That name is 128 random bits, which no one else knows. The header of a probe is written into its file, and no step
of a delivery follows: nothing is archived, recorded or handed over. All other mail is delivered, a probe that comes
after check has ended too.

A delivery that cannot write the file delivers the mail. The file is whole when it ends with an empty line.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

_PREFIX = "<orderflow-probe-"
_MESSAGE_ID = re.compile(_PREFIX + r"([0-9a-f]{32})@[^<>@\s]+>")
_HEADER_LIMIT = 1 << 16
_LIFETIME = 600  # seconds; check is done long before
_END = b"\n\n"


def is_probe(message_id: str, raw: bytes, directory: Path, now: float | None = None) -> bool:
    """Return whether a mail is a probe that check waits for. If so, write its header for check."""
    if not message_id.startswith(_PREFIX):
        return False
    found = _MESSAGE_ID.fullmatch(message_id)
    if not found:
        return False
    header = raw[: _HEADER_LIMIT - len(_END)].replace(b"\r\n", b"\n").partition(_END)[0].rstrip(b"\r\n") + _END
    try:
        file = os.open(directory / found[1], os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(file, "wb", buffering=0) as handed:
            if (time.time() if now is None else now) - os.fstat(file).st_mtime > _LIFETIME:
                return False
            handed.truncate(0)  # first: a probe may come twice, and what is left of a longer header ends as a whole one
            return handed.write(header) == len(header)
    except OSError:  # no check waits for it, or its file cannot be written
        return False


class Probes:
    """The probes that are waited for, each by its Message-ID."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, Path] = {}

    def expect(self, domain: str) -> str:
        """Return the Message-ID of a probe that is waited for from now on. Raise OSError."""
        name = token_hex(16)
        file = self._directory / name
        file.touch(0o600, exist_ok=False)
        message_id = f"{_PREFIX}{name}@{domain}>"
        self._files[message_id] = file
        return message_id

    def header(self, message_id: str) -> bytes | None:
        """Return the header of a probe as a delivery got it, or None if it has not come. Raise OSError."""
        header = self._files[message_id].read_bytes()
        return header if header.endswith(_END) else None

    def forget(self) -> None:
        """Wait for none of them any longer."""
        for file in self._files.values():
            file.unlink(missing_ok=True)


@contextmanager
def waiting(directory: Path) -> Iterator[Probes]:
    """Wait for probes, as the user that delivers. Afterwards nothing is left of them. Raise OSError."""
    directory.mkdir(0o700, exist_ok=True)
    for left in directory.iterdir():  # by a check that was killed
        if time.time() - left.stat().st_mtime > _LIFETIME:
            left.unlink(missing_ok=True)
    probes = Probes(directory)
    try:
        yield probes
    finally:
        probes.forget()
        with suppress(OSError):  # another check waits
            directory.rmdir()
