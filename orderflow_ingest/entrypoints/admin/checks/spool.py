"""Whether the state directory, its spool and the embedded archive can take mail: rights, file systems, room."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.run_as import account_of, closed_directory
from orderflow_ingest.storage.spool import SpoolWriteError

from .findings import CheckResult, ago, run_init

_INODES = 1000
_WAITS = 600.0  # seconds, for what the drain sees to every minute


def check_spool(app: App) -> Iterator[CheckResult]:
    """Write an entry, and look at the entries, as the user that delivers."""
    directory = app.settings.spool_dir
    if not directory.is_dir():
        closed = closed_directory(directory)
        why = f"{closed} is closed to {user()}: chmod o+x {closed}" if closed else run_init(app.settings)
        yield "TROUBLE", f"{directory} is not there: {why}"
        return
    if not app.spool.is_on_one_file_system():
        yield "TROUBLE", f"the directories in {directory} lie on several file systems: a rename cannot move an entry"
        return
    blocks = iter((b"probe", b""))
    try:
        app.spool.finish(app.spool.write(b"recipient: probe", lambda _: next(blocks), limit=100))
    except SpoolWriteError as error:
        yield "TROUBLE", f"{directory} cannot be written by {user()}: {error}"
        return
    findings = [*_modes(directory), *_room(directory, app.settings.max_message_size), *_left(app)]
    free = shutil.disk_usage(directory).free
    yield from findings or [
        ("OK", f"{directory} can be written, {free >> 20} MiB left, {len(app.spool.entries())} entries")
    ]


def check_room(app: App) -> Iterator[CheckResult]:
    """Look at the room of the embedded parts, where they lie on other file systems than the spool."""
    urls = (app.settings.database_url, app.settings.queue_url, app.settings.archive_url)
    paths = [Path("/", url.partition("://")[2].lstrip("/")) for url in urls if url.startswith(("sqlite:", "file:"))]
    for path in paths:
        if path.exists() and path.stat().st_dev != app.settings.state_dir.stat().st_dev:
            yield from _room(path, app.settings.max_message_size)


def user() -> str:
    """Name the user that we are at the moment."""
    return account_of(os.geteuid(), os.getegid()).pw_name


def _modes(directory: Path) -> Iterator[CheckResult]:
    if os.stat(directory).st_mode & 0o077:
        yield "TROUBLE", f"{directory} is open to other users: chmod 700 {directory}"


def _room(directory: Path, message: int) -> Iterator[CheckResult]:
    usage, about = shutil.disk_usage(directory), os.statvfs(directory)
    if usage.free < 20 * message:
        yield "TROUBLE", f"{directory} has {usage.free >> 20} MiB left: make room, mail is deferred when it is full"
    elif usage.free < min(200 * message, usage.total // 20):
        yield "WARNING", f"{directory} is nearly full, {usage.free >> 20} MiB left of {usage.total >> 20}: make room"
    if about.f_files and about.f_favail < _INODES:
        yield "TROUBLE", f"{directory} has {about.f_favail} inodes left: remove small files, or make it a larger one"


def _left(app: App) -> Iterator[CheckResult]:
    """Look for what the drain should have delivered."""
    times = []
    for name in app.spool.entries():
        try:
            times.append((app.settings.spool_dir / "new" / name).stat().st_mtime)
        except FileNotFoundError:  # delivered meanwhile
            continue
    waits = time.time() - min(times, default=time.time())
    if waits > _WAITS:
        yield (
            "TROUBLE",
            f"{len(times)} entries wait in {app.settings.spool_dir}, one for {ago(waits)}: does orderflow-worker or "
            "orderflow-drain.timer run on this host? orderflow-replay spool tells what keeps them",
        )
