"""A reader: a process that reads mail of the archive for who has started it, by `python -m`.

On standard input come settings and choice, then chunks of mail; on standard output goes what was read of each, or why
the archive does not answer. All of it is pickled: both are pipes of its own parent, and nothing else writes to them. It
ends when its input does, hence with its parent, however that ends.
"""

import math
import os
import pickle
import resource
import signal
import sys
import time
from datetime import datetime

from .. import limits
from ..archive import ArchiveUnavailable
from ..assembly import Parts, open_parts
from ..records import Charter
from .reading import Choice, Read, ReaderEnded, read_mail


def main() -> None:
    """Read what is asked for until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not spoil an answer
    settings, choice = pickle.load(sys.stdin.buffer)  # noqa: S301  see the header
    signal.signal(signal.SIGALRM, limits.time_up)
    if settings.task_memory:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = settings.task_memory if hard == resource.RLIM_INFINITY else min(settings.task_memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    parts = open_parts(settings, guarded=False)
    while True:
        try:
            org, chunk, is_whole = pickle.load(sys.stdin.buffer)  # noqa: S301  see the header
        except EOFError:
            return
        try:
            answer: object = [_read(org, key, put_at, choice, parts, is_whole) for key, put_at in chunk]
        except ArchiveUnavailable as error:
            answer = str(error)
        pickle.dump(answer, answers)
        answers.flush()


def _read(org: Charter, key: str, put_at: datetime, choice: Choice, parts: Parts, is_whole: bool) -> Read:
    """Read a mail, with its parts if that is wanted and takes neither all memory nor all time."""
    signal.setitimer(signal.ITIMER_REAL, parts.settings.task_time_limit)
    # What does not come back to Python ends this process; the one who asked tells that of the mail.
    most = math.ceil(time.process_time() + 1.25 * parts.settings.mail_time)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        return read_mail(key, put_at, choice, org, parts, None if is_whole else ReaderEnded())
    except (limits.TimeUp, MemoryError):
        return read_mail(key, put_at, choice, org, parts, ReaderEnded())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
