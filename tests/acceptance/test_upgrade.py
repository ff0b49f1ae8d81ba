"""A deployment of schema 0011 with mail in every state goes on with this version.

`deployment-0011.tar.gz` is the state directory of such a deployment, made by that version: PARSED, FAILED, RECEIVED and
leased messages, a document that a handler refused, open, accepted and discarded held mail, tasks in the queue, two
spool entries that nobody delivered (one came before the queue), and a dead letter. Organization nordwind has the former
key `conflicts` in its settings, and the settings file names the handler by its former module.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.support.lab.deployment import Deployment
from tests.support.lab.process import wait_until

FORMER = Path(__file__).parents[1] / "support" / "data" / "deployment-0011.tar.gz"


@pytest.fixture
def upgraded(place):
    """Unpack the former deployment below a settings file, run `init`, and give it."""
    deployment = Deployment(place, {"ORDERFLOW_DOCUMENT_HANDLER": "orderflow_ingest.handover:log_document"})
    shutil.rmtree(deployment.state)
    with tarfile.open(FORMER) as archive:
        archive.extractall(place)
    for path in (deployment.state, *deployment.state.rglob("*")):
        shutil.chown(path, deployment.user)
    deployment.admin("init")
    yield deployment
    deployment.worker.stop()


def lines(output):
    return [json.loads(line) for line in output.splitlines()]


def test_mail_in_every_state_goes_on(upgraded):
    before = upgraded.messages()
    assert {row["status"] for row in before} == {"RECEIVED", "FAILED", "PARSED"}
    held = lines(upgraded.admin("held", "--json"))
    assert {row["reason"] for row in held} == {"IDENTITY", "SENDER"} and len(held) >= 3
    assert "reused_message_id" in upgraded.admin("org", "show", "nordwind")
    upgraded.replay("held", held[0]["id"], "--discard", "--yes", "--why", "sent twice")
    upgraded.replay("held", *(row["id"] for row in held[1:]), "--accept", "--yes")
    upgraded.replay("dead", "--all", "--yes")
    upgraded.worker.start()
    failed = [row["id"] for row in before if row["status"] == "FAILED"]
    upgraded.replay("message", *failed, "--yes")
    upgraded.replay("handover", "--unseen", "--yes")

    def is_finished():
        rows = upgraded.messages()
        documents = [one for row in rows for one in upgraded.documents(row["id"])]
        return all(row["status"] == "PARSED" for row in rows) and {one["state"] for one in documents} == {"DONE"}

    # Beside the rows of before: held mail that was accepted, the dead letter, and the two entries of the spool.
    expected = len(before) + len(held) - 1 + 1 + 2
    assert wait_until(lambda: len(upgraded.messages()) == expected and is_finished(), 90, interval=0.5), (
        upgraded.messages(),
        upgraded.worker.tail(),
    )
    assert lines(upgraded.admin("held", "--json")) == []
    assert upgraded.run("orderflow-admin", "reconcile", "--digests", "all").returncode == 0
