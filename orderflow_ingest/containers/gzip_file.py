"""Open a gzip file (RFC 1952): one file, its name from the header, else the container's own less its .gz.

Reasons: damaged · ratio too high · too large when unpacked · too many members · too much to read

Guarantees: nothing but NotOpened leaves, unpacking is counted block by block. A file of several gzip streams, one
after another, is one file, as gzip itself reads it; bytes after the last stream that begin no other are left out with
a defect.

zlib of the standard library does it; its gzip module takes bytes after the end for an error and hides the name.
"""

import zlib
from collections.abc import Iterator

from ..mime.charsets import decode_bytes
from . import Budget, Member, NotOpened
from .guards import BLOCK, GZIP, Outflow, reading
from .names import cut
from .one_file import name_without_ending

_HAS_EXTRA, _HAS_NAME = 4, 8
# bgzip writes a stream for every 64 kB.
_MOST_STREAMS = 100_000
# What one takes, in steps of the budget.
_STREAM_STEPS = 10


def open_gzip(data: bytes, budget: Budget, filename: str = "") -> Iterator[Member]:
    """Yield the one file of a gzip file. Raises NotOpened."""
    with reading("damaged"):
        budget.take_member()
        content, end = _inflate(data, budget)
        left = data[end : end + BLOCK].strip(b"\0")
        # RFC 1952 section 2.3.1: the name is Latin-1; senders write what they have.
        raw, defects = cut(_header_name(data))
        written = decode_bytes(raw, "utf-8", "latin1")
    yield Member(
        name=written or name_without_ending(filename),
        data=content,
        defects=(*defects, *(("bytes after the end",) if left else ())),
    )


def _inflate(data: bytes, budget: Budget) -> tuple[bytes, int]:
    """Return the content of all streams, and where the last ends."""
    outflow = Outflow(len(data), budget)
    blocks: list[bytes] = []
    position = streams = 0
    while data.startswith(GZIP, position):
        if (streams := streams + 1) > _MOST_STREAMS:
            raise NotOpened("too many members")
        budget.step(_STREAM_STEPS)
        inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        # What follows a stream is copied once for each: a short first step keeps a row of tiny streams cheap.
        step = 512
        while not inflater.eof:
            chunk = inflater.unconsumed_tail
            if not chunk:
                chunk = data[position : position + step]
                position, step = position + len(chunk), min(2 * step, BLOCK)
            block = inflater.decompress(chunk, BLOCK)
            if not chunk and not block:
                raise NotOpened("damaged")
            outflow.take(len(block))
            blocks.append(block)
        position -= len(inflater.unused_data)
    if not streams:
        raise NotOpened("damaged")
    return b"".join(blocks), position


def _header_name(data: bytes) -> bytes:
    """Return FNAME, empty if there is none."""
    flags, position = data[3], 10
    if flags & _HAS_EXTRA:
        position += 2 + int.from_bytes(data[position : position + 2], "little")
    if not flags & _HAS_NAME:
        return b""
    return data[position : max(position, data.find(b"\0", position, position + 4096))]
