"""Open what holds one file and no name of it: bzip2 and xz. gzip, which has a name, is `gzip_file`, and inflates here.

Reasons: damaged · ratio too high · too large when unpacked · too many members · too much to read

Guarantees: nothing but ContainerError leaves, unpacking is counted block by block. A file of several streams, one after
another, is one file, as bzip2 and xz themselves read it. Bytes after the last stream that begin no other are left out
with a defect. xz may ask for a dictionary of up to 4 GB: over MEMORY_LIMIT, which `xz -9` stays under, it is damaged.

bz2 and lzma of the standard library do it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from . import ContainerError, Member, UnpackBudget
from .guards import BLOCK, BZIP2, XZ, UnpackLimit, reading

MEMORY_LIMIT = 100 << 20
# bgzip writes a stream for every 64 kB, pbzip2 for every 900 kB.
_MOST_STREAMS = 100_000
_STREAM_STEPS = 20
_ENDING = re.compile(r"\.(?:gz|gzip|z|bz2|bzip2|bz|xz)$", re.IGNORECASE)
_TAR_ENDING = re.compile(r"\.(?:tgz|taz|tbz|tbz2|tb2|txz)$", re.IGNORECASE)
_PADDING = re.compile(rb"\0*+")


class Decompressor(Protocol):
    """What reads one stream, as bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


@dataclass(frozen=True)
class Coding:
    """How a stream begins, what reads one, what that takes in steps of the budget, and whether zeros may follow it."""

    magic: bytes
    make: Callable[[], Decompressor]
    steps: int
    is_padded: bool = False


def open_bzip2(data: bytes, budget: UnpackBudget, filename: str = "") -> Iterator[Member]:
    """Yield the one file of a bzip2 file. Raise ContainerError."""
    import bz2

    yield _open(data, Coding(BZIP2, bz2.BZ2Decompressor, _STREAM_STEPS), budget, filename)


def open_xz(data: bytes, budget: UnpackBudget, filename: str = "") -> Iterator[Member]:
    """Yield the one file of an xz file. Raise ContainerError."""
    import lzma

    make = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, MEMORY_LIMIT)
    yield _open(data, Coding(XZ, make, _STREAM_STEPS, is_padded=True), budget, filename)


def name_without_ending(filename: str) -> str | None:
    """Return the name of what was compressed into a file of this name."""
    if _TAR_ENDING.search(filename):
        return _TAR_ENDING.sub(".tar", filename)
    return _ENDING.sub("", filename) or None


def _open(data: bytes, coding: Coding, budget: UnpackBudget, filename: str) -> Member:
    with reading("damaged"):
        budget.take_member()
        content, end = inflate(data, coding, budget)
        left = data[end : end + BLOCK].strip(b"\0")
    return Member(name_without_ending(filename), content, defects=("bytes after the end",) if left else ())


def inflate(data: bytes, coding: Coding, budget: UnpackBudget) -> tuple[bytes, int]:
    """Return the content of all streams, and where the last ends. Raise ContainerError."""
    limit = UnpackLimit(len(data), budget)
    blocks: list[bytes] = []
    position = streams = 0
    while data.startswith(coding.magic, position):
        if (streams := streams + 1) > _MOST_STREAMS:
            raise ContainerError("too many members")
        budget.step(coding.steps)
        inflater = coding.make()
        # What follows a stream is copied once for each: a short first step keeps a row of tiny streams cheap.
        step = 512
        while not inflater.eof:
            chunk = b""
            if inflater.needs_input:
                chunk = data[position : position + step]
                position, step = position + len(chunk), min(2 * step, BLOCK)
                if not chunk:
                    raise ContainerError("damaged")
            blocks.append(inflater.decompress(chunk, BLOCK))
            limit.take(len(blocks[-1]))
        position -= len(inflater.unused_data)
        if coding.is_padded and (padding := _PADDING.match(data, position)):
            position = padding.end()
    if not streams:
        raise ContainerError("damaged")
    return b"".join(blocks), position
