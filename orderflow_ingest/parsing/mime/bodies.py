"""Undo content transfer encodings, leniently (RFC 2045 section 6).

Guarantees: never raises, takes linear time, copies a clean base64 body only once, into its decoded form. What had to
be tolerated is given in short fixed words. An unknown encoding leaves the bytes as they are.

base64: padding may be missing, wrong or in the middle (blocks encoded one by one and joined). Noise is skipped. Text
after the end is cut off. A body that is no base64 at all stays as it is. Quoted-printable: a soft break may carry
blanks, an "=" that escapes nothing stands for itself. A hard line break stands for CRLF (section 6.7), which a pipe has
made LF: it is made CRLF again for what is not text. Text bodies may hold uuencoded files, whose unused last bits may
be anything.
"""

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .sniff import is_text

_TRAILING_BLANKS = re.compile(rb"(?<![ \t])[ \t]++(?=\r?\n|\r?\Z)")
_LONE_CR = re.compile(rb"=\r(?!\n)(?:\r\n)?")
_TRAILING = (b" \n", b" \r", b"\t\n", b"\t\r")
_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOISE = bytes(byte for byte in range(256) if byte not in _DIGITS + b"=")
_BLANKS = b" \t\r\n\v\f"
_URL_SAFE = _DIGITS.replace(b"+/", b"-_=") + _BLANKS
_BLOCK = re.compile(rb"([A-Za-z0-9+/]+)(=*)")
_TEXT_AFTER = re.compile(rb"[=\n]\n(?=[A-Za-z0-9+/=]*+[^A-Za-z0-9+/=\n])")
_UU_BEGIN = re.compile(rb"begin [0-7]{3,4} [ \t]*+([^\s][^\r\n]*+)")
_UU_LINE = re.compile(rb"([\x20-\x60]*+)[ \t]*+(?:\r\n|\n|\r|\Z)")
_LINE_ENDS = re.compile(rb"[\r\n]++")
_UU_END = re.compile(rb"[ \t]*+end[ \t]*+(?=[\r\n]|\Z)")
_LONGEST_UU_NAME = 255
_LONGEST_LINE, _CR = 1000, 13
UU_ENCODINGS = ("x-uuencode", "uuencode", "x-uue", "uue")
_LINES_AT_ONCE, _TELLING = 40 << 10, 1000


@dataclass(frozen=True)
class Body:
    """A decoded body and what had to be tolerated in it."""

    data: bytes
    defects: tuple[str, ...] = ()


@dataclass(frozen=True)
class UuFile:
    """A uuencoded file inside a text body: its name as written, its content, whether it ended properly."""

    name: bytes
    data: bytes
    complete: bool


def decode_body(raw: bytes, start: int, end: int, encoding: str, kind: str = "text/plain") -> Body:
    """Decode raw[start:end] by the word of its Content-Transfer-Encoding, in lower case. Kind is its media type."""
    if encoding == "base64":
        return _decode_base64(raw, start, end)
    if encoding == "quoted-printable":
        # The beginning shows the type of most files, and then the rest need not be decoded to find it out.
        head = raw[start : raw.find(b"\n", start + _TELLING, end) + 1 or end]
        if is_text(_decode_lines(head, with_crlf=False), kind):
            data = _decode_quoted_printable(raw, start, end)
            if len(head) == end - start or is_text(data, kind):
                return Body(data)
        return Body(_decode_quoted_printable(raw, start, end, with_crlf=True))
    if encoding in UU_ENCODINGS:
        found = next(find_uuencoded(raw[start:end]), None)
        if found is None:
            return Body(raw[start:end], ("not uuencoded",))
        return Body(found.data, () if found.complete else ("uuencode never ended",))
    known = encoding in ("", "7bit", "8bit", "binary")
    return Body(raw[start:end], () if known else ("unknown transfer encoding",))


def _decode_base64(raw: bytes, start: int, end: int) -> Body:
    try:
        data = binascii.a2b_base64(memoryview(raw)[start:end])
    except binascii.Error:
        return _decode_odd_base64(raw[start:end])
    digits = (len(data) + 2) // 3 * 4
    # Whatever is no digit is missing in the data, so that breaks need not be counted where enough of them are known.
    if end - start - _known_breaks(raw, start, end) == digits:
        return Body(data)
    breaks = raw.count(b"\n", start, end)
    # Looking for one that is not there takes a tenth of the time of counting.
    breaks += raw.count(b"\r", start, end) if raw.find(b"\r", start, end) >= 0 else 0
    if end - start - breaks == digits:
        return Body(data)
    return _decode_odd_base64(raw[start:end])


def _known_breaks(raw: bytes, start: int, end: int) -> int:
    """Return how many bytes are line ends if all lines but the last are as long as the first, else fewer or 0.

    Counting takes a quarter of the time of decoding, and looking at every 77th byte next to nothing.
    """
    width = raw.find(b"\n", start, min(start + _LONGEST_LINE, end)) + 1 - start
    if width < 2:
        return 0
    ends = raw[start + width - 1 : end : width]
    found = len(ends) if ends == b"\n" * len(ends) else 0
    if raw[start + width - 2] == _CR:
        returns = raw[start + width - 2 : start + width * len(ends) : width]
        found += len(returns) if returns == b"\r" * len(returns) else 0
    last = start + width * len(ends)
    return found + raw.count(b"\n", last, end) + raw.count(b"\r", last, end)


def _decode_odd_base64(raw: bytes) -> Body:
    """Decode base64 that is not clean: cut the text after it, drop noise, decode padded blocks one by one."""
    text = raw.replace(b"\r\n", b"\n").strip()
    cut = _TEXT_AFTER.search(text)
    text = text[: cut.start() + 1].rstrip(b"\n") if cut else text
    if (b"-" in text or b"_" in text) and not text.translate(None, _URL_SAFE):
        text = text.translate(bytes.maketrans(b"-_", b"+/"))
    # A line of prose before an empty line has no padding either, but seldom a length that fits.
    greeting = cut is not None and cut[0] == b"\n\n" and len(text) % 4 and b"\n" not in text
    if greeting or not _looks_like_base64(text):
        return Body(raw, ("not base64",))
    defects = ["text after base64"] if cut else []
    digits = text.translate(None, _NOISE)
    if len(digits) < len(text.translate(None, _BLANKS)):
        defects.append("noise in base64")
    data, pending = bytearray(), bytearray()
    for block in _BLOCK.finditer(digits):
        pending += block[1]
        length = len(pending)
        last = block.end() == len(digits)
        # An "=" that completes no group of four is noise.
        if last or (block[2] and length % 4 + min(len(block[2]), 2) >= 4):
            if length % 4 == 1:
                defects.append("base64 cut off")
                del pending[-1:]
            elif -length % 4 > len(block[2]):
                defects.append("base64 padding missing")
            pending += b"=" * (-len(pending) % 4)
            data += binascii.a2b_base64(pending)
            pending.clear()
    return Body(bytes(data), tuple(dict.fromkeys(defects)))


def _looks_like_base64(text: bytes) -> bool:
    """Return whether a body is base64 with noise in it, and not a body without encoding, by its beginning."""
    head = text[:400]
    if not head:
        return True
    words = head.split()
    noise = len(b"".join(words)) - len(head.translate(None, _NOISE))
    return noise * 4 <= len(head) and not (len(words) > 2 and len(head) < 12 * len(words) and b" " in head)


def _decode_quoted_printable(raw: bytes, start: int, end: int, *, with_crlf: bool = False) -> bytes:
    """Decode quoted-printable, with CRLF for its hard line breaks if that is wanted.

    It is done in blocks of whole lines: a block stays in the cache of the processor while it is looked through and
    changed, and no further copy of a large body is made. What is decoded does not depend on where one ends: a line
    that a mended soft break may join with the next one is the last of none.
    """
    if end - start <= _LINES_AT_ONCE:
        return _decode_lines(raw[start:end], with_crlf=with_crlf)
    decoded = []
    while start < end:
        stop = raw.find(b"\n", start + _LINES_AT_ONCE, end) + 1 or end
        while stop < end and _may_be_joined(raw, start, stop):
            stop = raw.find(b"\n", stop, end) + 1 or end
        decoded.append(_decode_lines(raw[start:stop], with_crlf=with_crlf))
        start = stop
    return b"".join(decoded)


def _may_be_joined(raw: bytes, start: int, stop: int) -> bool:
    """Return whether a CR stands before the line end, with blanks between them: its soft break takes the line end."""
    line = raw[max(raw.rfind(b"\n", start, stop - 1) + 1, start) : stop]
    return line[len(line.rstrip(_BLANKS)) :].count(b"\r") > 1


def _decode_lines(text: bytes, *, with_crlf: bool) -> bytes:
    """Decode whole lines: as a2b_qp does it, and with more care if anything in them is odd.

    Most signs of that are looked for in the data first, which is shorter and has them seldom.
    """
    has_return = b"\r" in text
    others = text.replace(b"\r\n", b"") if has_return else text
    if has_return and (b"\r" in others or b"\n" in others):
        return _decode_odd_lines(text, with_crlf=with_crlf)
    changed = text.replace(b"\n", b"\r\n") if with_crlf and not has_return else text
    data = binascii.a2b_qp(changed) if b"=" in text else changed
    blank_end, tab_end = (b" \r\n", b"\t\r\n") if has_return or with_crlf else (b" \n", b"\t\n")
    # One by one: a generator takes longer than the search in a small text. A single byte is found many times faster.
    is_odd = (
        text.endswith((b" ", b"\t"))
        or (b" " in data and blank_end in data and blank_end in changed)
        or (b"\t" in data and tab_end in data and tab_end in changed)
        or (with_crlf and b"\r\r\n" in data)
        or (b"=" in data and b"==" in text)
    )
    return _decode_odd_lines(text, with_crlf=with_crlf) if is_odd else data


def _decode_odd_lines(text: bytes, *, with_crlf: bool) -> bytes:
    # a2b_qp keeps the blanks after a soft break, and loses a line after a lone CR.
    if text.endswith((b" ", b"\t")) or any(pair in text for pair in _TRAILING):
        text = _without(_TRAILING_BLANKS, text)
    # It takes two for one; the second time for those that the first left side by side.
    text = text.replace(b"==", b"=3D=").replace(b"==", b"=3D=")
    if b"\r" in text and _LONE_CR.search(text):
        text = _without(_LONE_CR, text)
    if with_crlf:
        text = text.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        for encoded in (b"=0D", b"=0d"):  # an encoded CR stood before the break already
            text = text.replace(encoded + b"\r\n", encoded + b"\n")
    return binascii.a2b_qp(text)


def _without(pattern: re.Pattern[bytes], text: bytes) -> bytes:
    """Remove every match. Re.sub would hold millions of small pieces at once."""
    kept = bytearray()
    position = 0
    for found in pattern.finditer(text):
        kept += text[position : found.start()]
        position = found.end()
    kept += text[position:]
    return bytes(kept)


def find_uuencoded(text: bytes) -> Iterator[UuFile]:
    """Yield the uuencoded files that stand in a text body, in their order."""
    position = 0
    while (start := text.find(b"begin ", position)) >= 0:
        position = start + 1
        begin = _UU_BEGIN.match(text, start)
        if begin is None or text[max(start - 1, 0) : start] not in (b"", b"\n", b"\r"):
            continue
        name = begin[1].rstrip()
        data, stop, complete = _read_uuencoded(text, begin.end())
        if (complete or data) and len(name) <= _LONGEST_UU_NAME:
            yield UuFile(name, data, complete)
        position = max(stop, begin.end())


def _read_uuencoded(text: bytes, position: int) -> tuple[bytes, int, bool]:
    """Decode lines up to "end" and return the data, where they stop, and whether they stopped at an end."""
    chunks: list[bytes] = []
    while True:
        if line_ends := _LINE_ENDS.match(text, position):
            position = line_ends.end()
        if end := _UU_END.match(text, position):
            return b"".join(chunks), end.end(), True
        line = _UU_LINE.match(text, position)
        if line is None or position == len(text) or not (line[1].strip() == b"" or _decode_uu_line(line[1], chunks)):
            return b"".join(chunks), position, False
        position = line.end()


def _decode_uu_line(line: bytes, chunks: list[bytes]) -> bool:
    """Decode one line into chunks and return whether it was one. Lengths and blanks a mailer spoiled are mended."""
    count = (line[0] - 32) & 63
    needed = (count + 2) // 3 * 4
    if not needed <= len(line) - 1 + 8 or len(line) > needed + 4:
        return False
    # Read as whole groups of three bytes, and cut: what a mailer left in the unused bits of the last one is no error.
    full = bytes((32 + needed // 4 * 3,))
    try:
        chunks.append(binascii.a2b_uu(full + line[1 : needed + 1].ljust(needed))[:count])
    except binascii.Error:
        return False
    return True
