"""The properties of MAPI that TNEF and Outlook messages share ([MS-OXPROPS]), and what becomes of them.

Guarantees: nothing raises on any value. An 8-bit string is read in the code page that its container names, by
`mime.charsets`, and never through Python's codec registry.

The table of ids is ours and short: extract-msg, which knows them all, is GPL and brings six more packages.
"""

from collections.abc import Iterator, Mapping

from . import ContainerError, Member, Role, UnpackBudget
from .names import cut_text, decode_declared
from .rtf import RtfTooLongError, rtf_to_text

SUBJECT = 0x0037
BODY, BODY_RTF, BODY_HTML = 0x1000, 0x1009, 0x1013
DISPLAY_NAME = 0x3001
ATTACH_DATA, ATTACH_FILENAME, ATTACH_LONG_FILENAME = 0x3701, 0x3704, 0x3707
ATTACH_MIME_TAG, ATTACH_CONTENT_ID = 0x370E, 0x3712
INTERNET_CODEPAGE, MESSAGE_CODEPAGE = 0x3FDE, 0x3FFD

SHORT, INTEGER, OBJECT, STRING, UNICODE, BINARY = 0x0002, 0x0003, 0x000D, 0x001E, 0x001F, 0x0102

# Windows has numbers for charsets that are no code pages.
_NUMBERS = {
    1200: "utf-16le", 1201: "utf-16be", 10000: "macintosh", 20127: "us-ascii", 20866: "koi8-r", 20932: "euc-jp",
    21866: "koi8-u", 50220: "iso-2022-jp", 50221: "iso-2022-jp", 50222: "iso-2022-jp", 50225: "iso-2022-kr",
    51932: "euc-jp", 51936: "gb2312", 51949: "euc-kr", 52936: "hz-gb-2312", 54936: "gb18030", 65000: "utf-7",
    65001: "utf-8",
}  # fmt: skip


def charset_of(number: int | None) -> str:
    """Return the charset label of a Windows code page, empty if it has none."""
    if not number:
        return ""
    if 28591 <= number <= 28606:
        return f"iso-8859-{number - 28590}"
    return _NUMBERS.get(number) or (f"cp{number}" if number < 10000 else "")


class Properties:
    """What a message or an attachment says of itself: its values by id, with their types."""

    def __init__(self, values: Mapping[int, tuple[int, bytes]], codepage: int | None, budget: UnpackBudget) -> None:
        self._values = values
        self._budget = budget
        self.charset = charset_of(codepage)

    def data(self, key: int) -> bytes | None:
        """Return a value as it is stored, None if it is not there."""
        found = self._values.get(key)
        return found[1] if found else None

    def number(self, key: int) -> int | None:
        """Return an integer, None if there is none."""
        found = self._values.get(key)
        return int.from_bytes(found[1][:4], "little") if found and found[0] in (SHORT, INTEGER) else None

    def text(self, *keys: int) -> str:
        """Return the first of some strings that is not empty."""
        for key in keys:
            kind, value = self._values.get(key, (0, b""))
            if kind in (STRING, UNICODE) and (text := decode_string(kind, value, self.charset, self._budget)):
                return text
        return ""

    def short_text(self, key: int) -> str:
        """Return a string that names something, cut where it is too long for that."""
        return cut_text(self.text(key))[0]

    def is_unicode(self, key: int) -> bool:
        """Return whether a value is a string of UTF-16."""
        return self._values.get(key, (0, b""))[0] == UNICODE


def decode_string(kind: int, value: bytes, charset: str, budget: UnpackBudget) -> str:
    """Decode a string of either type, up to its NUL."""
    if kind == UNICODE:
        return value[: len(value) & ~1].decode("utf-16-le", "replace").split("\0", 1)[0]
    return decode_declared(value.split(b"\0", 1)[0], charset, budget)


def attachment_name(values: Properties) -> tuple[str | None, tuple[str, ...]]:
    """Return an attachment's name, the long one first, and the defects of it."""
    name, defects = cut_text(values.text(ATTACH_LONG_FILENAME, ATTACH_FILENAME, DISPLAY_NAME))
    return name or None, defects


def content_id(values: Properties) -> str:
    """Return an attachment's Content-ID without its brackets."""
    return values.short_text(ATTACH_CONTENT_ID).strip().removeprefix("<").removesuffix(">")


def body_members(values: Properties, budget: UnpackBudget) -> Iterator[Member]:
    """Yield the text of a message as plain text and as HTML. Raise ContainerError."""
    internet = charset_of(values.number(INTERNET_CODEPAGE)) or values.charset
    for key, kind in ((BODY, "text/plain"), (BODY_HTML, "text/html")):
        data = (values.data(key) or b"").rstrip(b"\0")
        if values.is_unicode(key):
            data = values.text(key).encode("utf-8", "replace")
        if not data.strip():
            continue
        # An HTML body is bytes in the charset of the mail, a plain one a string in that of the message.
        charset = "utf-8" if values.is_unicode(key) else internet if key == BODY_HTML else values.charset
        yield _body(data, kind, charset, budget)


def rtf_member(values: Properties, budget: UnpackBudget) -> Iterator[Member]:
    """Yield the text of a message's RTF where it has no other body. Raise ContainerError.

    It comes last: where it is too long the attachments were given before the container is kept whole for it.
    """
    packed = values.data(BODY_RTF)
    if not packed or any((values.data(key) or b"").strip(b"\0 \t\r\n") for key in (BODY, BODY_HTML)):
        return
    try:
        kind, text = rtf_to_text(packed, values.charset, budget)
    except RtfTooLongError:
        raise ContainerError("text too large") from None
    if text.strip():
        yield _body(text.encode("utf-8", "replace"), kind, "utf-8", budget, "text of RTF")


def _body(data: bytes, kind: str, charset: str, budget: UnpackBudget, *defects: str) -> Member:
    budget.take_member()
    budget.take(len(data))
    return Member(name=None, data=data, declared_type=kind, role=Role.BODY, charset=charset, defects=defects)
