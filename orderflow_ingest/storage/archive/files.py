"""The archive in files: one for an object, and KEY.meta with its metadata beside it."""

import errno
import itertools
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.storage.fsync import sync_directory, write_all
from orderflow_ingest.storage.resilience.group_commit import GroupCommit

from .interface import (
    META,
    ArchiveUnavailable,
    Description,
    Fetched,
    Listed,
    ObjectMissing,
    read_metadata,
    verify_digest,
)

_SMALL = 1 << 20


class FileArchive:
    """Objects as files below one directory. Metadata as JSON in KEY.meta beside the object.

    tmp/ holds what is being written. It lies on the same file system, for the rename.
    """

    def __init__(self, root: Path):
        self._root = root
        self._put_grouped = GroupCommit(self._put_all, shared=())
        self._number = itertools.count(time.time_ns())  # a process id comes again

    def prepare(self) -> None:
        (self._root / "tmp").mkdir(mode=0o700, parents=True, exist_ok=True)

    def clean(self, older_than: float = 86400.0) -> None:
        try:
            for path in (self._root / "tmp").iterdir():
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            return  # another process cleans too, or there is nothing yet
        except OSError as error:
            raise self._unavailable(error) from error

    def put(self, key: str, data: bytes, digest: str, metadata: Mapping[str, str] | None = None) -> None:
        """Store an object durably. Small ones of several threads together, with one sync for their directory."""
        one = _Object(self._root / key, data, metadata)
        if len(data) <= _SMALL:
            self._put_grouped(one)
        else:
            self._put_all([one])

    def _put_all(self, objects: "list[_Object]") -> list[bool]:
        try:
            for path, data, metadata in objects:
                self._make_directory(path.parent)
                if metadata:
                    self._write(_meta_of(path), json.dumps(dict(metadata)).encode())
                if _holds(path, data):
                    os.utime(path)  # it was put now, as a listing shows
                else:
                    self._write(path, data)
            for directory in {path.parent for path, _, _ in objects}:
                sync_directory(directory)
        except OSError as error:
            raise self._unavailable(error) from error
        return [True] * len(objects)

    def read(self, key: str, digest: str) -> bytes:
        with self._reading(key):
            return verify_digest((self._root / key).read_bytes(), key, digest)

    def fetch(self, key: str) -> Fetched:
        with self._reading(key):
            return Fetched((self._root / key).read_bytes(), self._metadata(key))

    def describe(self, key: str) -> Description:
        with self._reading(key):
            about = (self._root / key).stat()
            if not stat.S_ISREG(about.st_mode):
                raise ObjectMissing(key)
            return Description(about.st_size, self._metadata(key))

    def _metadata(self, key: str) -> dict[str, str]:
        try:
            return read_metadata(_meta_of(self._root / key).read_bytes(), key)
        except FileNotFoundError:
            return {}

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if not self._root.is_dir():
                raise self._unavailable(error) from error
            raise ObjectMissing(key) from None
        except OSError as error:
            raise self._unavailable(error) from error

    def iterate(self, prefix: str = "", after: str = "") -> Iterator[Listed]:
        """List objects. A directory is read at a time: its names are held in memory, and no others."""
        if not self._root.is_dir():
            raise self._unavailable(FileNotFoundError(errno.ENOENT, ""))
        yield from self._below(self._root, "", prefix, after)

    def _below(self, directory: Path, base: str, prefix: str, after: str) -> Iterator[Listed]:
        try:
            # A directory stands where its name with the slash does: that is the order of S3.
            found = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(directory))
        except FileNotFoundError:
            return  # it went meanwhile
        except OSError as error:
            raise self._unavailable(error) from error
        for name in found:
            key = base + name
            if base == "" and name == "tmp/":
                continue
            if name.endswith("/"):
                if (key.startswith(prefix) or prefix.startswith(key)) and key + "\U0010ffff" > after:
                    yield from self._below(directory / name, key, prefix, after)
            elif key.startswith(prefix) and key > after and not name.endswith(META):
                with suppress(FileNotFoundError):
                    about = (directory / name).stat()
                    yield Listed(key, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def delete(self, key: str) -> None:
        path = self._root / key
        try:
            self._root.stat()
            # In this order: metadata without an object is shown by no listing.
            _meta_of(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unavailable(error) from error

    def keeps_versions(self) -> bool | None:
        return False

    def _write(self, path: Path, data: bytes) -> None:
        """Replace a file, without the sync of its directory that `replace_file` does: one is for many objects."""
        temporary = self._root / "tmp" / f"{path.name}.{os.getpid()}.{next(self._number)}"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb", buffering=0) as file:
                write_all(file.fileno(), data)
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                temporary.unlink()
            raise

    def _unavailable(self, error: OSError) -> ArchiveUnavailable:
        why = os_reason(error)
        if error.errno == errno.ENOENT:
            why = "there is no such directory: run orderflow-admin init, as the user that delivers"
        return ArchiveUnavailable(f"archive {self._root}: {why}")

    def _make_directory(self, path: Path) -> None:
        """Create a directory and make its names durable up to the root, which prepare() has made."""
        if path == self._root or path.is_dir():
            return
        self._make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)


class _Object(NamedTuple):
    path: Path
    data: bytes
    metadata: Mapping[str, str] | None


def _meta_of(path: Path) -> Path:
    return path.with_name(path.name + META)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False
