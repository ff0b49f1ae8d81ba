"""The texts of the tree are plain English: phrases that only we would understand occur nowhere."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.language import measure

ROOT = Path(__file__).parents[3]
PHRASES = (
    r"\b(?:is|are|was|were|be|been|being) told\b",
    r"\banew\b",
    r"\bgives? back what\b",
    r"\bwhat is there\b",
    r"\bthat which\b",
    r"\bset aside\b",
    r"\bgone on with\b",
    r"\bwho connects meanwhile\b",
    r"\brings? (?:for|the)\b",
)
FOLDERS = ("orderflow_ingest", "docs", "postfix", "systemd", "script", "tests", "benchmarks", "migrations")
# Steps of the schema stay as they ran; results are what a program wrote.
FROZEN = (ROOT / "migrations/versions", ROOT / "benchmarks/results")
SUFFIXES = {".py", ".md", ".sql", ".cf", ".service", ".socket", ".timer", ".yml", ".json", ".html", ".example", ""}


def files() -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.suffix in (".md", ".py", ".toml") and path.name != "CHANGELOG.md"]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in SUFFIXES]
    return [one for one in found if one != Path(__file__) and not any(one.is_relative_to(place) for place in FROZEN)]


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_text_has_a_phrase_of_our_own(phrase):
    found = []
    for path in files():
        if "__pycache__" not in path.parts:
            text = re.sub(r"\s*\n[ #]*", " ", path.read_text(errors="replace"))
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in re.finditer(phrase, text, re.IGNORECASE)]
    assert found == []


def test_the_texts_are_found():
    assert len(files()) > 500


def docstrings() -> str:
    found = []
    for path in sorted((ROOT / "orderflow_ingest").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (ast.get_docstring(node) or "").splitlines()
                found.append("\n".join(line for line in lines if not line.startswith("    ")))
    return "\n\n".join(found)


def test_docstrings_are_short_sentences_and_begin_with_return():
    text = docstrings()
    found = measure(text)
    assert found.mean_sentence <= 17 and found.semicolons_per_1000_words < 3
    assert re.findall(r"^(?:Give|Tell|Say)s? .*", text, re.MULTILINE) == []
