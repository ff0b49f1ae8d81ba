"""Parse Content-Type and Content-Disposition, leniently (RFC 2045 section 5.1, RFC 2183, RFC 2231, RFC 2047).

Guarantees: never raises, takes linear time. Values stay bytes until they are asked for as text. Parameters over
10,000 are dropped, and of a name what is over 64 kB.

Accepted beyond the grammar: values without quotes that hold blanks, brackets or encoded words. Quotes inside quotes.
A quote never closed. A parameter after a blank or comma instead of ";". Comments. Quotes around a name. A bare name
without "=" is skipped. In text that is not UTF-8 a backslash may be half a character of Shift_JIS, GBK or Big5.

RFC 2231: sections are joined in the order of their numbers whatever order they came in, past gaps. Of two sections
with one number the extended one counts, then the first. An extended value (charset'language'text) wins over sections,
sections over a plain value, and anything over an empty one. The quotes around the language may be spoiled: blanks
between them, typographic ones, another number of them. Encoded words are decoded although RFC 2047 section 5 forbids
them here, after the sections are joined, since mailers split them over sections. One within another is decoded, too.

In a plain value a percent sign is a percent sign, unless every one of them begins an escape, and all is UTF-8 then, or
letters of an 8-bit charset within words.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .charsets import codec_name, is_utf8
from .words import decode_bytes, decode_text, has_encoded_word

_MAIN = re.compile(
    rb"[ \t]*+(?:\([^)]{0,200}\)\s*+)?\"?([^;\s\"=(]++(?:\s*+/\s*+[^;\s\"=(]++)?)(?:\"(?=[;\s(]|$)|(?=[;\s(\"]|$))"
)
_NAME = re.compile(
    rb"[;,\s]*+(?:\([^)]{0,200}\)\s*+)?[\"']?([^\s;,=\"'(]++)[\"']?\s*+(?:\([^)]{0,200}\)\s*+)?="
    rb"\s*+(?:\([^)]{0,200}\)\s*+(?=\"))?"
)
_BARE = re.compile(rb"[;\s]*+(?:\"[^\"]*+\"?|[^;\s\"]++)")
_QUOTE = re.compile(rb"\\.|\"", re.DOTALL)
_QUOTE_IN_DOUBLE_BYTES = re.compile(rb"(?:[\x81-\xfe][\x40-\x7e\x80-\xfe]){1,500}|\\.|\"", re.DOTALL)
_AFTER_QUOTE = re.compile(rb"\s*+(?:;|$|\(|,?\s*+[\w-]{1,40}\*?\d{0,4}\*?\s?=)")
_TOKEN_END = re.compile(
    rb"=\?[^?\s]{0,80}\?[BbQq]\?[^?]*+\?="
    rb"|;|(?<!\s)\s++(?:file)?(?:name|charset|boundary|type|format|delsp|size|start)\*?\d{0,4}\*?=",
    re.IGNORECASE,
)
_NEXT_PARAMETER = re.compile(rb";\s*+[\w-]{1,40}\*?\d{0,4}\*?\s?=")
_COMMENT = re.compile(rb"(?<!\s)\s*+\([^()]*+\)\s*+$")
_SECTION = re.compile(r"([^*]+)(?:\*(\d{1,6}))?(\*)?")
_CHARSET = re.compile(rb"([\w.:+-]{0,60})'([\w-]{0,40})'", re.ASCII)
_SPOILED_CHARSET = re.compile(
    rb"([A-Za-z][\w.:+-]{1,60}+)\s{0,2}(?:QUOTE)"
    rb"((?:\s{0,3}(?:[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})?\s{0,3})?(?:QUOTE))?(?:QUOTE){0,2})".replace(
        b"QUOTE", rb"['\"`\x91-\x94\xb4]|%2[27]|\xe2\x80[\x98-\x9f]|\xc2[\xb4\x91-\x94]"
    ),
    re.ASCII,
)
_QUOTED_CHARSET = re.compile(rb"([A-Za-z][\w.:+-]{1,60}+)\"(?!')(?:([A-Za-z-]{0,8})\")?", re.ASCII)
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_EQUALS = re.compile(rb"=([0-9A-F]{2})")
# Every sign in them begins an escape.
_ALL_PERCENT = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})*+")
_ALL_EQUALS = re.compile(rb"(?:[^=]|=[0-9A-F]{2})*+")
# A sign behind a digit, or one that makes no letter of windows-1252, is a percent sign: "100%BESTELLUNG.pdf".
_LATIN_PERCENT = re.compile(rb"(?:%[C-F][0-9A-F])*+(?:[A-Za-z](?:%[C-F][0-9A-F])++|[A-Za-z0-9._()+-])*+")
# What begins an escape, an encoded word or a word of ISO-2022-JP.
_MAY_BE_CODED = re.compile(rb"[%=\x1b]")
_ESCAPED_WORD = re.compile(rb"=3D\?[^?\s]{1,80}\?[BbQq]\?")
_MOST_PARAMETERS = 10_000
_LONGEST_VALUE = 65536
_FREE_TEXT = ("filename", "name")
_ESCAPED = "quoted-printable in a parameter"


class Parameter(NamedTuple):
    """One parameter as it stands: its name in lower case, RFC 2231 marks included, and its unquoted value."""

    name: str
    value: bytes


class Parametrized(NamedTuple):
    """A field's value in lower case, its parameters, and what had to be tolerated in them."""

    value: str
    parameters: tuple[Parameter, ...]
    defects: tuple[str, ...] = ()

    def get(self, name: str, hint: str = "") -> str | None:
        """Return a parameter as text. Hint names a charset for raw 8-bit that is not UTF-8."""
        named = [parameter for parameter in self.parameters if parameter.name.startswith(name)]
        if not named:
            return None
        if len(named) == 1 and named[0].name == name:
            return _decode_plain(named[0].value, hint)
        sections: list[tuple[int, bool, bytes]] = []
        plain: bytes | None = None
        for parameter in named:
            mark = _SECTION.fullmatch(parameter.name)
            if mark is None or mark[1] != name:
                continue
            if mark[2] is not None:
                sections.append((int(mark[2]), mark[3] is not None, parameter.value))
            elif mark[3] is None:
                plain = plain or parameter.value
            elif text := _decode_sections([(True, parameter.value)], hint):
                return text
        numbered: dict[int, tuple[bool, bytes]] = {}
        for number, extended, value in sections:
            if number not in numbered or (extended and not numbered[number][0]):
                numbered[number] = (extended, value)
        text = _decode_sections([numbered[number] for number in sorted(numbered)], hint) if numbered else ""
        return text or (None if plain is None else _decode_plain(plain, hint))

    def get_bytes(self, name: str) -> bytes | None:
        """Return a plain parameter's first value as it came, or its RFC 2231 form encoded again."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter.value
        text = self.get(name)
        return None if text is None else text.encode("utf-8", "replace")


def parse_parameters(value: bytes) -> Parametrized:
    """Split the value of Content-Type, Content-Disposition or a field like them."""
    defects = [] if value.isascii() else ["raw 8-bit in a parameter"]
    value = value.replace(b"\0", b"")
    main = _MAIN.match(value)
    position = main.end() if main else 0
    quote = _QUOTE if value.isascii() or is_utf8(value) else _QUOTE_IN_DOUBLE_BYTES
    parameters = tuple(_read_parameters(value, position, quote, defects))
    if b"*" in value and not _sections_are_whole(parameters):
        defects.append("sections of a parameter missing or doubled")
    return Parametrized(
        b"".join(main[1].split()).rstrip(b",:").decode("ascii", "replace").lower() if main else "",
        parameters,
        tuple(defects),
    )


def _sections_are_whole(parameters: tuple[Parameter, ...]) -> bool:
    """Return whether the sections of every parameter are numbered from nought without gap or repetition."""
    numbers: dict[str, list[int]] = {}
    for parameter in parameters:
        if (mark := _SECTION.fullmatch(parameter.name)) and mark[2] is not None:
            numbers.setdefault(mark[1], []).append(int(mark[2]))
    return all(sorted(found) == list(range(len(found))) for found in numbers.values())


def _read_parameters(value: bytes, position: int, quote: re.Pattern[bytes], defects: list[str]) -> Iterator[Parameter]:
    closes = True
    count = 0
    while position < len(value):
        name = _NAME.match(value, position)
        if name is None:
            bare = _BARE.match(value, position)
            position = bare.end() if bare else len(value)
            continue
        count += 1
        if count > _MOST_PARAMETERS:
            defects.append("too many parameters")
            return
        start = name.end()
        if value[start : start + 3] == b'3D"':  # the whole header was made quoted-printable
            start += 2
            if _ESCAPED not in defects:
                defects.append(_ESCAPED)
        label = name[1].decode("ascii", "replace").lower()
        if value[start : start + 1] == b'"':
            # No quote closes further on: looking again for every parameter would take quadratic time.
            text, position, closes = _read_quoted(value, start + 1, quote, closes=closes)
            if not closes and "quote never closed" not in defects:
                defects.append("quote never closed")
        else:
            text, position = _read_token(value, start, is_extended=label.endswith("*"))
        if not label.startswith(_FREE_TEXT):
            text = _COMMENT.sub(b"", text[:1000])
        yield Parameter(label, text[:_LONGEST_VALUE])


def _read_quoted(value: bytes, start: int, quote: re.Pattern[bytes], *, closes: bool) -> tuple[bytes, int, bool]:
    """Read up to the quote that ends the parameter, if any closes. Quotes before it are part of the value."""
    for mark in quote.finditer(value, start) if closes else ():
        if mark[0] == b'"' and _AFTER_QUOTE.match(value, mark.end()):
            return _unescape(value[start : mark.start()], quote), mark.end(), True
    following = _NEXT_PARAMETER.search(value, start)
    stop = following.start() if following else len(value)
    return _unescape(value[start:stop].rstrip(), quote).removesuffix(b'"'), stop, False


def _read_token(value: bytes, start: int, *, is_extended: bool) -> tuple[bytes, int]:
    """Read up to the next ";" or name. One inside an encoded word does not count."""
    ends = (end.start() for end in _TOKEN_END.finditer(value, start) if not end[0].startswith(b"=?"))
    stop = next(ends, len(value))
    text = value[start:stop].strip()
    if is_extended and b'"' in text:
        text = _QUOTED_CHARSET.sub(rb"\1'\2'", text, count=1) if _QUOTED_CHARSET.match(text) else text
    text = text.replace(b'"', b"")
    if len(text) > 1 and text[:1] == text[-1:] == b"'":
        text = text[1:-1]
    return text, stop


def _unescape(quoted: bytes, quote: re.Pattern[bytes]) -> bytes:
    # Only these two: a Windows path keeps its backslashes.
    if b'\\"' not in quoted and b"\\\\" not in quoted:
        return quoted
    return quote.sub(lambda mark: mark[0][1:] if mark[0] in (b'\\"', b"\\\\") else mark[0], quoted)


def _decode_plain(value: bytes, hint: str) -> str:
    if value.isascii() and not _MAY_BE_CODED.search(value):
        return value.decode("ascii")
    if b"=3D?" in value and _ESCAPED_WORD.search(value):
        value = value.replace(b"=3D", b"=")
    mark = _CHARSET.match(value) if b"%" in value else None
    if mark and codec_name(mark[1].decode("ascii")):
        return _decode_sections([(True, value)], hint)
    if value.isascii() and b"=?" not in value:
        # "a%20b.pdf" stays. RFC 2231 codes values with a star alone: Thunderbird and Apple Mail write those, Gmail and
        # Outlook encoded words (K-9 Mail #3322, mox #82, NeoMutt #2539). Thunderbird (nsMIMEHeaderParamImpl), Gmail
        # (nodemailer #1675) and NeoMutt (#3424) show such a name as written. `safe_filename` makes it readable.
        for sign, whole, escape in ((b"%", _ALL_PERCENT, _PERCENT), (b"=", _ALL_EQUALS, _EQUALS)):
            if sign in value and whole.fullmatch(value) and (text := _utf8(escape.sub(_unescape_digits, value))):
                return text
        if b"%" in value and _LATIN_PERCENT.fullmatch(value):
            return decode_text(_PERCENT.sub(_unescape_digits, value), hint)
    return _decode_words(value, hint)


def _utf8(data: bytes) -> str | None:
    """Return the text of UTF-8 beyond ASCII, None for anything else."""
    return data.decode() if not data.isascii() and is_utf8(data) else None


def _decode_words(value: bytes, hint: str) -> str:
    """Decode encoded words, once more if they hold others."""
    text = decode_text(value, hint)
    if "=?" in text and has_encoded_word(value):
        return decode_text(text.encode("utf-8", "replace"), hint)
    return text


def _decode_sections(sections: list[tuple[bool, bytes]], hint: str) -> str:
    """Join the values of sections in order and decode them as one, since a section may end inside a character."""
    charset, mark = _read_charset(sections[0][1]) if sections[0][0] else ("", b"")
    parts: list[bytes] = []
    for extended, value in sections:
        if extended and mark and value.startswith(mark):
            value = value[len(mark) :]
        parts.append(_PERCENT.sub(_unescape_digits, value) if extended else value)
    data = b"".join(parts)
    if b"=?" in data:
        return _decode_words(data, charset or hint)
    return decode_bytes(data, charset, hint) if charset else decode_text(data, hint)


def _read_charset(value: bytes) -> tuple[str, bytes]:
    """Return the charset that an extended value begins with, "" if it has none, and all that stands for it."""
    if mark := _CHARSET.match(value):
        return mark[1].decode("ascii"), mark[0]
    mark = _SPOILED_CHARSET.match(value)
    charset = mark[1].decode("ascii") if mark else ""
    # A single quote after a word is an apostrophe: "Mac's order.pdf".
    if mark and codec_name(charset) and (mark[2] or charset[-1].isdigit() or "-" in charset):
        return charset, mark[0]
    return "", b""


def _unescape_digits(escape: re.Match[bytes]) -> bytes:
    return bytes((int(escape[1], 16),))
