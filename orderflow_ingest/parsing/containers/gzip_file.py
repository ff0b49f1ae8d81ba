"""Open a gzip file (RFC 1952): one file, its name from the header, else the container's own less its .gz.

Reasons: damaged · ratio too high · too large when unpacked · too many members · too much to read

Guarantees: nothing but ContainerError leaves, unpacking is counted block by block. A file of several gzip streams, one
after another, is one file, as gzip itself reads it. Bytes after the last stream that begin no other are left out with
a defect.

zlib of the standard library does it. Its gzip module takes bytes after the end for an error and hides the name.
"""

import zlib
from collections.abc import Iterator

from orderflow_ingest.parsing.mime.charsets import decode_bytes

from . import Member, UnpackBudget
from .guards import BLOCK, GZIP, reading
from .names import cut
from .one_file import Coding, inflate, name_without_ending

_HAS_EXTRA, _HAS_NAME = 4, 8
_STREAM_STEPS = 10


def open_gzip(data: bytes, budget: UnpackBudget, filename: str = "") -> Iterator[Member]:
    """Yield the one file of a gzip file. Raise ContainerError."""
    with reading("damaged"):
        budget.take_member()
        content, end = inflate(data, Coding(GZIP, _Decompressor, _STREAM_STEPS), budget)
        left = data[end : end + BLOCK].strip(b"\0")
        # RFC 1952 section 2.3.1: the name is Latin-1; senders write what they have.
        raw, defects = cut(_header_name(data))
        written = decode_bytes(raw, "utf-8", "latin1")
    yield Member(
        name=written or name_without_ending(filename),
        data=content,
        defects=(*defects, *(("bytes after the end",) if left else ())),
    )


class _Decompressor:
    """A stream of zlib, which keeps what it has not read yet, as bz2 and lzma do."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def needs_input(self) -> bool:
        # Output may be pending then too. The last stream's never is: behind it stand the eight bytes of its trailer.
        return not self._inflater.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inflater.decompress(self._inflater.unconsumed_tail or data, max_length)


def _header_name(data: bytes) -> bytes:
    """Return FNAME, empty if there is none."""
    flags, position = data[3], 10
    if flags & _HAS_EXTRA:
        position += 2 + int.from_bytes(data[position : position + 2], "little")
    if not flags & _HAS_NAME:
        return b""
    return data[position : max(position, data.find(b"\0", position, position + 4096))]
