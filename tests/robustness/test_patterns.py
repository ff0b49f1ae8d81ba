"""Every regular expression of the package takes linear time, on runs made from the expression itself to be hard for it.

A quadratic pattern in one C call holds the GIL, and no time limit ends it. So each pattern runs on adversarial texts
of n and of 2n characters, with the methods that its module calls on it. Linear is: twice the text takes twice the
time, and no character costs much more than one of a plain scan.
"""

import ast
import gc
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import orderflow_ingest

ROOT = Path(orderflow_ingest.__file__).parent
# Functions of re, and at which of their arguments the flags stand.
FLAGS_AT = {
    "compile": 1, "search": 2, "match": 2, "fullmatch": 2, "findall": 2, "finditer": 2, "split": 3, "sub": 4, "subn": 4,
}  # fmt: skip
# Patterns that only exist when a function runs, and why that is safe.
MADE_AT_RUN_TIME = {
    "config.py": "an operator's setting, by the pattern of its key",
    "entrypoints/service/arguments.py": "compiled at import for two words, and found as a constant",
    "storage/resilience/error_hints.py": "the patterns are constants of the module, the text an error of a database",
    "entrypoints/admin/checks/recipients.py": "the text is a map file of Postfix on this host",
    "entrypoints/admin/checks/postconf.py": "the text is what postconf prints on this host",
}
FIRST, LAST = 1 << 6, 1 << 16  # characters
SURE = 0.002  # seconds of CPU: less cannot be compared
SLOWEST = 0.1  # seconds of CPU for one call: longer texts tell no more
MOST_GROWTH = 3.0  # for twice the text: linear is 2, quadratic 4
MOST_PER_CHARACTER = 500  # times what a plain scan takes for a character
REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)
CANDIDATES = "a0 \t\n\r=;:,.-_/<>()[]{}\"'@?%&#!~\\+*^$|`\x00\x7f\xe9B"
RUNS = ' \n\r=;(<-.a0"'
ENDS = ("", "\x00", "x")


@dataclass(frozen=True)
class Used:
    """One pattern of the package and the methods that are called on it."""

    where: str
    pattern: re.Pattern[Any]
    methods: tuple[str, ...]

    def __str__(self) -> str:
        return self.where


def collect(files: list[Path]) -> tuple[list[Used], list[str]]:
    """Return the patterns of these modules, and the places where a function makes one of what it is given."""
    found: list[Used] = []
    unknown: list[str] = []
    for file in files:
        tree = ast.parse(file.read_text())
        calls = [node for node in ast.walk(tree) if _is_call(node)]
        if not calls:
            continue
        module = import_module(".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"))
        place = str(file.relative_to(ROOT))
        constants = {name: value for name, value in vars(module).items() if isinstance(value, re.Pattern)}
        found += [Used(f"{place} {name}", pattern, _methods(tree, name)) for name, pattern in constants.items()]
        for call in calls:
            try:
                pattern = re.compile(*(_value(node, module) for node in _pattern_and_flags(call)))
            except NameError:
                unknown.append(f"{place}:{call.lineno}")
                continue
            if pattern not in constants.values():
                methods = _methods(tree, _table_of(tree, call)) if call.func.attr == "compile" else (call.func.attr,)
                found.append(Used(f"{place}:{call.lineno}", pattern, methods))
    return found, unknown


def _is_call(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
        and node.func.attr in FLAGS_AT
    )


def _pattern_and_flags(call: Any) -> list[ast.expr]:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "flags"]
    at = FLAGS_AT[call.func.attr]
    return [call.args[0], *named, *call.args[at : at + 1]]


def _value(node: ast.expr, module: Any) -> Any:
    return eval(compile(ast.Expression(node), "", "eval"), dict(vars(module)))


def _table_of(tree: ast.Module, call: ast.AST) -> str:
    """Return the name of the constant in whose value a call stands; "" if it stands in none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and call in ast.walk(node.value):
            return node.targets[0].id
    return ""


def _methods(tree: ast.AST, name: str) -> tuple[str, ...]:
    """Return the methods that a module calls on a constant; of one on which it calls none, those of all patterns."""
    calls = [
        (owner.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in FLAGS_AT
        for owner in ast.walk(node.value)
        if isinstance(owner, ast.Name)
    ]
    own = {method for owner, method in calls if owner == name}
    others = {method for owner, method in calls if owner != "re" and not owner.isupper()}
    return tuple(sorted(own or others or {"search"}))


def attacks(pattern: re.Pattern[Any]) -> Iterator[tuple[str, Callable[[int], str]]]:
    """Yield texts of a given length that are hard for a pattern, with a description of each."""
    tree = sre_parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)
    seen: set[tuple[str, str]] = set()
    pieces: list[tuple[str, str]] = [("", char) for char in RUNS]
    whole = _sample(tree)
    pieces += [("", whole), ("", whole[:-1]), (whole[: len(whole) // 2], "a")]
    for prefix, bodies in _repeats(tree, ""):
        pieces += [(prefix, body) for body in bodies]
        pieces += [("", prefix), ("", prefix + bodies[0])]
    for prefix, body in pieces:
        if not body or (prefix, body) in seen:
            continue
        seen.add((prefix, body))
        for end in ENDS:
            yield (
                f"{prefix!r} + n * {body!r} + {end!r}",
                lambda n, p=prefix, b=body, e=end: p + b * (n // len(b)) + e,
            )
        if prefix:
            yield (
                f"n * {prefix!r} + n * {body!r}",
                lambda n, p=prefix, b=body: p * (n // 2 // len(p)) + b * (n // 2 // len(b)) + "\x00",
            )


def _repeats(tree: Any, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each repeat of a parsed pattern: what leads to it, and samples of one turn."""
    for operator, value in tree:
        if operator in REPEATS:
            _, most, body = value
            if most > 8:
                yield prefix, _samples(body)
            yield from _repeats(body, prefix)
        else:
            for inner in _inner(operator, value):
                yield from _repeats(inner, prefix)
        prefix += _sample([(operator, value)])


def _inner(operator: Any, value: Any) -> list[Any]:
    if operator is sre.SUBPATTERN:
        return [value[3]]
    if operator is sre.BRANCH:
        return list(value[1])
    if operator is sre.ATOMIC_GROUP:
        return [value]
    if operator in (sre.ASSERT, sre.ASSERT_NOT):
        return [value[1]]
    return [inner for inner in value[1:] if inner] if operator is sre.GROUPREF_EXISTS else []


def _sample(tree: Any) -> str:
    """Return a short text that a parsed pattern is likely to match."""
    return _samples(tree)[0]


def _samples(tree: Any) -> list[str]:
    """Return up to a few short texts; they differ in the characters of the first class and in the first branch."""
    found = [""]
    for operator, value in tree:
        choices = _choices(operator, value)[: 4 if len(found) == 1 else 1]
        found = [text + choice for text in found for choice in choices][:8]
    return found


def _choices(operator: Any, value: Any) -> list[str]:
    if operator is sre.LITERAL:
        return [chr(value)]
    if operator is sre.NOT_LITERAL:
        return [char for char in CANDIDATES if ord(char) != value]
    if operator is sre.ANY:
        return ["a", " "]
    if operator is sre.IN:
        return [char for char in CANDIDATES if _is_in(char, value)] or [chr(code) for code in _codes(value)] or ["a"]
    if operator in REPEATS:
        least, most, body = value
        return [text * max(least, 1 if most == 1 else 0) for text in _samples(body)] if least or most == 1 else [""]
    if operator is sre.BRANCH:
        return [text for branch in value[1] for text in _samples(branch)[:2]]
    if operator is sre.SUBPATTERN:
        return _samples(value[3])
    if operator is sre.ATOMIC_GROUP:
        return _samples(value)
    return [""]


def _is_in(char: str, items: Any) -> bool:
    negated = items[0][0] is sre.NEGATE
    return negated != any(_one_in(char, *item) for item in items if item[0] is not sre.NEGATE)


def _one_in(char: str, operator: Any, value: Any) -> bool:
    if operator is sre.LITERAL:
        return ord(char) == value
    if operator is sre.RANGE:
        return bool(value[0] <= ord(char) <= value[1])
    tests = {
        sre.CATEGORY_DIGIT: r"\d", sre.CATEGORY_NOT_DIGIT: r"\D", sre.CATEGORY_SPACE: r"\s",
        sre.CATEGORY_NOT_SPACE: r"\S", sre.CATEGORY_WORD: r"\w", sre.CATEGORY_NOT_WORD: r"\W",
    }  # fmt: skip
    return re.match(tests[value], char) is not None


def _codes(items: Any) -> list[int]:
    return [
        value if operator is sre.LITERAL else value[0]
        for operator, value in items
        if operator in (sre.LITERAL, sre.RANGE)
    ]


def cost(pattern: re.Pattern[Any], method: str, text: str) -> float:
    """Return the CPU time that one call takes."""
    subject: Any = text if isinstance(pattern.pattern, str) else text.encode("latin-1", "replace")
    gc.disable()  # it walks through all that the other tests have left, for half a second
    began = time.thread_time()
    try:
        if method in ("sub", "subn"):
            getattr(pattern, method)(subject[:0], subject)
        elif method == "finditer":
            for _ in pattern.finditer(subject):
                pass
        else:
            getattr(pattern, method)(subject)
        return time.thread_time() - began
    finally:
        gc.enable()


@cache
def plain_scan() -> float:
    """Return what a plain scan takes for one character."""
    return min(cost(re.compile(rb"[^x]+x"), "match", "a" * LAST) for _ in range(9)) / LAST


def grows(pattern: re.Pattern[Any], method: str, text: Callable[[int], str]) -> str | None:
    """Return how a call takes more than linear time; None if it does not."""
    size, before, now = FIRST, 0.0, cost(pattern, method, text(FIRST))
    while size < LAST and now <= SLOWEST and (before < SURE or now / before >= MOST_GROWTH):
        size, before, now = 2 * size, now, cost(pattern, method, text(2 * size))
    if before >= SURE and now / before >= MOST_GROWTH:  # once more: another process may have been in the way
        # In turn, so that a time in which the machine is slow slows both.
        turns = [[cost(pattern, method, text(length)) for length in (size // 2, size)] for _ in range(5)]
        before, now = (min(times) for times in zip(*turns, strict=True))
        if now / before >= MOST_GROWTH:
            return f"{now / before:.1f} times the time for twice the text"
    # One longer run tells a bounded repeat from an unbounded one.
    per_character = now / size / plain_scan()
    return f"{per_character:.0f} plain scans a character" if per_character > MOST_PER_CHARACTER and now > SURE else None


def test_the_test_finds_what_is_quadratic() -> None:
    """Patterns that held a worker, each with the way it was called."""
    quadratic = [
        (re.compile(r"[ \t]+$", re.MULTILINE), "sub"),
        (re.compile(rb"\s*=\s*"), "sub"),
        (re.compile(r"<(style|script)\b.*?(?:</\1\s*>)", re.DOTALL), "sub"),
        (re.compile(rb"\(.*\)"), "search"),
        (re.compile(r"a*b?a*c"), "match"),
    ]
    assert [p.pattern for p, method in quadratic if not any(grows(p, method, make) for _, make in attacks(p))] == []


PATTERNS, UNKNOWN = collect(sorted(ROOT.rglob("*.py")))


def test_a_pattern_that_is_made_at_run_time_is_known() -> None:
    assert {where.split(":")[0] for where in UNKNOWN} <= set(MADE_AT_RUN_TIME)


def test_every_pattern_of_the_package_is_found() -> None:
    assert len(PATTERNS) > 100


@pytest.mark.parametrize("used", PATTERNS, ids=str)
def test_a_pattern_takes_linear_time(used: Used) -> None:
    bad = {
        f"{method}: {about}": growth
        for method in used.methods
        for about, text in attacks(used.pattern)
        if (growth := grows(used.pattern, method, text))
    }
    assert not bad
