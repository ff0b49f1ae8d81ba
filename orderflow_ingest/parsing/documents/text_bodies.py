"""The text bodies of one message: which of them are documents, and which pictures they show.

A text body is a document of the kind BODY. Of alternatives (RFC 2046 section 5.1.4) the first that says anything is
taken, and a later one if it says something else (see `comparison`): "your program shows no HTML" is no order, and one
number that stands in the page alone may be the order. The same goes for the text that Outlook keeps beside the mail's
own in a TNEF file, and for the two forms of it in a .msg file.

A text is compared with the first MOST_ALTERNATIVES of the others, and in one mail at most COMPARED_IN_A_MAIL characters
are compared. What is not compared is taken.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice

from . import markup
from .comparison import CombinedText, Wording
from .html_to_text import PageText, as_utf8, decode_html, html_text, plain_text
from .part import Part, PartKind, Reason
from .pictures import is_large
from .policy import find_references, is_referenced

HIDDEN_TEXT = "hidden text"
FRAME = "a frame in the page is not read"  # <iframe srcdoc>, which hardly any mail program shows
MOST_ALTERNATIVES = 8
COMPARED_IN_A_MAIL = 16 << 20
_COMPARED = 2 << 20  # larger texts are not compared with each other
# Signs that no program shows and that spell ASCII (U+E0020 to U+E007E); in flags they stand behind U+1F3F4.
_TAG_SIGNS = re.compile(rb"(?<!\xf0\x9f\x8f\xb4)(?<!\xf3\xa0[\x80\x81].)\xf3\xa0[\x80\x81][\x80-\xbe]", re.DOTALL)
_NO_TEXT = 60  # characters: "sent from my telephone"


class BodyBudget(markup.ByteBudget):
    """What may still be spent on the bodies of one mail: on its pages, and on comparing texts."""

    def __init__(self) -> None:
        super().__init__()
        self._compared = COMPARED_IN_A_MAIL

    def take_comparison(self, size: int) -> bool:
        """Spend so many characters to compare. Return False if fewer were left."""
        self._compared -= size
        return self._compared >= 0


class Bodies:
    """What the text bodies of a message say and show, as far as they were read.

    hint          a charset that the mail declares somewhere
    alternatives  prefixes of the paths below which each multipart/alternative lies
    pages         the HTML bodies: how to get the bytes of each, and its charset
    text          the texts of the bodies taken so far
    budget        shared by all messages of the mail
    """

    def __init__(
        self,
        budget: BodyBudget,
        hint: str = "",
        alternatives: Collection[str] = (),
        outer_text: CombinedText | None = None,
    ) -> None:
        self.budget = budget
        self.hint = hint
        self.pages: list[tuple[Callable[[], bytes], str]] = []
        self.text = CombinedText()
        self._alternatives = frozenset(alternatives)
        self._outer_text = outer_text
        self._alternative_texts: dict[str, dict[str, CombinedText]] = {}

    def add(self, part: Part, charset: str) -> Part:
        """Return a text body as a document, or skipped if an alternative to it says the same."""
        text: str | None = ""
        defects = part.defects
        if "html" in part.declared_type:
            page, is_whole = decode_html(part.data, charset, self.hint)
            text, may_be_hidden, has_frame = PageText(None)
            if is_whole and self.budget.take(len(page)):
                text, may_be_hidden, has_frame = html_text(page, self.budget)
            data = as_utf8(part.data, charset, self.hint) if text is None else text.encode("utf-8", "replace")
            if text is None:
                defects = (*defects, "no text out of the html")
            if may_be_hidden:
                defects = (*defects, HIDDEN_TEXT)
            if has_frame:
                defects = (*defects, FRAME)
        else:
            data = plain_text(part.data, charset, self.hint)
        if HIDDEN_TEXT not in defects and b"\xf3\xa0" in data and _TAG_SIGNS.search(data):
            defects = (*defects, HIDDEN_TEXT)
        if data.isspace() or (len(data) < 100 and data.decode("utf-8", "replace").isspace()):
            return replace(part, is_document=False, reason=Reason.EMPTY)
        said = data.decode("utf-8", "replace") if len(data) <= _COMPARED else ""
        if said and self._repeats_alternative(part.path, said):
            return replace(part, is_document=False, reason=Reason.ALTERNATIVE_TEXT)
        self._add_text(part.path, said)
        return replace(
            part,
            data=data,
            charset="utf-8",
            content_type=part.declared_type if text is None else "text/plain",
            is_document=True,
            reason=Reason.TEXT_BODY,
            kind=PartKind.BODY,
            defects=defects,
        )

    def show(self, part: Part, names: Iterable[str]) -> bool:
        """Return whether an image that has one of these names is an ornament of an HTML body.

        A large one on pages without text is the message: a photo of an order, sent from a telephone.
        """
        if not is_referenced(names, self._references):
            return False
        return not (is_large(part.data) and self._text_size < _NO_TEXT)

    @property
    def _decoded(self) -> Iterator[str]:
        return (decode_html(read(), charset, self.hint)[0] for read, charset in self.pages)

    @cached_property
    def _references(self) -> frozenset[str]:
        return find_references(self._decoded)

    @cached_property
    def _text_size(self) -> int:
        pages = (html_text(page, self.budget).text if self.budget.take(len(page)) else page for page in self._decoded)
        return sum(len("".join((text or "x" * _NO_TEXT).split())) for text in pages)

    def _alternative_of(self, path: str) -> tuple[str, str] | None:
        """Return the prefix of the innermost multipart/alternative that a part stands in, and which one it is there."""
        while path and self._alternatives:
            path, _, child = path.rpartition(".")
            prefix = f"{path}." if path else ""
            if prefix in self._alternatives:
                return prefix, child
        return None

    def _repeats_alternative(self, path: str, text: str) -> bool:
        """Return whether one alternative to a part says what it says."""
        if (place := self._alternative_of(path)) is None:
            return False
        siblings = islice(self._alternative_texts.get(place[0], {}).items(), MOST_ALTERNATIVES)
        others = [said for child, said in siblings if child != place[1]]
        if self._outer_text is not None:
            others.append(self._outer_text)
        wording = Wording(text)
        return any(
            said.size
            and self.budget.take_comparison(said.size + wording.size)
            and wording.is_contained_in(said.wording())
            for said in others
        )

    def _add_text(self, path: str, text: str) -> None:
        self.text.add(text)
        if place := self._alternative_of(path):
            self._alternative_texts.setdefault(place[0], {}).setdefault(place[1], CombinedText()).add(text)
