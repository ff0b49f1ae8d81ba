"""The benchmarks: what they find wrong is no figure, and one small run gives every figure. No test of a time."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.booted import __main__ as booted
from benchmarks.booted import evidence
from benchmarks.booted.sender import KNOWN, UNKNOWN, mail
from benchmarks.extraction import __main__ as extraction
from benchmarks.extraction import parsers
from benchmarks.extraction.orders import MAILS
from benchmarks.harness import report
from benchmarks.harness.measure import Course, percentile
from benchmarks.harness.sender import Load, Mail, Report, Sent, message_id
from benchmarks.harness.stage import Row, complaints
from benchmarks.throughput import memory
from orderflow_ingest.domain.identity import read_message

EXPECTED = ["<a@b>", "<c@d>"]
ROWS = [Row("<a@b>", "org/1/raw/a.eml", 1000), Row("<c@d>", "org/2/raw/c.eml", 1100)]
OBJECTS = {"org/1/raw/a.eml": 1000, "org/2/raw/c.eml": 1100}
LOG = "A1: to=<orders+acme@x>, status=sent (250)\n"


def told(rows=ROWS, objects=OBJECTS, tasks=2, spooled=0, log=LOG, may_wait=False):
    return complaints(EXPECTED, rows, objects, least_size=990, tasks=tasks, spooled=spooled, log=log, may_wait=may_wait)


def test_nothing_is_told_of_a_load_that_is_there_once_and_whole():
    assert told() == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rows": ROWS[:1]}, "1 messages have no row"),
        ({"rows": [*ROWS, ROWS[0]]}, "1 messages have more than one row"),
        ({"rows": [*ROWS, Row("<e@f>", "org/1/raw/a.eml", 1000)]}, "1 rows are of no message that was sent"),
        ({"objects": {"org/1/raw/a.eml": 1000}}, "1 raw mails are not in the archive"),
        ({"objects": OBJECTS | {"org/1/raw/a.eml": 999}}, "1 raw mails are not as long as their row says"),
        ({"rows": [Row("<a@b>", "k", 10), ROWS[1]], "objects": OBJECTS | {"k": 10}}, "1 raw mails are shorter"),
        ({"tasks": 1}, "1 tasks wait more or less than messages"),
        ({"spooled": 1}, "1 files are left in the spool"),
        ({"log": LOG + "A2: status=deferred (again)\n"}, "1 lines of Postfix's log say status=deferred"),
        ({"log": LOG + "A2: status=bounced (no)\n", "may_wait": True}, "1 lines of Postfix's log say status=bounced"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_lost_doubled_cut_or_put_off_is_told(wrong, says):
    assert [text[: len(says)] for text in told(**wrong)] == [says]


def test_a_load_that_may_wait_may_be_put_off():
    assert told(log=LOG + "A2: status=deferred (again)\n", may_wait=True) == []


def test_a_refused_and_a_lost_message_are_told():
    sent = [Sent(0, 1.0, 1.1, "250 ok"), Sent(1, 1.0, 1.1, "250 ok"), Sent(2, 1.0, text="451 4.3.0 later")]
    course = Course(Load(25, "run", 5000, 3, 1), Report(0.5, 0.0, sent), {0: 1.5}, "", 0.0)
    assert course.refusals() == [
        "1 messages were refused, the first with: 451 4.3.0 later",
        "1 messages were accepted and not delivered",
    ]
    assert (course.rate, course.delays) == (1.0, [0.5])


def test_percentiles_are_values_that_were_measured():
    assert [percentile(range(1, 101), percent) for percent in (50, 95, 99)] == [50, 95, 99]
    assert percentile([7.0], 99) == 7.0


def test_messages_are_distinct_and_of_the_size_asked_for():
    for size in (5_000, 50_000, 1_000_000):
        mail = Mail("run", size)
        first, second = (read_message(mail.raw(number)) for number in (1, 2))
        assert 0.95 * size < first.size <= size
        assert first.source_message_id == message_id("run", 1)
        assert first.fingerprint != second.fingerprint


def test_memory_over_its_limit_is_told():
    figures = {"stack": "s", "way": "pipe", "service limit bytes": 100, "service idle bytes": 50}
    assert memory.complaints([figures | {"service peak bytes": 150}]) == []
    assert len(memory.complaints([figures | {"service peak bytes": 151, "client peak bytes": 16_000_001}])) == 2


def test_one_run_gives_every_figure(place):
    command = [sys.executable, "-m", "benchmarks.throughput", "--throughput", "--imports", "--stacks", "embedded"]
    options = ["--ways", "pipe", "--sizes", "5000", "--messages", "6", "--json", place / "found.json"]
    ended = subprocess.run([*command, *options], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((place / "found.json").read_text())
    (case,) = found["cases"]
    assert (case["stack"], case["way"], case["size"], case["messages"]) == ("embedded", "pipe", 5000, 6)
    numbers = [case["rate"], case["ratio"], len(case["ceilings"]) - 1, *case["delay ms"].values()]
    costs = [case[f"{who} CPU ms"] for who in ("client", "machine", "worker", "sender")]
    assert all(number > 0 for number in [*numbers, *costs, found["imports"]["ms"]])
    assert case["service peak bytes"] >= case["service idle bytes"] > case["client peak bytes"] > 2**20
    report.write(found, place)
    page = (place / "throughput.md").read_text()
    assert found["machine"]["commit"] in page and re.search(r"\| embedded +\| pipe +\| 5 KB ", page)
    assert "pipe" in "".join(ElementTree.parse(place / "throughput.svg").getroot().itertext())


def test_a_reader_slower_or_hungrier_than_it_has_to_be_is_told():
    case = {"mail": "m", "mails": 1, "bytes": 1_000_000, "reader": "email", "read_parts is": 3.0}
    ours = case | {"reader": "read_parts", "read_parts is": 1.0, "memory": 3.0}
    assert extraction.complaints([case, ours]) == []
    assert len(extraction.complaints([case | {"read_parts is": 2.9}, ours | {"memory": 3.1}])) == 2
    assert (
        extraction.complaints([case | {"bytes": 5000, "read_parts is": 1.0}, ours | {"bytes": 5000, "memory": 9}]) == []
    )
    assert len(extraction.complaints([case | {"bytes": 5000, "read_parts is": 0.9}])) == 1


@pytest.mark.parametrize("name", ["small", "pdf 50 KB", "1000 parts"])
def test_every_reader_gets_the_same_contents_of_a_mail(name):
    raw = MAILS[name]()
    contents = {reader: sorted(data for _, data in parsers.PARSERS[reader]()(raw)) for reader in parsers.installed()}
    ours = [data for data in contents.pop("read_parts") if data]
    assert contents["email"] == ours
    assert all(len(found) == len(ours) for found in contents.values())


def test_one_run_gives_every_figure_of_the_readers(place):
    (place / "mails").mkdir()
    (place / "mails" / "broken.eml").write_bytes(b"\xff\0no mail")
    command = [sys.executable, "-m", "benchmarks.extraction", "--mails", "small", "--corpus", place / "mails"]
    options = ["--turns", "1", "--seconds", "0.01", "--json", place / "found.json"]
    ended = subprocess.run([*command, *options], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == 0 or "times as fast as email" in ended.stderr, ended.stdout + ended.stderr
    found = json.loads((place / "found.json").read_text())
    assert [case["reader"] for case in found["cases"]] == 2 * list(parsers.installed())
    assert all(case["MB per s"] > 0 and case["mails per s"] > 0 for case in found["cases"])
    extraction.write(found, place)
    assert re.search(r"\| small +\| 0\.00\d +\| read_parts ", (place / "extraction.md").read_text())


def answer(number, began, ended, said):
    return {"number": number, "began": began, "ended": ended, "answer": said}


def test_the_longest_run_of_refusals_ends_with_the_next_mail_that_is_accepted():
    told = [answer(0, 0, 1, "250"), answer(1, 2, 3, "451"), answer(2, 3, 5, "451"), answer(3, 5, 7, "250")]
    assert evidence.Answers(told).longest_run() == 5
    assert evidence.Answers(told[:3]).longest_run() == 3
    assert evidence.Answers(told[:1]).longest_run() == 0
    assert evidence.Answers(told).accepted == {0, 3}


def test_a_known_recipient_that_is_refused_and_an_unknown_one_that_is_accepted_are_told():
    said = [{"recipient": KNOWN, "answer": code} for code in ("250", "451", "550")]
    said += [{"recipient": UNKNOWN, "answer": code} for code in ("250", "451", "550", "ConnectionRefusedError")]
    assert evidence.wrong_answers(said) == [
        "1 times a known organization was answered 550",
        "1 times an unknown organization was answered 250",
    ]


class Recorded:
    """A machine that has recorded one mail: its rows, its documents and its archive."""

    def __init__(self, root, number=1):
        self.root = root
        identity, raw, table = mail("t", number)
        digests = {"raw": hashlib.sha256(b"Received: x\n" + raw).hexdigest(), "document": table}
        self.rows = [[identity, "PARSED", "raw", digests["raw"], "id"]]
        self.documents = [["id", "document", table, "DONE"]]
        archive = root / evidence.ARCHIVE
        archive.mkdir(parents=True)
        (archive / "raw").write_bytes(b"Received: x\n" + raw)
        attached = raw.rpartition(b"base64\r\n\r\n")[2].partition(b"--b--")[0]
        (archive / "document").write_bytes(base64.b64decode(attached))

    def sql(self, statement, port):
        return self.documents if "FROM document" in statement else self.rows


def test_a_mail_that_is_recorded_once_and_whole_is_no_complaint(tmp_path):
    assert evidence.complaints(Recorded(tmp_path), "t", {1}, {1, 2}, 5432) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda machine: machine.rows.clear(), "1 accepted and not recorded"),
        (lambda machine: machine.rows.append(machine.rows[0]), "1 recorded twice"),
        (lambda machine: (machine.root / evidence.ARCHIVE / "raw").write_bytes(b""), "1 raw mail missing or altered"),
        (lambda machine: machine.documents.clear(), "1 without its one document"),
        (lambda machine: (machine.root / evidence.ARCHIVE / "document").unlink(), "1 document missing or altered"),
    ],
)
def test_a_mail_that_is_lost_doubled_or_damaged_is_told(tmp_path, damage, says):
    machine = Recorded(tmp_path)
    damage(machine)
    assert evidence.complaints(machine, "t", {1}, {1}, 5432) == [says]


def test_a_scenario_is_a_line_of_the_table_and_a_line_for_each_thing_that_is_wrong():
    seconds = {"p50": 0.1, "p99": 1.0, "slowest": 2.0, "longest run without 250": 0.0, "away": 0.0, "quiet after": None}
    counts = {"sent": 2, "answers": {"250": 2}, "RCPT": {"known": {"250": 1}, "unknown": {}}, "put off by Postfix": 0}
    text = booted.row({"scenario": "units", "way": "lmtp", **seconds, **counts, "wrong": ["1 lost"]})
    assert re.fullmatch(r"units +lmtp +2 +250:2 .* never\n    WRONG: 1 lost", text)
