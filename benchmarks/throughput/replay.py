"""Replays of many messages with a real worker on PostgreSQL, interrupted, killed and resumed: do they end exact?

    python -m benchmarks.throughput.replay [--messages N]

All messages share one mail of the archive, with one attachment, so that making them costs nothing; each is extracted
and handed over as if it were its own. A run over all of them is stopped by SIGINT after a quarter, then by SIGKILL
after half, and resumed. Printed are the times, the rate, the most tasks that waited in the queue, and whether each
message has exactly one event of the run. Run it as root: programs run as their own user.
"""

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import psycopg

from orderflow_ingest.domain.identity import read_message
from orderflow_ingest.domain.object_keys import raw_key
from orderflow_ingest.storage.database import NewMessage, Records
from orderflow_ingest.storage.database.rows import column_values
from orderflow_ingest.storage.database.tables import inbound_message
from orderflow_ingest.storage.queue import Queue
from tests.support.lab.deployment import DOMAIN, ENVIRONMENT, Deployment
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import scratch
from tests.support.mails import order

_EVENTS = (
    "SELECT count(*), count(DISTINCT inbound_message_id), count(DISTINCT run_id) FROM message_event "
    "WHERE kind = 'REPLAYED'"
)
_UNFINISHED = (
    "SELECT (SELECT count(*) FROM inbound_message WHERE status <> 'PARSED'), "
    "(SELECT count(*) FROM document WHERE handover <> 'DONE')"
)


def fill(deployment: Deployment, url: str, messages: int) -> None:
    """Deliver one mail, and record so many FAILED messages of it."""
    recipient = f"orders+acme@{DOMAIN}"
    raw = order(1, attachments=1)
    if deployment.deliver(recipient, raw).returncode:
        sys.exit("the mail was not delivered")
    read = read_message(raw)
    assert read is not None
    now = datetime.now(UTC)
    digest = hashlib.sha256(raw).hexdigest()
    values = [
        {
            **column_values(
                NewMessage(
                    org_id=1, id=uuid4(), source="EMAIL", envelope_sender="buyer@shop.example", queue_id="",
                    envelope_recipient=recipient, client_address="", raw_key=raw_key(1, digest), traits=[],
                    received_at=now - timedelta(seconds=60 + number),
                    **{**read.recorded(), "source_message_id": f"<{number}@shop.example>"},
                )
            ),
            "status": "FAILED", "next_attempt_at": now, "attempts": 4, "error_json": {"error": "KeyError"},
        }
        for number in range(messages)
    ]  # fmt: skip
    records = Records(url)
    for first in range(0, messages, 500):
        with records.database.write(1) as connection:
            connection.execute(inbound_message.insert().values(values[first : first + 500]))
    records.database.close()


class Leg:
    """One process of the run, from its start to its end."""

    def __init__(self, deployment: Deployment, *arguments: str):
        env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(deployment.settings_file)}
        command = [deployment.programs / "orderflow-replay", *arguments, "--json"]
        self.began = time.monotonic()
        self.child = subprocess.Popen(
            command, cwd="/", env=env, text=True, stdout=subprocess.PIPE, **deployment.credentials()
        )

    def read(self, most: int | None, end: signal.Signals | None) -> dict[str, Any]:
        """Read so many lines, send a signal, and tell how it went."""
        assert self.child.stdout is not None
        lines = 0
        last = ""
        for line in self.child.stdout:
            lines, last = lines + 1, line if line.endswith("\n") else last
            if lines == most and end:
                self.child.send_signal(end)
        seconds = time.monotonic() - self.began
        told = {"ended by": end.name if end else "itself", "status": self.child.wait(), "messages told": lines}
        return {**told, "seconds": round(seconds, 1), "a second": round(lines / seconds), "last line": json.loads(last)}


def main() -> None:
    """Run the benchmark and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=10_000)
    count = parser.parse_args().messages
    with scratch() as directory, Postgres(directory / "postgres") as postgres:
        url = postgres.create_database("replay")
        deployment = Deployment(directory / "deployment", {"DATABASE_URL": url, "ORDERFLOW_SWEEP_AFTER": "120"})
        deployment.set_up("acme")
        fill(deployment, url, count)
        with deployment.worker, psycopg.connect(postgres.conninfo("replay"), autocommit=True) as connection:
            depths: list[int] = []
            is_over = Event()
            watching = Thread(target=_watch, args=(url, depths, is_over))
            watching.start()
            choice = ("message", "--status", "failed", "--status", "received", "--status", "parsed", "--yes")
            began = time.monotonic()
            legs = [Leg(deployment, *choice).read(count // 4, signal.SIGINT)]
            legs.append(Leg(deployment, "resume").read(count // 4, signal.SIGKILL))
            legs.append(Leg(deployment, "resume").read(None, None))
            walked = time.monotonic() - began
            while (unfinished := connection.execute(_UNFINISHED).fetchone()) != (0, 0):
                if time.monotonic() - began > 3600:
                    is_over.set()
                    sys.exit(f"not finished: {unfinished}")
                time.sleep(0.5)
            is_over.set()
            watching.join()
            events = connection.execute(_EVENTS).fetchone()
            for leg in legs:
                print(json.dumps(leg))
            total = time.monotonic() - began
            print(f"{count + 1} messages replayed in {walked:.0f} s, all of them handed over again after {total:.0f} s")
            print(f"most tasks in the queue: {max(depths)}; events, messages, runs: {events}")
            if events != (count + 1, count + 1, 1):
                sys.exit("NOT EXACT")


def _watch(url: str, depths: list[int], is_over: Event) -> None:
    queue = Queue(url)
    while not is_over.wait(0.5):
        depths.append(queue.depth())


if __name__ == "__main__":
    main()
