"""A pytest plugin: tests that failed beside others run again at the end, alone, one after the other in a new process.

A test that passes then is unstable: its name is printed, and a few of those do not fail the run. The run keeps its
exit status where it did not reach its end (-x, Ctrl-C, an error of collection), where too many tests failed to blame
the load, and where more than UNSTABLE_LIMIT proved unstable. A test whose process crashed counts as one that failed.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

UNSTABLE_LIMIT, AGAIN_LIMIT = 3, 10


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Run what has failed again when all is reported. `session.exitstatus` becomes the program's."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput") or session.exitstatus != pytest.ExitCode.TESTS_FAILED:
        return
    if session.shouldfail or session.shouldstop:
        return
    reports = [report for kind in ("failed", "error") for report in reporter.stats.get(kind, [])]
    if not all(isinstance(report, pytest.TestReport) for report in reports):
        return
    failed = [*dict.fromkeys(report.nodeid for report in reports)]
    if len(failed) > AGAIN_LIMIT:
        reporter.line(f"{len(failed)} tests failed: too many to run each again alone")
        return
    reporter.section(f"again, alone: {len(failed)}")
    options = ["--whole"] if session.config.getoption("whole", False) else []
    still = [name for name in failed if not _passes(session.config.rootpath, name, *options)]
    unstable = [name for name in failed if name not in still]
    for name in unstable:
        reporter.line(f"unstable: {name}")
    for name in still:
        reporter.line(f"failed again: {name}")
    if len(unstable) > UNSTABLE_LIMIT:
        reporter.line(f"{len(unstable)} unstable tests fail the run, {UNSTABLE_LIMIT} do not")
    elif not still:
        session.exitstatus = pytest.ExitCode.OK


def _passes(root: Path, name: str, *options: str) -> bool:
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "pytest", name, *options], cwd=root).returncode == pytest.ExitCode.OK
