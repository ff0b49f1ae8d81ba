"""Spools, and messages in them."""

import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orderflow_ingest.storage import spool as spool_module
from orderflow_ingest.storage import spool_entry as entry_module
from orderflow_ingest.storage.spool import Entry, Spool

from .crash import Point, points

HEADER = b"recipient: orders+acme@orderflow.example.com\nsender: buyer@shop.example\n"
RAW = b"Subject: order 17\r\n\r\nten of them\r\n\0\xff\n\n"
LIMIT = 1 << 26
MODULES = (spool_module, entry_module)


def new_spool(directory: Path) -> Spool:
    spool = Spool(directory / "spool")
    spool.prepare()
    return spool


def write(spool: Spool, raw: bytes = RAW, header: bytes = HEADER, **more: Any) -> Entry:
    return spool.write(header, io.BytesIO(raw).read, **{"limit": LIMIT, **more})


def spooled(spool: Spool, raw: bytes = RAW) -> str:
    """Write an entry, release it as a process that died would, and return its name."""
    entry = write(spool, raw)
    entry.release()
    return entry.name


def content(spool: Spool) -> dict[str, list[str]]:
    return {state: sorted(os.listdir(Path(spool.directory) / state)) for state in ("tmp", "new", "dead")}


EMPTY: dict[str, list[str]] = {"tmp": [], "new": [], "dead": []}


# Crash points

BLOCKS = (b"Subject: order 17\n\n", b"ten", b" of them\n")


def write_blocks(spool: Spool) -> Entry:
    blocks = iter((*BLOCKS, b""))
    return spool.write(HEADER, lambda _: next(blocks), LIMIT)


def set_aside(spool: Spool) -> None:
    entry = spool.claim(spool.entries()[0])
    assert entry
    spool.move_to_dead(entry, "key", "third failure")


def points_of(*work: Callable[[Spool], object]) -> list[Point]:
    """List the crash points of the last of these steps, done on a spool of its own."""
    with tempfile.TemporaryDirectory() as directory:
        spool = new_spool(Path(directory))
        for step in work[:-1]:
            step(spool)
        return points(MODULES, lambda: work[-1](spool))


WRITE = points_of(write_blocks)
RENAMED = next(p.number for p in WRITE if p.line.startswith("sync_directory(directory)"))


def time_passed(spool: Spool, seconds: float) -> None:
    """Make everything in the spool older."""
    for path in Path(spool.directory).glob("*/*"):
        os.utime(path, (time.time() - seconds, time.time() - seconds))
