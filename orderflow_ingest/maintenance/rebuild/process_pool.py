"""ProcessPool: parse mail in several processes, each with a limit on its memory and on the time of a mail.

A mail can be written to take all memory or endless time. The worker that extracts such a mail is killed, and so is a
process here. What it had in hand is parsed again one by one. A mail that kills its process a second time is parsed
without its parts.
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

from .parse_object import ParsedObject, RebuildOptions, parse_object

Chunk = list[tuple[str, datetime]]  # keys, and when each was put
_AHEAD = 2  # chunks in hand for each process
_MODULE = f"{__package__}.worker_process"
_HERE = str(Path(__file__).parents[3])


class _WorkerEndedError(OrderflowError):
    """A process has ended without an answer."""


class ProcessPool:
    """Processes that open the archive themselves. With 0 of them, this process parses everything, without limits."""

    def __init__(self, app: App, choice: RebuildOptions, processes: int):
        self._app, self._choice = app, choice
        self._workers = [_WorkerProcess(app, choice) for _ in range(processes)]

    def __enter__(self) -> "ProcessPool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def read(self, chunks: Iterable[tuple[OrganizationRecord, Chunk]]) -> Iterator[list[ParsedObject]]:
        """Parse chunks of (organization, mails), and yield them in the same order. Raise ArchiveUnavailable."""
        waiting: deque[tuple[_WorkerProcess, OrganizationRecord, Chunk]] = deque()
        for number, (org, chunk) in enumerate(chunks):
            if not self._workers:
                yield [parse_object(key, put_at, self._choice, org, self._app) for key, put_at in chunk]
                continue
            worker = self._workers[number % len(self._workers)]
            worker.ask(org, chunk)
            waiting.append((worker, org, chunk))
            if len(waiting) >= _AHEAD * len(self._workers):
                yield self._answer(*waiting.popleft())
        while waiting:
            yield self._answer(*waiting.popleft())

    def _answer(self, worker: "_WorkerProcess", org: OrganizationRecord, chunk: Chunk) -> list[ParsedObject]:
        try:
            return worker.answer()
        except _WorkerEndedError:
            found = self._read_singly(org, chunk)
            worker.begin_again()
            return found

    def _read_singly(self, org: OrganizationRecord, chunk: Chunk) -> list[ParsedObject]:
        """Parse mails one by one after one of them ended its process. One that ends another loses its parts."""
        found = []
        worker = _WorkerProcess(self._app, self._choice)
        try:
            for one in chunk:
                worker.ask(org, [one])
                try:
                    found += worker.answer()
                except _WorkerEndedError:
                    worker.begin_again()
                    worker.ask(org, [one], is_whole=False)
                    found += worker.answer()
        except _WorkerEndedError as error:
            raise ArchiveUnavailable("what reads the archive ends, whatever it reads: see its words above") from error
        finally:
            worker.end()
        return found


class _WorkerProcess:
    """One process. Requests that it did not answer go to its successor."""

    def __init__(self, app: App, choice: RebuildOptions):
        self._first = (app.settings, choice)
        self._asked: deque[tuple[OrganizationRecord, Chunk, bool]] = deque()
        self._begin()

    def ask(self, org: OrganizationRecord, chunk: Chunk, *, is_whole: bool = True) -> None:
        """Ask for a chunk of mails. Is_whole: with their parts."""
        self._asked.append((org, chunk, is_whole))
        self._send(self._asked[-1])

    def answer(self) -> list[ParsedObject]:
        """Return the answer to the oldest open request. Raises _WorkerEndedError, ArchiveUnavailable."""
        self._asked.popleft()
        try:
            found: list[ParsedObject] | str = pickle.load(self._output)  # noqa: S301  a process of ours has written it
        except (EOFError, pickle.UnpicklingError) as error:
            raise _WorkerEndedError from error
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
