"""desk.py: what waits for a place past its deadline is not done, and keeps nobody else out."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints.service.dispatcher import Dispatcher
from orderflow_ingest.storage.database import Filter
from orderflow_ingest.storage.envelope_header import encode_envelope
from tests.support.fakes import embedded
from tests.support.mails import order

ACME = "orders+acme@orderflow.example.com"


@pytest.fixture
def go_on():
    """What the first delivery waits for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def app(place, go_on):
    """One place, half a second; the archive of the first delivery hangs until it is let go."""
    app = embedded(place, ORDERFLOW_CONCURRENCY="1", ORDERFLOW_DEADLINE="0.5")
    real, first = app.archive.put, threading.Lock()

    def put(*arguments):
        if first.acquire(blocking=False):
            go_on.wait(30)
        real(*arguments)

    app.archive.put = put
    return app


def envelope() -> Envelope:
    return Envelope(ACME, datetime.now(UTC), "buyer@shop.example")


def spooled(app, number: int) -> str:
    blocks = iter((order(number), b""))
    entry = app.spool.write(encode_envelope(envelope()), lambda _: next(blocks), limit=1 << 30)
    entry.release()
    return entry.name


async def settled(dispatcher: Dispatcher, name: str) -> Outcome:
    answer = asyncio.get_running_loop().create_future()
    dispatcher.deliver_spooled(name, answer.set_result)
    return await answer


@pytest.mark.parametrize("door", ["mail", "entry"])
def test_what_no_place_has_begun_by_its_deadline_is_not_done_and_comes_again(app, go_on, door):
    async def scenario() -> None:
        dispatcher = Dispatcher(app)
        hanging = asyncio.create_task(dispatcher.deliver(envelope(), order(1)))
        await asyncio.sleep(0.1)
        name = spooled(app, 2)
        waits = dispatcher.deliver(envelope(), order(2)) if door == "mail" else settled(dispatcher, name)
        second = asyncio.create_task(waits)
        assert [await hanging, await second] == [Outcome.DEADLINE, Outcome.DEADLINE]
        assert dispatcher.is_stuck and await dispatcher.deliver(envelope(), order(3)) is Outcome.OVERLOADED
        go_on.set()
        for _ in range(200):
            if dispatcher.health()["busy"] == 0:
                break
            await asyncio.sleep(0.02)
        assert (dispatcher.health()["busy"], dispatcher.health()["overdue"], dispatcher.health()["in_flight"]) == (
            0,
            0,
            0,
        )
        assert [row.subject for row in app.records.messages.select(Filter(), 9)] == ["Order 1"]
        assert door == "mail" or name not in app.spool.entries()
        assert await dispatcher.deliver(envelope(), order(2)) is Outcome.DELIVERED

    asyncio.run(scenario())
