"""Some of the cases that hold one claim: the package's source draws them, so that the same source draws the same ones.

A change of the source draws others, and with --whole all cases run. So a claim of many cases is held by each run of the
tests at the cost of a few, and a case that failed fails again.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

PACKAGE = Path(__file__).parents[2] / "orderflow_ingest"
Case = TypeVar("Case")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs all cases."""
    parser.addoption("--whole", action="store_true", help="run every case of each campaign, not those that are drawn")


def drawn(cases: Sequence[Case], count: int, seed: str | None = None) -> list[Case]:
    """Return so many of the cases, in their order; a `seed` takes the place of the source's."""
    if len(cases) <= count:
        return list(cases)
    return [cases[index] for index in sorted(Random(seed or source_seed()).sample(range(len(cases)), count))]


@cache
def source_seed() -> str:
    """Return a seed that is the same for the same source of the package."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> Callable[[Sequence[Case], int], list[Case]]:
    """Return a function as `drawn`, that returns all cases with --whole."""
    return lambda cases, count: drawn(cases, len(cases) if request.config.getoption("whole") else count)
