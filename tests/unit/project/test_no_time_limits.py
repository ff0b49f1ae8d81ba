"""No test asserts a time that a busy machine exceeds: the tests' own source is searched for such assertions."""

import ast
from pathlib import Path

import pytest

CLOCKS = {"monotonic", "perf_counter", "time", "process_time", "thread_time", "default_timer"}
CPU = {"process_time", "thread_time"}
ALL = sorted(path for path in Path(__file__).parents[2].rglob("*.py") if path.name != "cost.py")
WAIT = 30  # the least number of seconds to wait for an event that has to come


def read_clocks(node: ast.AST, known: dict[str, set[str]]) -> set[str]:
    """Return the clocks that an expression is made of: calls of one, and names of what was made of one before."""
    if isinstance(node, ast.Compare | ast.JoinedStr):
        return set()
    if isinstance(node, ast.Name):
        return known.get(node.id, set())
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("time", "timeit"):
        return {node.attr} & CLOCKS
    return set().union(*(read_clocks(part, known) for part in ast.iter_child_nodes(node)))


def is_bound(operator: ast.cmpop, left: set[str], right: set[str]) -> bool:
    """Return whether a comparison fails where a clock has gone on for too long. A machine is never too fast."""
    if isinstance(operator, ast.Gt | ast.GtE):
        left, right = right, left
    return bool((left - CPU) or (right - CPU and left) or (left and not right))


def remember(scope: ast.AST) -> dict[str, set[str]]:
    """Return the names of a scope, and the functions in it, that stand for what a clock has shown."""
    known: dict[str, set[str]] = {}
    for _ in range(3):  # what is made of what is made of a clock
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign):
                pairs = [(target, node.value) for target in node.targets]
                for target, value in pairs:
                    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                        pairs += zip(target.elts, value.elts, strict=True)
                    elif isinstance(target, ast.Name) and (found := read_clocks(value, known)):
                        known[target.id] = known.get(target.id, set()) | found
            elif isinstance(node, ast.FunctionDef):
                returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value]
                if found := set().union(*(read_clocks(value, known) for value in returned)):
                    known[node.name] = found
    return known


def find(source: str) -> list[int]:
    """Return the lines that bound a wall-clock time or, by a number, CPU time, or that wait too short for an event."""
    rows, lines = source.splitlines(), []
    shared: dict[str, set[str]] = {}
    for top in ast.parse(source).body:
        text = "\n".join(rows[top.lineno - 1 : top.end_lineno])
        if not any(word in text for word in ("time.", "timeit.", "wait_until(", *(f"{name}(" for name in shared))):
            continue
        known = shared | remember(top)
        if isinstance(top, ast.FunctionDef) and top.name in known:
            shared[top.name] = known[top.name]
        for claim in (node for node in ast.walk(top) if isinstance(node, ast.Assert)):
            for node in ast.walk(claim.test):
                if isinstance(node, ast.Compare):
                    sides = [read_clocks(side, known) for side in (node.left, *node.comparators)]
                    lines += [claim.lineno for pair in zip(node.ops, sides, sides[1:], strict=False) if is_bound(*pair)]
            waits = [part for part in ast.walk(claim.test) if isinstance(part, ast.Call)]
            waits = [part for part in waits if isinstance(part.func, ast.Name) and part.func.id == "wait_until"]
            negated = isinstance(claim.test, ast.UnaryOp) and isinstance(claim.test.op, ast.Not)
            for part in waits if not negated else []:
                limits = [part.args[1]] if len(part.args) > 1 else [word.value for word in part.keywords]
                if any(isinstance(limit, ast.Constant) and limit.value < WAIT for limit in limits[:1]):
                    lines.append(claim.lineno)
    return sorted(set(lines))


def test_no_test_asserts_a_time_that_a_busy_machine_exceeds() -> None:
    assert [f"{path.name}:{line}" for path in ALL for line in find(path.read_text())] == []


@pytest.mark.parametrize(
    "body",
    [
        "began = time.monotonic(); x(); assert time.monotonic() - began < 5",
        "a, began = 1, time.perf_counter(); x(); assert 1.5 < time.perf_counter() - began < 6",
        "end = time.time() + 20; assert time.time() < end",
        "began = time.process_time(); x(); took = time.process_time() - began; assert took < 2 and took",
        "assert sum(cost(n) for n in y) < 2",
        "assert wait_until(x, 5)",
        "assert wait_until(x, timeout=5), x",
    ],
)
def test_a_time_that_is_asserted_is_found(body: str) -> None:
    cost = "def cost(x):\n    a = time.process_time()\n    return time.process_time() - a\n"
    assert len(find(f"{cost}def test():\n    {body}\n")) == 1


@pytest.mark.parametrize(
    "body",
    [
        "assert min(cost(2 * n) for n in y) < 4 * cost(n)",
        "age = time.time() - 60; x(age); assert y < 5",
        "assert wait_until(x, 60)",
        "assert not wait_until(x, 0.5)",
        "assert row.seconds < 5",
    ],
)
def test_a_ratio_and_an_event_are_left_alone(body: str) -> None:
    cost = "def cost(x):\n    a = time.process_time()\n    return time.process_time() - a\n"
    assert find(f"{cost}def test():\n    {body}\n") == []
