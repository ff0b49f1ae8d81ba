"""Text bodies: what was typed into a mail, as UTF-8 text with LF line ends.

resiliparse makes HTML text: it is made for pages of any quality, parses like a browser and is loaded in milliseconds.
Of the others inscriptis pads table cells to the width of their column, which makes gigabytes of one long cell,
html2text takes minutes for nested lists, and Beautiful Soup does not keep rows together. A row of a table becomes a
line, its cells parted by tabs; what was filled into a form is text.

Guarantees: never raises but for this machine's faults. A page over HTML_LIMIT, or one of which no text can be had, is
to be kept as it is: the parser takes up to two hundred times a page's size, the square of a tag's attributes in time,
and cannot be interrupted.
"""

import re

from ..mime.charsets import decode_bytes

HTML_LIMIT = 512 << 10
_NOT_ASCII = ("utf-7", "utf-16", "utf-32", "hz")  # whose bytes are those of ASCII and mean something else
_TAG = re.compile(r"<[^<>]*+>")
_INLINE_DATA = re.compile(rb"\bdata:[\w/+.;=-]{0,100},[A-Za-z0-9+/=%\s]{100,}+")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_HIDDEN = ['[style*="display:none"]', '[style*="display: none"]']
# Outlook makes a paragraph of every cell; each would become a line.
_CELL_START = re.compile(r"(<t[dh]\b[^<>]*+>)(?:\s*+<(?:p|div)\b[^<>]*+>)+", re.IGNORECASE)
_CELL_END = re.compile(r"(?:</(?:p|div)\s*>\s*)+(</t[dh]\b)?", re.IGNORECASE)
_LIST_TAG = re.compile(r"<(/?)(?:ul|ol|menu|dir)\b[^<>]*+>", re.IGNORECASE)
_LIST_DEPTH = 20
_LONG_TAG = re.compile(r"<[A-Za-z][^<>]{16384}")
_TRAILING_BLANKS = re.compile(r"[ \t]++(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{3,}")


def plain_text(data: bytes, charset: str, hint: str) -> bytes:
    """Return a text/plain body as UTF-8."""
    data = as_utf8(data, charset, hint)
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def as_utf8(data: bytes, charset: str, hint: str) -> bytes:
    """Return text as UTF-8."""
    if data.isascii() and b"\x1b" not in data and not charset.lower().startswith(_NOT_ASCII):
        return data
    return decode_bytes(data, charset, hint).encode("utf-8", "replace")


def decode_html(data: bytes, charset: str, hint: str) -> tuple[str, bool]:
    """Return a page as text without the pictures in it, and whether that is all and not cut at HTML_LIMIT.

    The charset that the page itself names is the last.
    """
    if not charset and (found := _META_CHARSET.search(data, 0, 4096)):
        charset = found[1].decode("ascii", "replace")
    page = _INLINE_DATA.sub(b"data:,", data)
    return decode_bytes(page[:HTML_LIMIT], charset or "utf-8", hint), len(page) <= HTML_LIMIT


def html_text(page: str) -> str | None:
    """Return the text of a page, None if none can be had of it although it has some, or too much of it."""
    from resiliparse.extract.html2text import extract_plain_text

    if _LONG_TAG.search(page):
        return None
    source = _CELL_END.sub(lambda found: found[1] or found[0], _CELL_START.sub(r"\1", page))
    if _list_depth(source) > _LIST_DEPTH:
        source = _LIST_TAG.sub("<br>", source)  # each line would be indented by its depth
    try:
        laid_out = extract_plain_text(source, alt_texts=False, form_fields=True, noscript=True, skip_elements=_HIDDEN)
    except MemoryError:
        raise
    except Exception:  # of a foreign parser; the caller keeps the page and tells it as a defect
        return None
    # It parts cells by two tabs.
    text = _TRAILING_BLANKS.sub("", laid_out.replace("\t\t", "\t"))
    text = _BLANK_LINES.sub("\n\n", text).strip("\n") + "\n"
    lost = len(text) > 2 * HTML_LIMIT or (text.isspace() and not _without_code(page).isspace())
    return None if lost else text


def _list_depth(page: str) -> int:
    depth = deepest = 0
    for tag in _LIST_TAG.finditer(page):
        depth = max(depth - 1, 0) if tag[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _without_code(page: str) -> str:
    """Return what of a page may be text: neither tags nor styles and scripts, and at least a blank."""
    return " " + _TAG.sub("", re.sub(r"(?is)<(style|script|title|head)\b.*?(?:</\1\s*>|\Z)", "", page))
