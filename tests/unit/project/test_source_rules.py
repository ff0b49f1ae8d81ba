"""What every module of the package keeps to, beside the import contracts that lint-imports holds."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "orderflow_ingest"


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module of the package. Read here, so that collecting the tests reads nothing."""
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def ends_the_process(node):
    """Return whether a piece of syntax is sys.exit, or raises SystemExit."""
    if isinstance(node, ast.Raise) and node.exc:
        return ast.unparse(node.exc).startswith("SystemExit")
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.exit"


def test_each_module_begins_with_what_it_is_responsible_for():
    assert [name for name, tree in modules().items() if tree.body and not ast.get_docstring(tree)] == []


def test_only_entrypoints_and_tasks_end_the_process():
    inner = {name: tree for name, tree in modules().items() if not name.startswith(("entrypoints/", "tasks.py"))}
    assert [name for name, tree in inner.items() if any(map(ends_the_process, ast.walk(tree)))] == []


def test_imports_from_another_room_are_absolute():
    """A relative import names something of its own room, so its dots do not reach the package's root."""
    for name, tree in modules().items():
        dots = [node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert max(dots, default=0) <= name.count("/") or name == "__init__.py", name


def test_the_code_map_lists_the_rooms_in_the_order_of_the_import_contract():
    root = PACKAGE.parent
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "rooms")
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", (root / "docs/development/code-map.md").read_text(), re.MULTILINE)
    assert rows[: len(layers)] == layers


def test_each_step_that_the_code_map_names_is_a_function():
    line = re.search(
        r"```\n(entrypoints/pipe .+?)```", (PACKAGE.parent / "docs/development/code-map.md").read_text(), re.S
    )
    names = {name.rpartition(".")[2] for name in re.findall(r"[\w.]+", line[1].replace("entrypoints/", ""))}
    functions = {
        node.name for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    assert names - functions <= {"pipe", "service", "or", "tasks", "your", "handler"}
