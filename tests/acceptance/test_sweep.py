"""The sweep, the drain and Huey's own words, by a real consumer with a backlog before it."""

import json
import re
import time
from pathlib import Path
from uuid import uuid4

import huey
import pytest

from orderflow_ingest.storage.queue import HUEY_LOGGERS, Queue
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch, wait_until
from tests.support.mails import order

ACME = f"orders+acme@{DOMAIN}"
SECRET = "not-for-any-log"
BACKLOG = 1200
SITECUSTOMIZE = f"""
from orderflow_ingest.observability import presence
def announce(directory):
    raise ValueError("{SECRET}\\nin two lines")
presence.announce = announce
"""


@pytest.fixture(scope="module")
def deployment():
    with scratch() as directory:
        deployment = Deployment(directory, {"ORDERFLOW_SWEEP_AFTER": "0.1", "ORDERFLOW_SPOOL_MODE": "accept"})
        deployment.set_up("acme")
        yield deployment


def records_of(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def test_lost_work_is_swept_and_the_spool_drained_before_a_backlog(deployment):
    """Two mails have lost their tasks, and one lies in the spool; the others' tasks are of rows that are gone."""
    rows, away = deployment.state / "orderflow.db", deployment.state / "away.db"
    for number in (1, 2):
        deployment.deliver(ACME, order(number))
    rows.rename(away)
    deployment.deliver(ACME, order(3))
    away.rename(rows)
    assert deployment.status()["spool_entries"] == 1
    queue = Queue(f"sqlite:///{deployment.state}/queue.db")
    queue.huey.storage.flush_queue()
    queue.enqueue_extraction(1, uuid4())
    (row,) = queue.huey.storage.enqueued_items()
    known = json.loads(bytes(row))[:6]
    tasks = [json.dumps([*known, [1, str(uuid4())]]).encode() for _ in range(BACKLOG)]
    queue.huey.storage._enqueue_all([("orderflow", task, 0) for task in tasks])
    time.sleep(0.2)  # they are due after the tenth of a second
    with deployment.worker as worker:
        told = ("Due work enqueued.", '"outcome": "DELIVERED"')
        assert wait_until(lambda: all(one in worker.log.read_text() for one in told), 120), worker.tail()
    found = records_of(worker.log)
    said = [one["message"] for one in found]
    swept = said.index("Due work enqueued.")
    assert found[swept]["messages"] == 2
    delivered = next(number for number, one in enumerate(found) if one.get("outcome") == "DELIVERED")
    for first in (swept, delivered):
        assert said[:first].count("Nothing to do for this message.") < BACKLOG / 10
    assert said.count("Due work enqueued.") == 1


def test_a_fault_that_huey_tells_with_a_traceback_is_one_record_without_the_text_of_the_error(deployment, place):
    (place / "sitecustomize.py").write_text(SITECUSTOMIZE)
    worker = deployment.new_worker("faulty")
    worker.env = {**worker.env, "PYTHONPATH": str(place)}
    with worker:
        assert wait_until(lambda: len([one for one in records_of(worker.log) if "said" in one]) == 2, 60)
    told = [one for one in records_of(worker.log) if "said" in one]
    assert {(one["action"], one["message"], one["level"], one["said"]) for one in told} == {
        ("worker", "Huey reported a fault.", "ERROR", 'startup hook "%s" failed')
    }
    assert {one["reason"] for one in told} == {"ValueError at sitecustomize.py:4"}
    assert "Traceback" not in worker.log.read_text() and SECRET not in worker.log.read_text()


def test_each_logger_of_huey_is_heard():
    sources = [path.read_text() for path in Path(huey.__file__).parent.glob("*.py")]
    named = {name for source in sources for name in re.findall(r"getLogger\('(huey[\w.]*)'\)", source)}
    processes = {name for source in sources for name in re.findall(r"process_name = '(\w+)'", source)} - {"BaseProcess"}
    assert named | {f"huey.consumer.{name}" for name in processes} == set(HUEY_LOGGERS)
