"""The text bodies of one message: which of them are documents, and which pictures they show.

A text body is a document of the kind BODY. Of alternatives (RFC 2046 section 5.1.4) the first that says anything is
taken, and a later one if it says something else: "your program shows no HTML" is no order, and one number that stands
in the page alone may be the order. The same goes for the text that Outlook keeps beside the mail's own in a TNEF file,
and for the two forms of it in a .msg file.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import cached_property

from .parts import Part, PartKind, Reason
from .policy import find_references, is_referenced
from .text import HTML_LIMIT, as_utf8, decode_html, html_text, plain_text

_COMPARED = 2 << 20  # larger texts are not compared with each other
_PHOTO = 50_000
_NO_TEXT = 60  # characters: "sent from my telephone"
_WORD = re.compile(r"\w+")
_DIGIT = re.compile(r"\d")


class Room:
    """How many bytes of pages may still be made text of, in one mail."""

    def __init__(self) -> None:
        self._left = 4 * HTML_LIMIT

    def take(self, size: int) -> bool:
        """Take so many bytes, and tell whether they were left."""
        self._left -= size
        return self._left >= 0


class Bodies:
    """What the text bodies of a message say and show, as far as they were read.

    hint          a charset that the mail declares somewhere
    alternatives  prefixes of the paths below which each multipart/alternative lies
    pages         the HTML bodies: how to get the bytes of each, and its charset
    words         all words of the bodies taken so far
    room          shared by all messages of the mail
    """

    def __init__(
        self, room: Room, hint: str = "", alternatives: Collection[str] = (), said: Iterable[str] = frozenset()
    ) -> None:
        self.room = room
        self.hint = hint
        self.pages: list[tuple[Callable[[], bytes], str]] = []
        self.words: set[str] = set()
        self._alternatives = frozenset(alternatives)
        self._said_before = frozenset(said)
        self._said: dict[str, dict[str, set[str]]] = {}

    def add(self, part: Part, charset: str) -> Part:
        """Return a text body as a document, or passed over if an alternative to it says the same."""
        text: str | None = ""
        if "html" in part.declared_type:
            page, is_whole = decode_html(part.data, charset, self.hint)
            text = html_text(page) if is_whole and self.room.take(len(page)) else None
            data = as_utf8(part.data, charset, self.hint) if text is None else text.encode("utf-8", "replace")
        else:
            data = plain_text(part.data, charset, self.hint)
        if data.isspace() or (len(data) < 100 and data.decode("utf-8", "replace").isspace()):
            return replace(part, taken=False, reason=Reason.EMPTY)
        words = set(_WORD.findall(data.decode("utf-8", "replace").casefold())) if len(data) <= _COMPARED else None
        if words is not None and self._is_said(part.path, words):
            return replace(part, taken=False, reason=Reason.ALTERNATIVE_TEXT)
        self._say(part.path, words or set())
        return replace(
            part,
            data=data,
            charset="utf-8",
            content_type=part.declared_type if text is None else "text/plain",
            taken=True,
            reason=Reason.TEXT_BODY,
            kind=PartKind.BODY,
            defects=(*part.defects, "no text out of the html") if text is None else part.defects,
        )

    def show(self, part: Part, names: Iterable[str]) -> bool:
        """Tell whether an image that has one of these names is an ornament of an HTML body.

        A large one on pages without text is the message: a photo of an order, sent from a telephone.
        """
        is_all = part.size >= _PHOTO and self._text_size < _NO_TEXT
        return is_referenced(names, self._references) and not is_all

    @property
    def _decoded(self) -> Iterator[str]:
        return (decode_html(read(), charset, self.hint)[0] for read, charset in self.pages)

    @cached_property
    def _references(self) -> frozenset[str]:
        return find_references(self._decoded)

    @cached_property
    def _text_size(self) -> int:
        pages = (html_text(page) if self.room.take(len(page)) else page for page in self._decoded)
        return sum(len("".join((text or "x" * _NO_TEXT).split())) for text in pages)

    def _alternative_of(self, path: str) -> tuple[str, str] | None:
        """Return the prefix of the innermost multipart/alternative that a part stands in, and which one it is there."""
        while path and self._alternatives:
            path, _, child = path.rpartition(".")
            prefix = f"{path}." if path else ""
            if prefix in self._alternatives:
                return prefix, child
        return None

    def _is_said(self, path: str, words: set[str]) -> bool:
        """Tell whether one alternative to a part holds its words and numbers, but for a few words."""
        if (place := self._alternative_of(path)) is None:
            return False
        others = [said for child, said in self._said.get(place[0], {}).items() if child != place[1]]
        for said in (*others, self._said_before):
            new = words - said
            if said and len(new) <= len(words) // 10 and not any(_DIGIT.search(word) for word in new):
                return True
        return False

    def _say(self, path: str, words: set[str]) -> None:
        self.words |= words
        if place := self._alternative_of(path):
            self._said.setdefault(place[0], {}).setdefault(place[1], set()).update(words)
