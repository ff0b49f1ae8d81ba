"""One JSON record per step, never on the output that a bounced sender reads, and never a message lost for a log."""

import contextlib
import errno
import json
import logging
import os
import socket
import ssl
import sys
from datetime import datetime
from pathlib import Path

import pytest

from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.observability import logs

logger = logging.getLogger("orderflow_ingest")


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_record_tells_time_program_step_and_what_it_is_about(place):
    logs.configure(str(place / "log"), "worker", place)
    logs.event("record", "Message recorded.", logging.WARNING, org="acme", queue_id="4XYZ", size=17, ratio=0.5)
    (record,) = records(place / "log")
    assert datetime.fromisoformat(record.pop("timestamp")).tzinfo is not None
    assert record == {
        "level": "WARNING", "message": "Message recorded.", "program": "worker", "pid": os.getpid(),
        "action": "record", "org": "acme", "queue_id": "4XYZ", "size": 17, "ratio": 0.5,
    }  # fmt: skip


def test_fields_that_are_not_known_are_left_out(place):
    logs.configure(str(place / "log"), "worker", place)
    logs.event("extract", "Nothing to do.", org=None, queue_id="", size=0)
    (record,) = records(place / "log")
    assert record["size"] == 0 and not {"org", "queue_id"} & record.keys()


@pytest.mark.parametrize("value", ["two\nlines\r\n", "nul\0", "\udcff", "büro", '{"a": 1}', "\x1b[31m", " "])
def test_a_value_cannot_end_its_record(place, value):
    logs.configure(str(place / "log"), "worker", place)
    logs.event("deliver", "Delivery ended.", extension=value)
    assert (place / "log").read_bytes().isascii() and (place / "log").read_bytes().count(b"\n") == 1
    assert records(place / "log")[0]["extension"] == value


def test_other_types_are_told_as_text(place):
    logs.configure(str(place / "log"), "worker", place)
    logs.event("deliver", "Delivery ended.", path=Path("/x"), flag=True, error=ValueError("v"))
    record = records(place / "log")[0]
    assert (record["path"], record["flag"], record["error"]) == ("/x", True, "v")


def test_without_syslog_other_programs_log_below_the_state_directory(place, monkeypatch, capfd):
    monkeypatch.setattr(logs, "SYSLOG", str(place / "no-syslog"))
    logs.configure("auto", "deliver", place / "state", on_standard_error=False)
    logs.event("a", "Done.")
    file = place / "state" / "log" / "deliver.log"
    assert records(file)[0]["program"] == "deliver" and capfd.readouterr() == ("", "")
    assert file.parent.stat().st_mode & 0o7777 == 0o750


def test_with_syslog_a_record_is_one_datagram_of_the_mail_facility(place, monkeypatch, capfd):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(place / "log"))
        syslog.settimeout(10)
        monkeypatch.setattr(logs, "SYSLOG", str(place / "log"))
        logs.configure("auto", "deliver", place / "state", on_standard_error=False)
        logs.event("a", "Done.", logging.ERROR)
        head, _, record = syslog.recv(65536).rstrip(b"\0").partition(b"orderflow: ")
    mail, error = 2 << 3, 3
    assert head == b"<%d>" % (mail | error) and json.loads(record)["message"] == "Done."
    assert capfd.readouterr() == ("", "") and not (place / "state").exists()


def test_a_syslog_that_goes_away_loses_records_and_takes_them_again(place, monkeypatch, capfd):
    monkeypatch.setattr(logs, "SYSLOG", str(place / "log"))
    logs.configure("syslog", "deliver", place, on_standard_error=False)
    logs.event("a", "Lost.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(place / "log"))
        syslog.settimeout(10)
        logs.event("a", "Kept.")
        assert b"Kept." in syslog.recv(65536)
    assert capfd.readouterr() == ("", "")


def test_a_journal_that_takes_records_again_gets_whole_ones_and_how_many_were_lost(monkeypatch):
    monkeypatch.setattr(logs, "_PAUSE", 0)
    monkeypatch.setattr(logs, "_PATIENCE", 0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(sys, "stderr", theirs)
        logs.configure("stderr", "service", None)
        for n in range(300):
            logs.event("a", "Done.", n=n, filler="x" * 3000)
        ours.setblocking(False)
        taken = b""
        with contextlib.suppress(BlockingIOError):
            while block := ours.recv(1 << 16):
                taken += block
        logs.event("b", "Done again.")
        *_, lost, last = (taken + ours.recv(1 << 16)).splitlines()
        whole = [line for line in taken.splitlines() if line.endswith(b"}")]
    assert json.loads(last)["message"] == "Done again." and json.loads(lost)["count"] == 300 - len(whole)


def test_a_rotated_file_is_opened_anew(place):
    logs.configure(str(place / "log"), "worker", place)
    logs.event("a", "First.")
    (place / "log").rename(place / "log.1")
    logs.event("a", "Second.")
    assert [r["message"] for r in records(place / "log.1") + records(place / "log")] == ["First.", "Second."]


def test_records_do_not_reach_the_root_logger(place, caplog):
    logs.configure(str(place / "log"), "worker", place)
    logs.event("a", "Done.")
    assert not caplog.records


def test_configuring_again_replaces_the_destination(place):
    for name in ("one", "two"):
        logs.configure(str(place / name), "worker", place)
    logs.event("a", "Done.")
    assert len(records(place / "two")) == 1 and records(place / "one") == [] and logs.is_configured()


def test_an_error_is_told_by_class_and_our_line_and_never_by_its_text(place):
    try:
        logs.configure(None, "worker", place)
    except AttributeError as error:
        told = logs.error_location(error)
    assert told.startswith("AttributeError at logs.py:") and told.rpartition(":")[2].isdigit()
    assert logs.error_location(ValueError("order 17, 9 EUR")) == "ValueError"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "whatever", "/secret/path"), "EROFS (Read-only file system)"),
        (PermissionError(errno.EACCES, "Permission denied"), "EACCES (Permission denied)"),
        (TimeoutError("timed out"), "TimeoutError"),
        (OSError("order 17, 9 EUR"), "OSError"),
        (ssl.SSLError(ssl.SSL_ERROR_SSL, "order 17"), "SSLError"),
        (socket.gaierror(socket.EAI_NONAME, "order 17"), "gaierror"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_of_the_system_is_logged_as_its_errno_by_name(place, error, said):
    """OpenSSL and the resolver number their errors differently: 1 is no EPERM there."""
    logs.configure(str(place / "log"), "worker", place)
    logs.event("spool", "Message was not spooled.", reason=error)
    assert records(place / "log")[0]["reason"] == os_reason(error) == said
    assert (
        said in logs.error_location(error)
        and "secret" not in logs.error_location(error)
        and "order" not in logs.error_location(error)
    )
