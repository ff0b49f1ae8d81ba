"""What a run says of tests that failed beside others, and of servers that died; seen from outside the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Without what tells pytest that it runs in CI: its summary is another one there.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CI", "BUILD_"))}
ENVIRONMENT["PYTHONPATH"] = str(ROOT)
STUMBLES = "    if not os.path.exists('{0}'): open('{0}', 'w'); {1}\n"
ONCE = "def test_{0}():\n" + STUMBLES.replace("{1}", "assert 0")
CRASH = "def test_{0}():\n" + STUMBLES.replace("{1}", "os._exit(3)")
SET_UP = "@pytest.fixture\ndef {0}():\n" + STUMBLES.replace("{1}", "assert 0") + "def test_{0}({0}): pass\n"
FAILS, PASSES = "def test_{0}(): assert 0\n", "def test_{0}(): pass\n"
ERROR = "@pytest.fixture\ndef {0}(): yield; assert 0\ndef test_{0}({0}): pass\n"


def run(place: Path, tests: dict[str, str], *options: str) -> tuple[int, str, list[str]]:
    """Run these tests by another process; return the exit status, the output and what it says of single tests."""
    (place / "pytest.ini").write_text("[pytest]\naddopts = -q -p no:cacheprovider\n")
    text = "".join(test.replace("{0}", name) for name, test in tests.items())
    (place / "test_x.py").write_text(f"import os, pytest\n{text}")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.support.alone", "-n1", *options], cwd=place, text=True,
        env=ENVIRONMENT, capture_output=True,
    )  # fmt: skip
    said = [line for line in ended.stdout.splitlines() if line.startswith(("unstable: ", "failed again: "))]
    return ended.returncode, ended.stdout, [line.replace("test_x.py::test_", "") for line in said]


@pytest.mark.parametrize(
    ("tests", "status", "said"),
    [
        ({"a": ONCE, "b": PASSES, "c": CRASH, "d": SET_UP}, 0, ["unstable: a", "unstable: c", "unstable: d"]),
        ({"a": ONCE, "b": FAILS, "c": ERROR, "d": PASSES}, 1, ["unstable: a", "failed again: b", "failed again: c"]),
        (dict.fromkeys("abcd", ONCE), 1, ["unstable: a", "unstable: b", "unstable: c", "unstable: d"]),
        (dict.fromkeys("abcdefghijk", FAILS), 1, []),
    ],
    ids=["three unstable", "some fail again", "four unstable", "too many"],
)
def test_what_failed_runs_again_alone(tmp_path: Path, tests: dict[str, str], status: int, said: list[str]) -> None:
    returned, output, found = run(tmp_path, tests)
    assert (returned, sorted(found)) == (status, sorted(said)), output


@pytest.mark.parametrize(
    ("tests", "options", "status"),
    [
        ({"a": ONCE, "b": PASSES}, ("-x",), 2),
        ({"a": ONCE, "b": PASSES}, ("-x", "-n0"), 1),
        ({"a": ONCE, "b": PASSES}, ("-k", "test_b"), 0),
        ({"a": ONCE}, ("-k", "nothing"), 5),
        ({"a": ONCE}, ("--no-such-option",), 4),
        ({"a": ONCE, "b": "nonsense\n"}, (), 1),
    ],
    ids=["first failure", "first failure, one process", "selection", "no test", "wrong option", "collection"],
)
def test_a_run_that_did_not_reach_its_end_keeps_its_exit_status(
    tmp_path: Path, tests: dict[str, str], options: tuple[str, ...], status: int
) -> None:
    returned, output, found = run(tmp_path, tests, *options)
    assert (returned, found) == (status, []), output


SERVERS = """
import os, pytest
from pathlib import Path
from tests.support.lab.process import LabError, Process, wait_until

@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log = tmp_path_factory.mktemp("x") / "server.log"
    with Process(["sh", "-c", f"[ -s {log} ] || echo out of memory; exec sleep 60"], log) as process:
        wait_until(process.tail, 60)
        yield process

@pytest.fixture(scope="module")
def broken():
    raise LabError("no room\\nto begin")

@pytest.fixture
def user(server):
    return server.pid

def test_a(user): pass
def test_b(server):
    server.kill()
    assert 0, "its own fault"
def test_c(server):
    server.start()
    os.kill(server.pid, 9)
    assert not wait_until(lambda: not server.running, 60)
def test_d(user): pass
def test_e(server): pass
def test_f(): pass
def test_g(broken): pass
def test_h(broken): pass
"""


def test_a_server_that_died_is_told_once_and_then_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(SERVERS)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.support.died"], cwd=tmp_path,
        text=True, env=ENVIRONMENT, capture_output=True,
    )  # fmt: skip
    place, said = "test_x.py::test", ended.stdout
    assert "2 failed, 2 passed, 4 errors" in said
    assert "AssertionError: its own fault" in said
    assert "\nserver: sh ended with status -9; the end of " in said and said.count("out of memory") == 1
    assert said.count(f"\nserver: sh ended with status -9, see {place}_c\n") == 2
    assert "LabError: no room" in said and f"\nLabError of {place}_g again\n" in said
