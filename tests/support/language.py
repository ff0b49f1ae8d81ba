"""Figures of a text in Markdown: the length of its sentences, its semicolons, and the length of its tables' cells."""

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_WORD = re.compile(r"[^\s*_#>|]*[A-Za-z0-9][^\s|]*")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|:(?=\s*$)|\n(?=\s*(?:[-*]|\d+\.)\s)|\n\n+", re.MULTILINE)


@dataclass(frozen=True)
class Language:
    """Figures of a text. `words` are those of sentences, `all_words` those of tables too."""

    words: int
    all_words: int
    sentences: int
    semicolons: int
    longest_cell: int

    @property
    def mean_sentence(self) -> float:
        """Return the mean number of words in a sentence."""
        return self.words / max(self.sentences, 1)

    @property
    def semicolons_per_1000_words(self) -> float:
        """Return how many semicolons stand among a thousand words."""
        return 1000 * self.semicolons / max(self.all_words, 1)


def measure(markdown: str) -> Language:
    """Return the figures of a page. Code counts as one word, headings and blocks of code do not count."""
    text = _COMMENT.sub("", _FENCE.sub("\n", markdown))
    text = _LINK.sub(r"\1", _CODE.sub("code", text))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = [line for line in lines if line.lstrip().startswith("|")]
    cells = [_words(cell) for row in rows for cell in row.strip().strip("|").split("|")]
    prose = "\n".join(line for line in lines if not line.lstrip().startswith("|"))
    counts = [count for piece in _SENTENCE_END.split(prose) if (count := _words(piece))]
    semicolons = "\n".join(lines).count(";")
    words = sum(counts)
    return Language(words, words + sum(cells), len(counts), semicolons, max(cells, default=0))


def _words(text: str) -> int:
    return len(_WORD.findall(text))
