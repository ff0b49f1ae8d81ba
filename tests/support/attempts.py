"""Files of attempts, and the processes that wrote them."""

import os
import signal
from pathlib import Path
from uuid import UUID

from orderflow_ingest.storage import attempt_files

ID = UUID(int=7)


def marked(directory: Path, *, killed: bool) -> str:
    """Return the mark of a process that takes an attempt and is killed, or ends."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with attempt_files.attempt(directory, attempt_files.MESSAGE, 3, ID, "w"):
            os.write(writing, f"host:1{attempt_files.mark(directory)}/0123abcd".encode())
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reading, 1000).decode()


def files(place: Path) -> list[Path]:
    """List what attempts have left, all but the directory's own name."""
    return [path for path in (place / "in_hand").iterdir() if path.name != "identity"]


def is_known_gone(directory: Path, worker: str) -> bool:
    return attempt_files.is_gone(directory, worker) or list(attempt_files.lost_attempts(directory)) != []
