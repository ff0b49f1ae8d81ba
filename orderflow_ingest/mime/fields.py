"""Read header fields from bytes, leniently (RFC 5322 section 2.2 and 3.6.8, obsolete forms of section 4).

Guarantees: never raises, takes linear time, and one odd line never hides the fields that follow it. A line ends with
CRLF, LF, CR or the CR CR LF of a twice converted mail. A header block ends at the first empty line; a line of blanks
is a continuation.

A line that is no field (no colon, a blank inside the name, mbox's "From ") is dropped together with its
continuations, unless the field before it ends with ";" or the line is a parameter of a Content- field: then a mailer
forgot to indent, and it continues that field.
Values stay raw bytes: decoding is `words`, parameters are `parameters`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

TRACE_FIELDS = frozenset(("received", "return-path", "delivered-to", "x-original-to"))
_TRACE = re.compile(
    rb"(?>(?:(?:received|return-path|delivered-to|x-original-to)[ \t]*+:[^\r\n]*+(?:\r{0,2}\n|\r)"
    rb"(?>(?:[ \t][^\r\n]*+(?:\r{0,2}\n|\r))*))*)",
    re.IGNORECASE,
)
_SENDER_FIELDS = frozenset(("from", "to", "subject", "date", "message-id", "content-type"))
_NEAR = 65536
_HEADER_LIMIT = 4 << 20
_BOM = b"\xef\xbb\xbf"
_NAME = re.compile(rb'([^\x00-\x20\x7f-\xff:"=<>(),;@]+)[ \t]*:')
_BLANK_LINE = re.compile(rb"\n\r{0,2}\n|\r\r(?!\n)")
_LINE = re.compile(rb"[^\r\n]+")
_PARAMETER = re.compile(rb"(?:file)?(?:name|boundary|charset)[*\d]{0,6}[ \t]*=", re.IGNORECASE)
_LEADING_BLANKS = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n\0]*(?=>?From |[!-9;-~]{1,100}[ \t]*:)")


@dataclass(frozen=True)
class Field:
    """One header field: its name in lower case ASCII, its value unfolded and trimmed."""

    name: str
    value: bytes


def iterate_fields(block: bytes, odd: list[bytes] | None = None) -> Iterator[Field]:
    """Yield the fields of a header block one by one, since millions of them may stand in one.

    The first line that was dropped is put into odd; mbox's "From " at the beginning is none.
    """
    block = block.removeprefix(_BOM)
    if b"\r" in block:
        block = block.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    name: str | None = None
    value = bytearray()
    started = is_open = False
    for match in _LINE.finditer(block):
        line = match[0]
        if started and line[0] in b" \t":
            value += line
            is_open = line.rstrip().endswith(b";")
            continue
        found = _NAME.match(line.lstrip() if not started else line)
        if found is None and b"\0" in line:
            line = line.replace(b"\0", b"")
            found = _NAME.match(line)
        if found is None and name is not None and (is_open or (name[:8] == "content-" and _PARAMETER.match(line))):
            value += b" " + line
            is_open = line.rstrip().endswith(b";")
            continue
        if found is None and odd == [] and (started or not line.startswith((b"From ", b">From "))):
            odd.append(line)
        started = True
        if name is not None:
            yield Field(name, bytes(value.strip()))
        name = found[1].decode("ascii").lower() if found else None
        value[:] = found.string[found.end() :] if found else b""
        is_open = line.rstrip().endswith(b";")
    if name is not None:
        yield Field(name, bytes(value.strip()))


def first_value(fields: Iterable[Field], name: str) -> bytes | None:
    """Return the value of the first field with this lower-case name."""
    return next((field.value for field in fields if field.name == name), None)


def split_header(raw: bytes | memoryview, start: int = 0, end: int | None = None) -> tuple[int, int]:
    """Return where the header block ends and where the body starts, as offsets into raw[start:end].

    An empty line at once means no header at all; without an empty line everything is header.
    """
    stop = len(raw) if end is None else end
    for line_end in (b"\r\r\n", b"\r\n", b"\n", b"\r"):
        if raw[start : min(start + len(line_end), stop)] == line_end:
            return start, start + len(line_end)
    blank = _BLANK_LINE.search(raw, start, stop)
    return (blank.start(), blank.end()) if blank else (stop, stop)


def find_content_line(block: bytes) -> int | None:
    """Return the offset of the first line that is neither field nor continuation, for a header that has no end."""
    started = is_open = False
    for line in _LINE.finditer(block):
        if _NAME.match(line[0]) or not line[0].strip():
            started = True
        elif started and not is_open and line[0][:1] not in (b" ", b"\t") and not _PARAMETER.match(line[0]):
            return line.start()
        is_open = line[0].rstrip().endswith(b";")
    return None


def looks_like_header(raw: bytes, start: int = 0) -> bool:
    """Tell whether a message begins at start, with a field, mbox's "From " line, or empty lines before them."""
    return _LEADING_BLANKS.match(raw, start) is not None


def skip_leading_blanks(raw: bytes | memoryview, start: int = 0, end: int | None = None) -> int:
    """Return the offset of a message's first header line, past a BOM and empty lines before it."""
    stop = len(raw) if end is None else end
    found = _LEADING_BLANKS.match(raw, start, stop)
    return found.end() if found else start


def read_header(raw: bytes, start: int = 0) -> tuple[Iterator[Field], int]:
    """Give the fields of the header at start, past blanks before it, and where its body starts.

    Fields are read as they are asked for, and out of the first 4 MB alone.
    """
    start = skip_leading_blanks(raw, start)
    header_end, body_start = split_header(raw, start)
    return iterate_fields(raw[start : min(header_end, start + _HEADER_LIMIT)]), body_start


def find_sender_header(raw: bytes) -> int:
    """Return where the header that the sender wrote begins: 0 but for a header of trace fields alone.

    A server that finds no header, since the first line is no field, puts its own trace fields and an empty line in
    front; then the sender's header is what follows, if it looks like one.
    """
    start = skip_leading_blanks(raw)
    # Nearly every mail ends here, with its header read once by the walk.
    trace = _TRACE.match(raw, start, start + _NEAR)
    name = _NAME.match(raw, trace.end()) if trace else None
    if name and name[1].decode("ascii").lower() not in TRACE_FIELDS:
        return 0
    header_end, body_start = split_header(raw, start)
    if any(field.name not in TRACE_FIELDS for field in iterate_fields(raw[start:header_end])):
        return 0
    start = skip_leading_blanks(raw, body_start)
    header_end, _ = split_header(raw, start)
    found = islice(iterate_fields(raw[start : min(header_end, start + _NEAR)]), 100)
    return start if any(field.name in _SENDER_FIELDS for field in found) else 0
