"""Walk the MIME tree of a mail as a pull parser over offsets (RFC 2046), leniently.

Guarantees: never raises, never recurses, takes linear time, and copies no body except that of an encoded attached
message. Containers come before their children. Limits (10,000 parts, 500 levels) are given as a defect of the part
where the walk stopped. What was found before is kept.

Paths are those of IMAP (RFC 9051 section 6.4.5): "1.2", the parts of an attached message below its own path. A
multipart that is the whole message is ".0" below it, which IMAP does not number.

Lenient: a delimiter may differ in case or have trailing blanks. A multipart may never be closed, share its boundary
with the one around it, or go on after its end. A boundary that is missing or never occurs is taken from the first
line that looks like one. A mail that says no type but begins with a boundary line is a multipart. A multipart without
any part becomes one leaf. Message/rfc822 may be encoded, and a file named .eml is a message if it begins like one.

Parts behind a boundary that nobody declared, within a text or behind base64, before the first part or after the last,
are those of a multipart of their own. What else stands before the first part or after the last is given out as a leaf
if it shows signs of a document, or is a text that is longer than what mail programs write there or holds a number.
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from .bodies import decode_body
from .entities import Entity, Header, describe, read_header
from .fields import looks_like_header, skip_leading_blanks
from .scanner import Scanner

MAX_PARTS = 10_000
MAX_DEPTH = 500
# Levels of quoted-printable that a small mail may have anyway, in bytes of their copies.
_LEAST_COPIED = 16_000_000
_ENCODED = ("base64", "quoted-printable")
MESSAGE_TYPES = ("message/rfc822", "message/global", "message/news")
_UNTYPED_PARTS = re.compile(
    rb"[\r\n]*+(?:This is a [^\r\n]*+[\r\n]++)?--[^\r\n]{1,200}(?:\r?\n|\r)Content-[A-Za-z-]{2,40}:", re.IGNORECASE
)
# "charset=utf-8" stands in every message; where it is not "=3D" the message only is called encoded.
_NOT_QUOTED = re.compile(rb"=(?![0-9A-F]{2}|[ \t\r\n])")
_OUTSIDE = describe((), in_digest=False)._replace(type="multipart/mixed")
OUTSIDE, TEXT_OUTSIDE = "outside of the parts", "text outside of the parts"
# Signs of a document before the first part or after the last: fields, signatures, and both in base64.
_HIDDEN = re.compile(
    rb"[\r\n](?:Content-(?:Type|Disposition|Transfer-Encoding)[ \t]*+:|(begin [0-7]{3,4} [^\r\n]{1,200}[\r\n]{1,2}M)"
    rb"|(JVBERi0|UEsDB|0M8R4KGx|iVBORw0|/9j/4|R0lGOD|SUkqA|TU0AK|PD94b|e1xyd|%PDF-|UN[AB][:+]|<\?xml\s|\{\\rtf))"
    rb"|(%PDF-|PK\x03\x04|\xd0\xcf\x11\xe0)"
)
# What mail programs, gateways and lists write there.
_USUAL = re.compile(rb"MIME", re.IGNORECASE)
_NUMBER = re.compile(rb"[0-9]")
_SHORTEST, _SHORT, _LONG = 8, 200, 1000
_CONTENT = re.compile(rb"[^\s]")
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
    adopts: bool = False  # the next line that looks like a boundary is its own


def walk(raw: bytes, path: str = "", most: int = MAX_PARTS) -> Iterator[Entity]:
    """Yield every container and leaf of a mail, in the order in which they stand. Paths are below the one given."""
    stack = [_Walker(raw, path, 0).entities()]
    count = 0
    left = 4 * len(raw) + _LEAST_COPIED
    while stack:
        entity = next(stack[-1], None)
        if entity is None:
            stack.pop()
            continue
        count += 1
        if count > most:
            yield entity._replace(defects=(*entity.defects, "too many parts"))
            return
        inner = _open_encoded(entity) if entity.kind == "leaf" else None
        if inner is not None:
            # Quoted-printable does not shrink: without a bound each level of a large mail would keep a copy of it.
            left -= len(inner.source)
            if left < 0 or entity.depth >= MAX_DEPTH:
                inner, entity = None, entity._replace(defects=(*entity.defects, "nested too deep"))
        if inner is None:
            yield entity
            continue
        if inner.frames[0].header is None:
            yield entity._replace(kind="message", end=entity.start)
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
    """The walk over one buffer. Frames is the stack of containers that are open at the position."""

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
                entity = self._close(entity)
            yield entity
            position = skip_leading_blanks(self.source, body)
            if entity.kind != "message":
                position = yield from self._next_part(entity.end)

    def _close(self, leaf: Entity) -> Entity:
        """Return a leaf with its end: the next delimiter, or a boundary that nobody declared."""
        stop = self._may_split(leaf)
        delimiter = self.scanner.next_match(leaf.start, stop=stop)
        if stop and delimiter is None and self.scanner.stray is not None:
            return leaf._replace(end=max(self.scanner.content_end(self.scanner.stray), leaf.start))
        level = delimiter.level if delimiter else -1
        unclosed = any(frame.header is not None for frame in self.frames[level + 1 :])
        defects = (*leaf.defects, "multipart never closed") if unclosed else leaf.defects
        end = max(delimiter.end, leaf.start) if delimiter else len(self.source)
        # Not _replace(): it takes twice as long.
        return Entity(leaf.path, "leaf", leaf.header, leaf.parent, leaf.depth, leaf.source, leaf.start, end, defects)

    def _may_split(self, leaf: Entity) -> bool:
        """Return whether other parts may stand in a leaf: in a text body, or behind base64, which holds no such line.

        A report quotes the mail that it is about, and a file is what it is.
        """
        header = leaf.header
        if leaf.parent in ("", "multipart/report") or leaf.depth >= MAX_DEPTH - 1:
            return False
        is_body = header.type in ("text/plain", "text/html") and header.disposition.value in ("", "inline")
        return header.encoding == "base64" or (is_body and not header.has_name())

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
            header = header._replace(type="multipart/mixed")
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
            adopt = top.adopts or (top.guess and not top.count)
            may_open = top.header is not None and self.depth + len(self.frames) < MAX_DEPTH
            stop = not adopt and may_open and bool(top.count)
            delimiter = self.scanner.next_match(position, adopt=adopt, stop=stop)
            level = delimiter.level if delimiter else -1
            end = delimiter.end if delimiter else len(self.source)
            is_own = delimiter is not None and not delimiter.closing and level == len(self.frames) - 1
            if top.header is not None and (top.count or is_own) and position < end:
                stray = self.scanner.stray
                yield from self._hidden(top, position, end if stray is None else stray)
                if stray is not None and may_open:
                    yield from self._open_outside(top, stray)
                    position = stray
                    continue
            top.adopts = False
            while len(self.frames) > level + 1:
                frame = self.frames[-1]
                if frame.header is not None and not frame.count:
                    if self._may_guess(frame, end):
                        break
                    yield self._as_leaf(frame, frame.header, max(end, frame.start))
                self.frames.pop()
                self.scanner.close()
            top = self.frames[-1] if self.frames else top
            if len(self.frames) > level + 1:
                position = self.frames[-1].start
                continue
            if delimiter is None:
                return None
            position = delimiter.after
            self.scanner.mark_closed(level, closed=delimiter.closing)
            if not delimiter.closing:
                top.count += 1
                return position
            top.ended = True

    def _hidden(self, frame: _Frame, start: int, end: int) -> Iterator[Entity]:
        """Yield what stands before the first part of a multipart or after its last, if it may be a document."""
        if end - start < _SHORTEST:
            return
        found = _HIDDEN.search(self.source, max(start - 1, 0), end)
        if found is None and not self._may_be_order(start, end):
            return
        frame.count += 1
        kind, defect, body = "text/plain", OUTSIDE if found else TEXT_OUTSIDE, start
        header = describe((), in_digest=False)
        if found is not None:
            body = max(found.start() + (self.source[found.start()] in b"\r\n"), start)
            kind = "application/octet-stream" if found.lastindex in (2, 3) else kind
            if found.lastindex is None:
                header, body = read_header(self.scanner, self.source, body, in_digest=False, is_message=False)
                kind = header.type
        depth = self.depth + len(self.frames) - 1
        header = header._replace(type=kind)
        path = f"{frame.prefix}{frame.count}"
        defects = (*header.defects, defect)
        yield Entity(path, "leaf", header, "multipart/mixed", depth, self.source, body, max(end, body), defects)

    def _may_be_order(self, start: int, end: int) -> bool:
        found = _CONTENT.search(self.source, start, end)
        size = end - found.start() if found else 0
        if size > _LONG:
            return True
        may_be_order = size > _SHORT or (size >= _SHORTEST and _NUMBER.search(self.source, start, end))
        return bool(may_be_order) and not _USUAL.search(self.source, start, end)

    def _open_outside(self, top: _Frame, position: int) -> Iterator[Entity]:
        """Open a multipart for parts behind a boundary that nobody declared. In one the boundary may change."""
        if top.header is _OUTSIDE:
            top.adopts = True
            self.scanner.replace_top(None)
            return
        top.count += 1
        path = f"{top.prefix}{top.count}"
        depth = self.depth + len(self.frames) - 1
        self.frames.append(_Frame(_OUTSIDE, f"{path}.", position, guess=True))
        self.scanner.open(None)
        parent = top.header.type if top.header else ""
        yield Entity(path, "multipart", _OUTSIDE, parent, depth, self.source, position, position, (OUTSIDE,))

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
