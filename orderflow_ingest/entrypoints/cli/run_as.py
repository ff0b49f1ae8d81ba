"""Switch to another user's identity: to the user that delivers, so that files root creates stay usable by deliveries;
or to any other, to ask the kernel what that user may reach, with groups and access lists.

HOME is set with the identity. libpq looks there for certificates and keys, and root's HOME is closed to other users.
"""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What programs of Postfix are started with: none of our environment, which may hold passwords.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_ENFORCES = Path("/sys/fs/selinux/enforce")


@contextmanager
def as_user(account: pwd.struct_passwd) -> Iterator[None]:
    """Be a user with its groups, and no others. Run by root."""
    groups, home = os.getgroups(), os.environ.get("HOME")
    os.setgroups(os.getgrouplist(account.pw_name, account.pw_gid))
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    os.environ["HOME"] = account.pw_dir
    try:
        yield
    finally:
        os.environ.pop("HOME")
        os.environ.update({"HOME": home} if home is not None else {})
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def account_of(uid: int, gid: int) -> pwd.struct_passwd:
    """Return the account of a user id. One that has no name is made up."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return pwd.struct_passwd((str(uid), "x", uid, gid, "", "/", "/bin/false"))


@contextmanager
def as_owner(directory: Path) -> Iterator[None]:
    """Be the user that a directory belongs to, where we are root, else who we are."""
    account = _owner(directory)
    if account is None:
        yield
        return
    with as_user(account):
        yield


def become_owner(directory: Path) -> None:
    """Be the user that a directory belongs to from now on, where we are root."""
    if account := _owner(directory):
        os.setgroups(os.getgrouplist(account.pw_name, account.pw_gid))
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os.environ["HOME"] = account.pw_dir


def _owner(directory: Path) -> pwd.struct_passwd | None:
    if os.geteuid() or not directory.is_dir():
        return None
    owner = directory.stat()
    return account_of(owner.st_uid, owner.st_gid)


def closed_directory(path: Path) -> Path | None:
    """Return the first directory above a path that whoever we are may not enter, by way of its links too.

    A directory that is not there is not closed, and neither is what would lie below it.
    """
    for way in (path.absolute(), path.resolve()):
        for directory in reversed(way.parents):
            if not os.path.lexists(directory):
                break
            # Of a link its target counts, which is the other way.
            if not directory.is_symlink() and not os.access(directory, os.X_OK, effective_ids=True):
                return directory
    return None


def explain_denied(path: Path, account: pwd.struct_passwd) -> str:
    """Return what to open so that a user gets at a path, or "" if no directory is in the way. Run by root."""
    with as_user(account):
        closed = closed_directory(path)
    return f"{closed} is closed to {account.pw_name}: chmod o+x {closed}" if closed else ""


def is_noexec(path: Path) -> bool:
    """Return whether a file lies on a file system from which nothing may be run."""
    return bool(os.statvfs(path.resolve()).f_flag & os.ST_NOEXEC)


def confinement() -> str:
    """Return what may forbid something that modes allow, or "" if nothing is known to."""
    try:
        return "SELinux enforces here: ausearch -m avc -ts recent" if _ENFORCES.read_text().strip() == "1" else ""
    except OSError:
        return ""
