"""Open an S/MIME message that carries its content inside (RFC 8551: smime.p7m): signed, or compressed.

Reasons: encrypted · certificates only · no content · not CMS · nested too deep · ratio too high · too large when
unpacked · too many members · too much to read

Guarantees: nothing but ContainerError leaves. The signature is not looked at, and every member says so: what is inside
is as trustworthy as any mail. DER and BER, in which senders stream, and both as base64 or PEM, are read. Signed within
signed, and compressed within signed, open in one step.

The content is a MIME entity, a member MESSAGE. Where the name says otherwise it is a file: invoices and orders signed
by CAdES are called order.pdf.p7m, and hold order.pdf.

The path to the content is short, and is walked by `ber`, see there why. It copies the content once.
"""

import binascii
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from . import ContainerError, Member, Role, UnpackBudget
from .ber import CONTEXT_0, OBJECT, SEQUENCE, SET, Element, children, chunks, read_element
from .guards import BLOCK, UnpackLimit, reading

# RFC 5652, and RFC 3274 and 5083 for the two that came later.
_DATA, _SIGNED, _ENVELOPED, _BOTH, _ENCRYPTED = (
    bytes.fromhex("2a864886f70d0107") + bytes([n]) for n in (1, 2, 3, 4, 6)
)
_COMPRESSED = bytes.fromhex("2a864886f70d0109100109")
_AUTH_ENVELOPED = bytes.fromhex("2a864886f70d0109100117")
_SECRET = (_ENVELOPED, _ENCRYPTED, _BOTH, _AUTH_ENVELOPED)
_MOST_NESTED = 8
_PEM = re.compile(rb"-----[A-Z0-9 ]+-----")
_BASE64 = re.compile(rb"[A-Za-z0-9+/=\s]+")
_P7M = ".p7m"
_FILE_NAME = re.compile(r".\.[A-Za-z0-9]{2,5}$")
# Fields that do not say what the content is, and one that does.
_MIME_HEADER = re.compile(
    rb"(?>(?:(?!content-)[!-9;-~]++:[^\r\n]*+\r?\n(?>(?:[ \t][^\r\n]*+\r?\n)*))*)content-[a-z-]++:", re.IGNORECASE
)


@dataclass(frozen=True)
class _Found:
    """A CMS structure's octet string, the type of what is in it, and the type of the structure."""

    type: bytes
    inner: bytes
    text: Element


def open_smime(data: bytes, budget: UnpackBudget, filename: str = "") -> Iterator[Member]:
    """Yield the one member of an opaque S/MIME message. Raise ContainerError."""
    with reading("not CMS"):
        content = _unwrap(_as_binary(data), budget)
    stem = filename
    while stem.lower().endswith(_P7M):
        stem = stem[: -len(_P7M)]
    defects = ("signature not verified",)
    if stem != filename and _FILE_NAME.search(stem) and not _MIME_HEADER.match(content[:BLOCK]):
        yield Member(name=stem, data=content, defects=defects)
        return
    yield Member(name=None, data=content, declared_type="message/rfc822", role=Role.MESSAGE, defects=defects)


def _as_binary(data: bytes) -> bytes:
    """Return the structure's bytes, out of base64 or PEM if need be."""
    if data[:1] == b"\x30":
        return data
    text = _PEM.sub(b"", data)
    if not _BASE64.fullmatch(text[:1000]):
        raise ContainerError("not CMS")
    return binascii.a2b_base64(text)


def _unwrap(data: bytes, budget: UnpackBudget) -> bytes:
    """Return the innermost content of structures that lie in each other."""
    budget.take_member()
    inner = _SIGNED
    for _ in range(_MOST_NESTED):
        found = _find_content(data, inner, budget)
        inner = found.inner
        if found.type == _COMPRESSED:
            data = _inflate(chunks(data, found.text, budget), UnpackLimit(len(data), budget))
        else:
            budget.take((found.text.end or len(data)) - found.text.start)
            data = b"".join(chunks(data, found.text, budget))
        if not data:
            raise ContainerError("no content")
        if inner in _SECRET:
            raise ContainerError("encrypted")
        if inner not in (_SIGNED, _COMPRESSED) and not _is_cms(data, budget):
            return data
    raise ContainerError("nested too deep")


def _is_cms(data: bytes, budget: UnpackBudget) -> bool:
    """Return whether the content is one more structure, as of a file that was signed twice."""
    try:
        return _read_info(data, budget)[0] in (_SIGNED, _COMPRESSED, *_SECRET)
    except (ValueError, StopIteration):
        return False


def _read_info(data: bytes, budget: UnpackBudget) -> tuple[bytes, Element]:
    """Return the type and the content of a ContentInfo. The type is empty for a bare structure."""
    top = read_element(data, 0)
    if top.tag != SEQUENCE:
        raise ValueError("no sequence")
    parts = children(data, top, budget)
    kind = next(parts)
    if kind.tag != OBJECT:
        return b"", top
    wrapper = next(parts)
    if wrapper.tag != CONTEXT_0:
        raise ValueError("no content")
    return data[kind.start : kind.end], next(children(data, wrapper, budget))


def _find_content(data: bytes, bare: bytes, budget: UnpackBudget) -> _Found:
    """Return the content of a structure. Bare is the type of one that does not name it. Raise ContainerError."""
    kind, structure = _read_info(data, budget)
    kind = kind or bare
    if kind in _SECRET:
        raise ContainerError("encrypted")
    if kind == _DATA:
        return _Found(kind, b"", structure)
    if kind not in (_SIGNED, _COMPRESSED):
        raise ContainerError("not CMS")
    # Version, algorithms, and then the content with its type.
    parts = children(data, structure, budget)
    _, _, capsule = next(parts), next(parts), next(parts)
    inside = children(data, capsule, budget)
    inner = next(inside)
    wrapper = next(inside, None)
    if inner.tag != OBJECT:
        raise ValueError("no type")
    if wrapper is None:
        signers = [part for part in parts if part.tag == SET][-1:]
        empty = all(next(children(data, part, budget), None) is None for part in signers)
        raise ContainerError("certificates only" if empty else "no content")
    return _Found(kind, data[inner.start : inner.end], next(children(data, wrapper, budget)))


def _inflate(blocks: Iterator[memoryview], limit: UnpackLimit) -> bytes:
    inflater = zlib.decompressobj()
    out: list[bytes] = []
    for block in blocks:
        for start in range(0, len(block), BLOCK):
            feed: bytes | memoryview = block[start : start + BLOCK]
            while feed:
                out.append(inflater.decompress(feed, BLOCK))
                limit.take(len(out[-1]))
                feed = inflater.unconsumed_tail
    while not inflater.eof:
        out.append(inflater.decompress(b"", BLOCK))
        limit.take(len(out[-1]))
        if not out[-1]:
            raise ContainerError("not CMS")
    return b"".join(out)
