"""The corpus of other parsers' own test mails, where it is at hand: nothing that they find is lost here.

It is looked for in ORDERFLOW_MIME_CORPUS, else beside this checkout in shared/mime-corpus, and its own judge is asked.
The rules that its mails taught stand in the other tests as small mails of our own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orderflow_ingest.attachments import PartKind, Reason, read_parts

ROOT = Path(__file__).parents[1]
CORPUS = Path(os.environ.get("ORDERFLOW_MIME_CORPUS", ROOT.parent / "shared" / "mime-corpus"))
pytestmark = pytest.mark.skipif(not (CORPUS / "judge.py").exists(), reason="the corpus is not here")

# A mail's must-items that are passed over, and why that is right.
ARGUED = {
    Reason.SIGNATURE: "a signature proves who sent an order and holds none; each would be a document more",
    Reason.CALENDAR: "an invitation is no order; the peers hand out whatever has a file name",
    Reason.OPENED: "what a container holds is given out in its place",
}


def taken(raw: bytes) -> Iterator[tuple[str | None, str, bytes]]:
    """Give the attachments of a mail in the form that the judge asks for."""
    for part in read_parts(raw):
        if part.taken and part.kind is PartKind.ATTACHMENT:
            yield part.claimed_filename, part.declared_type, part.data


@pytest.fixture(scope="module")
def verdict(tmp_path_factory) -> dict:
    answer = tmp_path_factory.mktemp("judged") / "verdict.json"
    judge = [sys.executable, CORPUS / "judge.py", "tests.test_corpus:taken", "--json", answer]
    subprocess.run(judge, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return json.loads(answer.read_text())


@pytest.fixture(scope="module")
def mails() -> dict[str, bytes]:
    cases = (json.loads(line) for line in (CORPUS / "cases.jsonl").read_text().splitlines())
    return {case["id"]: (CORPUS / case["path"]).read_bytes() for case in cases}


def test_no_mail_crashes_the_reader_or_takes_its_time(verdict):
    assert verdict["crashes"] == []


def test_every_attachment_is_found_under_its_name_but_for_those_argued(verdict, mails):
    must = [case for case in verdict["out"] if case["kind"] != "no-must"]
    assert len(must) == 182
    unmet = [case for case in must if case["verdict"] != "met"]
    for case in unmet:
        assert case["verdict"] == "missing" and not case.get("wrong_name") and not case.get("wrong_content"), case
        reasons = {part.claimed_filename: part.reason for part in read_parts(mails[case["id"]])}
        for filename, _, _ in case["missing"]:
            assert reasons[filename] in ARGUED, case
    assert len(unmet) <= 28


def test_every_part_of_every_mail_is_told_once_with_a_reason(mails):
    for id, raw in mails.items():
        parts = list(read_parts(raw))
        assert len({part.path for part in parts}) == len(parts) > 0, id
        assert not any("failed" in defect for part in parts for defect in part.defects), id
