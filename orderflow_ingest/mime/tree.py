"""Walk the MIME tree of a mail as a pull parser over offsets (RFC 2046), leniently.

Guarantees: never raises, never recurses, takes linear time, and copies no body except that of an encoded attached
message. Containers come before their children. Limits (10,000 parts, 500 levels) are told as a defect of the part
where the walk stopped; what was found before is kept.

Paths are those of IMAP (RFC 9051 section 6.4.5): "1.2", the parts of an attached message below its own path. A
multipart that is the whole message is ".0" below it, which IMAP does not number.

Lenient: a delimiter may differ in case or have trailing blanks; a multipart may never be closed, share its boundary
with the one around it, or go on after its end; a boundary that is missing or never occurs is taken from the first
line that looks like one; a mail that says no type but begins with a boundary line is a multipart; a multipart without
any part becomes one leaf; message/rfc822 may be encoded, and a file named .eml is a message if it begins like one.
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from .bodies import decode_body
from .entities import Entity, Header, read_header
from .fields import looks_like_header, skip_leading_blanks
from .scanner import Scanner

MAX_PARTS = 10_000
MAX_DEPTH = 500
# Levels of quoted-printable that a small mail may have anyway, in bytes of their copies.
_ROOM = 16_000_000
_ENCODED = ("base64", "quoted-printable")
MESSAGE_TYPES = ("message/rfc822", "message/global", "message/news")
_UNTYPED_PARTS = re.compile(
    rb"[\r\n]*+(?:This is a [^\r\n]*+[\r\n]++)?--[^\r\n]{1,200}(?:\r?\n|\r)Content-[A-Za-z-]{2,40}:", re.IGNORECASE
)
# "charset=utf-8" stands in every message; where it is not "=3D" the message only is called encoded.
_NOT_QUOTED = re.compile(rb"=(?![0-9A-F]{2}|[ \t\r\n])")
_EML = re.compile(r".*\.eml\s*", re.IGNORECASE | re.DOTALL)


@dataclass
class _Frame:
    """One open container: a multipart, or a message, which has no header here and one child."""

    header: Header | None
    prefix: str
    start: int
    count: int = 0
    guess: bool = False
    ended: bool = False


def walk(raw: bytes, path: str = "", most: int = MAX_PARTS) -> Iterator[Entity]:
    """Yield every container and leaf of a mail, in the order in which they stand; paths are below the one given."""
    stack = [_Walker(raw, path, 0).entities()]
    count = 0
    room = 4 * len(raw) + _ROOM
    while stack:
        entity = next(stack[-1], None)
        if entity is None:
            stack.pop()
            continue
        count += 1
        if count > most:
            yield replace(entity, defects=(*entity.defects, "too many parts"))
            return
        inner = _open_encoded(entity) if entity.kind == "leaf" else None
        if inner is not None:
            # Quoted-printable does not shrink: without a bound each level of a large mail would keep a copy of it.
            room -= len(inner.source)
            if room < 0 or entity.depth >= MAX_DEPTH:
                inner, entity = None, replace(entity, defects=(*entity.defects, "nested too deep"))
        if inner is None:
            yield entity
            continue
        if inner.frames[0].header is None:
            yield replace(entity, kind="message", end=entity.start)
        stack.append(inner.entities())


def _open_encoded(entity: Entity) -> "_Walker | None":
    """Return a walker over the decoded content of a leaf that is a message or an encoded multipart."""
    header = entity.header
    boundary = header.boundary() if header.type.startswith("multipart/") else None
    if header.encoding not in _ENCODED or not (boundary or _is_message(header)):
        return None
    if header.encoding == "quoted-printable" and _NOT_QUOTED.search(entity.source, entity.start, entity.end):
        data = entity.source[entity.start : entity.end]
    else:
        data = decode_body(entity.source, entity.start, entity.end, header.encoding).data
    if boundary:
        path = entity.path.rpartition(".")[0]
        # What decodes to itself would be opened again and again.
        is_new = data != entity.source[entity.start : entity.end]
        return _Walker(data, path, entity.depth, header) if is_new and b"--" + boundary in data else None
    return _Walker(data, entity.path, entity.depth + 1) if looks_like_header(data) else None


def _is_message(header: Header) -> bool:
    if header.type in MESSAGE_TYPES:
        return True
    return header.may_name(b".eml") and _EML.fullmatch(header.filename() or "") is not None


class _Walker:
    """The walk over one buffer; frames is the stack of containers that are open at the position."""

    def __init__(self, source: bytes, path: str, depth: int, multipart: Header | None = None) -> None:
        boundary = multipart.boundary() if multipart else None
        self.source = source
        self.depth = depth
        self.scanner = Scanner(source)
        self.scanner.open(boundary)
        self.frames = [_Frame(multipart, f"{path}." if path else "", 0)]
        self.rescans = 4 * len(source)

    def entities(self) -> Iterator[Entity]:
        """Yield the entities of the buffer."""
        position: int | None = skip_leading_blanks(self.source)
        if self.frames[0].header is not None:
            position = yield from self._next_part(0)
        while position is not None:
            parent = self.frames[-1].header
            in_digest = parent is not None and parent.type == "multipart/digest"
            header, body = read_header(
                self.scanner, self.source, position, in_digest=in_digest, is_message=parent is None
            )
            entity = self._enter(header, body)
            if entity.kind == "leaf":
                delimiter = self.scanner.next_match(body)
                level = delimiter.level if delimiter else -1
                unclosed = any(frame.header is not None for frame in self.frames[level + 1 :])
                defects = (*entity.defects, "multipart never closed") if unclosed else entity.defects
                end = max(delimiter.end, body) if delimiter else len(self.source)
                entity = replace(entity, end=end, defects=defects)
            yield entity
            position = skip_leading_blanks(self.source, body)
            if entity.kind != "message":
                position = yield from self._next_part(entity.end)

    def _enter(self, header: Header, body: int) -> Entity:
        """Open a container or describe a leaf whose end is not yet known."""
        frame = self.frames[-1]
        depth = self.depth + len(self.frames) - 1
        frame.count += frame.header is None
        path = f"{frame.prefix}{frame.count}"
        kind = "leaf"
        defects = header.defects
        if frame.header is not None and frame.guess and frame.count == 1:
            defects = (*defects, "boundary guessed")
        if frame.ended:
            defects = (*defects, "part after the end of its multipart")
        if frame.header is None and not header.content.value and _UNTYPED_PARTS.match(self.source, body):
            header = replace(header, type="multipart/mixed")
        if header.type.startswith("multipart/"):
            kind = "multipart"
        elif header.encoding not in _ENCODED and _is_message(header) and looks_like_header(self.source, body):
            kind = "message"
        if kind != "leaf" and depth >= MAX_DEPTH:
            kind, defects = "leaf", (*defects, "nested too deep")
        prefix = f"{path}."
        if kind == "multipart" and frame.header is None:
            path, prefix = f"{frame.prefix}0", frame.prefix
        if kind == "multipart":
            boundary = header.boundary()
            defects = defects if boundary else (*defects, "boundary missing")
            defects = (*defects, "boundary used twice") if self.scanner.knows(boundary) else defects
            defects = (*defects, "encoded container") if header.encoding in _ENCODED else defects
            self.frames.append(_Frame(header, prefix, body, guess=not boundary))
            self.scanner.open(boundary)
        if kind == "message":
            self.frames.append(_Frame(None, prefix, body))
            self.scanner.open(None)
        parent = frame.header.type if frame.header else ""
        return Entity(path, kind, header, parent, depth, self.source, body, body, defects)

    def _next_part(self, position: int) -> Generator[Entity, None, int | None]:
        """Close what ends at the next delimiter and return where the part after it starts, None at the end.

        A multipart in which no delimiter was found is read again with a guessed boundary, then given out as a leaf.
        """
        while True:
            top = self.frames[-1]
            delimiter = self.scanner.next_match(position, adopt=top.guess and not top.count)
            level = delimiter.level if delimiter else -1
            stop = delimiter.end if delimiter else len(self.source)
            while len(self.frames) > level + 1:
                frame = self.frames[-1]
                if frame.header is not None and not frame.count:
                    if self._may_guess(frame, stop):
                        break
                    yield self._as_leaf(frame, frame.header, max(stop, frame.start))
                self.frames.pop()
                self.scanner.close()
            top = self.frames[-1] if self.frames else top
            if len(self.frames) > level + 1:
                position = self.frames[-1].start
                continue
            if delimiter is None:
                return None
            position = delimiter.after
            self.scanner.mark_closed(level, delimiter.closing)
            if not delimiter.closing:
                top.count += 1
                return position
            top.ended = True

    def _may_guess(self, frame: _Frame, stop: int) -> bool:
        """Make a multipart in which no part was found ready to be read again, once and within bounds."""
        self.rescans -= max(stop - frame.start, 0)
        if frame.guess or self.rescans < 0:
            return False
        frame.guess, frame.ended = True, False
        self.scanner.replace_top(None)
        return True

    def _as_leaf(self, frame: _Frame, header: Header, stop: int) -> Entity:
        path = f"{frame.prefix}1"
        depth = self.depth + len(self.frames) - 1
        return Entity(path, "leaf", header, "", depth, self.source, frame.start, stop, ("multipart without parts",))
