"""The manual: its pages, and the command lines that stand in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TEXTS = {page: page.read_text() for page in PAGES}


def command_lines() -> list[str]:
    """Return the command lines of our programs in the pages' blocks of code and in its inline code."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"^ *```(?:sh|bash)?\n(.*?)^ *```$", TEXTS[page], re.MULTILINE | re.DOTALL)
        lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        prose = re.sub(r"^ *```.*?^ *```$", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL)
        lines += re.findall(r"`([^`\n]+)`", prose)
        for line in lines:
            words = re.sub(r"^(?:\$ |runuser -u orderflow -- )+", "", line)
            if re.match(r"orderflow-(?:admin|replay|console|metrics) [a-z-]", words):
                found.append(words)
    return sorted(set(found))
