"""docs/reference/check.md lists every mistake that check finds, and no other one."""

import ast
import re
from pathlib import Path

import pytest

from orderflow_ingest.entrypoints.admin.postfix.parameters import RELATIONS
from orderflow_ingest.storage.archive import s3_errors
from orderflow_ingest.storage.resilience import error_hints

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reference/check.md").read_text()
PACKAGE = ROOT / "orderflow_ingest"
CHECKS = sorted((PACKAGE / "entrypoints" / "admin" / "checks").glob("*.py"))
LEVELS = {"TROUBLE", "WARNING"}


def fragments(node: ast.expr) -> list[str]:
    """Return the fixed words of a text, those that stand between what is filled in."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values if isinstance(part, ast.Constant)]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "line":
        return [text for argument in (node.args[0], node.args[2]) for text in fragments(argument)]
    return []


def said(path: Path) -> list[tuple[str, list[str]]]:
    """Return the findings that a module can yield: level and fixed words."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            levels = {one.value for one in ast.walk(node.elts[0]) if isinstance(one, ast.Constant)} & LEVELS
            words = fragments(node.elts[1])
            if levels and words:
                found.append(("/".join(sorted(levels)), words))
    return found


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("`", "").replace("\\|", "|"))


SAID = [(path.stem, *one) for path in CHECKS for one in said(path)]
SAID += [("postfix_relations", relation.level, [relation.why]) for relation in RELATIONS]


@pytest.mark.parametrize(("module", "level", "words"), SAID, ids=lambda value: str(value)[:60])
def test_every_finding_stands_in_the_page(module, level, words):
    longest = max((word.strip() for word in words), key=len)
    assert plain(longest) in plain(PAGE), longest


@pytest.mark.parametrize(
    "text",
    [
        *s3_errors._CODES.values(),
        *s3_errors._FAILURES.values(),
        *(s3_errors.CHECKSUM, s3_errors.VIRTUAL, s3_errors.PAGE_REFUSED),
        *error_hints._CODES.values(),
        *(ours for _, ours in (*error_hints._TEXTS, *error_hints._REDIS_TEXTS)),
    ],
    ids=lambda text: text[:40],
)
def test_every_meaning_of_an_error_stands_in_the_page(text):
    longest = max(re.split(r"\{\w+\}", text), key=len)
    assert plain(longest.strip()) in plain(PAGE), longest


def test_every_row_of_the_page_is_something_that_the_code_says():
    code = [word.strip() for _, _, words in SAID for word in words]
    code += [*s3_errors._CODES.values(), *s3_errors._FAILURES.values(), *error_hints._CODES.values()]
    code += [ours for _, ours in (*error_hints._TEXTS, *error_hints._REDIS_TEXTS)]
    sources = plain(" ".join(path.read_text() for path in (*CHECKS, Path(s3_errors.__file__))))
    known = plain(" ".join(code)) + re.sub(r'" f?"', "", sources)
    rows = re.findall(r"^\| (?:trouble|warning|both) \| `(.+?)` \|", PAGE, re.MULTILINE)
    assert len(rows) > 80
    for row in rows:
        name, why = row.removeprefix("set ").partition(" = ")[0], row.rpartition(" (")[2].rstrip(")")
        told = (name if why == "…" else why) if row.startswith("set ") else row
        pieces = [piece.strip() for piece in told.split("…")]
        longest = max(pieces, key=len)
        assert longest.replace("\\|", "|") in known, row
