"""Pages made safe for the HTML parser: no shape of a page costs it more than its size allows.

The parser builds a tree as browsers do (WHATWG HTML, section 13.2) and nothing can interrupt it. Some of its steps walk
all elements that are open, all options of a menu, or all attributes of a tag, so that a page of 0.5 MB can cost it a
minute and all memory. Measured, CPU seconds for n and 2n: 20,000 attributes 0.9 and 3.4, 20,000 open elements with as
many end tags 1.4 and 6.8, 20,000 options 2.3 and 11.7, 20,000 <body> tags with an attribute 1.0 and 5.8.

Nothing here reads a page as the parser does, since whoever writes a page could mislead a second reader. Each rule holds
whatever state the parser is in:

1. Formatting elements, menus and SVG get the names of plain elements: the parser copies open formatting elements into
   every paragraph, and no text depends on them. Elements that the text extraction leaves out although mail programs
   show them (<figure>, <object>) become <div> too.
2. A page is cut so that no piece has more than MAX_TAGS tags. A piece costs at most the square of that.
3. Attributes are counted from above, each tag as if it went on to the next ">" that no quotation mark can enclose.
"""

import re
from collections.abc import Iterator

MAX_TAGS = 4000
HTML_LIMIT = 512 << 10
# The product of a page's tags with its tags and attributes bounds what the parser copies, the square of the attributes
# what it compares: 200 MB and 0.6 s at most up to here. A mail may take this risk once.
_HARMLESS = 6_000_000
_GAPS_RISK = 40
# Starts and ends apart: with a group in the replacement each takes ten times as long. Each letter in both its cases:
# where case is ignored, every name is tried at every tag, and that takes three times as long.
_INLINE_NAMES = (
    re.sub(
        "[a-z]",
        lambda letter: f"[{letter[0]}{letter[0].upper()}]",
        r"(?:a|i|u|b(?:ig)?|s(?:mall|trike|trong)?|code|em|font|math|nobr|tt)",
    )
    + r"(?=[\s/>])"
)
_INLINE_START = re.compile("<" + _INLINE_NAMES)
_INLINE_END = re.compile("</" + _INLINE_NAMES)
_BLOCK_TAG = re.compile(
    r"(</?)(?:audio|details|fig(?:ure|caption)|object|opt(?:ion|group)|select|summary|svg|text|video)(?=[\s/>])",
    re.IGNORECASE,
)
_BLOCKS = ("<audio", "<figure", "<object", "<opt", "<select", "<summary", "<svg", "<video")
# Every further one adds its attributes to those of the first.
_ROOT_TAG = re.compile(r"<(?:html|body)(?=[\s/>])", re.IGNORECASE)
_ROOT_TAGS = 2
_CUT = re.compile(r"(?:tr|table|p|div|li|br|hr|ul|ol|dl|dt|dd|h[1-6]|blockquote|center|pre)[\s/>]", re.IGNORECASE)
# What a piece may have stood in: without it, the parser would join the cells that follow.
_INSIDE_TABLES = "<table><tr><td>" * 20

_SHORT_TAG = 1000  # characters: too few for attributes that matter
_MANY_ATTRIBUTES = 300
_ATTRIBUTE_WORK = 20_000_000  # the sum of their squares: 50 ms
_TAG_START = re.compile("<[A-Za-z]")
_GAPS = b" \t\n\f\r/\"'"
_ATTRIBUTE_GAP = re.compile(r"""[\s/"']+""")
_QUOTED_END = re.compile(r"""=\s*+(?:"[^">]*+>|'[^'>]*+>)""")
_OPEN_QUOTE = re.compile(r"""=\s*+(?:"[^"]*+|'[^']*+)\Z""")


class ByteBudget:
    """What may still be spent on the pages of one mail: bytes of them, and risk that is taken unchecked."""

    def __init__(self) -> None:
        self._bytes = 4 * HTML_LIMIT
        self._risk = _HARMLESS

    def take(self, size: int) -> bool:
        """Spend so many bytes. Return False if fewer were left."""
        self._bytes -= size
        return self._bytes >= 0

    def take_risk(self, risk: int) -> bool:
        """Spend a page's risk. Return whether it may be parsed as it is."""
        if risk > self._risk:
            return False
        self._risk -= risk
        return True


def simple_pieces(page: str, lower: str, budget: ByteBudget) -> Iterator[str] | None:
    """Return a page as pieces that the parser reads in a bounded time, None if there is no such way.

    `lower` is the page in lower case, or another form of it with the same tags.
    """
    if any(name in lower for name in _BLOCKS):
        page = _BLOCK_TAG.sub(r"\1div", page)
    tags = page.count("<")
    coded = page.encode("utf-8", "replace")
    gaps = len(coded) - len(coded.translate(None, _GAPS))
    if budget.take_risk(tags * (tags + gaps) + gaps * gaps // _GAPS_RISK):
        return iter((page,))
    if _has_too_many_attributes(page):
        return None
    page = _INLINE_END.sub("</span", _INLINE_START.sub("<span", page))
    may_have_roots = lower.count("<html") + lower.count("<body") > _ROOT_TAGS
    roots = [found.end() for found in _ROOT_TAG.finditer(page)] if may_have_roots else []
    if len(roots) > _ROOT_TAGS:
        kept = roots[_ROOT_TAGS - 1]
        page = page[:kept] + _ROOT_TAG.sub("<div", page[kept:])
    return _cut(page) if tags > MAX_TAGS else iter((page,))


def _cut(page: str) -> Iterator[str]:
    """Yield a page in pieces of at most MAX_TAGS tags, cut before rows and paragraphs where there are any."""
    prefix = ""
    # What stands before the first tag, then what follows each "<": the last of a full list is the rest of the page.
    while len(texts := page.split("<", MAX_TAGS + 1)) > MAX_TAGS + 1:
        numbers = range(MAX_TAGS + 1, MAX_TAGS // 2 + 1, -1)
        end = next((number for number in numbers if _CUT.match(texts[number])), MAX_TAGS + 1)
        piece = "<".join(texts[:end])
        yield prefix + piece
        page, prefix = page[len(piece) :], _INSIDE_TABLES
    yield prefix + page


def _has_too_many_attributes(page: str) -> bool:
    """Return whether the parser may take long for the attributes in some tags, whatever it takes for a tag."""
    ended = page.split(">")
    if max(map(len, ended)) <= _SHORT_TAG and not _QUOTED_END.search(page):
        return False
    work = count = 0
    is_open = False
    for text in ended:
        if not is_open:
            count = 0
            if (start := _TAG_START.search(text)) is None:
                continue
            text = text[start.start() :]
        count += len(_ATTRIBUTE_GAP.findall(text)) if len(text) > _MANY_ATTRIBUTES else len(text) // 2
        # An attribute that began in a quotation mark may go on behind this ">".
        is_open = (is_open and '"' not in text and "'" not in text) or _OPEN_QUOTE.search(text) is not None
        if not is_open and count > _MANY_ATTRIBUTES:
            work += count * count
    return work + (count * count if is_open else 0) > _ATTRIBUTE_WORK
