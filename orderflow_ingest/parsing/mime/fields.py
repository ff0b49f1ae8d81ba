"""Read header fields from bytes, leniently (RFC 5322 section 2.2 and 3.6.8, obsolete forms of section 4).

Guarantees: never raises, takes linear time, and one odd line never hides the fields that follow it. A line ends with
CRLF, LF, CR or the CR CR LF of a twice converted mail. A header block ends at the first empty line. A line of blanks
is a continuation.

A line that is no field (no colon, a blank inside the name, mbox's "From ") is dropped together with its
continuations, unless the field before it ends with ";" or the line is a parameter of a Content- field: then a mailer
forgot to indent, and it continues that field.
Values stay raw bytes: decoding is `words`, parameters are `parameters`.

read_mail_header() reads the header of a mail once, for all that asks about it, and within a bound: HEADER_BYTES and
HEADER_LINES, counted from the first field that a sender writes (From, To, Subject …). What stands before it has a bound
of its own, of the same size: each server on the way adds to it, and a mail that comes again by another way must be read
alike. A header over the bound is read up to it, without the field that the bound cuts, and is not `whole`.
Measured: a header at the bound takes 7 ms and 1 MB. One of 4 MB of To lines takes 20 ms and 3 MB,
most of it for the hash.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

TRACE_FIELDS = frozenset(("received", "return-path", "delivered-to", "x-original-to"))
# Possessive throughout: a group repeated in any other way takes 200 bytes of memory for each line.
_TRACE = re.compile(
    rb"(?:(?:received|return-path|delivered-to|x-original-to)[ \t]*+:[^\r\n]*+(?:\r{0,2}\n|\r)"
    rb"(?:[ \t][^\r\n]*+(?:\r{0,2}\n|\r))*+)*+",
    re.IGNORECASE,
)
_SENDER_FIELDS = frozenset(("from", "to", "subject", "date", "message-id", "content-type"))
_FIRST_OWN = re.compile(
    rb"(?<![^\r\n])(?:from|to|cc|subject|date|message-id|mime-version|content-[a-z-]{1,40})[ \t]{0,9}:", re.IGNORECASE
)
_NEAR = 65536
HEADER_BYTES = 256 << 10
HEADER_LINES = 2_000
_LINES_WITHIN = re.compile(rb"(?:[^\r\n]*+(?:\r{0,2}\n|\r)){0,%d}+" % HEADER_LINES)
_BOM = b"\xef\xbb\xbf"
_NAME = re.compile(rb'([^\x00-\x20\x7f-\xff:"=<>(),;@]++)[ \t]*+:')
_BLANK_LINE = re.compile(rb"\n\r{0,2}\n|\r\r(?!\n)")
_LINE = re.compile(rb"[^\r\n]+")
_PARAMETER = re.compile(rb"(?:file)?(?:name|boundary|charset)[*\d]{0,6}[ \t]*=", re.IGNORECASE)
_LEADING_BLANKS = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n\0]*+(?=>?From |[!-9;-~]{1,100}[ \t]*:)")


class Field(NamedTuple):
    """One header field: its name in lower case ASCII, its value unfolded and trimmed."""

    name: str
    value: bytes


@dataclass(frozen=True)
class MailHeader:
    """The header of a mail, read once.

    `top` are the fields at the top of the mail, and `fields` those of the header that the sender wrote: the same ones,
    unless a server found no header and put its own before it. `start` is where the sender's header begins, 0 where it
    is at the top. `body_start` is where its body begins. `top_block` is the top as it stands, `block` the sender's
    header with each line end made LF. `odd_line` is where in it the first line begins that is no field.

    `is_whole`: all of it was read. Else `first_own` and `body_start` are where its first field stands that no server
    writes. `line_end` is what the mail has at the end of its lines.
    """

    top: tuple[Field, ...]
    fields: tuple[Field, ...]
    top_block: bytes
    block: bytes
    odd_line: int | None
    start: int
    first_own: int
    body_start: int
    line_end: bytes
    is_whole: bool


def iterate_fields(block: bytes, odd: list[int] | None = None) -> Iterator[Field]:
    """Yield the fields of a header block one by one, since millions of them may stand in one.

    Where the first line begins that was dropped is put into odd, as a place in the block with each line end made LF.
    Mbox's "From " is none at the beginning, nor below what servers have put before the sender's fields.
    """
    block, mark = _unify_line_ends(block.removeprefix(_BOM)), len(_BOM) if block.startswith(_BOM) else 0
    name: str | None = None
    value = bytearray()
    started = has_own = False
    last = b""
    for match in _LINE.finditer(block):
        line = match[0]
        if started and line[0] in b" \t":
            value += line
            last = line
            continue
        found = _NAME.match(line.lstrip() if not started else line)
        if found is None and b"\0" in line:
            line = line.replace(b"\0", b"")
            found = _NAME.match(line)
        if (
            found is None
            and name is not None
            and (last.rstrip().endswith(b";") or (name[:8] == "content-" and _PARAMETER.match(line)))
        ):
            value += b" " + line
            last = line
            continue
        if found is None and odd == [] and (has_own or not line.startswith((b"From ", b">From "))):
            odd.append(mark + match.start())
        has_own = has_own or found is None or _FIRST_OWN.match(found[0]) is not None
        started = True
        if name is not None:
            yield Field(name, bytes(value.strip()))
        name = found[1].decode("ascii").lower() if found else None
        value[:] = found.string[found.end() :] if found else b""
        last = line
    if name is not None:
        yield Field(name, bytes(value.strip()))


def first_value(fields: Iterable[Field], name: str) -> bytes | None:
    """Return the value of the first field with this lower-case name."""
    return next((field.value for field in fields if field.name == name), None)


def split_header(raw: bytes | memoryview, start: int = 0, end: int | None = None) -> tuple[int, int]:
    """Return where the header block ends and where the body starts, as offsets into raw[start:end].

    An empty line at once means no header at all. Without an empty line everything is header.
    """
    stop = len(raw) if end is None else end
    for line_end in (b"\r\r\n", b"\r\n", b"\n", b"\r"):
        if raw[start : min(start + len(line_end), stop)] == line_end:
            return start, start + len(line_end)
    blank = _BLANK_LINE.search(raw, start, stop)
    return (blank.start(), blank.end()) if blank else (stop, stop)


def field_name(line: bytes) -> str | None:
    """Return the name of the field that a line begins, in lower case, None if it begins none."""
    found = _NAME.match(line) or (_NAME.match(line[:200].replace(b"\0", b"")) if b"\0" in line else None)
    return found[1].decode("ascii").lower() if found else None


def is_parameter(line: bytes) -> bool:
    """Return whether a line without indent is a parameter of the Content- field before it."""
    return _PARAMETER.match(line) is not None


def looks_like_header(raw: bytes, start: int = 0) -> bool:
    """Return whether a message begins at start, with a field, mbox's "From " line, or empty lines before them."""
    return _LEADING_BLANKS.match(raw, start) is not None


def skip_leading_blanks(raw: bytes | memoryview, start: int = 0, end: int | None = None) -> int:
    """Return the offset of a message's first header line, past a BOM and empty lines before it."""
    stop = len(raw) if end is None else end
    found = _LEADING_BLANKS.match(raw, start, stop)
    return found.end() if found else start


def read_mail_header(raw: bytes) -> MailHeader:
    """Return the header of a mail, read within the bound."""
    top = _read_block(raw, 0)
    if top.is_whole and all(field.name in TRACE_FIELDS for field in top.fields):
        start = skip_leading_blanks(raw, top.body_start)
        own = _read_block(raw, start)
        if any(field.name in _SENDER_FIELDS for field in own.fields[:100]):
            return replace(own, top=top.fields, top_block=top.top_block, start=start)
    return top


def find_sender_header(raw: bytes) -> int:
    """Return where the header that the sender wrote begins: 0 but for a header of trace fields alone.

    A server that finds no header, since the first line is no field, puts its own trace fields and an empty line in
    front. Then the sender's header is what follows, if it looks like one.
    """
    start = skip_leading_blanks(raw)
    # Nearly every mail ends here, with its header read once by the walk.
    trace = _TRACE.match(raw, start, start + _NEAR)
    name = _NAME.match(raw, trace.end()) if trace else None
    if name and name[1].decode("ascii").lower() not in TRACE_FIELDS:
        return 0
    return read_mail_header(raw).start


def _read_block(raw: bytes, start: int) -> MailHeader:
    """Return the header block at start, past blanks before it, as if it were all of the mail's header."""
    start = first_own = servers_end = skip_leading_blanks(raw, start)
    found = _find_end(raw, start)
    if found is None:  # what servers have put before the sender's fields does not count
        bound = _end_of_bound(raw, start)
        own = _FIRST_OWN.search(raw, start, bound)
        trace = None if own else _TRACE.match(raw, start)
        first_own = own.start() if own else trace.end() if trace else start
        servers_end = min(first_own, bound)
        found = _find_end(raw, first_own)
    end, body_start = found or (_end_of_bound(raw, first_own), first_own)
    top_block, odd = raw[start:servers_end] + raw[first_own:end], list[int]()
    block = _unify_line_ends(top_block)
    fields = tuple(iterate_fields(block, odd))
    return MailHeader(
        top=fields if found else fields[:-1],
        fields=fields if found else fields[:-1],
        top_block=top_block,
        block=block,
        odd_line=odd[0] if odd else None,
        start=0,
        first_own=first_own,
        body_start=body_start,
        line_end=_line_end(raw[end:body_start] if found else raw[first_own : first_own + HEADER_BYTES]),
        is_whole=found is not None,
    )


def _find_end(raw: bytes, start: int) -> tuple[int, int] | None:
    """Return where the header block at start ends and where its body starts, or None if it goes over the bound."""
    limit = min(start + HEADER_BYTES, len(raw))
    end, body_start = split_header(raw, start, limit)
    if end == body_start == limit < len(raw):
        return None
    lines = raw.count(b"\n", start, end)
    if raw.find(b"\r", start, end) >= 0:
        lines += raw.count(b"\r", start, end) - raw.count(b"\r\n", start, end)
    return (end, body_start) if lines <= HEADER_LINES else None


def _end_of_bound(raw: bytes, start: int) -> int:
    """Return where the last whole line within the bound ends."""
    lines = _LINES_WITHIN.match(raw, start, start + HEADER_BYTES)
    return lines.end() if lines else start


def _line_end(text: bytes) -> bytes:
    """Return the line end that a mail is written with, by its first one here: LF, CR LF or CR."""
    first = text.find(b"\n")
    if first < 0:
        return b"\r" if b"\r" in text else b"\n"
    return b"\r\n" if text[:first].endswith(b"\r") or text[first + 1 : first + 2] == b"\r" else b"\n"


def _unify_line_ends(block: bytes) -> bytes:
    if b"\r" not in block:
        return block
    return block.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
