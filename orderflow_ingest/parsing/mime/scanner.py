"""Find header ends and boundary lines in a buffer, by offsets (RFC 2046 section 5.1.1).

Guarantees: linear time over the whole walk: positions only grow, each search keeps its last find, and a line is looked
up in an index of the open boundaries whatever their number. Nothing is copied but the candidate line.

Of the open multiparts that share a boundary the innermost that has not ended is meant. A line that equals no boundary
may equal one in another case. The line break before a delimiter belongs to it.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from .fields import split_header

_LINE = re.compile(rb"--([^\r\n]{0,1000})(?:\r\r?\n|\n|\r|\Z)")
_CONTENT_FIELD = re.compile(rb"Content-[A-Za-z-]{2,40}[ \t]*:", re.IGNORECASE)
_OWN_BOUNDARY_LINES = 20


class Delimiter(NamedTuple):
    """One boundary line: where the content before it ends and after it starts, whose it is, whether it closes."""

    end: int
    after: int
    level: int
    closing: bool = False


@dataclass
class _Level:
    boundary: bytes | None
    closed: bool = False


class Scanner:
    """A cursor over a buffer that knows the boundaries of the containers open at it."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._levels: list[_Level] = []
        self._exact: dict[bytes, list[int]] = {}
        self._folded: dict[bytes, list[int]] = {}
        self._blank = (0, -1, -1)
        self.stray: int | None = None
        # Where each mark was looked for last, and where it was found: len(source) if nowhere.
        self._marks = {end + b"--": (1, 0) for end in (b"\n", b"\r") if end in source and end + b"--" in source}

    def open(self, boundary: bytes | None) -> None:
        """Add a level for a container, with None for one that has no boundary."""
        self._levels.append(_Level(boundary))
        self._index(boundary)

    def close(self) -> None:
        """Drop the innermost level."""
        self._unindex(self._levels.pop().boundary)

    def replace_top(self, boundary: bytes | None) -> None:
        """Return the innermost level another boundary."""
        self.close()
        self.open(boundary)

    def knows(self, boundary: bytes | None) -> bool:
        """Return whether an open level has this boundary."""
        return boundary in self._exact

    def mark_closed(self, level: int, *, closed: bool) -> None:
        """Record whether a level's last delimiter was its closing one."""
        self._levels[level].closed = closed

    def _index(self, boundary: bytes | None) -> None:
        if boundary:
            self._exact.setdefault(boundary, []).append(len(self._levels) - 1)
            self._folded.setdefault(boundary.lower(), []).append(len(self._levels) - 1)

    def _unindex(self, boundary: bytes | None) -> None:
        if boundary:
            for index, key in ((self._exact, boundary), (self._folded, boundary.lower())):
                index[key].pop()
                if not index[key]:
                    del index[key]

    def header(self, position: int) -> tuple[int, int]:
        """Return where the header at position ends and its body starts, before any delimiter."""
        known, end, body = self._blank
        if self._source[position : position + 1] in (b"\n", b"\r"):
            end, body = split_header(self._source, position)
        elif not known <= position <= end:
            end, body = split_header(self._source, position)
            self._blank = (position, end, body)
        lines = 0
        line = self._candidate(position)
        while line is not None and line[0] < end:
            if self._match(*line) or (lines < _OWN_BOUNDARY_LINES and self._is_own(position, *line)):
                return line[0], line[0]
            lines += 1
            line = self._candidate(line[1])
        return end, body

    def _is_own(self, position: int, start: int, _: int, text: bytes) -> bool:
        """Return whether a header names the boundary of this line: its empty line is missing."""
        head = self._source[position:start]
        return len(text) > 1 and text in head and b"boundary" in head.lower()

    def next_match(self, position: int, *, adopt: bool = False, stop: bool = False) -> Delimiter | None:
        """Return the next delimiter of an open level. With adopt, a line that looks like one counts for the top.

        Without adopt the first such line on the way is kept in `stray`. With stop the search ends there, with None.
        """
        self.stray = None
        if not self._exact and not adopt and not stop:
            return None
        line = self._candidate(position)
        while line is not None:
            if matched := self._match(*line):
                return matched
            if self.stray is None and self._begins_part(*line):
                if adopt:
                    self.replace_top(line[2])
                    return self._match(*line)
                self.stray = line[0]
                if stop:
                    return None
            line = self._candidate(line[1])
        return None

    def end_within(self, position: int, limit: int) -> int:
        """Return where the content at position ends, or the limit if no delimiter stands before it."""
        line = self._candidate(position)
        while line is not None and line[0] < limit:
            if self._match(*line):
                return max(self.content_end(line[0]), position)
            line = self._candidate(line[1])
        return limit

    def _begins_part(self, _: int, after: int, text: bytes) -> bool:
        """Return whether a line may be a boundary that nobody declared: a field follows that describes content."""
        return bool(text) and not text.endswith(b"--") and _CONTENT_FIELD.match(self._source, after) is not None

    def _match(self, start: int, after: int, text: bytes) -> Delimiter | None:
        for index, key in ((self._exact, text), (self._folded, text.lower())):
            if (level := self._innermost(index.get(key))) is not None:
                return Delimiter(self.content_end(start), after, level)
            if key.endswith(b"--") and (level := self._innermost(index.get(key[:-2].rstrip()))) is not None:
                return Delimiter(self.content_end(start), after, level, closing=True)
        return None

    def content_end(self, start: int) -> int:
        """Return where the content before the boundary line at start ends."""
        end = start - 1 if self._source[max(start - 1, 0) : start] == b"\n" else start
        return end - 1 if self._source[max(end - 1, 0) : end] == b"\r" else end

    def _innermost(self, levels: list[int] | None) -> int | None:
        if not levels:
            return None
        for level in reversed(levels):
            if not self._levels[level].closed:
                return level
        return levels[-1]

    def _candidate(self, position: int) -> tuple[int, int, bytes] | None:
        """Return start, end and text of the next line that begins with "--", boundary or not."""
        while (start := self._next_dashes(position)) is not None:
            if line := _LINE.match(self._source, start):
                return start, line.end(), line[1].rstrip(b" \t")
            position = start + 2
        return None

    def _next_dashes(self, position: int) -> int | None:
        if position == 0 and self._source.startswith(b"--"):
            return 0
        size = len(self._source)
        nearest = size
        for mark, (looked, found) in self._marks.items():
            if not looked <= position <= found + 1:
                # A single byte is found many times faster than three, and base64 holds no dash.
                dash = self._source.find(b"-", position)
                found = self._source.find(mark, max(dash - 1, 0)) if dash >= 0 else -1
                found = size if found < 0 else found
                self._marks[mark] = (position, found)
            nearest = min(nearest, found + 1)
        return nearest if nearest < size else None
