"""Logs of real processes: what is on standard error, what a hanging log daemon costs, and records of many writers."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


HEAD = "import sys\nfrom pathlib import Path\nfrom orderflow_ingest.observability import logs\n"


HEAD = "import sys\nfrom pathlib import Path\nfrom orderflow_ingest.observability import logs\n"


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", HEAD + script]
        + [str(argument) for argument in arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_worker_logs_to_standard_error():
    done = run("logs.configure('auto', 'worker', Path('/nowhere')); logs.event('a', 'Done.')")
    assert json.loads(done.stderr)["message"] == "Done." and done.stdout == ""


@pytest.mark.parametrize("log", ["auto", "stderr", "syslog", "/dev/full", "/proc/no/such/log", "/proc/version"])
def test_no_log_that_cannot_be_written_shows_on_what_pipe_reads(place, log):
    """A record before the D.S.N. line would hide it from pipe(8), and would stand in the sender's bounce."""
    (place / "file").write_text("")
    done = run(
        "logs.SYSLOG = sys.argv[2] + '/none'\n"
        "logs.configure(sys.argv[1], 'deliver', Path(sys.argv[2]), on_standard_error=False)\n"
        "logs.event('deliver', 'Delivery ended.', reason='x' * 9000); print(logs.is_configured())",
        log, place / "file",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_log_that_cannot_be_opened_falls_back_to_standard_error_where_that_is_read():
    done = run("logs.configure('/proc/no/such/log', 'worker', Path('/nowhere')); logs.event('a', 'Done.')")
    assert json.loads(done.stderr)["message"] == "Done."


FLOOD = "logs.configure('auto', 'service', Path('/nowhere')); [logs.event('a', 'Done.', n=n) for n in range(2000)]"


def test_a_journal_that_hangs_holds_up_nobody():
    """systemd's standard error is a stream socket; it takes some hundred records that nobody reads."""
    head = "import sys\nfrom pathlib import Path\nfrom orderflow_ingest.observability import logs\n"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run([sys.executable, "-c", head + FLOOD], cwd=ROOT, stderr=theirs, timeout=60, check=True)
        theirs.shutdown(socket.SHUT_WR)
        lines = ours.makefile().read().splitlines()
    assert 10 < len(lines) < 2000 and all(json.loads(line)["n"] == n for n, line in enumerate(lines[:-1]))


def test_a_syslog_that_hangs_holds_up_nobody(place, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(place / "log"))
        ended = run(
            "logs.SYSLOG = sys.argv[1]; logs.configure('syslog', 'deliver', None, on_standard_error=False)\n"
            "[logs.event('a', 'Done.') for _ in range(int(sys.argv[2]) + 500)]",
            place / "log",
            Path("/proc/sys/net/unix/max_dgram_qlen").read_text(),
        )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_records_of_processes_that_log_at_once_stay_whole(place):
    script = (
        "logs.configure(sys.argv[1], 'deliver', Path('/nowhere'), on_standard_error=False)\n"
        "for n in range(300): logs.event('a', 'Done.', filler=sys.argv[2] * n * 40)"
    )
    head = "import sys\nfrom pathlib import Path\nfrom orderflow_ingest.observability import logs\n"
    writers = [
        subprocess.Popen([sys.executable, "-c", head + script, str(place / "log"), letter], cwd=ROOT)
        for letter in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = records(place / "log")
    assert len(found) == 900 and all(len(set(record.get("filler", ""))) <= 1 for record in found)
