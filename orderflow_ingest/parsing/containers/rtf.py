"""Extract the text of a message body in compressed RTF ([MS-OXRTFCP], RTF 1.9).

Guarantees: never raises but RtfTooLongError, and ContainerError where the mail's budget of steps is used up. Takes
linear time, gives text without lone surrogates. A wrong checksum and a damaged end are tolerated: what could be read is
given. Where bytes are not of the charset that RTF names, it is detected for as many runs of them as the mail's budget
has guesses.

Outlook wraps an HTML body in RTF ([MS-OXRTFEX]): its tags stand in groups of their own, and what RTF needs in their
place is marked and left out. Of such RTF the page is given.

Own, since the libraries were measured against hostile input. striprtf takes the square of the length for fields that
are opened only (200 kB: 4 s. 4 MB: half an hour), and leaves surrogates apart. Compressed-rtf raises on a wrong
checksum, and unpacks without bound. What is asked of either is small.
"""

import re

from orderflow_ingest.parsing.mime.charsets import codec_name

from .guards import UnpackBudget
from .names import decode_declared

_LONGEST = 4 * 1024 * 1024
_COMPRESSED, _PLAIN = b"LZFu", b"MELA"
_RING = 4096
_DEEPEST = 1000
# What one token takes, in steps of the budget, and the eight runs or bytes after a flag.
_TOKEN_STEPS, _FLAG_STEPS = 2, 4
_FIRST = (
    b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor "
    b"MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par "
    b"\\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx"
)
_TOKEN = re.compile(
    rb"\\([A-Za-z]{1,32})(-?[0-9]{1,10})? ?|((?:\\'[0-9A-Fa-f]{2})+)|\\([^A-Za-z])|([{}])|[\r\n]+|([^\\{}\r\n]+)"
)
# Groups whose text is not the document's.
_ASIDE = frozenset(
    b"fonttbl colortbl stylesheet info pict object themedata datastore listtable listoverridetable rsidtbl generator "
    b"header footer headerl headerr headerf footerl footerr footerf footnote annotation fldinst bkmkstart bkmkend "
    b"filetbl revtbl latentstyles xmlnstbl pgptbl mmathPr htmltag mhtmltag".split()
)
_SIGNS = {
    b"par": "\n", b"line": "\n", b"sect": "\n\n", b"page": "\n\n", b"row": "\n", b"cell": "\t", b"tab": "\t",
    b"emdash": "\u2014", b"endash": "\u2013", b"bullet": "\u2022", b"lquote": "\u2018", b"rquote": "\u2019",
    b"ldblquote": "\u201c", b"rdblquote": "\u201d", b"emspace": " ", b"enspace": " ",
}  # fmt: skip
_ESCAPED = {b"~": "\xa0", b"-": "", b"_": "-", b"\n": "\n", b"\r": "\n", b"\\": "\\", b"{": "{", b"}": "}"}
# \fcharset to Windows code page.
_FONT_CHARSETS = {
    77: "macintosh", 128: "cp932", 129: "cp949", 130: "johab", 134: "gbk", 136: "big5", 161: "cp1253", 162: "cp1254",
    163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250",
    254: "cp437", 255: "cp850", 0: "cp1252",
}  # fmt: skip
_FONT = re.compile(rb"\\f(\d{1,5})(?=[^\d])[^;{}\\]{0,50}(?:\\(?!fcharset|f\d)[^;{}\\]{0,50}){0,5}\\fcharset(\d{1,3})")
_CODE_PAGE = re.compile(rb"\\ansicpg(\d{1,5})")


class RtfTooLongError(Exception):
    """More RTF than the body of a message is worth."""


def rtf_to_text(packed: bytes, charset: str, budget: UnpackBudget) -> tuple[str, str]:
    """Return the type and the text of a compressed RTF body: text/plain, or the text/html that is wrapped in it.

    charset is for bytes of which the RTF does not say. Raise RtfTooLongError.
    """
    rtf = decompress_rtf(packed, budget)
    return "text/html" if _wraps_html(rtf) else "text/plain", strip_rtf(rtf, charset, budget)


def decompress_rtf(packed: bytes, budget: UnpackBudget) -> bytes:
    """Return the RTF, or as much as can be read. Raise RtfTooLongError."""
    kind, contents = packed[8:12], packed[16:]
    if kind == _PLAIN:
        return contents[: int.from_bytes(packed[4:8], "little")]
    if kind != _COMPRESSED:
        return packed if packed.startswith(b"{\\rtf") else b""
    out = bytearray(_FIRST)
    position = 0
    while position < len(contents):
        budget.step(_FLAG_STEPS)
        control, position = contents[position], position + 1
        for bit in range(8):
            if not control >> bit & 1:
                out += contents[position : position + 1]
                position += 1
                continue
            token = int.from_bytes(contents[position : position + 2], "big")
            position += 2
            # How far back; none at all is the end mark.
            back = (len(out) - (token >> 4)) % _RING
            if not back or position > len(contents):
                return bytes(out[len(_FIRST) :])
            length = (token & 15) + 2
            if back > len(out):
                out += b" " * length
                continue
            found = out[-back:][:length] if back < _RING else out[-back : length - back]
            out += (found * (length // len(found) + 1))[:length]
        if len(out) > _LONGEST:
            raise RtfTooLongError
    return bytes(out[len(_FIRST) :])


def strip_rtf(rtf: bytes, charset: str, budget: UnpackBudget) -> str:
    """Return the text of RTF, with the tags of a page that is wrapped in it. Raise RtfTooLongError."""
    if len(rtf) > _LONGEST:
        raise RtfTooLongError
    wraps_html = _wraps_html(rtf)
    page = _CODE_PAGE.search(rtf, 0, 1000)
    base = codec_name((f"cp{int(page[1])}" if page else charset) or "cp1252") or "cp1252"
    fonts = {font[1]: codec_name(_FONT_CHARSETS.get(int(font[2]), "")) or base for font in _FONT.finditer(rtf)}
    texts: list[str] = []
    stack: list[tuple[bool, int, str]] = []
    aside, after_unicode, font = False, 1, base
    skip = 0
    for token in _TOKEN.finditer(rtf):
        word, number, escapes, sign, brace, run = token.groups()
        budget.step(_TOKEN_STEPS)
        if brace == b"{":
            if len(stack) > _DEEPEST:
                break
            stack.append((aside, after_unicode, font))
            skip = 0
        elif brace:
            if not stack:
                break
            aside, after_unicode, font = stack.pop()
            skip = 0
        elif word == b"htmltag" and wraps_html:
            aside = False
        elif sign == b"*" or word in _ASIDE:
            aside = True
        elif word == b"htmlrtf":
            aside = number != b"0"
        elif word == b"uc":
            after_unicode = min(int(number or 1), 10)
        elif word == b"f" and number:
            font = fonts.get(number, base)
        elif aside:
            continue
        elif word == b"u" and number:
            texts.append(_unicode(int(number)))
            skip = after_unicode
        elif word:
            texts.append(_SIGNS.get(word, ""))
        elif sign:
            texts.append(_ESCAPED.get(sign, ""))
        elif escapes:
            data = bytes.fromhex(escapes.replace(b"\\'", b"").decode("ascii"))
            texts.append(decode_declared(data[skip:], font, budget))
            skip = max(0, skip - len(data))
        elif run:
            texts.append(decode_declared(run[skip:], font, budget))
            skip = max(0, skip - len(run))
    text = "".join(texts).rstrip("\0")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _wraps_html(rtf: bytes) -> bool:
    return b"\\fromhtml1" in rtf[:1000]


def _unicode(number: int) -> str:
    """Return one UTF-16 unit, which RTF writes as a signed number."""
    return chr(number & 0xFFFF)
