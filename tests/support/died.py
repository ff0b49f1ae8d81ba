"""A pytest plugin: a server that died is reported once, and in one line by each further test that needs it.

It holds for the lab's servers that fixtures share, those of a module or of the whole run. The first report has the end
of the server's log. The tests that need the server fail before they begin. A fixture that several tests share and that
failed is reported once in the same way.
"""

from collections.abc import Generator
from typing import Any

import pytest

from .lab.process import Process, Server

_SERVERS = pytest.StashKey[dict[str, list[Server]]]()
_TOLD = pytest.StashKey[list[tuple[object, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no server and nothing told."""
    config.stash[_SERVERS], config.stash[_TOLD] = {}, []


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Note the servers that a fixture shares."""
    value = yield
    if fixturedef.scope != "function":
        values = value if isinstance(value, tuple) else (value,)
        request.config.stash[_SERVERS][fixturedef.argname] = [one for one in values if isinstance(one, Server)]
    return value


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Forget the servers of a fixture that is torn down."""
    request.config.stash[_SERVERS].pop(fixturedef.argname, None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose server is dead."""
    if died := _died(item):
        pytest.fail(_tell(item, *died), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put a line in the place of a traceback that says only that a server died, or what was reported before."""
    report = yield
    if not report.failed or call.excinfo is None or call.excinfo.errisinstance(pytest.fail.Exception):
        return report
    if died := _died(item):
        report.longrepr, report.sections = _tell(item, *died), []
    elif call.when == "setup":
        told = item.config.stash[_TOLD]
        where = next((where for error, where in told if error is call.excinfo.value), None)
        if where:
            report.longrepr, report.sections = f"{call.excinfo.typename} of {where} again", []
        told.append((call.excinfo.value, item.nodeid))
    return report


def _died(item: pytest.Item) -> tuple[str, Process] | None:
    shared = item.config.stash[_SERVERS]
    names = [name for name in getattr(item, "fixturenames", ()) if name in shared]
    return next(((name, process) for name in names for server in shared[name] for process in server.died()), None)


def _tell(item: pytest.Item, name: str, process: Process) -> str:
    told = item.config.stash[_TOLD]
    if where := next((where for known, where in told if known is process), None):
        return f"{name}: {process.end()}, see {where}"
    told.append((process, item.nodeid))
    return f"{name}: {process.end()}; the end of {process.log}:\n{process.tail()}"
