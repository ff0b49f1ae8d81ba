"""The nouns of the MIME tree: an entity and what its header says of its content (RFC 2045, RFC 2183).

Guarantees: reading never raises. Only what describes the content is kept of a header, so that ten thousand parts stay
cheap.

A header without the empty line after it ends at the first line that is neither field nor continuation. A block that
holds no field at all is content. An empty line too early, before the Content- fields, is read past. Of several fields
of one name the first usable one counts. A type that is none means text/plain, as RFC 2045 section 5.2 asks.
"""

import re
from dataclasses import dataclass

from .fields import Field, find_content_line, first_value, iterate_fields
from .parameters import Parametrised, parse_parameters
from .scanner import Scanner

_WORD = re.compile(rb"[\w.-]+", re.ASCII)
_TYPE = re.compile(r"[^\s/]+/[^\s/]+")
_LATE_FIELD = re.compile(rb"(?:Content-(?:Type|Transfer-Encoding|Disposition)|MIME-Version)[ \t]*:", re.IGNORECASE)
_MOST_FIELDS = 1000
_COMMENT = re.compile(rb"\([^()]*\)")
_NO_PARAMETERS = Parametrised("", ())


@dataclass(frozen=True)
class Header:
    """What a header says of its content; type is usable always, content holds what was written."""

    type: str
    content: Parametrised
    disposition: Parametrised
    encoding: str
    content_id: str
    location: str
    defects: tuple[str, ...] = ()

    def boundary(self) -> bytes | None:
        """Return the boundary of a multipart, None if it is missing or empty."""
        return (self.content.get_bytes("boundary") or b"").strip() or None

    def charset(self) -> str:
        """Return the label of the charset, "" without one."""
        return self.content.get("charset") or ""

    def may_name(self, ending: bytes) -> bool:
        """Tell cheaply whether the file name may have this lower-case ending: encoded ones are not looked into."""
        values = (parameter.value.lower() for parameter in (*self.disposition.parameters, *self.content.parameters))
        return any(ending in value or b"=?" in value or b"%" in value for value in values)

    def filename(self, hint: str = "") -> str | None:
        """Return the name as the sender wrote it: filename before name, a readable one before a broken one."""
        names = (
            self.disposition.get("filename", hint),
            self.content.get("name", hint),
            self.content.get("filename", hint),
            self.disposition.get("name", hint),
            self.content.get("file", hint),
        )
        given = [name for name in names if name and name.strip()]
        return next((name for name in given if "\ufffd" not in name), given[0] if given else None)


@dataclass(frozen=True)
class Entity:
    """A container or leaf: kind is "leaf", "multipart" or "message"; its body is source[start:end]."""

    path: str
    kind: str
    header: Header
    parent: str
    depth: int
    source: bytes
    start: int
    end: int
    defects: tuple[str, ...] = ()


def read_header(scanner: Scanner, source: bytes, position: int, in_digest: bool) -> tuple[Header, int]:
    """Read the header at position and return it with the offset of its body."""
    fields, body = _read_block(scanner, source, position)
    defects: tuple[str, ...] = ()
    if first_value(fields, "content-type") is None and _LATE_FIELD.match(source, body):
        late, body = _read_block(scanner, source, body)
        fields, defects = (*fields, *late), ("empty line inside the header",)
    return describe(fields, in_digest, defects), body


def _read_block(scanner: Scanner, source: bytes, position: int) -> tuple[tuple[Field, ...], int]:
    """Return the fields of a header block that describe the content, and where the content starts."""
    end, body = scanner.header(position)
    block = source[position:end]
    if end == body and (offset := find_content_line(block)) is not None:
        block, body = block[:offset], position + offset
    any_field = end == position
    kept: list[Field] = []
    for field in iterate_fields(block):
        any_field = True
        if field.name.startswith("content-") and len(kept) < _MOST_FIELDS:
            kept.append(field)
    return tuple(kept), body if any_field else position


def describe(fields: tuple[Field, ...], in_digest: bool, defects: tuple[str, ...] = ()) -> Header:
    """Return what the fields of a header say of its content."""
    content = disposition = _NO_PARAMETERS
    encoding = content_id = location = b""
    for field in fields:
        if field.name == "content-type" and not _TYPE.fullmatch(content.value):
            found = parse_parameters(field.value)
            content = found if _TYPE.fullmatch(found.value) or not content.parameters else content
        elif field.name == "content-disposition" and not disposition.value:
            disposition = parse_parameters(field.value)
        elif field.name == "content-transfer-encoding" and not encoding:
            word = _WORD.search(_COMMENT.sub(b"", field.value))
            encoding = word[0].lower() if word else b""
        elif field.name == "content-id" and not content_id:
            content_id = field.value.strip(b"<> \t")
        elif field.name == "content-location" and not location:
            location = field.value.strip(b'<> \t"')
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
