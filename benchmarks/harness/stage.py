"""What is measured: a deployment on a stack of backends, a Postfix for each way into it, what has to be there after.

    stack            database                     archive                       queue
    embedded         SQLite, synced               files, synced                 SQLite
    postgresql+s3    PostgreSQL with fsync on     Ceph's S3 on bluestore        the same PostgreSQL

    way              what Postfix does with a message
    ceiling          pipe(8) to dd(1), which reads the message and does nothing: no delivery by pipe(8) can be
                     faster. Not to cat(1): pipe(8) reads 4096 bytes of what it prints, and the rest kills it, which
                     bounces some messages of 50 KB and all of 1 MB
    in-process       pipe(8) to our program, with no service to ask: it delivers itself
    pipe             pipe(8) to our program, which hands the message to the service
    lmtp             lmtp(8) to the service
    before-queue     smtpd(8) to the service while the sender waits (smtpd_proxy_filter)

All ways have the same Postfix configuration but for that, without limits on clients. The worker does not run
while a load does: it would take part of the CPU, and the tasks that wait can be counted. Two limits are
raised, since a message that is put off would be measured twice: the bytes in flight, for 20 messages of
10 MB at a time, and the sweep, for messages that wait longer for the worker than it allows.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from benchmarks.harness.sender import ORGANIZATIONS
from orderflow_ingest.config import load
from orderflow_ingest.storage.database.connection import ALL_TENANTS, Database
from orderflow_ingest.storage.database.tables import document, inbound_message
from orderflow_ingest.storage.queue import Queue
from tests.support.lab.deployment import Deployment
from tests.support.lab.postfix import Postfix
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import Process, free_port
from tests.support.lab.s3 import CephS3

STACKS = ("embedded", "postgresql+s3")
CEILING, SERVED = "ceiling", ("pipe", "lmtp", "before-queue")
WAYS = (*SERVED, "in-process")
_SETTINGS = {
    "ORDERFLOW_SWEEP_AFTER": "3600",
    "ORDERFLOW_RETRY_DELAY": "60",
    "ORDERFLOW_LEASE": "600",
    "ORDERFLOW_MAX_IN_FLIGHT": str(2**30),
}
_POSTFIX = """
enable_long_queue_ids = yes
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtpd_client_recipient_rate_limit = 0
in_flow_delay = 0
minimal_backoff_time = 1s
maximal_backoff_time = 2s
"""
_CEILING_SERVICE = """
ceiling unix - n n - 20 pipe
    flags=RO user=nobody null_sender= argv=/bin/dd bs=64k of=/dev/null status=none
"""
_CEILING_MAIN = """
virtual_transport = ceiling
ceiling_destination_recipient_limit = 1
ceiling_destination_concurrency_limit = 10
"""
_BUCKET = "orders"


@dataclass(frozen=True)
class Row:
    """A message's row: what it claims to be in the archive."""

    message_id: str
    raw_key: str
    size: int


class Stack:
    """Backends that run, and one deployment on them, which is set up and not started."""

    def __init__(self, name: str, deployment: Deployment, s3: CephS3 | None) -> None:
        self.name, self.deployment, self._s3 = name, deployment, s3
        settings = load(str(deployment.settings_file), {})
        self._database, self._queue = Database(settings.database_url), Queue(settings.queue_url)

    @contextmanager
    def way(self, name: str) -> Iterator["Way"]:
        """Run a Postfix whose mail goes this way, and a fresh service if that needs one; not the worker."""
        deployment, postfix = self.deployment, Postfix(self.deployment.directory / name)
        deployment.way, deployment.postfix = name if name in SERVED else "pipe", postfix
        deployment.configure_postfix(*(_CEILING_SERVICE, _CEILING_MAIN) if name == CEILING else ())
        with ExitStack() as running:
            service = running.enter_context(deployment.service) if name in SERVED else None
            running.enter_context(postfix)
            yield Way(self, name, postfix, service)

    def rows(self, run: str) -> list[Row]:
        """List the rows of one run of the sender."""
        t = inbound_message.c
        statement = sa.select(t.source_message_id, t.raw_key, t.size).where(t.source_message_id.startswith(f"<{run}."))
        with self._database.read(ALL_TENANTS) as connection:
            return [Row(*row) for row in connection.execute(statement)]

    def raw_objects(self) -> dict[str, int]:
        """List the raw mails in the archive: key and size."""
        if self._s3 is None:
            root = self.deployment.state / "archive"
            return {str(path.relative_to(root)): path.stat().st_size for path in root.glob("org/*/raw/*.eml")}
        pages = self._s3.client().get_paginator("list_objects_v2").paginate(Bucket=_BUCKET)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}

    def unfinished(self) -> int:
        """Count the messages that are not PARSED and the documents that are not handed over."""
        counts = (
            sa.select(sa.func.count()).select_from(inbound_message).where(inbound_message.c.status != "PARSED"),
            sa.select(sa.func.count()).select_from(document).where(document.c.handover != "DONE"),
        )
        with self._database.read(ALL_TENANTS) as connection:
            return sum(connection.scalar(count) for count in counts)

    def tasks(self) -> int:
        """Count the tasks that wait."""
        return self._queue.depth()

    def spooled(self) -> int:
        """Count the files in the spool, whatever their state."""
        return sum(len(files) for _, _, files in os.walk(self.deployment.state / "spool"))


@dataclass(frozen=True)
class Way:
    """A Postfix that runs, and the service that it speaks to, if any."""

    stack: Stack
    name: str
    postfix: Postfix
    service: Process | None


@contextmanager
def open_stack(name: str, place: Path, instances: int, **settings: str) -> Iterator[Stack]:
    """Start the backends of a stack, and set up a deployment with so many services and these settings besides."""
    chosen = {**_SETTINGS, "ORDERFLOW_RELAY": f"127.0.0.1:{free_port()}", **settings}
    with ExitStack() as running:
        s3 = None
        if name != "embedded":
            postgres = running.enter_context(Postgres(place / "postgres"))
            s3 = running.enter_context(CephS3(place / "s3", store="bluestore"))
            chosen |= {
                "DATABASE_URL": postgres.create_database("orders"),
                "ARCHIVE_URL": f"s3://{s3.create_bucket(_BUCKET)}",
                "S3_ENDPOINT_URL": s3.endpoint,
                "AWS_ACCESS_KEY_ID": s3.access_key,
                "AWS_SECRET_ACCESS_KEY": s3.secret_key,
                "AWS_DEFAULT_REGION": s3.region,
            }
        deployment = Deployment(place / "deployment", chosen, instances=instances, overrides=_POSTFIX)
        deployment.set_up(*ORGANIZATIONS)
        yield Stack(name, deployment, s3)


def complaints(
    expected: Collection[str],
    rows: Sequence[Row],
    objects: Mapping[str, int],
    *,
    least_size: int,
    tasks: int,
    spooled: int,
    log: str,
    may_wait: bool = False,
) -> list[str]:
    """Return all that is not as it should be after a load; nothing, if every message is there once and whole.

    `may_wait` accepts that Postfix had to try some of them again.
    """
    found = Counter(row.message_id for row in rows)
    sizes = [(row.size, objects.get(row.raw_key)) for row in rows]
    bad = r"status=bounced", r"status=expired", "fatal:", "panic:", *(() if may_wait else ("status=deferred",))
    checks = {
        "messages have no row": len(set(expected) - set(found)),
        "rows are of no message that was sent": len(set(found) - set(expected)),
        "messages have more than one row": sum(count > 1 for count in found.values()),
        "raw mails are not in the archive": sum(stored is None for _, stored in sizes),
        "raw mails are not as long as their row says": sum(stored not in (None, size) for size, stored in sizes),
        "raw mails are shorter than what was sent": sum(size < least_size for size, _ in sizes),
        "tasks wait more or less than messages": abs(tasks - len(expected)),
        "files are left in the spool": spooled,
        **{f"lines of Postfix's log say {word}": log.count(word) for word in bad},
    }
    return [f"{count} {what}" for what, count in checks.items() if count]
