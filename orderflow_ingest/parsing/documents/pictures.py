"""Pictures that a page shows: which are large enough for an order, and those that stand in the page itself.

A picture shown by a page is an ornament if the mail has another document. If it has none, a large picture is the order:
a fax that a gateway sent, a scan, a photo, a screenshot under a greeting. Large is a picture of LARGE_AREA pixels with
no side below LARGE_SIDE, or of LARGE_SIZE bytes where its header does not say, and whatever has VERY_LARGE_SIZE bytes.
Signature logos are smaller, and banners become documents: one too many is seen by somebody, one lost by nobody.

Which it is shows only at the end of a mail. So large pictures wait until another document comes or the mail ends, up to
HELD_SIZE bytes of them. A further one is a document at once.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from orderflow_ingest.parsing.mime.bodies import decode_body

from .part import Part, PartKind, Reason

LARGE_AREA = 120_000
LARGE_SIDE = 100
LARGE_SIZE = 50_000
VERY_LARGE_SIZE = 200_000
HELD_SIZE = 32 << 20
MAX_PICTURES = 1000
MORE_PICTURES = "more pictures in the page"
# No scan of a page is as small; tracking pixels and rules in a signature are.
SMALL_SIZE = 1024
_DATA_PICTURE = re.compile(
    rb"\bdata:(image/[\w.+-]{1,60})(?:;(?!base64,)[\w.+=-]{1,60}){0,4}"
    rb"(?:;base64,([A-Za-z0-9+/=%\s]++)|,(<svg\b|[^\"'<>()\s]++))"
    rb"|\bdata:((?:application/[\w.+-]{1,80}|text/[\w.+-]{1,60})?)(?:;(?!base64,)[\w.+=-]{1,60}){0,4}"
    rb";base64,([A-Za-z0-9+/=%\s]++)",
    re.IGNORECASE,
)
# JPEG: the frame headers, and the markers that have no length (ITU T.81, table B.1).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))
_MOST_SEGMENTS = 1000
# Text files beside a picture are what programs add: a notice, a signature.
_NOTES = ("text/plain", "text/html")


class PagePicture(NamedTuple):
    """A picture that stands in a page as a data: URI (RFC 2397)."""

    declared_type: str
    data: bytes
    defects: tuple[str, ...]


def find_data_pictures(page: bytes) -> Iterator[PagePicture]:
    """Yield the pictures that stand in the bytes of a page, and other files, decoded one by one."""
    for found in _DATA_PICTURE.finditer(page):
        text = found[2] or found[3] or found[5]
        text = unquote_to_bytes(text) if b"%" in text else text
        body = decode_body(text, 0, len(text), "" if found[3] else "base64")
        yield PagePicture((found[1] or found[4] or b"text/plain").decode("ascii").lower(), body.data, body.defects)


def shown_reason(data: bytes) -> Reason:
    """Return the reason why a picture that a page shows is skipped."""
    return Reason.INLINE_IMAGE if len(data) >= SMALL_SIZE else Reason.SMALL_IMAGE


def settle_pictures(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield parts, with the large pictures that pages show as documents if there is no other document."""
    waiting: list[Part] = []
    left = HELD_SIZE
    has_document = False
    for part in parts:
        if not has_document and _is_document(part):
            has_document = True
            yield from waiting
            waiting.clear()
        if not has_document and part.reason is Reason.INLINE_IMAGE and is_large(part.data):
            left -= part.size
            if left >= 0:
                waiting.append(part)
            else:
                yield _as_document(part)
        else:
            yield part
    yield from map(_as_document, waiting)


def is_large(data: bytes) -> bool:
    """Return whether a picture is large enough to be a page, a photo or a screenshot."""
    if len(data) >= VERY_LARGE_SIZE:
        return True
    if (size := pixel_size(data)) is None:
        return len(data) >= LARGE_SIZE
    return min(size) >= LARGE_SIDE and size[0] * size[1] >= LARGE_AREA


def pixel_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height by the header of a PNG, JPEG, GIF, WebP or BMP, None if it does not say."""
    width = height = 0
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        width, height = _big(data[16:20]), _big(data[20:24])
    elif data.startswith(b"\xff\xd8\xff"):
        width, height = _jpeg_size(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        width, height = _little(data[6:8]), _little(data[8:10])
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        width, height = _webp_size(data)
    elif data.startswith(b"BM") and _little(data[14:18]) == 12:
        width, height = _little(data[18:20]), _little(data[20:22])
    elif data.startswith(b"BM"):
        width, height = (abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22))
    return (width, height) if width and height else None


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if data[at : at + 1] != b"\xff" or at + 9 > len(data):
            break
        marker = data[at + 1]
        if marker in _FRAMES:
            return _big(data[at + 7 : at + 9]), _big(data[at + 5 : at + 7])
        at += 1 if marker == 0xFF else 2 if marker in _BARE else 2 + _big(data[at + 2 : at + 4])
    return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return _little(data[24:27]) + 1, _little(data[27:30]) + 1
    if kind == b"VP8L":
        bits = _little(data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return (_little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF) if kind == b"VP8 " else (0, 0)


def _is_document(part: Part) -> bool:
    """Return whether a part is a document that may be the order, so that the pictures of a page are not."""
    if not part.is_document or not part.data or part.kind is not PartKind.ATTACHMENT or part.content_type in _NOTES:
        return False
    return not part.content_type.startswith("image/") or is_large(part.data)


def _as_document(part: Part) -> Part:
    return replace(part, is_document=True, reason=Reason.NAMED if part.filename else Reason.DOCUMENT_TYPE)


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
