"""Whether one text says what another says already: words and numbers in their order, compared in linear time.

A text is said by another if each of its lines stands there word by word, in the order of the lines. So a mail program's
plain text says what its page says, however it wraps lines and whatever it adds between them: link addresses, footnote
marks, quotation marks, greetings. One number more, two quantities swapped or "cancel" for "deliver" is another text. A
number is compared with its sign and all that parts its digits: "-5" is not "5", "1,500" not "1.500". A word broken at
the end of a line, or columns read in another order, is another text too: then both are kept.

Nothing here compares word by word with a table or by longest common parts: `difflib` takes the square of the length.
"""

import re
from collections.abc import Iterable
from functools import cached_property

# Han and kana are compared sign by sign: their lines are wrapped anywhere.
_SIGN_BY_SIGN = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_LETTERS = rf"[^\W_{_SIGN_BY_SIGN}]"
# A number holds what parts its digits, and the sign before it. Ticks say which of two lines counts.
_WORD = re.compile(
    rf"(?:(?<![^\s(])[+\u2212-](?=\d))?{_LETTERS}+(?:(?<=\d)[.,:/-](?=\d){_LETTERS}+)*"
    rf"|[{_SIGN_BY_SIGN}€$£¥%‰\u2610-\u2612\u2713-\u2718\U0001f44d\U0001f44e]"
)
# The same for text in windows-1252, where bytes are translated, which takes a tenth of the time: what is no word
# becomes a blank, and signs are parted by hand. Marks are parted before that, but for those of a number: of two marks
# side by side none is.
_SIGNS = b"\x80$\xa3\xa5%\x89"
_MARKS = b".,:/-+"
_OUTSIDE_NUMBERS = re.compile(
    rb"[.,:/+-](?:[.,:/+-]++|(?!\d)|(?<!\d[.,:/-])(?:(?<=[.,:/])|(?<=[^ \t-\r\x1c-\x1f\xa0(].)))"
)
# What these become in lower case is more than one byte, or none of windows-1252.
_SHARP_S, _MICRO = "\xdf".encode("cp1252"), "\xb5".encode("cp1252")


def _fold(number: int) -> int:
    """Return what stands for a byte of windows-1252: its lower case, or a blank where it is in no word."""
    sign = bytes((number,)).decode("cp1252", "replace")
    if number in _MARKS or bytes((number,)) in (_SHARP_S, _MICRO) or not _WORD.match(sign):
        return number if number in _MARKS else 32
    return sign.casefold().encode("cp1252")[0]


_TO_WORDS = bytes(map(_fold, range(256)))
_TO_WORDS_AND_LINES = _TO_WORDS[:10] + b"\n" + _TO_WORDS[11:]
_WORD_OR_LINE = re.compile(_WORD.pattern + r"|\n")
_LINK_STARTS = ("http", "ftp:", "mailto:", "tel:", "cid:")
_LINK = re.compile(r"<?\b(?:https?|ftp|mailto|tel|cid):[^\s<>\"]{1,2000}>?")
_MARK = re.compile(r"\[(?:\d{1,3}|(?:image|cid)\b[^\[\]\n]{0,200})\]")


class Wording:
    """A text in the form in which texts are compared: words and numbers, each between blanks."""

    def __init__(self, text: str) -> None:
        self._given = text
        self.size = len(text)

    @cached_property
    def _text(self) -> str:
        return self._given.casefold()

    @cached_property
    def words(self) -> str:
        """All words and numbers."""
        return _words(self._given)

    @cached_property
    def words_between_links(self) -> str:
        """The same without link addresses, footnote marks and the names of pictures."""
        text = _MARK.sub(" ", self._text) if "[" in self._text else self._text
        return _words(_LINK.sub(" ", text)) if self._may_link else _words(text)

    @cached_property
    def links(self) -> frozenset[str]:
        """The link addresses."""
        found = _LINK.findall(self._text) if self._may_link else ()
        return frozenset(link.strip("<>").rstrip(".,;:!?)") for link in found)

    @cached_property
    def lines(self) -> list[str]:
        """The words of each line that has any, parted where an address stood."""
        text = _LINK.sub("\n", self._text) if self._may_link else self._text
        if (coded := _encode(text)) is not None:
            found = (line.split() for line in _part_words(coded, _TO_WORDS_AND_LINES).split(b"\n"))
            return [f" {b' '.join(line).decode('cp1252')} " for line in found if line]
        lines = " ".join(_WORD_OR_LINE.findall(text)).split("\n")
        return [f" {line.strip()} " for line in lines if line.strip()]

    @cached_property
    def _may_link(self) -> bool:
        return any(start in self._text for start in _LINK_STARTS)

    @cached_property
    def signs(self) -> str:
        """Everything but blanks."""
        return "".join(self._text.split())

    def is_contained_in(self, other: "Wording") -> bool:
        """Return whether another text holds all of this one."""
        if self.words == " ":
            return self.signs in other.signs
        if self.words in other.words:
            return True
        if not self.links <= other.links:
            return False
        return _in_order(self.lines, other.words) or _in_order(self.lines, other.words_between_links)


class CombinedText:
    """The texts of several bodies that are read as one."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._wording: Wording | None = None
        self.size = 0

    def add(self, text: str) -> None:
        """Add the text of a body."""
        self._texts.append(text)
        self._wording = None
        self.size += len(text)

    def wording(self) -> Wording:
        """Return all of it."""
        if self._wording is None:
            self._texts = ["\n".join(self._texts)]
            self._wording = Wording(self._texts[0])
        return self._wording


def _encode(text: str) -> bytes | None:
    """Return a text in windows-1252, None if it has other signs."""
    try:
        coded = text.encode("cp1252")
    except UnicodeEncodeError:
        return None
    if _MICRO in coded:
        return None
    return coded.replace(_SHARP_S, b"ss") if _SHARP_S in coded else coded


def _part_words(coded: bytes, table: bytes) -> bytes:
    """Return the words of a text in windows-1252 in lower case, with other signs as blanks."""
    words = _OUTSIDE_NUMBERS.sub(b" ", coded).translate(table)
    for sign in _SIGNS:
        if sign in words:
            words = words.replace(bytes((sign,)), b" %c " % sign)
    return words


def _words(text: str) -> str:
    """Return the words and numbers of a text, casefolded or not."""
    if (coded := _encode(text)) is not None:
        found = b" ".join(_part_words(coded, _TO_WORDS).split()).decode("cp1252")
    else:
        found = " ".join(_WORD.findall(text.casefold()))
    return f" {found} " if found else " "


def _in_order(lines: Iterable[str], words: str) -> bool:
    place = 0
    for line in lines:
        if (found := words.find(line, place)) < 0:
            return False
        place = found + len(line) - 1  # the blank between two lines is shared
    return True
