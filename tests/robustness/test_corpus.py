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

from orderflow_ingest.parsing.documents import PartKind, Reason, read_parts

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("ORDERFLOW_MIME_CORPUS", ROOT.parent / "shared" / "mime-corpus"))
pytestmark = pytest.mark.skipif(not (CORPUS / "judge.py").exists(), reason="the corpus is not here")

# What other parsers hand out and we pass over, item by item, and why that is right.
SIGNATURE = "a signature proves who sent a mail and holds no order; taken, it would be a document with nothing in it"
INVITATION = "an invitation to a meeting is no order; reported as a calendar, and an order under its type is taken"
ARGUED = {
    "imap_tools/messages/mime_emails/raw_email2.eml": SIGNATURE,
    "imap_tools/messages/mime_emails/raw_email7.eml": SIGNATURE,
    "imap_tools/messages/mime_emails/raw_email_with_nested_attachment.eml": SIGNATURE,
    "imap_tools/messages/mime_emails/sig_only_email.eml": SIGNATURE,
    "letters/tests/test_english_multipart_signed_ascii_over_base64.txt": SIGNATURE,
    "letters/tests/test_english_multipart_signed_utf-8_over_7bit.txt": SIGNATURE,
    "letters/tests/test_english_multipart_signed_utf-8_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_chinese_multipart_signed_gb18030_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_chinese_multipart_signed_gbk_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_finnish_multipart_signed_utf-8_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_finnish_multipart_signed_iso-8859-15_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_icelandic_multipart_signed_utf-8_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_icelandic_multipart_signed_iso-8859-1_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_japanese_multipart_signed_utf-8_over_base64.txt": SIGNATURE,
    "letters/tests/test_japanese_multipart_signed_iso-2022-jp_over_7bit.txt": SIGNATURE,
    "letters/tests/test_japanese_multipart_signed_iso-2022-jp_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_japanese_multipart_signed_euc-jp_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_korean_multipart_signed_utf-8_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_korean_multipart_signed_euc-kr_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_polish_multipart_signed_utf-8_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_polish_multipart_signed_iso-8859-2_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_thai_multipart_signed_iso-8859-11_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_thai_multipart_signed_windows-874_over_quoted-printable.txt": SIGNATURE,
    "letters/tests/test_thai_multipart_signed_tis-620_over_quoted-printable.txt": SIGNATURE,
    "ruby-mail/emails/mime_emails/raw_email_with_nested_attachment.eml": SIGNATURE,
    "postal-mime/rec/comprehensive-coverage-test-383.eml": INVITATION,
    "ddeboer/fixtures/pec.eml": SIGNATURE,
}


def taken(raw: bytes) -> Iterator[tuple[str | None, str, bytes]]:
    """Return the attachments of a mail in the form that the judge asks for."""
    for part in read_parts(raw):
        if part.is_document and part.kind is PartKind.ATTACHMENT:
            yield part.claimed_filename, part.declared_type, part.data


@pytest.fixture(scope="module")
def verdict(tmp_path_factory) -> dict:
    answer = tmp_path_factory.mktemp("judged") / "verdict.json"
    judge = [sys.executable, CORPUS / "judge.py", "tests.robustness.test_corpus:taken", "--json", answer]
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
    unmet = {case["id"]: case for case in must if case["verdict"] != "met"}
    assert unmet.keys() == ARGUED.keys()
    for id, case in unmet.items():
        assert case["verdict"] == "missing" and not case.get("wrong_name") and not case.get("wrong_content"), case
        told = {part.claimed_filename: part for part in read_parts(mails[id])}
        for filename, _, _ in case["missing"]:
            reason = Reason.CALENDAR if ARGUED[id] is INVITATION else Reason.SIGNATURE
            assert (told[filename].is_document, told[filename].reason) == (False, reason), case


def test_every_part_of_every_mail_is_told_once_with_a_reason(mails):
    for id, raw in mails.items():
        parts = list(read_parts(raw))
        assert len({part.path for part in parts}) == len(parts) > 0, id
        assert not any("failed" in defect for part in parts for defect in part.defects), id
