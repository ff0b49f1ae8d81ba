"""What all tests share: a marker by folder, a directory per test, and a process that is as it was before each test.

Servers are fixtures of `tests.support.servers`: each is started once, and only where a test asks for it. A unit test
asks for none.
"""

import logging
import signal
from pathlib import Path

import pytest

from tests.support.lab.process import scratch

pytest_plugins = ["tests.support.died", "tests.support.drawn", "tests.support.servers"]
# Who starts the tests in the background may have them ignore Ctrl-C, and all that they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).parent
KINDS = ("unit", "integration", "acceptance", "robustness")
# What takes minutes begins first, so that the last process to end is not alone with it.
LONG = (
    *(
        "faults",
        "patterns",
        "end_to_end",
        "maintenance_kill_points",
        "replay",
        "service",
        "lab",
        "operator",
        "hostile_names",
    ),
    *("kill_points", "ways", "rebuild", "mime_limits", "check_ways", "secrets", "memory", "tenants", "monitoring"),
)


def pytest_configure(config):
    for kind in KINDS:
        config.addinivalue_line("markers", f"{kind}: a test of tests/{kind}")


def pytest_collection_modifyitems(items):
    for item in items:
        kind = item.path.relative_to(ROOT).parts[0]
        if kind in KINDS:
            item.add_marker(kind)
    names = [f"test_{name}.py" for name in LONG]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else len(names))


@pytest.fixture(autouse=True)
def no_alarm_is_left():
    """An alarm that a test leaves behind ends this process, and all tests after it, minutes later."""
    yield
    assert signal.alarm(0) == 0, "the test has left an alarm behind"


@pytest.fixture(autouse=True)
def logger_is_as_before():
    """Return the next test the package's logger as it was: a program that runs in a test sets it up for itself."""
    logger = logging.getLogger("orderflow_ingest")
    handlers, level, propagate, raises = [*logger.handlers], logger.level, logger.propagate, logging.raiseExceptions
    yield
    for handler in logger.handlers:
        if handler not in handlers:
            handler.close()
    logger.handlers[:], logger.propagate, logging.raiseExceptions = handlers, propagate, raises
    logger.setLevel(level)


@pytest.fixture
def place():
    with scratch() as directory:
        yield directory
