"""Several readers at once: processes, each with a bound on its memory and on a mail's time.

A mail can be made to take all memory or no end of time. A worker that extracts it is ended then, and so is a reader
here; what it had in hand is read again one by one, and the one that ends its reader a second time is told without
its parts.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, cast

from orderflow_ingest.app import App
from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import OrganizationRecord

from .parse_object import Choice, Read, read_mail

Chunk = list[tuple[str, datetime]]  # keys, and when each was put
_AHEAD = 2  # chunks in hand for each process
_MODULE = f"{__package__}.worker_process"
_HERE = str(Path(__file__).parents[3])


class _ReaderProcessEndedError(OrderflowError):
    """A reader has ended without an answer."""


class Readers:
    """So many processes, which open the archive for themselves; none: all is read in this process, without bounds."""

    def __init__(self, app: App, choice: Choice, processes: int):
        self._app, self._choice = app, choice
        self._readers = [_Reader(app, choice) for _ in range(processes)]

    def __enter__(self) -> "Readers":
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers:
            reader.end()

    def read(self, chunks: Iterable[tuple[OrganizationRecord, Chunk]]) -> Iterator[list[Read]]:
        """Read chunks of (organisation, mails), and give each in its turn. Raises ArchiveUnavailable."""
        waiting: deque[tuple[_Reader, OrganizationRecord, Chunk]] = deque()
        for number, (org, chunk) in enumerate(chunks):
            if not self._readers:
                yield [read_mail(key, put_at, self._choice, org, self._app) for key, put_at in chunk]
                continue
            reader = self._readers[number % len(self._readers)]
            reader.ask(org, chunk)
            waiting.append((reader, org, chunk))
            if len(waiting) >= _AHEAD * len(self._readers):
                yield self._answer(*waiting.popleft())
        while waiting:
            yield self._answer(*waiting.popleft())

    def _answer(self, reader: "_Reader", org: OrganizationRecord, chunk: Chunk) -> list[Read]:
        try:
            return reader.answer()
        except _ReaderProcessEndedError:
            found = self._read_singly(org, chunk)
            reader.begin_again()
            return found

    def _read_singly(self, org: OrganizationRecord, chunk: Chunk) -> list[Read]:
        """Read mails one of which may have ended its reader, one by one; who ends another is told without its parts."""
        found = []
        reader = _Reader(self._app, self._choice)
        try:
            for one in chunk:
                reader.ask(org, [one])
                try:
                    found += reader.answer()
                except _ReaderProcessEndedError:
                    reader.begin_again()
                    reader.ask(org, [one], is_whole=False)
                    found += reader.answer()
        except _ReaderProcessEndedError as error:
            raise ArchiveUnavailable("what reads the archive ends, whatever it reads: see its words above") from error
        finally:
            reader.end()
        return found


class _Reader:
    """One process. What it was asked and has not answered is asked again of its successor."""

    def __init__(self, app: App, choice: Choice):
        self._first = (app.settings, choice)
        self._asked: deque[tuple[OrganizationRecord, Chunk, bool]] = deque()
        self._begin()

    def ask(self, org: OrganizationRecord, chunk: Chunk, is_whole: bool = True) -> None:
        """Ask for a chunk of mails; is_whole: with their parts."""
        self._asked.append((org, chunk, is_whole))
        self._send(self._asked[-1])

    def answer(self) -> list[Read]:
        """Give the answer to the first question that has none. Raises _ReaderProcessEndedError, ArchiveUnavailable."""
        self._asked.popleft()
        try:
            found: list[Read] | str = pickle.load(self._output)  # noqa: S301  a process of ours has written it
        except (EOFError, pickle.UnpicklingError) as error:
            raise _ReaderProcessEndedError from error
        if isinstance(found, str):
            raise ArchiveUnavailable(found)
        return found

    def begin_again(self) -> None:
        """Take the place of a process that has ended."""
        self.end()
        self._begin()
        for question in self._asked:
            self._send(question)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._input, self._output):
            with suppress(BrokenPipeError):
                pipe.close()

    def _begin(self) -> None:
        # In a session of its own: what is typed at the terminal ends us, and it by its input's end.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": _HERE},
            start_new_session=True,
        )
        self._input, self._output = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        self._send(self._first)

    def _send(self, what: object) -> None:
        with suppress(BrokenPipeError):  # answer() tells
            pickle.dump(what, self._input)
            self._input.flush()
