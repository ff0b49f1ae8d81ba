"""The console's users: a file that `orderflow-console user` writes, and that is read again when it has changed.

    {"anna": {"password": "scrypt:…", "orgs": ["acme"], "may_change": true}}

Without `orgs` a user sees every organization. Without `password` a reverse proxy authenticates them. Passwords are
kept by scrypt.

Guarantees: a file is refused that others than its owner and group can read or others than its owner can write, and
so is one that is malformed: then nobody can log in. It is written atomically (tmp, sync, rename), mode 600, one change
after the other. Checking a password takes as long for an unknown name as for a known one.
"""

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from werkzeug.security import check_password_hash, generate_password_hash

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.storage.replace_file import replace_file

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FORBIDDEN_MODE = 0o027
# Each takes 32 MB and a tenth of a second; how many may wait for one says `throttle`.
_CHECKS = threading.BoundedSemaphore(2)


class UsersFileError(OrderflowError):
    """The users' file cannot be read or trusted. The text says what to do."""


@dataclass(frozen=True)
class User:
    """A user: the organizations they see (None: all of them), and whether they may change anything."""

    name: str
    password: str | None
    slugs: frozenset[str] | None
    may_change: bool

    def sees(self, slug: str) -> bool:
        """Return whether this user may see an organization."""
        return self.slugs is None or slug in self.slugs


class Users:
    """The users' file at `path`. A missing file has no users."""

    def __init__(self, path: Path):
        self._path = path
        self._read: tuple[tuple[int, ...], dict[str, User]] | None = None

    def find(self, name: str) -> User | None:
        """Return a user as the file has them now. Raise UsersFileError."""
        return self._table().get(name)

    def all(self) -> list[User]:
        """Return all users by name. Raise UsersFileError."""
        return sorted(self._table().values(), key=lambda user: user.name)

    def check(self, name: str, password: str) -> User | None:
        """Return the user with this name and password. Raise UsersFileError."""
        user = self.find(name)
        known = user.password if user and user.password else _DUMMY_HASH
        with _CHECKS:
            is_right = check_password_hash(known, password)
        return user if user and user.password and is_right else None

    @contextmanager
    def edit(self) -> Iterator[dict[str, User]]:
        """Yield the users for editing, and write them at the end. Raise UsersFileError."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(
                self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise UsersFileError(f"{self._path.parent} cannot be written: {os_reason(error)}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            table = dict(self._table())
            yield table
            self._write(table)
        finally:
            os.close(lock)

    def _table(self) -> dict[str, User]:
        try:
            with open(self._path, "rb") as file:
                stat = os.fstat(file.fileno())
                mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode)
                if self._read is None or self._read[0] != mark:
                    if stat.st_mode & _FORBIDDEN_MODE:
                        raise UsersFileError(f"{self._path} is open to others: chmod 600 {self._path}")
                    self._read = (mark, _parse(file.read()))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsersFileError(f"{self._path} cannot be read: {os_reason(error)}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsersFileError(f"{self._path} does not read as a file of users: {os_reason(error)}") from None
        return self._read[1]

    def _write(self, table: dict[str, User]) -> None:
        text = json.dumps({name: _to_json(user) for name, user in sorted(table.items())}, indent=1)
        try:
            replace_file(self._path, text.encode() + b"\n")
        except OSError as error:
            raise UsersFileError(f"{self._path} cannot be written: {os_reason(error)}") from error


def is_valid_name(text: str) -> bool:
    """Return whether `text` is a valid name of a user."""
    return _NAME.fullmatch(text) is not None


def hash_password(password: str) -> str:
    """Return the hash of a password."""
    return generate_password_hash(password, method="scrypt")


_DUMMY_HASH = hash_password(os.urandom(16).hex())


def _parse(text: bytes) -> dict[str, User]:
    found: dict[str, dict[str, Any]] = json.loads(text)
    return {name: _user(name, **values) for name, values in found.items()}


def _user(name: str, password: str | None = None, orgs: list[str] | None = None, *, may_change: bool = False) -> User:
    if not is_valid_name(name) or not isinstance(may_change, bool) or not isinstance(orgs, list | None):
        raise ValueError
    return replace(User(name, password, None, may_change), slugs=None if orgs is None else frozenset(orgs))


def _to_json(user: User) -> dict[str, Any]:
    orgs = {} if user.slugs is None else {"orgs": sorted(user.slugs)}
    return {"password": user.password, **orgs, "may_change": user.may_change}
