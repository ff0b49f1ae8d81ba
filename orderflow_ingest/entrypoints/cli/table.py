"""Tables in the width of a terminal: long cells are cut. Where that is not enough, each row is a block of lines.

Widths are those of the characters on the screen: a Chinese character takes two columns, a combining one none.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence

_GAP = "  "
_LEAST = 8  # columns of a cell that is cut
# What a reader copies into the next command, and times.
_WHOLE = frozenset(("ID", "RUN", "ENTRY", "MESSAGE_ID", "RECEIVED", "STARTED", "PART", "ORG", "NAME", "STATUS", "SIZE"))


Paint = Callable[[str], str]


def table_lines(
    heads: Sequence[str], rows: Sequence[Sequence[str]], room: int | None, paint: Paint = str
) -> Iterator[str]:
    """Yield the lines of a table that is at most `room` columns wide, or as wide as it is if `room` is None.

    `paint` adds colour to a cell. It may add what takes no column of the screen.
    """
    lines = [heads, *rows] if heads else rows
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    fitted = widths if room is None else _fit(heads, widths, room)
    if room is not None and fitted is None:
        yield from _records(heads, rows, room, paint)
        return
    for line in lines:
        cells = zip(line, fitted or (), strict=True)
        shown = [(cut(cell, width), width) for cell, width in cells]
        yield _GAP.join(paint(cell) + " " * (width - display_width(cell)) for cell, width in shown).rstrip()


def display_width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def cut(text: str, width: int) -> str:
    """Return a text in at most so many columns. One that is cut ends with an ellipsis."""
    if display_width(text) <= width:
        return text
    while display_width(text) > width - 1:
        text = text[:-1]
    return f"{text}\u2026"


def fold(text: str, room: int | None, indent: str = "    ") -> Iterator[str]:
    """Yield a text in lines of at most `room` columns, those after the first one indented; whole if `room` is None."""
    begin = ""
    room = room and max(room, len(indent) + _LEAST)
    while room is not None and display_width(begin + text) > room:
        line = cut(begin + text, room)[:-1]
        at = line.rfind(" ")
        at = at if at > len(indent) else len(line)
        yield line[:at]
        text, begin = (begin + text)[at:].lstrip(), indent
    yield begin + text


def _padded(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def _fit(heads: Sequence[str], widths: Sequence[int], room: int) -> list[int] | None:
    """Return widths that fit into the room, the widest columns cut first, or None if the least ones are too many."""
    fitted = list(widths)
    free = room - len(_GAP) * (len(widths) - 1)
    cuttable = [at for at in range(len(widths)) if not heads or heads[at] not in _WHOLE]
    while sum(fitted) > free:
        widest = max(cuttable, key=lambda at: fitted[at], default=None)
        if widest is None or fitted[widest] <= _LEAST:
            return None
        fitted[widest] -= 1
    return fitted


def _records(heads: Sequence[str], rows: Sequence[Sequence[str]], room: int, paint: Paint) -> Iterator[str]:
    """Yield a line for each cell that is not empty, its name before it, and an empty line between rows."""
    width = max(map(display_width, heads), default=0)
    for number, row in enumerate(rows):
        if number:
            yield ""
        for head, cell in zip(heads or [""] * len(row), row, strict=True):
            if cell != "-":
                shown = paint(cut(cell, max(room - width - len(_GAP), _LEAST)))
                yield f"{_padded(head, width)}{_GAP if heads else ''}{shown}"
