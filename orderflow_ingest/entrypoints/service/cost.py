"""The memory that a delivery takes for a mail, estimated before it begins.

A mail is in memory once while it is delivered. Hashing, the spool and S3 read it in blocks. Reading its header makes
copies and an object for each field, within the bounds of `mime.fields`: of 4 MB of `To:` lines 3 MB. So a mail costs
its size, and FIELD_FACTOR bytes for each byte of its header up to HEADER_READ, beyond which the header is not read.

The header is found by searches that take linear time and make no objects. A server that found no header puts its own
before the sender's, with an empty line between. So where the first block holds nothing but such fields, the second
one counts too.
"""

import re
from collections.abc import Callable

from orderflow_ingest.parsing.mime.fields import HEADER_BYTES

FIELD_FACTOR = 8
HEADER_READ = 2 * HEADER_BYTES  # one bound for what servers put before, and one for the sender's own
_NEAR = 65536
_BLANKS = re.compile(rb"[\r\n\0]*+")
_EMPTY_LINE = re.compile(rb"\n\r{0,2}\n|\r\r(?!\n)")
_TRACE = re.compile(
    rb"(?:(?:received|return-path|delivered-to|x-original-to)[ \t]*+:[^\r\n]*+[\r\n]*+(?:[ \t][^\r\n]*+[\r\n]*+)*+)*+",
    re.IGNORECASE,
)


def cost(size: int, begins: bytes) -> int:
    """Return the bytes of memory that a mail of this size takes, by its first HEADER_READ bytes or all of it."""
    return size + FIELD_FACTOR * header_size(begins)


def cost_of_read(size: int, read: Callable[[int], bytes]) -> int:
    """Return the same for a mail that lies elsewhere: `read` gives so many bytes of its beginning."""
    begins = read(_NEAR)
    found = header_size(begins)
    if found == len(begins) < size:
        found = header_size(read(HEADER_READ))
    return size + FIELD_FACTOR * found


def header_size(begins: bytes) -> int:
    """Return how many bytes of a mail stand in its header, at most HEADER_READ."""
    start = _end(_BLANKS, begins, 0)
    end = _block_end(begins, start)
    if _end(_TRACE, begins, start) >= end:  # nothing but what servers write
        end = _block_end(begins, _end(_BLANKS, begins, end))
    return min(end, HEADER_READ)


def _block_end(begins: bytes, start: int) -> int:
    found = _EMPTY_LINE.search(begins, start, HEADER_READ)
    return found.start() if found else min(len(begins), HEADER_READ)


def _end(form: re.Pattern[bytes], begins: bytes, start: int) -> int:
    found = form.match(begins, start, HEADER_READ)
    return found.end() if found else start
