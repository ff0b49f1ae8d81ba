"""The folders of the tests: a unit test imports no server, and each folder holds tests of its own kind alone."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[2]
SERVERLESS = {"process", "family"}


def test_no_unit_test_imports_a_server():
    found = {}
    for path in (TESTS / "unit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests.support.lab"):
                names = {(node.module or "").removeprefix("tests.support.lab").lstrip(".")} - {""}
                if wrong := (names or {alias.name for alias in node.names}) - SERVERLESS:
                    found[str(path)] = wrong
    assert not found


def test_every_test_is_in_a_folder_of_its_kind():
    kinds = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")}
    assert kinds == {"unit", "integration", "acceptance", "robustness"}
