"""The walk through a mail and through the containers in it.

A container that could be opened is skipped in favor of what it holds, its members lie below its path. One that
stays shut, or breaks in the middle, is a document itself, whole, with the reason. The members before the break are
documents as well, for an order too many is seen by somebody and a lost one by nobody. The container is given after its
members, since only then is known which it is. A message that a container holds is read as a mail of its own.

Bounds, for the whole mail: UNPACKED_LIMIT bytes and MAX_PARTS members out of containers, CONTAINER_DEPTH containers in
each other, and the CPU time of the caller's monitor. A part that the monitor keeps, and all parts once the time of the
mail is over, are given out whole: decoded, and not looked into, not even for what they are.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import NamedTuple, TypeVar

from orderflow_ingest.parsing.containers import ContainerError, Member, Role, UnpackBudget
from orderflow_ingest.parsing.containers.encryption import is_encrypted
from orderflow_ingest.parsing.containers.kinds import UNREAD_ARCHIVE, container_kind, is_mime_text, open_container
from orderflow_ingest.parsing.mime.bodies import decode_body, find_uuencoded
from orderflow_ingest.parsing.mime.charsets import codec_name, is_utf8
from orderflow_ingest.parsing.mime.entities import Entity
from orderflow_ingest.parsing.mime.fields import find_sender_header, looks_like_header
from orderflow_ingest.parsing.mime.filenames import extension, safe_filename
from orderflow_ingest.parsing.mime.sniff import detect_type
from orderflow_ingest.parsing.mime.tree import MAX_PARTS, MESSAGE_TYPES, TEXT_OUTSIDE, walk
from orderflow_ingest.parsing.mime.words import decode_text, storable

from .content_types import DOCUMENT_TYPES, NAME_DIFFERS, TYPE_DIFFERS, content_type, contradictions
from .part import Part, PartKind, Reason
from .pictures import MAX_PICTURES, MORE_PICTURES, find_data_pictures, settle_pictures, shown_reason
from .policy import decide, names_signature
from .read_monitor import TOOK_TOO_LONG, ReadMonitor
from .text_bodies import Bodies, BodyBudget

T = TypeVar("T")
UNPACKED_LIMIT = 128 << 20
CONTAINER_DEPTH = 8
# Paths stand in an index, whose rows PostgreSQL limits to 2704 bytes; a message adds up to 1500.
_LONGEST_PATH = 500
_ASK_AFTER = 16  # parts of which only the header was read
_BASE64 = re.compile(rb"[A-Za-z0-9+/=\s]++")
_BASE64_LINE = re.compile(rb"\s*+([A-Za-z0-9+/]{8,}+={0,2}+)(?=[\r\n]|\Z)")
_PRINTABLE = bytes(range(32, 127)) + b"\t\r\n"
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LEAST_TEXT = 12
# Files that are base64 by their nature.
_STAYS_ENCODED = ("b64", "base64", "pem", "asc", "cer", "crt", "key", "pub", "sig")
# What the opener of S/MIME says of a signature that stands beside what it signs, or is no signature at all.
_WITHOUT_CONTENT = ("no content", "certificates only", "not CMS")


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


def read_parts(raw: bytes, monitor: ReadMonitor | None = None) -> Iterator[Part]:
    """Yield every part of a mail, decoded one by one in the order in which they stand.

    Only large pictures that a page shows may come later: their verdict depends on what follows (see `pictures`).
    """
    return settle_pictures(_read_monitored(raw, monitor or ReadMonitor()))


def _read_monitored(raw: bytes, monitor: ReadMonitor) -> Iterator[Part]:
    monitor.begin_part("")
    for part in _Reader(monitor).read_mail(raw[find_sender_header(raw) :], "", 0):
        monitor.clear_current()
        yield part  # what comes after it looks into some part first
    monitor.clear_current()


class _Reader:
    """One reading of a mail, and the bounds it shares among its containers."""

    def __init__(self, monitor: ReadMonitor) -> None:
        self.monitor = monitor
        self.budget = UnpackBudget(UNPACKED_LIMIT, MAX_PARTS, monitor.check)
        self.uuencoded = MAX_PARTS
        self.pictures = MAX_PICTURES
        self.body_budget = BodyBudget()

    def read_mail(self, raw: bytes, path: str, depth: int) -> Iterator[Part]:
        """Yield the parts of a message. Path and depth are those of the container that held it."""
        entities: list[Entity] = []
        bodies, broken = Bodies(self.body_budget), ""
        if not depth and (why := self.monitor.reason_to_keep_mail()):
            yield _unreadable(path, "message/rfc822", raw, (f"not opened: {why}",))
            return
        try:
            for found in walk(raw, path, self.budget.members if depth else MAX_PARTS):
                entities.append(found)
                if len(entities) % _ASK_AFTER == 0:
                    self.monitor.check()
            bodies = self._survey(entities)
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            broken = str(error) if isinstance(error, ContainerError) else f"reading failed: {type(error).__name__}"
        for entity in entities:
            if depth:
                self.budget.take_member()
                self.monitor.set_current(entity.path)
                why = self.monitor.reason_to_keep(entity.path)
            else:
                why = self.monitor.begin_part(entity.path)
            yield from self._read_entity(entity, why, bodies, depth)
        if broken and depth:
            raise ContainerError(broken)
        if broken:
            yield _unreadable(path, "message/rfc822", raw, (f"not opened: {broken}",))

    def _read_entity(self, entity: Entity, why: str, bodies: Bodies, depth: int) -> Iterator[Part]:
        """Yield the part that an entity is. With `why` it is given out whole."""
        header = entity.header
        if why and entity.kind != "leaf":
            yield _part(
                _Claim(entity.path, None, header.type, defects=entity.defects), b"", Reason.CONTAINER, is_document=False
            )
            return
        if why and not self.monitor.may_decode(entity.path):
            data = entity.source[entity.start : entity.end]
            yield _unreadable(entity.path, header.type, data, (*entity.defects, f"not decoded: {why}"))
            return
        data, defects = _decode(entity) if entity.kind == "leaf" else (b"", ())
        try:
            claim = _Claim(
                entity.path,
                header.filename(bodies.hint),
                header.type,
                _read_disposition(header.disposition.value),
                (header.content_id, header.location),
                header.charset(),
                entity.parent,
                (*entity.defects, *defects),
            )
            if entity.kind != "leaf":
                yield _part(claim, b"", Reason.CONTAINER, is_document=False)
                return
            if why:
                yield _whole(claim, data, why)
                return
            yield from self._read_leaf(claim, data, bodies, depth)
        except (ImportError, MemoryError, ContainerError):
            raise
        except Exception as error:
            failed = (*entity.defects, *defects, f"reading failed: {type(error).__name__}")
            yield _unreadable(entity.path, header.type, data, failed)

    def _read_leaf(self, claim: _Claim, data: bytes, bodies: Bodies, depth: int) -> Iterator[Part]:
        """Decide on a leaf of a message or a member of a container, and open it if it is a container itself."""
        part = _without_undeclared_base64(_part(claim, data, Reason.EMPTY, is_document=False))
        is_document, reason = decide(part, claim.parent, claim.names, bodies.show)
        self.monitor.set_current(claim.path)  # and no longer a page that may show it
        if is_document and not data:
            part = replace(part, defects=(*part.defects, "no content"))
        if reason is Reason.TEXT_BODY and TEXT_OUTSIDE in part.defects:
            yield replace(part, is_document=False, reason=Reason.OUTSIDE)
            return
        if reason is Reason.TEXT_BODY and not (part.declared_type.startswith("multipart/") and is_mime_text(data)):
            yield bodies.add(part, claim.charset)
            numbers = count(1)
            yield from self._read_pictures(part, numbers)
            yield from self._read_uuencoded(part, bodies, depth, numbers)
            return
        yield from self._open(_with_decision(part, reason, is_document=is_document), bodies, depth)

    def _open(self, part: Part, bodies: Bodies, depth: int) -> Iterator[Part]:
        """Yield what a document holds if it is a container, then the document itself."""
        kind = _container_kind(part) if part.is_document and "nested too deep" not in part.defects else None
        if kind is None:
            yield self._note_encryption(part)
            return
        if depth == CONTAINER_DEPTH or len(part.path) > _LONGEST_PATH:
            yield _kept_whole(part, "nested too deep")
            return
        try:
            if kind == "message":
                self.budget.take_member()
                # Parts that have no header around them are behind an empty one.
                raw = part.data if looks_like_header(part.data) else b"\r\n" + part.data
                yield from self.read_mail(raw, part.path, depth + 1)
            else:
                # The text in a TNEF file is that of the mail around it; an Outlook message has one of its own.
                outer_text = bodies.text if kind == "tnef" else None
                inner = Bodies(self.body_budget, bodies.hint, {f"{part.path}."}, outer_text)
                members = open_container(kind, part.data, self.budget, part.filename or "", bodies.hint)
                yield from self._read_members(members, part.path, inner, depth + 1)
        except ContainerError as why:
            is_signature = kind == "smime" and names_signature(part) and str(why) in _WITHOUT_CONTENT
            yield (
                replace(part, is_document=False, reason=Reason.SIGNATURE)
                if is_signature
                else _kept_whole(part, str(why))
            )
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            yield _kept_whole(part, f"reading failed: {type(error).__name__}")
        else:
            yield replace(part, is_document=False, reason=Reason.OPENED)

    def _note_encryption(self, part: Part) -> Part:
        if part.is_document and is_encrypted(part.data, part.detected_type, self.budget):
            return replace(part, defects=(*part.defects, "encrypted"))
        return part

    def _read_members(self, members: Iterator[Member], path: str, bodies: Bodies, depth: int) -> Iterator[Part]:
        for number, member in enumerate(self._tracked(members, path), start=1):
            claim = _Claim(
                f"{path}.{number}",
                member.name,
                member.declared_type or "application/octet-stream",
                names=(member.content_id,),
                charset=member.charset,
                defects=member.defects,
            )
            self.monitor.set_current(claim.path)
            if why := self.monitor.reason_to_keep(claim.path):
                if why == TOOK_TOO_LONG or member.role is Role.MESSAGE:
                    raise ContainerError(why)
                yield _whole(claim, bytes(member.data), why, member.role)
            elif member.role is Role.BODY:
                if member.declared_type == "text/html":
                    bodies.pages.append((partial(self._return_page, claim.path, member.data), member.charset))
                part = _part(claim, member.data, Reason.TEXT_BODY, is_document=True)
                yield bodies.add(part, member.charset)
                yield from self._read_pictures(part, count(1))
            elif member.role is Role.LINK:
                yield _part(claim, b"", Reason.EMPTY, is_document=False)
            elif member.role is Role.FILE:
                yield from self._read_leaf(claim, member.data, bodies, depth)
            elif depth > CONTAINER_DEPTH or len(path) > _LONGEST_PATH:
                raise ContainerError("nested too deep")
            elif member.data:
                yield _part(claim, b"", Reason.CONTAINER, is_document=False)
                yield from self.read_mail(member.data, claim.path, depth)
            else:
                yield _part(claim, b"", Reason.CONTAINER, is_document=False)
                inner = Bodies(self.body_budget, bodies.hint, {f"{claim.path}."})
                yield from self._read_members(iter(member.members), claim.path, inner, depth + 1)

    def _tracked(self, members: Iterator[T], path: str) -> Iterator[T]:
        """Yield what is in a part, which is the current part while the next one is unpacked."""
        while True:
            self.monitor.set_current(path)
            member = next(members, None)
            if member is None:
                return
            yield member

    def _read_pictures(self, part: Part, numbers: Iterator[int]) -> Iterator[Part]:
        """Yield the pictures and documents that stand in a page itself as data: URIs, at most MAX_PICTURES in a mail.

        `numbers` number what is found inside the part.
        """
        if "html" not in part.declared_type or b"data:" not in part.data.lower():
            return
        for (kind, data, defects), number in zip(find_data_pictures(part.data), numbers, strict=False):
            if not self.pictures:
                yield _part(
                    _Claim(f"{part.path}.{number}", None, kind, defects=(MORE_PICTURES,)),
                    b"",
                    Reason.EMPTY,
                    is_document=False,
                )
                return
            self.pictures -= 1
            claim = _Claim(f"{part.path}.{number}", None, kind, "inline", defects=defects)
            picture = _part(claim, data, shown_reason(data), is_document=False)
            if picture.content_type.startswith("image/"):
                yield picture
            elif picture.content_type in DOCUMENT_TYPES:
                yield replace(picture, is_document=True, reason=Reason.DOCUMENT_TYPE)

    def _read_uuencoded(self, part: Part, bodies: Bodies, depth: int, numbers: Iterator[int]) -> Iterator[Part]:
        if b"begin " not in part.data:
            return
        files = self._tracked(islice(find_uuencoded(part.data), self.uuencoded), part.path)
        for file, number in zip(files, numbers, strict=False):
            self.uuencoded -= 1
            claim = _Claim(
                f"{part.path}.{number}",
                decode_text(file.name, bodies.hint),
                "application/octet-stream",
                defects=() if file.complete else ("uuencode never ended",),
            )
            self.monitor.set_current(claim.path)
            if why := self.monitor.reason_to_keep(claim.path):
                yield _whole(claim, file.data, why)
            else:
                yield from self._open(_part(claim, file.data, Reason.UUENCODED, is_document=True), bodies, depth)

    def _survey(self, entities: list[Entity]) -> Bodies:
        """Return what the parts of a message have to know of its text bodies."""
        labels = (entity.header.charset() for entity in entities)
        # The first charset declared in the mail that says something about raw 8-bit file names.
        useful = (label for label in labels if label and codec_name(label) not in (None, "ascii", "utf-8", "utf-7"))
        prefixes = {
            entity.path[:-1] if f".{entity.path}".endswith(".0") else f"{entity.path}."
            for entity in entities
            if entity.header.type == "multipart/alternative" and entity.kind == "multipart"
        }
        bodies = Bodies(self.body_budget, next(useful, ""), prefixes)
        for entity in entities:
            is_page = entity.kind == "leaf" and entity.header.type == "text/html"
            if is_page and not self.monitor.reason_to_keep(entity.path):
                bodies.pages.append((partial(self._content, entity), entity.header.charset()))
        return bodies

    def _content(self, entity: Entity) -> bytes:
        """Return a page, which is the current part from now on."""
        self.monitor.set_current(entity.path)
        return _decode(entity)[0]

    def _return_page(self, path: str, page: bytes) -> bytes:
        """Return a page out of a container, which is the current part from now on."""
        self.monitor.set_current(path)
        return page


def _decode(entity: Entity) -> tuple[bytes, tuple[str, ...]]:
    try:
        body = decode_body(entity.source, entity.start, entity.end, entity.header.encoding, entity.header.type)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        return entity.source[entity.start : entity.end], (f"decoding failed: {type(error).__name__}",)
    return body.data, body.defects


def _read_disposition(value: str) -> str:
    # RFC 2183 section 2.8: a disposition that is not known means attachment.
    return value if value in ("", "inline") else "attachment"


def _part(claim: _Claim, data: bytes, reason: Reason, why_kept: str = "", *, is_document: bool) -> Part:
    """Return a part. Of one that is kept whole nobody may find out what it is."""
    filename = safe_filename(claim.filename) if claim.filename else None
    declared = storable(claim.declared_type)
    detected = None if why_kept else detect_type(data)
    if why_kept:
        defects: tuple[str, ...] = (f"not opened: {why_kept}",)
    else:
        defects = contradictions(declared, detected, filename) if data else ()
    return Part(
        path=claim.path,
        filename=filename,
        claimed_filename=storable(claim.filename) if claim.filename else None,
        declared_type=declared,
        detected_type=detected,
        content_type=declared if why_kept else content_type(declared, detected, filename),
        disposition=claim.disposition,
        charset=codec_name(claim.charset) if claim.charset else None,
        data=data,
        is_document=is_document,
        reason=reason,
        defects=(*claim.defects, *defects),
    )


def _with_decision(part: Part, reason: Reason, *, is_document: bool) -> Part:
    """Return a part with another verdict. Replace() would take a tenth of the time of a small part."""
    return Part(
        part.path, part.filename, part.claimed_filename, part.declared_type, part.detected_type, part.content_type,
        part.disposition, part.data, is_document, reason, part.kind, part.charset, part.defects,
    )  # fmt: skip


def _without_undeclared_base64(part: Part) -> Part:
    """Return a part decoded whose sender encoded it and did not say so.

    It then is a document, or printable text, and what its name says. Digits that only look like base64 become noise.
    """
    if part.detected_type is not None or extension(part.filename) in _STAYS_ENCODED or not _is_base64(part.data):
        return part
    data = decode_body(part.data, 0, len(part.data), "base64").data
    detected = detect_type(data)
    differ = contradictions(part.declared_type, detected, part.filename)
    if NAME_DIFFERS in differ or not (detected or _is_printable(data)):
        return part
    defects = (*(defect for defect in part.defects if defect not in (NAME_DIFFERS, TYPE_DIFFERS)), *differ)
    kind = content_type(part.declared_type, detected, part.filename)
    return replace(
        part, data=data, detected_type=detected, content_type=kind, defects=(*defects, "base64 not declared")
    )


def _is_base64(data: bytes) -> bool:
    """Return whether content is nothing but lines of base64, the first of which is whole."""
    first = _BASE64_LINE.match(data)
    return first is not None and len(first[1]) % 4 == 0 and _BASE64.fullmatch(data) is not None


def _is_printable(data: bytes) -> bool:
    """Return whether content is text, and not decoded noise: of sixteen bytes of noise one is a control."""
    if len(data) < _LEAST_TEXT:
        return False
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
        return not _CONTROL.search(data) and b"\xef\xbf\xbd" not in data
    if _CONTROL.search(data):
        return False
    return len(data.translate(None, _PRINTABLE)) * 10 <= len(data) or is_utf8(data)


def _unreadable(path: str, declared_type: str, data: bytes, defects: tuple[str, ...]) -> Part:
    kind = storable(declared_type)
    return Part(
        path, None, None, kind, None, kind, "", data, is_document=True, reason=Reason.UNREADABLE, defects=defects
    )


def _whole(claim: _Claim, data: bytes, why: str, role: Role = Role.FILE) -> Part:
    """Return a part as it was sent, of which nobody may find out what it is."""
    has_content = bool(data) and not data.isspace()
    part = _part(claim, data, Reason.NOT_OPENED if has_content else Reason.EMPTY, why, is_document=has_content)
    is_text = claim.declared_type in ("text/plain", "text/html") and claim.disposition != "attachment"
    is_body = role is Role.BODY or (is_text and not part.filename)
    return replace(part, kind=PartKind.BODY) if is_body else part


def _kept_whole(part: Part, why: str) -> Part:
    defect = why if why == UNREAD_ARCHIVE else f"not opened: {why}"
    return replace(part, is_document=True, reason=Reason.NOT_OPENED, defects=(*part.defects, defect))


def _container_kind(part: Part) -> str | None:
    """Return the kind of container a document is, None for one that is none."""
    is_message = part.declared_type in MESSAGE_TYPES or extension(part.filename) == "eml"
    if is_message and looks_like_header(part.data):
        return "message"
    return container_kind(part.declared_type, part.detected_type, part.filename or "", part.data)
