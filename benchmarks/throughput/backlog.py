"""A backlog with lost tasks in it: how soon a real worker's sweep finds them, and what it enqueues.

    python -m benchmarks.throughput.backlog [--messages 5000] [--lost 200] [--queue sqlite|postgresql] [--to-the-end]

Mail is received without a worker, so that all tasks wait; some of these are deleted, as a crash of the queue's machine
does. Then a worker starts. A sweep that waits for the backlog, or enqueues what has a task, shows in the figures.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.queue import Queue
from tests.support.lab.deployment import DOMAIN, ROOT, Deployment
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import scratch, wait_until
from tests.support.mails import order

FILL = "--fill"


def fill(settings_file: str, messages: int) -> None:
    """Receive so many mails, as the user that delivers."""
    app = open_app(load(settings_file))
    for number in range(messages):
        envelope = Envelope(recipient=f"orders+acme@{DOMAIN}", received_at=datetime.now(UTC), queue_id="Q")
        assert deliver_from_memory(envelope, order(number), app).outcome.is_accepted


def lose(queue: Queue, number: int) -> None:
    """Delete so many tasks."""
    storage = queue.huey.storage
    rows = list(storage.enqueued_items())
    storage.flush_queue()
    lost = set(random.Random(17).sample(range(len(rows)), number))
    for place, row in enumerate(rows):
        if place not in lost:
            storage.enqueue(bytes(row))


def records_of(log: Path) -> list[dict[str, Any]]:
    """Read the worker's records."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def main() -> None:
    """Fill, lose, work, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--lost", type=int, default=200)
    parser.add_argument("--queue", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--to-the-end", action="store_true", help="wait until all is parsed")
    options = parser.parse_args()
    with scratch() as directory, Postgres(directory / "postgres") as postgres:
        settings = {"ORDERFLOW_SWEEP_AFTER": "1", "ORDERFLOW_LEASE": "600", "ORDERFLOW_LOG": "stderr"}
        if options.queue == "postgresql":
            url = postgres.create_database("backlog")
            settings |= {"DATABASE_URL": url, "QUEUE_URL": url}
        deployment = Deployment(directory / "deployment", settings)
        deployment.set_up("acme")
        known = load(str(deployment.settings_file))
        program = [
            sys.executable,
            "-m",
            "benchmarks.throughput.backlog",
            FILL,
            str(deployment.settings_file),
            str(options.messages),
        ]
        subprocess.run(
            program, check=True, cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)}, **deployment.credentials(),
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        queue = Queue(known.queue_url)
        lose(queue, options.lost)
        waiting, began = queue.depth(), time.monotonic()
        with deployment.worker as worker:
            swept = "Due work enqueued."
            assert wait_until(lambda: swept in worker.log.read_text(), 120, interval=0.1), worker.tail()
            seconds, depth = time.monotonic() - began, queue.depth()
            if options.to_the_end:
                deployment.wait_finished(options.messages, timeout=3600)
        found = records_of(worker.log)
        said = [one["message"] for one in found]
        sweep = said.index(swept)
        print(f"queue {options.queue}: {options.messages} messages, {waiting} tasks wait, {options.lost} are lost")
        before = said[:sweep].count("Message parsed.")
        print(f"the sweep came {seconds:.1f} s after the worker, and {before} messages before it")
        print(f"it enqueued {found[sweep]['messages']} messages; {depth} tasks waited then")
        print(f"tasks that found nothing to do: {said.count('Nothing to do for this message.')}")


if __name__ == "__main__":
    if sys.argv[1:2] == [FILL]:
        fill(sys.argv[2], int(sys.argv[3]))
    else:
        main()
