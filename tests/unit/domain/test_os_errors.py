"""Why the system refused is said by errno's name, by one function: in every log record, outcome and error."""

import ast
import builtins
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "orderflow_ingest"
# What an operator can do something about, see docs/reference/errno.md.
EXPLAINED = (
    *("EROFS", "ENOSPC", "EDQUOT", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EIO", "ESTALE"),
    *("ENOENT", "ECONNREFUSED", "ETIMEDOUT"),
)
KIN = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, OSError)}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "os_errors.py")


def caught(handler: ast.ExceptHandler) -> set[str]:
    """Return the names of the classes that a handler catches."""
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else set()


def told_otherwise(path: Path) -> Iterator[str]:
    """Find what says an error of the system by its class, its text or its number."""
    tree = ast.parse(path.read_text())
    for handler in ast.walk(tree):
        if not (isinstance(handler, ast.ExceptHandler) and handler.name and caught(handler) & KIN):
            continue
        for node in (node for statement in handler.body for node in ast.walk(statement)):
            text = ast.unparse(node)
            is_written = isinstance(node, ast.FormattedValue) or (
                isinstance(node, ast.Call) and text.startswith(("str(", "repr("))
            )
            if is_written and text in (f"{{{handler.name}}}", f"str({handler.name})", f"repr({handler.name})"):
                yield f"{path.name}:{node.lineno} {text}"
            if text == f"type({handler.name}).__name__":
                yield f"{path.name}:{node.lineno} {text}"
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if text.endswith((".strerror", "errno.errorcode")):
            yield f"{path.name}:{node.lineno} {text}"
        if isinstance(node, ast.keyword) and node.arg == "reason" and ".__name__" in ast.unparse(node.value):
            yield f"{path.name}:{node.value.lineno} {ast.unparse(node)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_says_an_error_of_the_system_in_a_way_of_its_own(path):
    assert list(told_otherwise(path)) == []


def test_the_test_finds_each_way_to_say_it_otherwise(place):
    (place / "odd.py").write_text(
        "try:\n    f()\nexcept (ValueError, PermissionError) as why:\n"
        "    event(reason=type(why).__name__)\n    say(f'{why}', str(why), why.strerror)\n"
    )
    assert len(list(told_otherwise(place / "odd.py"))) == 5


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_docs_say_what_to_do_for_each_common_errno(name):
    assert hasattr(errno, name)
    rows = re.findall(
        rf"^\| [^|]*`{name}`[^|]*\| [^|]{{20,}} \|$", (ROOT / "docs/reference/errno.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 1
