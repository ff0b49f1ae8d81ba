"""The nouns of the MIME tree: an entity and what its header says of its content (RFC 2045, RFC 2183).

Guarantees: reading never raises. Only what describes the content is kept of a header, so that ten thousand parts stay
cheap.

A header without the empty line after it, or with blanks in that line, ends where `header_end` says. Where the header of
a text message ends with a field of a name that no header has, a defect says that it may be text. A block that
holds no field at all is content. An empty line too early, before the Content- fields or their parameters, is read
past. Of several fields of one name the first usable one counts, later ones only add parameters. A type that is none
means text/plain, as RFC 2045 section 5.2 asks. Names of transfer encodings are taken in the spellings that mailers use.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from .fields import Field, first_value, iterate_fields
from .header_end import find_content, is_usual
from .parameters import Parametrized, parse_parameters
from .scanner import Scanner

_WORD = re.compile(rb"[\w.-]+", re.ASCII)
_TYPE = re.compile(r"[^\s/]+/[^\s/]+")
# Atomic groups, since Python 3.11 is wrong about possessive ones with a look-ahead inside.
_LATE_CONTENT = re.compile(
    rb"[\r\n]*+(?>(?:(?:Content-(?!Type|Transfer-Encoding|Disposition)|MIME-|X-)[!-9;-~]{1,60}[ \t]*+:"
    rb"[^\r\n]*+[\r\n]{1,2}(?>(?:[ \t][^\r\n]*+[\r\n]{1,2})*)){0,30})"
    rb"Content-(Type|Transfer-Encoding|Disposition)[ \t]*+:",
    re.IGNORECASE,
)
# Fields of a message that somebody pasted into the text are text.
_LATE_CONTENT_OF_PART = re.compile(
    rb"[\r\n]*+(?>(?:(?!--|Content-(?:Type|Transfer-Encoding|Disposition)|(?:From|To|Cc|Subject|Date|Received)[ \t]*+:)"
    rb"[!-9;-~]{1,60}[ \t]*+:[^\r\n]*+[\r\n]{1,2}(?>(?:[ \t][^\r\n]*+[\r\n]{1,2})*)){0,30})"
    rb"Content-(Type|Transfer-Encoding|Disposition)[ \t]*+:",
    re.IGNORECASE,
)
_LATE_FIELDS = re.compile(
    rb"(?>(?:(?!--|Content-|MIME-Version)[!-9;-~]{1,60}[ \t]*+:[^\r\n]*+[\r\n]{1,2}"
    rb"(?>(?:[ \t][^\r\n]*+[\r\n]{1,2})*)){0,30})(?:Content-Type|MIME-Version)[ \t]*+:",
    re.IGNORECASE,
)
_LATE_PARAMETER = re.compile(
    rb"[\r\n]*+(?:[ \t]++[A-Za-z-]{1,20}[*\d]{0,6}=(?:\"[^\"\r\n]{0,300}\"|[^\s;\"]{1,300})[ \t]*+;?){1,9}"
    rb"[ \t]*+(?=[\r\n]|\Z)"
)
# A line of blanks inside a header, which most take for a fold; and nothing but blanks before what may be a boundary.
_BLANK_LINE = re.compile(rb"[\r\n][ \t]++(?=[\r\n]|\Z)")
_NOTHING = re.compile(rb"[ \t\r\n]*+(?:--|\Z)")
_BLANKS = re.compile(rb"[ \t\r\n]*+")
_LINE_ENDS = re.compile(rb"[\r\n]*+")
_AHEAD = 400
_LARGE = 16384
_NO_EMPTY_LINE = "empty line after the header missing"
_TEXT_IN_HEADER = "text may stand in the header"
_ENCODINGS = {
    spelling: encoding
    for encoding, spellings in {
        b"base64": b"base64 b64 xbase64 base64encoding",
        b"quoted-printable": b"quotedprintable quotedprint quotedprintible qp xquotedprintable",
        b"7bit": b"7bit 7bits",
        b"8bit": b"8bit 8bits",
    }.items()
    for spelling in spellings.split()
}
_MOST_FIELDS = 1000
_MOST_ADDED = 100
_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"
_COMMENT = re.compile(rb"\([^()]*\)")
_NO_PARAMETERS = Parametrized("", ())


class Header(NamedTuple):
    """What a header says of its content. Type is usable always, content holds what was written."""

    type: str
    content: Parametrized
    disposition: Parametrized
    encoding: str
    content_id: str
    location: str
    defects: tuple[str, ...] = ()

    def boundary(self) -> bytes | None:
        """Return the boundary of a multipart, None if it is missing or empty."""
        return (self.content.get_bytes("boundary") or b"").strip() or None

    def charset(self) -> str:
        """Return the label of the charset, "" without one."""
        label = self.content.get("charset") or ""
        return label[2:] if label[:2] in ("3D", "3d") else label  # "=3D", the header was made quoted-printable

    def may_name(self, ending: bytes) -> bool:
        """Return cheaply whether the file name may have this lower-case ending: encoded ones are not looked into."""
        values = (parameter.value.lower() for parameter in (*self.disposition.parameters, *self.content.parameters))
        return any(ending in value or b"=?" in value or b"%" in value for value in values)

    def has_name(self) -> bool:
        """Return whether the content has a file name."""
        parameters = (*self.disposition.parameters, *self.content.parameters)
        return any(parameter.name.startswith(("name", "filename")) for parameter in parameters)

    def filename(self, hint: str = "") -> str | None:
        """Return the name as the sender wrote it: filename before name, a readable one before a broken one."""
        broken: str | None = None
        for parameters, label in (
            (self.disposition, "filename"),
            (self.content, "name"),
            (self.content, "filename"),
            (self.disposition, "name"),
            (self.content, "file"),
        ):
            name = parameters.get(label, hint) if parameters.parameters else None
            if name and name.strip():
                if "\ufffd" not in name:
                    return name
                broken = broken or name
        return broken


class Entity(NamedTuple):
    """A container or leaf: kind is "leaf", "multipart" or "message". Its body is source[start:end]."""

    path: str
    kind: str
    header: Header
    parent: str
    depth: int
    source: bytes
    start: int
    end: int
    defects: tuple[str, ...] = ()


def read_header(
    scanner: Scanner, source: bytes, position: int, *, in_digest: bool, is_message: bool
) -> tuple[Header, int]:
    """Read the header at position and return it with the offset of its body.

    in_digest says that it is a part of a multipart/digest, is_message that it is no part of any multipart.
    """
    block = _read_block(scanner, source, position, in_digest=in_digest, is_message=is_message)
    if not block.read.any_field and block.end > position:
        return describe((), in_digest=in_digest), position
    if (in_digest and block.end == position) or not _goes_on(block, source, is_message=is_message):
        return describe(block.read.content, (*block.read.defects, *block.defects), in_digest=in_digest), block.body
    # One block to the end of the second: the empty line between them counts for nothing.
    start = _skip_line_ends(source, block.body)
    second = _read_block(scanner, source, start, in_digest=in_digest, is_message=is_message)
    read = _read_fields(source[position : second.end], is_message=is_message)
    defects = dict.fromkeys((*read.defects, *block.defects, *second.defects, "empty line inside the header"))
    return describe(read.content, tuple(defects), in_digest=in_digest), second.body


class _Fields(NamedTuple):
    """What a header block holds: the fields that describe the content, any field at all, lines that may be content."""

    content: tuple[Field, ...]
    any_field: bool
    is_doubtful: bool
    ends_foreign: bool  # with a field of a name that no header has
    defects: tuple[str, ...]


class _Block(NamedTuple):
    """A header block: what it holds, where it ends and where the content begins."""

    read: _Fields
    end: int
    body: int
    defects: tuple[str, ...]  # of its end


def _read_fields(block: bytes, *, is_message: bool) -> _Fields:
    any_field = is_doubtful = ends_foreign = False
    odd: list[int] = []
    content: list[Field] = []
    for field in iterate_fields(block, odd):
        any_field = True
        if field.name.startswith("content-"):
            ends_foreign = False
            if len(content) < _MOST_FIELDS:
                content.append(field)
        else:
            ends_foreign = not is_usual(field.name, is_message=is_message)
            is_doubtful = is_doubtful or ends_foreign
    defects = ("odd line in the header",) if odd else ()
    return _Fields(tuple(content), any_field, is_doubtful or bool(odd), ends_foreign, defects)


def _read_block(scanner: Scanner, source: bytes, position: int, *, in_digest: bool, is_message: bool) -> _Block:
    end, body = scanner.header(position)
    # Messages in each other that have no empty line at all would be read to their end once for each level.
    for limit in (_LARGE, end - position):
        block = source[position : min(end, position + limit)]
        read = _read_fields(block, is_message=is_message)
        kind = (first_value(read.content, "content-type") or (b"message/" if in_digest else b"")).lower()
        is_doubtful = read.is_doubtful or _has_blank_line(block) or _NOTHING.match(source, body)
        if read.any_field and is_doubtful and not kind.startswith(b"multipart/"):
            found = find_content(
                block,
                _read_ahead(scanner, source, body),
                kind.decode("ascii", "replace"),
                _read_encoding(first_value(read.content, "content-transfer-encoding") or b"").decode("ascii"),
                is_message=is_message,
            )
            if found is not None and (limit != _LARGE or found < _LARGE // 2):
                end = body = position + found
                read = _read_fields(source[position:end], is_message=is_message)._replace(any_field=True)
                break
        if position + limit >= end:
            break
    is_missing = read.any_field and end == body < len(source)
    may_hold_text = is_message and read.ends_foreign and (not kind or kind.startswith((b"text/plain", b"text/html")))
    defects = ((_NO_EMPTY_LINE, is_missing), (_TEXT_IN_HEADER, may_hold_text))
    return _Block(read, end, body, tuple(defect for defect, is_so in defects if is_so))


def _has_blank_line(block: bytes) -> bool:
    """Return whether a line of blanks stands in a header, which has blanks at its end."""
    # One by one: a generator takes three times as long.
    may_have = b" \n" in block or b"\t\n" in block or b" \r" in block or b"\t\r" in block
    return (may_have or block[-1:] in (b" ", b"\t")) and _BLANK_LINE.search(block) is not None


def _read_ahead(scanner: Scanner, source: bytes, body: int) -> bytes:
    """Return the beginning of what stands at body before the next boundary, "" if only blanks do."""
    start = _skip_blanks(source, body)
    return source[start : scanner.end_within(body, start + _AHEAD)]


def _goes_on(block: _Block, source: bytes, *, is_message: bool) -> bool:
    """Return whether the text after an empty line is header: fields that are missing, or parameters of the last."""
    fields, body = block.read.content, block.body
    if fields and fields[-1].value.endswith(b";") and _LATE_PARAMETER.match(source, body):
        return True
    kind = (first_value(fields, "content-type") or b"").lower()
    if kind.startswith((b"message/", b"text/rfc822-headers")):
        return False
    if not kind and block.read.any_field and _LATE_FIELDS.match(source, body):
        return True
    late = (_LATE_CONTENT if kind or is_message else _LATE_CONTENT_OF_PART).match(source, body)
    return late is not None and first_value(fields, "content-" + late[1].decode("ascii").lower()) is None


def _skip_line_ends(source: bytes, position: int) -> int:
    found = _LINE_ENDS.match(source, position)
    return found.end() if found else position


def _skip_blanks(source: bytes, position: int) -> int:
    found = _BLANKS.match(source, position)
    return found.end() if found else position


def describe(fields: tuple[Field, ...], defects: tuple[str, ...] = (), *, in_digest: bool) -> Header:
    """Return what the fields of a header say of its content."""
    content = disposition = _NO_PARAMETERS
    encoding = content_id = location = b""
    for field in fields:
        if field.name == "content-type" and not _TYPE.fullmatch(content.value):
            found = parse_parameters(field.value)
            content = found if _TYPE.fullmatch(found.value) or not content.parameters else content
        elif field.name == "content-type":
            content = _add_parameters(content, field)
        elif field.name == "content-disposition":
            disposition = _add_parameters(disposition, field) if disposition.value else parse_parameters(field.value)
        elif field.name == "content-transfer-encoding" and not encoding:
            encoding = _read_encoding(field.value)
        elif field.name == "content-id" and not content_id:
            content_id = field.value.strip(b"<> \t")
        elif field.name == "content-location" and not location:
            location = field.value.strip(b'<> \t"')
    defects = (*defects, *dict.fromkeys((*content.defects, *disposition.defects)))
    kind = content.value
    if not _TYPE.fullmatch(kind):
        defects = (*defects, "content type unusable") if kind else defects
        kind = "message/rfc822" if in_digest and not kind else "text/plain"
        kind = "multipart/mixed" if content.get_bytes("boundary") else kind
    return Header(
        kind,
        content,
        disposition,
        encoding.decode("ascii"),
        content_id.decode("latin-1"),
        location.decode("latin-1"),
        defects,
    )


def _add_parameters(known: Parametrized, field: Field) -> Parametrized:
    """Return a field with the parameters of another of its name, which count where it has none of the kind."""
    if len(known.parameters) > _MOST_ADDED or b"=" not in field.value:
        return known
    return known._replace(parameters=(*known.parameters, *parse_parameters(field.value).parameters))


def _read_encoding(value: bytes) -> bytes:
    """Return the word of a transfer encoding in lower case, past comments and odd spellings."""
    return _read_word(value[:1000].lower())


@lru_cache(maxsize=64)
def _read_word(value: bytes) -> bytes:
    while (bare := _COMMENT.sub(b" ", value)) != value:
        value = bare
    word = _WORD.search(value)
    spelling = bytes(byte for byte in value.partition(b";")[0] if byte in _LETTERS)
    return _ENCODINGS.get(spelling) or (word[0] if word else b"")
