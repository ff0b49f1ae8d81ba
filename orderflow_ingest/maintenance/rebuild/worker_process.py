"""A process that parses mail of the archive for the process that started it, by `python -m`.

Standard input carries settings and options, then chunks of mail. Standard output carries what was parsed of each, or
why the archive does not answer. All of it is pickled: both pipes belong to the parent process, and nothing else writes
to them. The process ends when its input does, and therefore with its parent, however that ends.
"""

import math
import os
import pickle
import resource
import signal
import sys
import time
from datetime import datetime

from orderflow_ingest.app import App, open_app
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import OrganizationRecord
from orderflow_ingest.storage.resilience import timeouts

from .parse_object import ParsedObject, ReaderEnded, RebuildOptions, parse_object


def main() -> None:
    """Read what is asked for until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not spoil an answer
    settings, choice = pickle.load(sys.stdin.buffer)  # noqa: S301  see the header
    signal.signal(signal.SIGALRM, timeouts.raise_task_deadline)
    if settings.task_memory:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = settings.task_memory if hard == resource.RLIM_INFINITY else min(settings.task_memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    app = open_app(settings, guarded=False)
    while True:
        try:
            org, chunk, is_whole = pickle.load(sys.stdin.buffer)  # noqa: S301  see the header
        except EOFError:
            return
        try:
            answer: object = [_read(org, key, put_at, choice, app, is_whole=is_whole) for key, put_at in chunk]
        except ArchiveUnavailable as error:
            answer = str(error)
        pickle.dump(answer, answers)
        answers.flush()


def _read(
    org: OrganizationRecord, key: str, put_at: datetime, choice: RebuildOptions, app: App, *, is_whole: bool
) -> ParsedObject:
    """Read a mail, with its parts if that is wanted and takes neither all memory nor all time."""
    signal.setitimer(signal.ITIMER_REAL, app.settings.task_time_limit)
    # What does not come back to Python ends this process; the one who asked tells that of the mail.
    most = math.ceil(time.process_time() + 1.25 * app.settings.mail_time)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        return parse_object(key, put_at, choice, org, app, None if is_whole else ReaderEnded())
    except (timeouts.TaskDeadlineReached, MemoryError):
        return parse_object(key, put_at, choice, org, app, ReaderEnded())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
