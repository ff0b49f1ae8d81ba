"""Decode the text of header fields: RFC 2047 encoded words and raw 8-bit, leniently.

Guarantees: never raises, takes linear time, and yields text without lone surrogates. Control characters a sender
encoded are kept. Storable() makes a text fit for a database, `filenames` for a file system.

Adjacent encoded words of one charset are joined as bytes before they are decoded, since mailers split words in the
middle of a multi-byte character, and base64 in the middle of a group of four. An encoded word may stand inside quotes
or within a token, hold blanks, and lack its end at the end of the value. A "=?" that begins no word stays as it is.
"""

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .charsets import decode_bytes, decode_undeclared

__all__ = ["decode_bytes", "decode_text", "has_encoded_word", "storable"]

_START = re.compile(rb"=\?([^?=\s\x00]{0,80})\?([BbQq])\?")
_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})")
# Detection takes a tenth of a millisecond, and one field may hold a hundred thousand words.
_DETECTED = 100
# Words of one charset that are joined: more of them at once would take a hundred times their length in memory.
_LONGEST_RUN = 1000
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")


@dataclass(frozen=True, slots=True)
class _Piece:
    charset: str | None
    encoding: bytes
    payload: bytes


def has_encoded_word(value: bytes) -> bool:
    """Return whether the value holds the beginning of an encoded word."""
    return _START.search(value) is not None


def decode_text(value: bytes, hint: str = "") -> str:
    """Return the text of a field's value. Hint names a charset for raw 8-bit that is not UTF-8."""
    if b"=?" not in value:
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii")
        return decode_undeclared(value, hint)
    texts: list[str] = []
    run: list[_Piece] = []
    for piece in _pieces(value):
        if run and (run[0].charset is None or run[0].charset != piece.charset or len(run) == _LONGEST_RUN):
            texts.append(_decode_run(run, hint if len(texts) < _DETECTED else "latin1"))
            run = []
        run.append(piece)
    if run:
        texts.append(_decode_run(run, hint if len(texts) < _DETECTED else "latin1"))
    return "".join(texts)


def _pieces(value: bytes) -> Iterator[_Piece]:
    """Yield encoded words and, with charset None, what stands between them. Blanks between two words are dropped."""
    position = 0
    after_word = False
    while (start := _START.search(value, position)) is not None:
        between = value[position : start.start()]
        if between and not (after_word and between.isspace()):
            yield _Piece(None, b"", between)
        stop = value.find(b"?=", start.end())
        payload = value[start.end() : stop] if stop >= 0 else value[start.end() :].rstrip(b"?")
        yield _Piece(start[1].decode("latin-1").split("*")[0].lower(), start[2].upper(), payload)
        if stop < 0:
            return
        position, after_word = stop + 2, True
    if position < len(value):
        yield _Piece(None, b"", value[position:])


def _decode_run(run: list[_Piece], hint: str) -> str:
    charset = run[0].charset
    if charset is None:
        return decode_undeclared(run[0].payload, hint)
    data: list[bytes] = []
    base64: list[bytes] = []
    for piece in run:
        if piece.encoding == b"B":
            base64.append(piece.payload)
            if _is_whole(piece.payload):
                data.append(_decode_base64(b"".join(base64)))
                base64 = []
            continue
        data.append(_decode_base64(b"".join(base64)))
        base64 = []
        data.append(_ESCAPE.sub(_unescape, piece.payload.replace(b"_", b" ")))
    data.append(_decode_base64(b"".join(base64)))
    return decode_bytes(b"".join(data), charset, hint)


def _unescape(escape: re.Match[bytes]) -> bytes:
    return bytes((int(escape[1], 16),))


def _is_whole(text: bytes) -> bool:
    """Return whether a word's base64 ends at a byte, rather than going on in the next word."""
    digits = text[-(len(text) % 4) :] if len(text) % 4 else b""
    return text.endswith(b"=") or digits == b"" or binascii.b2a_base64(_decode_base64(digits)).startswith(digits)


def _decode_base64(text: bytes) -> bytes:
    digits = _NOT_BASE64.sub(b"", text)
    # A single digit over a group of four carries no byte.
    digits = digits[:-1] if len(digits) % 4 == 1 else digits
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def storable(text: str, limit: int = 1000) -> str:
    """Make text that any database and any JSON takes: NUL dropped, lone surrogates replaced, cut at the limit."""
    return _UNSTORABLE.sub(lambda found: "" if found[0] == "\0" else "\ufffd", text[:limit])
