"""The recipient map's door: yes from memory, no from the database alone, and nothing that a client sends costs much."""

import asyncio
import os
import sqlite3
import threading
from contextlib import asynccontextmanager, closing

import pytest

from orderflow_ingest.domain.addresses import Addresses
from orderflow_ingest.entrypoints.service.known_recipients import (
    BATCH_SIZE,
    KnownOrganizations,
    RecipientUndecidedError,
)
from orderflow_ingest.entrypoints.service.socketmap import MapListener
from orderflow_ingest.storage.database import DatabaseUnavailable
from tests.support.fakes import embedded
from tests.support.lab.process import DOMAIN, scratch

BOOKS = "xn--bcher-kva.example"
OURS = Addresses("orders", "+-", (DOMAIN, BOOKS))


class FakeTable:
    """A table of active slugs that notes what it was asked; away or empty where a test says so."""

    def __init__(self, *slugs):
        self.slugs, self.is_away, self.is_empty, self.fault = set(slugs), False, False, None
        self.asked = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def active_slugs(self, among=None):
        self.asked.append(among)
        assert self.may_answer.wait(60)
        if self.fault:
            raise self.fault
        if self.is_away:
            raise DatabaseUnavailable("database: away")
        if self.is_empty:
            return None
        return set(self.slugs) if among is None else self.slugs & among


@asynccontextmanager
async def served(table, timeout=60, **bounds):
    """Serve a door at a socket; return the known organizations, the door and a function that connects."""
    with scratch() as place:
        known = KnownOrganizations(table, timeout)
        listener = MapListener(known, OURS, {os.geteuid()}, **bounds)
        server = await asyncio.get_running_loop().create_unix_server(listener, str(place / "map.sock"))
        try:
            yield known, listener, lambda: asyncio.open_unix_connection(str(place / "map.sock"))
        finally:
            server.close()
            table.may_answer.set()
            for connection in tuple(listener.connections):
                connection.end_if_idle()


def netstring(text):
    data = text if isinstance(text, bytes) else text.encode()
    return b"%d:%b," % (len(data), data)


async def answer(reader):
    size = await reader.readuntil(b":")
    text = await reader.readexactly(int(size[:-1]) + 1)
    assert text.endswith(b",")
    return text[:-1].decode()


async def asked(connect, *keys):
    reader, writer = await connect()
    try:
        writer.write(
            b"".join(netstring(b"recipients " + (key if isinstance(key, bytes) else key.encode())) for key in keys)
        )
        return [await answer(reader) for _ in keys]
    finally:
        writer.close()


def run(test):
    async def within():
        async with asyncio.timeout(60):
            await test()

    asyncio.run(within())


# What is answered


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (f"orders+acme@{DOMAIN}", "OK acme"),
        (f"ORDERS-Acme@{DOMAIN.upper()}.", "OK acme"),
        (f"orders-acme-shop@{BOOKS}", "OK acme-shop"),
        ("orders+acme@Bücher.example", "OK acme"),
        (f"orders+nope@{DOMAIN}", "NOTFOUND "),
        (f"orders@{DOMAIN}", "NOTFOUND "),
        (f"orders+acme+x@{DOMAIN}", "NOTFOUND "),
        (f"sales+acme@{DOMAIN}", "NOTFOUND "),
        ("orders+acme@other.example", "NOTFOUND "),
        ("orders+acme", "NOTFOUND "),
        ("", "NOTFOUND "),
        (b"orders+\xff@" + DOMAIN.encode(), "NOTFOUND "),
        (f"orders+{'x' * 9000}@{DOMAIN}", "NOTFOUND "),
        (f"orders+'; DROP TABLE organization --@{DOMAIN}", "NOTFOUND "),
    ],
    ids=ascii,
)
def test_an_address_is_answered_as_a_delivery_reads_it(key, said):
    async def test():
        async with served(FakeTable("acme", "acme-shop")) as (_, _, connect):
            assert await asked(connect, key) == [said]

    run(test)


def test_memory_says_yes_without_a_question_and_the_database_alone_says_no():
    async def test():
        table = FakeTable("acme")
        async with served(table) as (known, _, connect):
            await known.refresh()
            table.asked.clear()
            assert await asked(connect, f"orders+acme@{DOMAIN}") == ["OK acme"] and table.asked == []
            assert await asked(connect, f"orders+late@{DOMAIN}") == ["NOTFOUND "]
            table.slugs.add("late")  # by another host, a moment ago
            assert await asked(connect, f"orders+late@{DOMAIN}", f"orders+late@{DOMAIN}") == ["OK late"] * 2
            assert table.asked == [{"late"}, {"late"}]

    run(test)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ({"is_away": True}, "TEMP database: away"),
        ({"is_empty": True}, "TEMP no organization is in the database"),
        ({"fault": ZeroDivisionError("of ours")}, "TEMP ZeroDivisionError"),
    ],
)
def test_without_an_answer_memory_still_says_yes_and_nobody_hears_no(trouble, why):
    async def test():
        table = FakeTable("acme")
        async with served(table) as (known, _, connect):
            await known.refresh()
            vars(table).update(trouble)
            await known.refresh()
            yes, unsaid = await asked(connect, f"orders+acme@{DOMAIN}", f"orders+nope@{DOMAIN}")
            assert yes == "OK acme" and unsaid.startswith(why)
            vars(table).update({"is_away": False, "is_empty": False, "fault": None})
            assert await asked(connect, f"orders+nope@{DOMAIN}") == ["NOTFOUND "]

    run(test)


def test_a_database_that_hangs_is_not_waited_for_and_memory_answers_meanwhile():
    async def test():
        table = FakeTable("acme")
        async with served(table, timeout=0.05) as (known, _, connect):
            await known.refresh()
            table.may_answer.clear()
            late, yes = await asked(connect, f"orders+nope@{DOMAIN}", f"orders+acme@{DOMAIN}")
            assert late == "TEMP the database has not answered in time" and yes == "OK acme"

    run(test)


def test_an_organization_that_is_switched_off_is_forgotten_with_the_next_reading():
    async def test():
        table = FakeTable("acme", "beta")
        async with served(table) as (known, _, connect):
            await known.refresh()
            table.slugs = {"beta"}
            await known.refresh()
            assert await asked(connect, f"orders+acme@{DOMAIN}") == ["NOTFOUND "]

    run(test)


def test_any_number_of_unknown_recipients_is_one_question_at_a_time():
    async def test():
        table, count = FakeTable("late"), 2 * BATCH_SIZE + 1
        known = KnownOrganizations(table)
        table.may_answer.clear()
        first = known.takes_mail("first")
        while not table.asked:
            await asyncio.sleep(0)
        others = [known.takes_mail(f"no-{number}") for number in range(count)]
        again = [known.takes_mail(slug) for slug in ("no-1", "late")]
        await asyncio.sleep(0)
        table.may_answer.set()
        assert not any(await asyncio.gather(first, *others)) and await asyncio.gather(*again) == [False, True]
        assert [len(among) for among in table.asked] == [1, BATCH_SIZE, BATCH_SIZE, 2]

    run(test)


def test_a_question_is_answered_by_what_was_read_after_it():
    """An answer from a reading that had begun before would be a no for what was added between."""

    async def test():
        table = FakeTable()
        known = KnownOrganizations(table)
        table.may_answer.clear()
        before = known.takes_mail("late")
        while not table.asked:
            await asyncio.sleep(0)
        after = known.takes_mail("late")
        await asyncio.sleep(0)
        table.may_answer.set()
        await asyncio.gather(before, after)
        assert len(table.asked) == 2

    run(test)


def test_an_organization_that_is_added_between_a_question_and_its_reading_is_found():
    async def test():
        table = FakeTable("acme")
        known = KnownOrganizations(table)
        table.may_answer.clear()
        before, late = known.takes_mail("guess"), known.takes_mail("late")
        assert not late.done()
        table.slugs.add("late")
        table.may_answer.set()
        assert [await before, await late] == [False, True]

    run(test)


@pytest.mark.parametrize(
    "fault", [DatabaseUnavailable("database: away"), sqlite3.OperationalError("x"), None], ids=["away", "odd", "empty"]
)
def test_of_thousands_that_wait_nobody_hears_no_while_readings_fail_and_all_are_answered(fault):
    async def test():
        table = FakeTable("acme")
        table.fault, table.is_empty = fault, fault is None
        known = KnownOrganizations(table)
        asked = [known.takes_mail(f"guess{number}") for number in range(4000)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert (
            all(isinstance(one, RecipientUndecidedError) for one in told) and len(table.asked) <= 4000 / BATCH_SIZE + 2
        )
        table.fault, table.is_empty = None, False
        assert [await known.takes_mail("guess1"), await known.takes_mail("acme")] == [False, True]

    run(test)


def test_who_is_not_answered_in_time_is_no_longer_waited_for_and_is_asked_for_again():
    """While a database hangs, guess after guess, the same ones too, holds no more than the ones not yet given up."""

    async def test():
        table = FakeTable("acme")
        known = KnownOrganizations(table, timeout=0.01)
        table.may_answer.clear()
        for _ in range(3):
            asked = [known.takes_mail(f"guess{number}") for number in range(1000)]
            told = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(one, RecipientUndecidedError) for one in told) and not known._waiting
        table.may_answer.set()
        known._timeout = 60
        assert [await known.takes_mail("guess1"), await known.takes_mail("acme")] == [False, True]
        assert len(table.asked) <= 4, "the first one is in hand, and nothing of what was given up is asked for"

    run(test)


def test_the_answers_of_a_connection_come_in_the_order_of_its_questions_under_many_guesses():
    async def test():
        table = FakeTable("acme", "beta")
        async with served(table) as (known, _, connect):
            await known.refresh()

            async def one(number):
                said = ["OK acme", "NOTFOUND ", "OK beta", "NOTFOUND ", "NOTFOUND ", "OK acme"]
                keys = ["acme", f"guess{number}", "beta", "guess", "a+b", "acme"]
                assert await asked(connect, *(f"orders+{key}@{DOMAIN}" for key in keys * 3)) == said * 3

            await asyncio.gather(*(one(number) for number in range(50)))
            assert len(table.asked) < 50 * 6, "they share readings"

    run(test)


def test_while_guesses_wait_for_the_database_who_is_known_is_answered():
    async def test():
        table = FakeTable("acme")
        async with served(table) as (known, _, connect):
            await known.refresh()
            table.may_answer.clear()
            guesses = [asyncio.create_task(asked(connect, f"orders+guess{n}@{DOMAIN}")) for n in range(100)]
            while not known._waiting:
                await asyncio.sleep(0)
            assert await asked(connect, *[f"orders+acme@{DOMAIN}"] * 100) == ["OK acme"] * 100
            assert not any(one.done() for one in guesses)
            table.may_answer.set()
            assert await asyncio.gather(*guesses) == [["NOTFOUND "]] * 100

    run(test)


def test_a_connection_that_ends_takes_nobody_elses_answer_with_it():
    async def test():
        table = FakeTable("acme")
        async with served(table) as (_, listener, connect):
            table.may_answer.clear()
            _, first = await connect()
            first.write(netstring(f"recipients orders+guess@{DOMAIN}"))
            while not table.asked:
                await asyncio.sleep(0)
            _, second = await connect()
            second.write(netstring(f"recipients orders+late@{DOMAIN}"))
            third = asyncio.create_task(asked(connect, f"orders+late@{DOMAIN}"))
            while len(listener.connections) < 3 or not all(one._pending for one in listener.connections):
                await asyncio.sleep(0)
            first.close()
            second.close()
            while len(listener.connections) > 1:
                await asyncio.sleep(0)
            table.slugs.add("late")
            table.may_answer.set()
            assert await third == ["OK late"]

    run(test)


def test_a_file_without_tables_answers_nobody(place):
    app = embedded(place)
    with closing(sqlite3.connect(place / "orderflow.db")) as database, database:
        database.execute("ALTER TABLE organization RENAME TO kept")
    with pytest.raises(DatabaseUnavailable, match="run orderflow-admin init"):
        app.records.organizations.active_slugs({"guess"})


# What a client may cost


@pytest.mark.parametrize(
    "sent",
    [
        b"x",
        b":",
        b"-1:x,",
        b"1x:x,",
        b"1_0:xxxxxxxxxx,",
        "\u0661:x,".encode(),
        b"999999",
        b"99999:",
        b"10012:",
        b"3:abcd",
        b"GET / HTTP/1.0\r\n\r\n",
        b"\0" * 100,
    ],
)
def test_what_is_no_request_ends_the_connection(sent):
    async def test():
        async with served(FakeTable("acme")) as (_, listener, connect):
            reader, writer = await connect()
            writer.write(sent)
            assert await reader.read() == b"" and not listener.connections
            writer.close()

    async def read_or_reset():
        try:
            await test()
        except ConnectionResetError:
            return

    asyncio.run(read_or_reset())


def test_another_maps_name_is_refused():
    async def test():
        async with served(FakeTable("acme")) as (_, _, connect):
            reader, writer = await connect()
            writer.write(netstring(f"users orders+acme@{DOMAIN}") + netstring(""))
            assert [await answer(reader), await answer(reader)] == ["PERM no such map"] * 2
            writer.close()

    run(test)


def test_a_request_that_comes_byte_by_byte_is_answered_once():
    async def test():
        async with served(FakeTable("acme")) as (_, _, connect):
            reader, writer = await connect()
            for byte in netstring(f"recipients orders+acme@{DOMAIN}"):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            assert await answer(reader) == "OK acme"
            writer.close()

    run(test)


def test_who_never_completes_a_request_is_sent_away():
    async def test():
        async with served(FakeTable("acme"), idle=0.05) as (_, listener, connect):
            reader, writer = await connect()
            writer.write(b"100:recipients ")
            assert await reader.read() == b"" and not listener.connections
            writer.close()

    run(test)


def test_connections_beyond_the_bound_end_at_once_and_others_go_on():
    async def test():
        async with served(FakeTable("acme"), max_connections=2) as (_, listener, connect):
            pairs = [await connect() for _ in range(2)]
            for reader, writer in pairs:
                writer.write(netstring(f"recipients orders+acme@{DOMAIN}"))
                assert await answer(reader) == "OK acme"
            reader, writer = await connect()
            assert await reader.read() == b"" and len(listener.connections) == 2
            for _, one in [*pairs, (reader, writer)]:
                one.close()

    run(test)


def test_who_takes_no_answers_is_read_no_further():
    """A client that only writes holds some kilobytes, not what it sends."""

    async def test():
        async with served(FakeTable("acme")) as (_, listener, connect):
            _, writer = await connect()
            block, sent = netstring(f"recipients orders+acme@{DOMAIN}") * 1000, 0
            while writer.transport.get_write_buffer_size() == 0 and sent < 1 << 28:
                writer.write(block)
                sent += len(block)
                await asyncio.sleep(0)
            held = next(iter(listener.connections))
            assert sent < 1 << 24 and len(held._read) + held._transport.get_write_buffer_size() < 1 << 20
            writer.transport.abort()

    run(test)


def test_a_stranger_is_sent_away():
    async def test():
        async with served(FakeTable("acme")) as (_, listener, connect):
            listener.allowed_uids = {os.geteuid() + 1}
            reader, writer = await connect()
            assert await reader.read() == b"" and not listener.connections
            writer.close()

    run(test)


def test_at_the_end_a_question_in_hand_is_answered_and_the_others_are_closed():
    async def test():
        table = FakeTable("acme")
        async with served(table) as (_, listener, connect):
            table.may_answer.clear()
            (idle, idler), (reader, writer) = await connect(), await connect()
            writer.write(netstring(f"recipients orders+nope@{DOMAIN}"))
            while not table.asked:
                await asyncio.sleep(0)
            ending = asyncio.create_task(listener.finish())
            assert await idle.read() == b""
            table.may_answer.set()
            assert await answer(reader) == "NOTFOUND " and await reader.read() == b""
            await ending
            idler.close()
            writer.close()

    run(test)


def test_asking_is_given_up_by_name():
    async def test():
        table = FakeTable()
        table.is_away = True
        with pytest.raises(RecipientUndecidedError, match="database: away"):
            await KnownOrganizations(table).takes_mail("acme")

    run(test)
