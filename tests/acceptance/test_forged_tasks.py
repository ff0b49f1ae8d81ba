"""What another wrote into the queue neither stops the real consumer nor keeps it at work."""

import json
import os
import pwd
from uuid import uuid4

import pytest

from orderflow_ingest.storage.queue import Queue
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch, wait_until
from tests.support.mails import order
from tests.support.queue_rows import EXTRACT, JUNK, row

ROWS_OF_EACH = 3


@pytest.fixture(params=["embedded", "postgresql", "redis"])
def deployment(request):
    settings = {}
    if request.param == "postgresql":
        settings["DATABASE_URL"] = request.getfixturevalue("postgres").create_database(f"forged_{uuid4().hex}")
    if request.param == "redis":
        settings["QUEUE_URL"] = request.getfixturevalue("redis").url(5)
    with scratch() as place:
        deployment = Deployment(place, settings)
        deployment.admin("init")
        deployment.admin("org", "add", "acme")
        yield deployment
        deployment.worker.stop()


def storage(deployment: Deployment):
    values = dict(line.split("=", 1) for line in deployment.settings_file.read_text().splitlines())
    embedded = f"sqlite:///{deployment.state}/queue.db"
    return Queue(values.get("QUEUE_URL") or values.get("DATABASE_URL") or embedded).huey.storage


def test_the_consumer_drops_forged_rows_and_does_what_they_stood_in_the_way_of(deployment):
    """The one task of a mail is overwritten, so that the sweep has to find its row."""
    assert deployment.deliver(f"orders+acme@{DOMAIN}", order(1)).returncode == 0
    queue = storage(deployment)
    queue.flush_queue()
    for data in JUNK.values():
        for _ in range(ROWS_OF_EACH):
            queue.enqueue(data, priority=1000)
    for number in range(20):
        queue.enqueue(row(id=str(uuid4()), args=(number + 1, str(uuid4())), retries=10**9, on_error=json.loads(row())))
    queue.put_data(f"rt:{EXTRACT}", b"[null, false]")
    queue.put_data("rt:orderflow_ingest.tasks.sweep", b"[" * 10_000)
    if deployment.state.joinpath("queue.db").exists():
        user = pwd.getpwnam(deployment.user)
        for file in deployment.state.glob("queue.db*"):
            os.chown(file, user.pw_uid, user.pw_gid)
    deployment.worker.start()
    sweeper = deployment.new_sweeper()
    sweeper.start()
    try:
        deployment.wait_finished(1)
        assert wait_until(lambda: queue.queue_size() == 0, 60)
    finally:
        sweeper.stop()
    log = deployment.worker.log.read_text()
    refused = [one for one in deployment.log_records() if one["message"] == "A row of the queue was refused."]
    assert len(refused) == ROWS_OF_EACH * len(JUNK)
    assert "Traceback" not in log and "secret-word" not in log
    assert log.count("Nothing to do for this message.") <= 20 + 5  # the sweep may have rung twice
