"""Which text of a page is hidden by its style.

There is no style engine here: a mail program's style sheets, its width and its faults decide what a person sees. So
text is left out only where its own style attribute hides it in every program: the last valid `display` in it is `none`,
and no style sheet of the page can win against that. All other text stays. Text that may be invisible (without size,
color or place. Hidden by `visibility`, by the attribute `hidden`, or perhaps by a style sheet) stays as well and is
reported, since a handler may believe what no person saw: a language model, for one. Rules of a style sheet are read as
style attributes are, whatever they select.

White text counts as invisible unless its own style gives it another background, and `aria-hidden` counts as a sign.
Text of another color does if the nearest element around it that has a background has that color.
So the defect "hidden text" says "look at the page", not "this is an attack": newsletters have it often.
"""

import html
import re
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache, partial
from typing import Any, NamedTuple


class Sight(Enum):
    """What a style attribute does to its text."""

    SHOWN = "shown"
    DOUBTFUL = "doubtful"
    LEFT_OUT = "left out unless a style sheet shows it"
    HIDDEN = "hidden"


class Marked(NamedTuple):
    """A page whose hidden elements are found by selectors.

    hidden     selectors of what no person sees
    doubtful   selectors of what may be invisible; () if there is none
    in_sheets  a style sheet of the page hides something, or the color of its body
    has_clash  some text has the color of some background: `is_on_its_color` returns whether they meet
    """

    page: str
    hidden: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    in_sheets: bool = False
    has_clash: bool = False


_STYLE = re.compile(r"""style\s*+=\s*+("[^"]*+"|'[^']*+'|[^\s"'>][^\s>]*+)""")
_STYLE_ANY_CASE = re.compile(_STYLE.pattern, re.IGNORECASE)
_SHEET = re.compile(r"<style(?=[\s/>])(.*?)(?:</style|\Z)", re.DOTALL)
_SHEET_HIDES = re.compile(
    r"display\s*+:\s*+none|visibility\s*+:\s*+(?:hidden|collapse)|font-size\s*+:\s*+(?:0+\.)?0*(?:[;}!\s]|p[xt]|r?em|%)"
    r"|opacity\s*+:\s*+(?:0+\.)?0*[;}!\s]|text-indent\s*+:\s*+-\d{3}|mso-hide\s*+:\s*+all|\\(?!:)"
    r"|(?:left|top|margin|margin-left|margin-top)\s*+:\s*+-\d{3}|clip(?:-path)?\s*+:|scale[xy3d]{0,2}+\s*+\(\s*+0"
)
# What may win against a style attribute.
_SHEET_WINS = re.compile(r"important|@import|animation|@keyframes|\\(?!:)")
_HIDDEN_ATTRIBUTE = re.compile(r"""hidden(?=[\s>=/])(?<=[\s/"'-]hidden)""")
# The colors of text and that of <body> apart: a search for either of two names takes five times as long.
_IS_WHITE = (
    r"""\s*+=\s*+["']?+\s*+"""
    r"(white\b|snow\b|ivory\b|ghostwhite\b|floralwhite\b|whitesmoke\b|#?f{3}\b|#?(?:f[5-9a-f]){3}\b)"
)
_WHITE_COLOR, _WHITE_BODY = re.compile("color" + _IS_WHITE), re.compile("text" + _IS_WHITE)
_COLOR_ATTRIBUTE = re.compile(r"""\b(bgcolor|color)\s*+=\s*+["']?+\s*+([a-z#][a-z0-9]{2,20})""")
_LONGEST_STYLE = 2000
_MOST_WHITES = 20  # as selectors, each of which is looked for in the whole page
# Elements whose text no mail program shows.
_NEVER_SHOWN = ("noframes", "dialog", "title")
_RULE = re.compile(r"\{([^{}]*+)")
_MARK_HIDDEN = 'style="display:none"'
_MARK_DOUBTFUL = 'style="may-be-hidden"'

# What a style may hold that hides no semicolon.
_ENCLOSED = re.compile(r"'[^';]*+'|\"[^\";]*+\"|\([^();\"']*+\)")
_ODD = re.compile(r"[\"'(){}\[\]@<]")
_OUT_OF_SIGHT = re.compile(r"scale\w{0,3}\(\s*+0|translate\w{0,3}\([^()]*?-\d{3}|opacity\(\s*+0|opacity\s*+=\s*+0")
_ZERO = re.compile(r"(?:calc|min|clamp)\(\s*+[+-]?+0?\.?0*+(?:px|pt|r?em|%)?\s*+[,)]")
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_DISPLAYS = re.compile(
    r"block|inline(?:-block|-table|-flex|-grid)?|table(?:-row|-cell|-caption|-(?:row|header|footer)-group"
    r"|-column|-column-group)?|list-item|flex|grid|contents|flow-root"
)
_NUMBER = re.compile(r"([+-]?(?:\d{1,20}\.?\d{0,20}|\.\d{1,20}))([a-z%]{0,5})")
_WHITE = re.compile(
    r"white|snow|ivory|ghostwhite|floralwhite|whitesmoke|#f{3,4}|#(?:f[5-9a-f]){3,4}"
    r"|rgba?\((?:\s*+(?:2(?:4[5-9]|5\d)|9[6-9]%|100%)\s*+[,/]?){3}[^()]{0,20}\)"
    r"|hsla?\([^()]{1,30}\b(?:9[6-9]|100)%[^()]{0,20}\)"
)
_CLEAR = re.compile(
    r"transparent|(?:rgb|hsl)a?\((?:[^,()]*+,){3}\s*+0?\.?0*+%?\s*+\)"
    r"|(?:rgb|hsl)a?\([^/()]{1,40}/\s*+0?\.?0*+%?\s*+\)|#[0-9a-f]{3}0|#[0-9a-f]{6}00"
)
_COLORS = {"black": "000000", "white": "ffffff", "red": "ff0000", "blue": "0000ff", "navy": "000080", "green": "008000"}
# A style without any of these hides nothing.
_MATTERS = re.compile(
    r"display|visibility|opacity|color|text-indent|mso-hide|overflow|clip|position|margin|transform|[\\&]|/\*"
    r"|size\s*+:\s*+(?:[+]?+[012.]|[a-z]{1,9}\()|font\s*+:|zoom|scale|letter-spacing|left|top|right|bottom|filter"
)
_FONT_SIZE = re.compile(r"(?:\A|\s)([.\d]{1,20}(?:px|pt|r?em|%)?)(?=[\s/]|\Z)")


def mark_hidden(page: str, lower: str) -> Marked:
    """Return a page with marks on what its style attributes hide, and where else text may be hidden.

    `lower` is the page in lower case.
    """
    sheets = _SHEET.findall(lower) if "<style" in lower else []
    may_win = "stylesheet" in lower or any(_SHEET_WINS.search(sheet) for sheet in sheets)
    in_sheets = any(_SHEET_HIDES.search(sheet) or _has_hiding_rule(sheet) for sheet in sheets)
    styles = set(_STYLE.findall(lower)) if "style" in lower else set()
    found = {_sight(style) for style in styles} - {Sight.SHOWN}
    doubtful: list[str] = []
    if found:
        page = _STYLE_ANY_CASE.sub(partial(_mark, {}, may_win=may_win), page)
        doubtful.append(f"[{_MARK_DOUBTFUL}]")
    if "hidden" in lower and _HIDDEN_ATTRIBUTE.search(lower):
        doubtful += ["[hidden]", '[aria-hidden="true" i]']
    white = set(_WHITE_COLOR.findall(lower)) if "color" in lower else set()
    in_sheets = in_sheets or len(white) > _MOST_WHITES or ("text" in lower and _WHITE_BODY.search(lower) is not None)
    doubtful += [] if in_sheets else [f'[color="{color}" i]' for color in white]
    start = max(lower.find("<body"), 0)
    doubtful += [name for name in _NEVER_SHOWN if lower.find(f"<{name}", start) >= 0]
    hidden = (f"[{_MARK_HIDDEN}]",) if found else ()
    return Marked(page, hidden, tuple(doubtful), in_sheets, _has_clash(lower, styles))


def _has_clash(lower: str, styles: set[str]) -> bool:
    """Return whether a color of text without a background of its own is that of a background elsewhere in the page."""
    if "background" not in lower and "bgcolor" not in lower:
        return False
    painted = [read_colors(style[1:-1] if style[0] in "\"'" else style) for style in styles if "color" in style]
    painted += [read_colors(style[1:-1]) for style in styles if "color" not in style and "background" in style]
    attributes = _COLOR_ATTRIBUTE.findall(lower)
    texts = {text for text, ground in painted if not ground}
    texts.update(_plain_color(color) for name, color in attributes if name != "bgcolor")
    grounds = {ground for _, ground in painted}
    grounds.update(_plain_color(color) for name, color in attributes if name == "bgcolor")
    return bool((texts & grounds) - {""})


@lru_cache(maxsize=4096)
def read_colors(style: str) -> tuple[str, str]:
    """Return the colors of text and background that a style in lower case gives, "" for none."""
    declared, _ = _declarations(_COMMENT.sub(" ", html.unescape(style)))
    text = declared.get("-webkit-text-fill-color") or declared.get("color") or ""
    ground = declared.get("background-color") or declared.get("background") or ""
    return _plain_color(text), _plain_color(next(iter(ground.split()), ""))


def is_on_its_color(element: Any, steps: Iterator[int]) -> bool:
    """Return whether text has the color of the nearest background around it. True too if `steps` end before that."""
    text, ground = _colors_of(element)
    around = element.parent if text and not ground else None
    while around is not None and next(steps, None) is not None:
        if ground := _colors_of(around)[1]:
            return text == ground
        around = around.parent
    return around is not None


def _colors_of(element: Any) -> tuple[str, str]:
    # A document, the last of the parents, has no attributes.
    get = getattr(element, "getattr", None)
    if get is None or not element.attrs:
        return "", ""
    text, ground = read_colors((get("style") or "").lower()[:_LONGEST_STYLE])
    text = text or _plain_color((get("color") or "").strip().lower())
    return text, ground or _plain_color((get("bgcolor") or "").strip().lower())


def _has_hiding_rule(sheet: str) -> bool:
    """Return whether a rule of a style sheet makes text invisible."""
    rules = set(_RULE.findall(sheet)) if _MATTERS.search(sheet) else ()
    return any(_sight(f'"{rule}"') is not Sight.SHOWN for rule in rules)


def _mark(known: dict[str, str], style: re.Match[str], *, may_win: bool) -> str:
    """Return what stands in place of a style attribute, "" in `known` for itself. A page repeats few styles."""
    quoted = style[1]
    mark = known.get(quoted)
    if mark is None:
        sight = _sight(quoted.lower())
        is_hidden = sight is Sight.HIDDEN or (sight is Sight.LEFT_OUT and not may_win)
        mark = known[quoted] = "" if sight is Sight.SHOWN else _MARK_HIDDEN if is_hidden else _MARK_DOUBTFUL
    return mark or style[0]


def _sight(quoted: str) -> Sight:
    """Return what a style attribute does, as it stands in the page in lower case, with its quotation marks."""
    return _judge(quoted) if len(quoted) <= 500 else _judge.__wrapped__(quoted)


@lru_cache(maxsize=4096)
def _judge(quoted: str) -> Sight:
    if not _MATTERS.search(quoted):
        return Sight.SHOWN
    style = html.unescape(quoted[1:-1] if quoted[0] in "\"'" else quoted).lower()
    if "\\" in style:
        return Sight.DOUBTFUL
    style = _COMMENT.sub(" ", style)
    declared, important = _declarations(style)
    display = declared.get("display", "")
    if display == "none" and "all" not in declared and not _ODD.search(_ENCLOSED.sub("", style)):
        return Sight.HIDDEN if "display" in important else Sight.LEFT_OUT
    return Sight.DOUBTFUL if display == "none" or "none " in display or _is_invisible(declared) else Sight.SHOWN


def _declarations(style: str) -> tuple[dict[str, str], set[str]]:
    """Return the declarations that win within one style, and which of them are important.

    A `display` that no program may know stays away: where it is unknown, the one before it wins.
    """
    declared: dict[str, str] = {}
    important: set[str] = set()
    for declaration in style.split(";"):
        name, _, value = declaration.partition(":")
        value, mark, _ = value.partition("!")
        name, value = name.strip(), value.strip()
        if not value or (name in important and not mark):
            continue
        if name == "display" and not _DISPLAYS.fullmatch(value) and value != "none":
            value = f"none {value}" if declared.get(name, "").startswith("none") else value
        declared[name] = value
        if mark:
            important.add(name)
    return declared, important


def _is_invisible(declared: dict[str, str]) -> bool:
    get = declared.get
    font = _FONT_SIZE.search(get("font", ""))
    size = get("font-size") or (font[1] if font else "")
    background = get("background-color") or get("background") or ""
    color = get("-webkit-text-fill-color") or get("color") or ""
    overflow = get("overflow", "") + get("overflow-x", "") + get("overflow-y", "")
    is_cut = "hidden" in overflow or "clip" in overflow
    sides = ("height", "max-height", "width", "max-width")
    offsets = ("left", "right", "top", "bottom", "margin", "margin-left", "margin-top", "text-indent")
    return (
        get("visibility") in ("hidden", "collapse")
        or get("mso-hide", "") == "all"
        or _is_tiny(size)
        or _measure(get("opacity", ""), {"": 1, "%": 0.01}, 1) < 0.1
        or (is_cut and any(_measure(get(side, ""), {}, 9) <= 1 for side in sides))
        or any(_measure(get(offset, ""), {"em": 16, "rem": 16}, 0) <= -100 for offset in offsets)
        or any(_measure(get(offset, ""), {"em": 16, "rem": 16}, 0) >= 3000 for offset in offsets)
        or _measure(get("letter-spacing", ""), {"em": 16, "rem": 16}, 0) <= -10
        or any(_measure(get(name, ""), {"%": 0.01}, 1) < 0.1 for name in ("zoom", "scale"))
        or get("content-visibility") == "hidden"
        or "var(" in get("display", "") + get("visibility", "") + get("opacity", "")
        or _CLEAR.fullmatch(color) is not None
        or (color != "" and _plain_color(color) == _plain_color(background))
        or (_WHITE.fullmatch(color) is not None and (not background or _WHITE.fullmatch(background) is not None))
        or "rect(" in get("clip", "")
        or get("clip-path", "none") != "none"
        or _OUT_OF_SIGHT.search(get("transform", "") + get("filter", "")) is not None
    )


def _plain_color(color: str) -> str:
    color = _COLORS.get(color, color).removeprefix("#")
    return "".join(digit * 2 for digit in color) if len(color) == 3 else color


def _is_tiny(size: str) -> bool:
    return _ZERO.match(size) is not None or _measure(size, {"em": 16, "rem": 16, "%": 0.16}, 9) <= 2


def _measure(value: str, units: dict[str, float], other: float) -> float:
    """Return a length in pixels, or `other` if it is none."""
    if not value or (found := _NUMBER.match(value)) is None:
        return other
    number = float(found[1])
    return number * units.get(found[2], 1) if number else 0.0
