"""A primary that dies, hangs or steps down, a standby that is promoted, and a client that sends all the time."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from threading import Event, Thread

import psycopg
import pytest

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.database import Filter, schema
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import scratch, wait_until

SENDERS = 4
NUMBERS = count()
MAIL = "From: a@b.example\r\nMessage-ID: <{}@b.example>\r\nSubject: order\r\n\r\nten of them\r\n"


def asked(server, *statements):
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        for statement in statements:
            result = connection.execute(statement)
        return result.fetchall() if result.description else []


def followed(primary, place):
    """Return a running standby of a server, which from now on acknowledges nothing that the standby has not."""
    standby = primary.standby(place)
    standby.start()
    asked(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    assert wait_until(lambda: asked(primary, "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), 60)
    return standby


@pytest.fixture(scope="module")
def servers():
    """The primary alone, with our tables; each test puts the one behind it that it has promoted."""
    with scratch() as place:
        servers = [Postgres(place / "0", fsync=False)]
        servers[0].start()
        try:
            url = servers[0].create_database("orders")
            app = open_app(load("/dev/null", {"DATABASE_URL": url, "ORDERFLOW_STATE_DIR": str(place)}))
            schema.upgrade(app.records.database)
            app.queue.create_tables()
            app.records.organizations.add("acme", "Acme")
            app.records.database.close()
            app.queue.huey.storage.close()
            yield servers
        finally:
            for server in servers:
                server.kill()


@dataclass
class Client:
    """Sends mail after mail by several threads until a test stops it; knows what became of each, and when it began.

    `delivered` are the numbers of mails that were acknowledged. `failed` is set by the first that was deferred. Once
    `promoted` is set, `went_well` is set by the first mail that began after it and was acknowledged; `late` is
    what began after `went_well`, and was deferred.
    """

    app: object
    stopped: Event = field(default_factory=Event)
    failed: Event = field(default_factory=Event)
    promoted: Event = field(default_factory=Event)
    went_well: Event = field(default_factory=Event)
    delivered: list = field(default_factory=list)
    late: list = field(default_factory=list)

    def __enter__(self):
        self._threads = [Thread(target=self._send) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    def _send(self):
        while not self.stopped.is_set():
            number, is_after, is_late = next(NUMBERS), self.promoted.is_set(), self.went_well.is_set()
            envelope = Envelope("orders+acme@orderflow.example.com", datetime.now(UTC), "a@b.example")
            outcome = deliver_from_memory(envelope, MAIL.format(number).encode(), self.app).outcome
            if outcome.is_accepted:
                self.delivered.append(number)
                if is_after:
                    self.went_well.set()
            else:
                assert outcome.is_temporary
                self.failed.set()
                if is_late:
                    self.late.append(outcome)
                self.stopped.wait(0.01)


def step_down(primary):
    asked(primary, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")


@pytest.mark.parametrize("end", [step_down, Postgres.pause, Postgres.kill])
def test_mail_goes_on_by_the_promoted_server_and_is_not_deferred_again(servers, place, end):
    primary = servers[-1]
    standby = followed(primary, primary.directory.parent / str(len(servers)))
    servers.append(standby)
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    url = f"postgresql://postgres@{hosts}/orders?target_session_attrs=read-write"
    app = open_app(load("/dev/null", {"DATABASE_URL": url, "ORDERFLOW_STATE_DIR": str(place)}))
    app.spool.prepare()
    app.archive.prepare()
    before = app.records.messages.count(Filter(org_id=1))
    with Client(app) as client:
        assert wait_until(lambda: len(client.delivered) > SENDERS, 60)
        end(primary)
        assert client.failed.wait(60)
        standby.promote()
        client.promoted.set()
        assert client.went_well.wait(60)
        until = len(client.delivered) + 20
        assert wait_until(lambda: len(client.delivered) > until, 60)
    assert client.late == [], "deferred after a later mail had gone through"
    assert app.records.messages.count(Filter(org_id=1)) - before >= len(client.delivered)
    assert app.queue.depth() > 0
    app.records.database.close()
    app.queue.huey.storage.close()
    primary.kill()
