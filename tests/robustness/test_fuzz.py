"""The fuzzer tells each violation, return the same mails for the same seed, and finds nothing in a short campaign."""

import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from orderflow_ingest.parsing.documents import Part, Reason
from orderflow_ingest.parsing.documents.walk import UNPACKED_LIMIT
from tests.support import fuzz
from tests.support.mutations import mutate, seeds

ROOT = Path(__file__).parents[2]
PDF = "application/pdf"
GOOD = Part("1", "a.pdf", "a.pdf", PDF, None, PDF, "", b"abc", True, Reason.NAMED)


def raising(_):
    raise ValueError("x")


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([replace(GOOD, claimed_filename="a\0")], "text cannot be stored"),
        ([replace(GOOD, defects=("\ud800",))], "text cannot be stored"),
        ([replace(GOOD, reason=Reason.UNREADABLE)], "unknown reason unreadable"),
        ([replace(GOOD, defects=("decoding failed: KeyError",))], "caught inside, decoding failed"),
        ([replace(GOOD, filename="../a")], "file name is not safe"),
        ([replace(GOOD, filename="a" * 201)], "file name is not safe"),
        ([replace(GOOD, filename="a:b")], "file name is not the same when made safe again"),
        ([GOOD, GOOD], "a path comes twice"),
        ([replace(GOOD, data=b"a" * (UNPACKED_LIMIT + 60))], "too much is taken"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_hold_is_told(parts, kind):
    assert [text.partition(":")[0] for text in fuzz.violations(b"a mail", lambda _: parts)] == [kind]


def test_what_holds_is_not_told():
    assert fuzz.violations(b"a mail", lambda _: [GOOD, replace(GOOD, path="2", filename=None)]) == []


def test_what_is_raised_is_told():
    assert fuzz.violations(b"a mail", raising) == ["ValueError in ?: x"]


def test_a_seed_gives_the_same_mails_each_time():
    one, other = Random(7), Random(7)
    assert [mutate(one, seeds()) for _ in range(50)] == [mutate(other, seeds()) for _ in range(50)]


def test_a_short_campaign_finds_nothing(tmp_path, request):
    executions = "15000" if request.config.getoption("whole") else "5000"
    command = [
        sys.executable,
        "-m",
        "tests.support.fuzz",
        "--engine",
        "own",
        "--executions",
        executions,
        "--findings",
        tmp_path,
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith(f"{executions} executions by own")


def test_the_smallest_mail_of_each_kind_of_finding_is_saved(tmp_path):
    campaign = fuzz.Campaign(Namespace(findings=tmp_path, executions=1, seconds=0))
    for raw in (b"second", b"first", b"longer than these"):
        campaign.keep(raw, ["a kind of finding: 1", "another: 2"])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "a-kind-of-finding.eml": b"first",
        "another.eml": b"first",
    }


def test_one_mail_can_be_read_again(tmp_path):
    (tmp_path / "mail.eml").write_bytes(seeds()[0])
    command = [sys.executable, "-m", "tests.support.fuzz", "--reproduce", tmp_path / "mail.eml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout[:13]) == (0, "nothing found")
