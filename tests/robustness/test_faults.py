"""The fault campaign: what it finds wrong is named, and a short one of faults that are drawn finds nothing."""

import hashlib
import importlib
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from benchmarks.faults import report
from benchmarks.faults.campaign import Result, mixed
from benchmarks.faults.catalogue import DEPLOYED, FAULTS, SHORT, STEPS
from benchmarks.faults.load import Identity, Load, content_digest, mails, write_mail
from benchmarks.faults.maillog import Maillog
from benchmarks.faults.reconcile import DocumentRow, Evidence, Handed, Held, Object, Row, SetAside, Verdict, reconcile
from orderflow_ingest.parsing.documents import read_parts
from tests.support.lab.process import free_port

ROOT = Path(__file__).parents[2]
MAIL = write_mail("<1@buyer.example>", 1, [b"%PDF-1.4\none\n", b"%PDF-1.4\ntwo\n"], "An order.")
OTHER = write_mail("<1@buyer.example>", 1, [], "Another order.")
ACME = Identity("acme", MAIL.message_id)
ID = UUID(int=1)
ROW = Row(ACME, "org/1/", ID, "PARSED", "raw", "org/1/raw/raw.eml")
DOCUMENTS = tuple(
    DocumentRow(ID, UUID(int=10 + number), f"1.{number}", digest, f"org/1/documents/{digest}", "DONE")
    for number, digest in enumerate(MAIL.documents)
)
HANDED = tuple(Handed(row.id, ID, row.part_path, row.digest, "acme") for row in DOCUMENTS)
OBJECTS = {ROW.raw_key: Object("raw", MAIL.digest)} | {row.object_key: Object(row.digest, "") for row in DOCUMENTS}
WHOLE = Evidence([ROW], DOCUMENTS, (), OBJECTS, (), HANDED)
HELD = Held(ID, "other", "org/1/raw/other.eml")
DEAD = SetAside("entry", ACME, MAIL.digest, has_reason=True)


def found(there: Evidence, accepted: tuple[str, ...] = (MAIL.digest,)) -> list[tuple[str, str]]:
    verdict = reconcile({ACME: set(accepted)}, {ACME: {MAIL.digest: MAIL, OTHER.digest: OTHER}}, there)
    return [(finding.kind, finding.detail) for finding in verdict.findings]


def without(key: str) -> dict[str, Object]:
    return {name: there for name, there in OBJECTS.items() if name != key}


def test_nothing_is_found_where_all_is_there_once():
    assert found(WHOLE) == []


def test_a_held_and_a_set_aside_message_are_as_they_should_be():
    held = replace(WHOLE, held=[HELD], objects=OBJECTS | {HELD.raw_key: Object("other", OTHER.digest)})
    assert found(held, (MAIL.digest, OTHER.digest)) == []
    assert found(Evidence(set_aside=[DEAD])) == []


@pytest.mark.parametrize(
    ("there", "kind", "says"),
    [
        (Evidence(), "lost", "got 250 and is nowhere"),
        (replace(WHOLE, rows=[ROW, replace(ROW, id=uuid4())]), "doubled", "2 rows"),
        (replace(WHOLE, objects=without(ROW.raw_key)), "lost", "raw mail org/1/raw/raw.eml is not in the archive"),
        (replace(WHOLE, objects=OBJECTS | {ROW.raw_key: Object("bad", MAIL.digest)}), "altered", "has the digest bad"),
        (replace(WHOLE, objects=OBJECTS | {ROW.raw_key: Object("raw", "cut")}), "altered", "not hold what was sent"),
        (replace(WHOLE, rows=[replace(ROW, status="FAILED", error="why")]), "failed", "why"),
        (replace(WHOLE, rows=[replace(ROW, status="STORED")]), "unfinished", "is STORED"),
        (replace(WHOLE, documents=DOCUMENTS[1:]), "lost", "is not recorded"),
        (replace(WHOLE, documents=[*DOCUMENTS, replace(DOCUMENTS[0], part_path="9")]), "doubled", "has 2 rows"),
        (replace(WHOLE, documents=[*DOCUMENTS[1:], replace(DOCUMENTS[0], digest="x")]), "altered", "was not in the"),
        (replace(WHOLE, objects=without(DOCUMENTS[0].object_key)), "lost", "document org/1/documents/"),
        (replace(WHOLE, handed=HANDED[1:]), "lost", "its handler was never called"),
        (replace(WHOLE, handed=[*HANDED[1:], replace(HANDED[0], org="beta")]), "leaked", "handed over as beta's"),
        (replace(WHOLE, rows=[replace(ROW, area="org/2/")]), "leaked", "raw.eml does not lie below org/2/"),
        (replace(WHOLE, handed=[*HANDED[1:], replace(HANDED[0], digest="x")]), "altered", "with other bytes"),
        (replace(WHOLE, handed=[*HANDED, replace(HANDED[0], document=uuid4())]), "doubled", "under 2 ids"),
        (
            replace(WHOLE, documents=[replace(DOCUMENTS[0], handover="FAILED", error="no"), *DOCUMENTS[1:]]),
            "failed",
            "no",
        ),
        (
            replace(WHOLE, documents=[replace(DOCUMENTS[0], handover="PENDING"), *DOCUMENTS[1:]]),
            "unfinished",
            "PENDING",
        ),
        (replace(WHOLE, set_aside=[DEAD]), "doubled", "is there 2 times"),
        (Evidence(set_aside=[replace(DEAD, has_reason=False)]), "lost", "without a reason"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_what_is_not_as_it_should_be_is_named(there, kind, says):
    assert [(kind, says in detail) for kind, detail in found(there) if says in detail] == [(kind, True)]


def test_a_row_of_a_tenant_that_was_sent_nothing_is_a_leak():
    other = replace(ROW, identity=Identity("beta", MAIL.message_id), area="org/2/", raw_key="org/2/raw/raw.eml")
    assert ("leaked", f"message {ID} was never sent to this tenant") in found(replace(WHOLE, rows=[ROW, other]))


def test_held_mail_that_is_nowhere_is_lost():
    ((kind, detail),) = found(WHOLE, (MAIL.digest, OTHER.digest))
    assert kind == "lost" and f"content {OTHER.digest[:12]}" in detail and "holds another content" in detail


def test_a_call_twice_under_one_id_is_as_it_should_be():
    assert found(replace(WHOLE, handed=[*HANDED, *HANDED])) == []


def test_the_documents_of_the_load_are_those_that_are_taken_out():
    stream = mails("run", random.Random(1))
    for mail, _ in (next(stream) for _ in range(60)):
        taken = [part.data for part in read_parts(mail.raw) if part.is_document]
        assert sorted(hashlib.sha256(data).hexdigest() for data in taken) == list(mail.documents)


def test_a_load_has_what_comes_again_and_what_clashes_and_is_the_same_for_a_seed():
    first, second = ([next(stream) for _ in range(400)] for stream in (mails("run", random.Random(7)) for _ in "12"))
    assert first == second
    contents: dict[str, list[str]] = {}
    for mail, _ in first:
        contents.setdefault(mail.message_id, []).append(mail.digest)
    twice = [digests for digests in contents.values() if len(digests) == 2]
    assert {len(set(digests)) for digests in twice} == {1, 2}
    assert any(len(orgs) == 2 for _, orgs in first)


def test_a_load_thins_out_where_a_fault_takes_long():
    load, pauses = Load(free_port(), "r", 10, 200, random.Random(3)), []
    for load.sent in (0, 10, 20, 30, 40):
        pauses.append(load.pause)
    assert pauses == [1 / 200, 1 / 200, 1 / 200, 1 / 100, 1 / 50]


def test_what_postfix_puts_in_front_and_its_line_ends_do_not_count():
    passed = b"Return-Path: <a@b>\r\nReceived: by mail\r\n" + MAIL.raw.replace(b"\n", b"\r\n")
    assert content_digest(passed) == MAIL.digest
    assert content_digest(passed[:-10]) != MAIL.digest
    assert content_digest(b"Subject: x\n\n") == ""


def test_the_log_tells_what_was_put_off_and_what_bounced(place):
    log = place / "maillog"
    line = "Nov 21 04:00:00 mail postfix/pipe[1]: {}: to=<orders+acme@x>, relay=orderflow, dsn=4.3.0, status={} (why)\n"
    log.write_text(line.format("A1", "deferred") + line.format("A2", "bounced") + line.format("A1", "sent")[:40])
    maillog = Maillog(log)
    maillog.read()
    assert (maillog.attempts_deferred, maillog.count_deferred(lambda _: True)) == (1, 0)
    with log.open("a") as file:
        file.write(line.format("A1", "sent")[40:])
    maillog.read()
    assert maillog.count_deferred("A1".__eq__) == 1
    assert [(bounce.queue_id, bounce.text) for bounce in maillog.bounces] == [("A2", "status=bounced (why)")]


def test_a_mix_is_the_same_for_a_seed_and_its_faults_touch_different_parts():
    first, second = (mixed(FAULTS, 25, 100, random.Random(3)) for _ in "12")
    assert first == second
    assert sum(len(one.faults) for one in first) >= 20
    for one in first:
        touched = [part for fault in one.faults for part in fault.touches]
        assert len(touched) == len(set(touched)) and 1 <= len(one.faults) <= 3


def test_every_module_that_a_deploy_may_break_is_there():
    assert all((ROOT / "orderflow_ingest" / f"{name}.py").is_file() for name in DEPLOYED)


def test_every_named_step_is_a_function_of_ours():
    modules = {
        "s3.py": "storage.archive.s3", "messages.py": "storage.database.messages",
        "documents.py": "storage.database.documents",
        "deliver.py": "pipeline.deliver", "receive.py": "pipeline.receive",
        "extract.py": "pipeline.extract", "hand_over.py": "pipeline.hand_over",
        "spool_entry.py": "storage.spool_entry", "pipe.py": "entrypoints.pipe",
    }  # fmt: skip
    for steps in STEPS.values():
        for file, function in steps:
            there = importlib.import_module(f"orderflow_ingest.{modules[file]}")
            for name in function.split("."):
                there = getattr(there, name)
            assert there.__code__.co_qualname == function and there.__code__.co_filename.endswith(file)


def test_a_report_tells_a_broken_promise_and_is_written(place):
    result = Result("kill-all", sent=3, accepted=3, hit=1)
    kept = report.Report({"seed": 1}, [result], Verdict(()), {})
    assert kept.is_kept and "Every promise was kept." in kept.text()
    broken = reconcile({ACME: {MAIL.digest}}, {ACME: {MAIL.digest: MAIL}}, Evidence())
    told = report.Report({"seed": 1}, [result], broken, {"other": "needs more"})
    assert not told.is_kept and "<1@buyer.example> for acme: content" in told.text()
    report.write([report.read(one.json()) for one in (kept, told)], place)
    assert report.read(told.json()) == told
    begun = report.Report(
        {"seed": 1}, [Result("kill-all", hit=1, details="a.py b before: 0; a.py b after: 2")], None, {}
    )
    assert not begun.is_kept and "not been reconciled together" in begun.text()
    assert "in any round: a.py b before." in begun.text() and report.read(begun.json()) == begun
    idle = report.Report({"seed": 1}, [Result("kill-all")], Verdict(()), {})
    assert "Met nothing, and so shows nothing: kill-all." in idle.text()
    assert "kill-all" in (place / "faults.md").read_text()
    assert [one["kept"] for one in json.loads((place / "faults.json").read_text())] == [True, False]


def test_the_list_names_every_fault_and_what_it_breaks():
    command = [sys.executable, "-m", "benchmarks.faults", "--list"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(FAULTS) and set(SHORT) <= set(FAULTS)


@pytest.mark.timeout(1800)
def test_a_short_campaign_keeps_every_promise_and_hits(place, draw):
    chosen = draw(SHORT, 3)
    command = [sys.executable, "-m", "benchmarks.faults", "--seed", "4711", "--json", place / "found.json"]
    options = ["--messages", "40", "--rate", "8", "--minute", "3", "--patience", "600", "--mix", "2"]
    with open(place / "said", "w+") as said:  # no pipe: its servers would keep one open if it were killed
        campaign = subprocess.Popen([*command, *options, "--faults", *chosen], cwd=ROOT, stdout=said, stderr=said)
        try:
            status = campaign.wait(1500)
        except subprocess.TimeoutExpired:
            campaign.terminate()  # it ends its servers
            status = campaign.wait(60)
        said.seek(0)
        assert status == 0, said.read()
    found = json.loads((place / "found.json").read_text())
    assert found["kept"] and not found["all"]["findings"]
    names = [result["name"] for result in found["results"]]
    assert [name for name in chosen if name not in (*names, *found["skipped"])] == [] and "mix 1" in names[-1]
    for result in found["results"]:
        assert result["sent"] >= 40 and result["accepted"] == result["sent"] and result["recovered"] is not None
        assert result["hit"] > 0, result
