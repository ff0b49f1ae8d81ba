"""The walk through a mail and through the containers in it.

A container that could be opened is passed over in favour of what it holds, its members lie below its path. One that
stays shut, or breaks in the middle, is a document itself, whole, with the reason; the members before the break are
documents as well, for an order too many is seen by somebody and a lost one by nobody. The container is told after its
members, since only then is known which it is. A message that a container holds is read as a mail of its own.

Bounds, for the whole mail: UNPACKED_LIMIT bytes and MAX_PARTS members out of containers, CONTAINER_DEPTH containers
in each other.

A text body is a document of the kind BODY. Of alternatives (RFC 2046 section 5.1.4) the first that says anything is
taken, and a later one if it says much more: "your program shows no HTML" is no order. The same goes for the text that
Outlook keeps beside the mail's own in a TNEF or .msg file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from ..containers import Budget, Kind, Member, NotOpened
from ..containers.kinds import container_kind, open_container
from ..mime.bodies import decode_body, find_uuencoded
from ..mime.charsets import codec_name
from ..mime.entities import Entity
from ..mime.fields import find_sender_header, looks_like_header
from ..mime.filenames import extension, safe_filename
from ..mime.sniff import detect_type
from ..mime.tree import MAX_PARTS, walk
from ..mime.words import decode_text, storable
from .parts import Part, PartKind, Reason
from .policy import find_references, is_referenced, judge
from .text import decode_html, html_text, plain_text, text_size, visible_size
from .types import content_type, contradictions

UNPACKED_LIMIT = 128 << 20
CONTAINER_DEPTH = 8
# Paths stand in an index, whose rows PostgreSQL limits to 2704 bytes; a message adds up to 1500.
_LONGEST_PATH = 500
_PHOTO = 50_000
_NO_TEXT = 60  # characters: "sent from my telephone"
_MESSAGES = ("message/rfc822", "message/global", "message/news")


class _Claim(NamedTuple):
    """What is said of a part before its content is looked at."""

    path: str
    filename: str | None
    declared_type: str
    disposition: str = ""
    names: tuple[str, ...] = ()
    charset: str = ""
    parent: str = ""
    defects: tuple[str, ...] = ()


@dataclass
class _Mail:
    """What the parts of one message have to know of each other."""

    hint: str = ""
    pages: list[tuple[bytes | Entity, str]] = field(default_factory=list)
    alternatives: frozenset[str] = frozenset()
    said: dict[str, dict[str, int]] = field(default_factory=dict)
    said_in_all: int = 0

    def shows(self, part: Part, names: Iterable[str]) -> bool:
        """Tell whether an image that has one of these names is an ornament of an HTML body.

        A large one on pages without text is the message: a photo of an order, sent from a telephone.
        """
        is_all = part.size >= _PHOTO and self._text_size < _NO_TEXT
        return is_referenced(names, self._references) and not is_all

    @property
    def _pages(self) -> Iterator[str]:
        contents = ((_decode(page)[0] if isinstance(page, Entity) else page, charset) for page, charset in self.pages)
        return (decode_html(content, charset, self.hint)[0] for content, charset in contents)

    @cached_property
    def _references(self) -> frozenset[str]:
        return find_references(self._pages)

    @cached_property
    def _text_size(self) -> int:
        return sum(text_size(html_text(page) or page) for page in self._pages)

    def alternative_of(self, path: str) -> tuple[str, str] | None:
        """Return the prefix of the innermost multipart/alternative that a part stands in, and which one it is there."""
        while path and self.alternatives:
            path, _, child = path.rpartition(".")
            prefix = f"{path}." if path else ""
            if prefix in self.alternatives:
                return prefix, child
        return None

    def said_by_others(self, path: str) -> int:
        """Return how many characters an alternative to a part holds, the longest of them."""
        place = self.alternative_of(path)
        others = self.said.get(place[0], {}).items() if place else ()
        return max((size for child, size in others if place and child != place[1]), default=0)

    def say(self, path: str, size: int) -> None:
        """Note that a text body of so many characters was taken."""
        self.said_in_all += size
        if place := self.alternative_of(path):
            sizes = self.said.setdefault(place[0], {})
            sizes[place[1]] = sizes.get(place[1], 0) + size


def read_parts(raw: bytes) -> Iterator[Part]:
    """Yield every part of a mail, decoded one by one in the order in which they stand."""
    return _Reader().read_mail(raw[find_sender_header(raw) :], "", 0)


class _Reader:
    """One reading of a mail, and the bounds it shares among its containers."""

    def __init__(self) -> None:
        self.budget = Budget(UNPACKED_LIMIT, MAX_PARTS)
        self.uuencoded = MAX_PARTS

    def read_mail(self, raw: bytes, path: str, depth: int) -> Iterator[Part]:
        """Yield the parts of a message; path and depth are those of the container that held it."""
        entities: list[Entity] = []
        mail, broken = _Mail(), ""
        try:
            for found in walk(raw, path):
                entities.append(found)
            mail = _survey(entities)
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            broken = f"reading failed: {type(error).__name__}"
        for entity in entities:
            if depth:
                self.budget.take_member()
            yield from self._read_entity(entity, mail, depth)
        if broken and depth:
            raise NotOpened(broken)
        if broken:
            yield _unreadable(path, "message/rfc822", raw, (broken,))

    def _read_entity(self, entity: Entity, mail: _Mail, depth: int) -> Iterator[Part]:
        header = entity.header
        data, defects = _decode(entity)
        try:
            claim = _Claim(
                entity.path,
                header.filename(mail.hint),
                header.type,
                _read_disposition(header.disposition.value),
                (header.content_id, header.location),
                header.charset(),
                entity.parent,
                (*entity.defects, *defects),
            )
            if entity.kind != "leaf":
                yield _part(claim, b"", False, Reason.CONTAINER)
                return
            yield from self._read_leaf(claim, data, mail, depth)
        except (ImportError, MemoryError, NotOpened):
            raise
        except Exception as error:
            failed = (*entity.defects, *defects, f"reading failed: {type(error).__name__}")
            yield _unreadable(entity.path, header.type, data, failed)

    def _read_leaf(self, claim: _Claim, data: bytes, mail: _Mail, depth: int) -> Iterator[Part]:
        """Judge a leaf of a message or a member of a container, and open it if it is a container itself."""
        part = _part(claim, data, False, Reason.EMPTY)
        taken, reason = judge(part, claim.parent, claim.names, mail.shows)
        if reason is Reason.TEXT_BODY:
            yield _read_body(part, claim.charset, mail)
            yield from self._read_uuencoded(part, mail, depth)
            return
        part = replace(part, taken=taken, reason=reason)
        kind = _container_kind(part) if taken and "nested too deep" not in part.defects else None
        if kind is None:
            yield part
        else:
            yield from self._open(part, kind, mail, depth)

    def _open(self, part: Part, kind: str, mail: _Mail, depth: int) -> Iterator[Part]:
        """Yield what a container holds, then the container itself."""
        if depth == CONTAINER_DEPTH or len(part.path) > _LONGEST_PATH:
            yield _kept_whole(part, "nested too deep")
            return
        # The text in a TNEF file is that of the mail around it; an Outlook message has one of its own.
        said = {f"{part.path}.": {"": mail.said_in_all}} if kind == "tnef" else {}
        inner = _Mail(mail.hint, alternatives=frozenset((f"{part.path}.",)), said=said)
        try:
            if kind == "message":
                yield from self.read_mail(part.data, part.path, depth + 1)
            else:
                members = open_container(kind, part.data, self.budget, part.filename or "", mail.hint)
                yield from self._read_members(members, part.path, inner, depth + 1)
        except NotOpened as why:
            yield _kept_whole(part, str(why))
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            yield _kept_whole(part, f"reading failed: {type(error).__name__}")
        else:
            yield replace(part, taken=False, reason=Reason.OPENED)

    def _read_members(self, members: Iterator[Member], path: str, mail: _Mail, depth: int) -> Iterator[Part]:
        for number, member in enumerate(members, start=1):
            claim = _Claim(
                f"{path}.{number}",
                member.name,
                member.declared_type or "application/octet-stream",
                names=(member.content_id,),
                charset=member.charset,
                defects=member.defects,
            )
            if member.kind is Kind.BODY:
                if member.declared_type == "text/html":
                    mail.pages.append((member.data, member.charset))
                yield _read_body(_part(claim, member.data, True, Reason.TEXT_BODY), member.charset, mail)
            elif member.kind is Kind.FILE:
                yield from self._read_leaf(claim, member.data, mail, depth)
            elif depth > CONTAINER_DEPTH or len(path) > _LONGEST_PATH:
                raise NotOpened("nested too deep")
            elif member.data:
                yield _part(claim, b"", False, Reason.CONTAINER)
                yield from self.read_mail(member.data, claim.path, depth)
            else:
                yield _part(claim, b"", False, Reason.CONTAINER)
                inner = _Mail(mail.hint, alternatives=frozenset((f"{claim.path}.",)))
                yield from self._read_members(iter(member.members), claim.path, inner, depth + 1)

    def _read_uuencoded(self, part: Part, mail: _Mail, depth: int) -> Iterator[Part]:
        if b"begin " not in part.data:
            return
        for number, file in enumerate(islice(find_uuencoded(part.data), self.uuencoded), start=1):
            self.uuencoded -= 1
            claim = _Claim(
                f"{part.path}.{number}",
                decode_text(file.name, mail.hint),
                "application/octet-stream",
                defects=() if file.complete else ("uuencode never ended",),
            )
            found = _part(claim, file.data, True, Reason.UUENCODED)
            kind = _container_kind(found)
            if kind is None:
                yield found
            else:
                yield from self._open(found, kind, mail, depth)


def _survey(entities: list[Entity]) -> _Mail:
    """Return what the parts of a message have to know of each other."""
    labels = (entity.header.charset() for entity in entities)
    # The first charset declared in the mail that says something about raw 8-bit file names.
    useful = (label for label in labels if label and codec_name(label) not in (None, "ascii", "utf-8", "utf-7"))
    hint = next(useful, "")
    pages: list[tuple[bytes | Entity, str]] = [
        (entity, entity.header.charset())
        for entity in entities
        if entity.kind == "leaf" and entity.header.type == "text/html"
    ]
    prefixes = (
        entity.path[:-1] if f".{entity.path}".endswith(".0") else f"{entity.path}."
        for entity in entities
        if entity.header.type == "multipart/alternative" and entity.kind == "multipart"
    )
    return _Mail(hint, pages, frozenset(prefixes))


def _decode(entity: Entity) -> tuple[bytes, tuple[str, ...]]:
    try:
        body = decode_body(entity.source, entity.start, entity.end, entity.header.encoding)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        return entity.source[entity.start : entity.end], (f"decoding failed: {type(error).__name__}",)
    return body.data, body.defects


def _read_disposition(value: str) -> str:
    # RFC 2183 section 2.8: a disposition that is not known means attachment.
    return value if value in ("", "inline") else "attachment"


def _part(claim: _Claim, data: bytes, taken: bool, reason: Reason) -> Part:
    filename = safe_filename(claim.filename) if claim.filename else None
    declared = storable(claim.declared_type)
    detected = detect_type(data)
    return Part(
        path=claim.path,
        filename=filename,
        claimed_filename=storable(claim.filename) if claim.filename else None,
        declared_type=declared,
        detected_type=detected,
        content_type=content_type(declared, detected, filename),
        disposition=claim.disposition,
        data=data,
        taken=taken,
        reason=reason,
        defects=(*claim.defects, *(contradictions(declared, detected, filename) if data else ())),
    )


def _unreadable(path: str, declared_type: str, data: bytes, defects: tuple[str, ...]) -> Part:
    kind = storable(declared_type)
    return Part(path, None, None, kind, None, kind, "", data, True, Reason.UNREADABLE, defects=defects)


def _kept_whole(part: Part, why: str) -> Part:
    return replace(part, taken=True, reason=Reason.NOT_OPENED, defects=(*part.defects, f"not opened: {why}"))


def _container_kind(part: Part) -> str | None:
    """Return the kind of container a document is, None for one that is none."""
    is_message = part.declared_type in _MESSAGES or extension(part.filename) == "eml"
    if is_message and looks_like_header(part.data):
        return "message"
    return container_kind(part.declared_type, part.detected_type, part.filename or "", part.data)


def _read_body(part: Part, charset: str, mail: _Mail) -> Part:
    """Return a text body as a document, or passed over if an alternative to it says about as much."""
    said = mail.said_by_others(part.path)
    enough = said * 3 // 2 + 200 if said else 0
    kept_type, defects = "text/plain", part.defects
    if "html" in part.declared_type:
        page, is_whole = decode_html(part.data, charset, mail.hint)
        if is_whole and said and visible_size(page) <= enough:
            return replace(part, taken=False, reason=Reason.ALTERNATIVE_TEXT)
        text = html_text(page) if is_whole else None
        if text is None:
            data, size, kept_type = part.data, visible_size(page), part.declared_type
            defects = (*defects, "no text out of the html")
        else:
            data, size = text.encode("utf-8", "replace"), text_size(text)
    else:
        data = plain_text(part.data, charset, mail.hint)
        size = len(data) - sum(data.count(blank) for blank in (b" ", b"\n", b"\t"))
    if size <= enough:
        return replace(part, taken=False, reason=Reason.ALTERNATIVE_TEXT if said and size else Reason.EMPTY)
    mail.say(part.path, size)
    return replace(
        part,
        data=data,
        content_type=kept_type,
        taken=True,
        reason=Reason.TEXT_BODY,
        kind=PartKind.BODY,
        defects=defects,
    )
