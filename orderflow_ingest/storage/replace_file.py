"""Replace a small file as a whole. A reader sees the old file or the new one, and so does one after a crash.

Three writers promise something else, so they do it themselves. A spool entry is locked and checked before it gets its
name (`spool_entry`). Objects of an archive share one sync of their directory (`archive.files`). The first one that
names a directory wins (`attempt_files`).
"""

import os
from pathlib import Path

from .fsync import sync_directory, write_all


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file durably, or create it, with this mode whatever the umask is. Raise OSError.

    Not for two threads of one process at one path: what is written first has a name of the process.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed, and had our number
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
