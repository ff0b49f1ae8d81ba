"""Text bodies: what was typed into a mail, as UTF-8 text with LF line ends.

resiliparse makes HTML text: it is made for pages of any quality, parses like a browser and is loaded in milliseconds.
Of the others inscriptis pads table cells to the width of their column, which makes gigabytes of one long cell,
html2text takes minutes for nested lists, and Beautiful Soup does not keep rows together. A row of a table becomes a
line, its cells parted by tabs. What was filled into a form is text.

Guarantees: never raises but for this machine's faults. Takes linear time, since `markup` bounds what the parser gets. A
page over HTML_LIMIT, or one of which no text can be had, is to be kept as it is. Text that a person sees is never left
out. Which hidden text is left out and which is reported, `styles` says.
"""

import re
from functools import partial
from typing import NamedTuple

from orderflow_ingest.parsing.mime.charsets import decode_bytes

from .markup import HTML_LIMIT, ByteBudget, simple_pieces
from .styles import Marked, is_on_its_color, mark_hidden

_NOT_ASCII = ("utf-7", "utf-16", "utf-32", "hz")  # whose bytes are those of ASCII and mean something else
_TAG = re.compile(r"<[^<>]*+>")
_INLINE_DATA = re.compile(
    rb"\bdata:[a-z]{1,20}/[\w.+-]{1,60}(?:;[\w.+=-]{1,60}){0,4};base64,[A-Za-z0-9+/=%\s]{100,}+", re.IGNORECASE
)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*+=\s*+[\"']?+([\w.:-]{1,40})", re.IGNORECASE)
# Outlook makes a paragraph of every cell; each would become a line.
_CELL_START = re.compile(r"(<t[dh]\b[^<>]*+>)(?:\s*+<(?:p|div)\b[^<>]*+>)+", re.IGNORECASE)
# The marks of `styles` must stay.
_CELL_START_MARKED = re.compile(
    r"(<t[dh]\b[^<>]*+>)(?:\s*+<(?:p|div)\b(?![^<>]*(?:\"display:none|hidden))[^<>]*+>)+", re.IGNORECASE
)
_CELL_END = re.compile(r"</(?:p|div)\s*+>\s*+(?:</(?:p|div)\s*+>\s*+){0,7}(?=</t[dh]\b)", re.IGNORECASE)
_PARAGRAPHS = ("<p", "</p", "<div", "</div")
_LISTS = ("<ul", "<ol", "<menu", "<dir")
_LIST_TAG = re.compile(r"<(/?)(?:ul|ol|menu|dir)\b[^<>]*+>", re.IGNORECASE)
_LIST_DEPTH = 20
_CODE = re.compile(r"<(style|script|title|head)(?=[\s/>]).*?(?:</\1\s*+>|\Z)", re.IGNORECASE | re.DOTALL)
_MOST_DOUBTFUL = 100  # elements that are looked into
_COLORED = '[style*="color" i], [color]'
_MOST_PARENTS = 20_000
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
    page = _INLINE_DATA.sub(b"data:,", data) if b"64," in data and b"base64," in data.lower() else data
    return decode_bytes(page[:HTML_LIMIT], charset or "utf-8", hint), len(page) <= HTML_LIMIT


class PageText(NamedTuple):
    """The text of a page, or None if none can be had of it although it has some, or too much of it.

    may_be_hidden  some of it may be invisible to a person
    has_frame      a frame with a page of its own stands in it, which is not read
    """

    text: str | None
    may_be_hidden: bool = False
    has_frame: bool = False


def html_text(page: str, budget: ByteBudget) -> PageText:
    """Return the text of a page."""
    lower = page.lower()
    has_frame = "srcdoc" in lower and "<iframe" in lower
    found = _lay_out(page, lower, budget)
    # A page that has text in a frame alone is not empty.
    text = None if has_frame and found.text is not None and found.text.isspace() else found.text
    return PageText(text, found.may_be_hidden, has_frame)


def _lay_out(page: str, lower: str, budget: ByteBudget) -> PageText:
    marked = mark_hidden(page, lower)
    source = marked.page
    if ("<td" in lower or "<th" in lower) and any(tag in lower for tag in _PARAGRAPHS):
        cell_start = _CELL_START_MARKED if marked.hidden or marked.doubtful else _CELL_START
        source = _CELL_END.sub("", cell_start.sub(r"\1", source))
    if sum(map(lower.count, _LISTS)) > _LIST_DEPTH and _list_depth(source) > _LIST_DEPTH:
        source = _LIST_TAG.sub("<br>", source)  # each line would be indented by its depth
    if (pieces := simple_pieces(source, lower, budget)) is None:
        return PageText(None)
    try:
        found = [_extract(piece, marked) for piece in pieces]
    except MemoryError:
        raise
    except Exception:  # of a foreign parser; the caller keeps the page and gives it a defect
        return PageText(None)
    # It parts cells by two tabs.
    text = "\n".join(text for text, _ in found).replace("\t\t", "\t")
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    text = _BLANK_LINES.sub("\n\n", text).strip("\n") + "\n"
    lost = len(text) > 2 * HTML_LIMIT or (text.isspace() and not _without_code(marked).isspace())
    may_be_hidden = marked.in_sheets or any(doubt for _, doubt in found) or (len(found) > 1 and bool(marked.hidden))
    return PageText(None) if lost else PageText(text, may_be_hidden and not text.isspace())


def _extract(source: str, marked: Marked) -> tuple[str, bool]:
    """Return the text of a piece of a page, and whether any of it stands in an element that may be hidden."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    lay_out = partial(extract_plain_text, alt_texts=False, form_fields=True, noscript=True, skip_elements=marked.hidden)
    if not marked.doubtful and not marked.has_clash:
        return lay_out(source), False
    tree = HTMLTree.parse(source)
    text = lay_out(tree)
    doubtful = tree.body.query_selector_all(", ".join(marked.doubtful)) if tree.body and marked.doubtful else []
    may_be_hidden = len(doubtful) > _MOST_DOUBTFUL or any((element.text or "").strip() for element in doubtful)
    if marked.has_clash and tree.body and not may_be_hidden:
        steps = iter(range(_MOST_PARENTS))
        colored = tree.body.query_selector_all(_COLORED)
        may_be_hidden = any(is_on_its_color(element, steps) and (element.text or "").strip() for element in colored)
    return text, may_be_hidden and not text.isspace()


def _list_depth(page: str) -> int:
    depth = deepest = 0
    for tag in _LIST_TAG.finditer(page):
        depth = max(depth - 1, 0) if tag[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _without_code(marked: Marked) -> str:
    """Return what of a page may be text: neither tags nor styles and scripts, and at least a blank.

    Nothing is missed on a page of which style attributes hide all.
    """
    return " " if marked.hidden else " " + _TAG.sub("", _CODE.sub("", marked.page))
