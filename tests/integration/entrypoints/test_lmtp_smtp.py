"""The LMTP and the before-queue door, spoken to over their sockets as Postfix does, and as it never would."""

import asyncio
import functools
import logging
import os
import random
import socket
import struct
import tracemalloc
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from orderflow_ingest.domain.addresses import Addresses
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints.service import postmaster_relay
from orderflow_ingest.entrypoints.service.lmtp_smtp import lmtp_listener, smtp_listener
from orderflow_ingest.storage.envelope_header import encode_envelope

DOMAIN = "orderflow.example.com"
ACME, BETA, NOPE = (f"orders+{slug}@{DOMAIN}" for slug in ("acme", "beta", "nope"))
MAIL = b"Subject: order 1\r\n\r\n.. two lines\r\n..one dot\r\n"
RAW = b"Subject: order 1\n\n. two lines\n.one dot\n"
ADDRESSES = Addresses("orders", "+", (DOMAIN,))
OURS = {os.geteuid()}
MEGABYTE = 1 << 20


class FakeDispatcher:
    """A desk that notes what it was given; `outcomes` and `welcomes` say its answers by recipient."""

    def __init__(self):
        self.settings = SimpleNamespace(max_message_size=MEGABYTE, domains=(DOMAIN,), addresses=ADDRESSES)
        self.is_draining = False
        self.budget, self.reserved, self.most_reserved = 10 * MEGABYTE, 0, 0
        self.refusals = {NOPE: Outcome.UNKNOWN_ORG}
        self.outcomes = {}
        self.delivered: list[tuple[Envelope, bytes]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.at_work = self.most_at_work = 0

    def reserve(self, size):
        if self.reserved and self.reserved + size > self.budget:
            return False
        self.reserved += size
        self.most_reserved = max(self.most_reserved, self.reserved)
        return True

    def release(self, size):
        self.reserved -= size
        assert self.reserved >= 0

    def organization_slug(self, recipient):
        return ADDRESSES.slug(recipient) if recipient.lower().endswith(DOMAIN) else None

    async def check_recipient(self, recipient):
        return _given(self.refusals.get(recipient))

    async def deliver(self, envelope, raw):
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        await asyncio.sleep(0)
        await self.may_end.wait()
        self.at_work -= 1
        outcome = _given(self.outcomes.get(envelope.recipient, Outcome.DELIVERED))
        self.delivered.append((envelope, raw))
        return outcome


def _given(answer):
    if isinstance(answer, Exception):
        raise answer
    return answer


class Client:
    """One connection; replies come as lists of lines."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, data):
        self.writer.write(data)

    async def reply(self):
        lines = []
        while not lines or lines[-1][3:4] == "-":
            line = await self.reader.readline()
            assert line.endswith(b"\r\n"), line
            lines.append(line[:-2].decode())
        return lines[0] if len(lines) == 1 else lines

    async def ask(self, line):
        self.send(line.encode("utf-8", "surrogateescape") + b"\r\n")
        return await self.reply()

    async def replies(self, *lines):
        return [await self.ask(line) for line in lines]

    async def begin(self, *recipients, sender="buyer@shop.example", options=""):
        """Send MAIL and RCPT, and DATA up to its 354."""
        answers = await self.replies(f"MAIL FROM:<{sender}>{options}", *(f"RCPT TO:<{r}>" for r in recipients), "DATA")
        assert [answer[:3] for answer in answers] == ["250"] * (1 + len(recipients)) + ["354"], answers

    async def deliver(self, *recipients, mail=MAIL, **about):
        """Send a message; return the replies, one for each recipient where that is the rule."""
        await self.begin(*recipients, **about)
        self.send(mail + b".\r\n")
        return await self.reply()

    async def closed(self):
        """Return what else comes before the connection ends."""
        try:
            return (await self.reader.read()).decode()
        except ConnectionResetError:
            return ""

    def leave(self):
        self.writer.close()


class Lab:
    """A door on a socket, its desk and its clients."""

    def __init__(self, dispatcher, listener, path, hello):
        self.dispatcher, self.listener, self.path, self.hello = dispatcher, listener, path, hello

    async def connect(self):
        return Client(*await asyncio.open_unix_connection(str(self.path)))

    async def client(self):
        client = await self.connect()
        assert (await client.reply()).startswith("220 orderflow-ingest ")
        await client.ask(f"{self.hello} mail.example")
        return client

    async def settled(self):
        """Wait until no session and no delivery is left."""
        async with asyncio.timeout(5):
            while self.listener.sessions or self.listener._deliveries:
                await asyncio.sleep(0.005)

    async def came(self, number):
        async with asyncio.timeout(5):
            while len(self.dispatcher.delivered) < number:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(make, place, uids=OURS, dispatcher=None, **options):
    dispatcher, loop, path = dispatcher or FakeDispatcher(), asyncio.get_running_loop(), place / "door.sock"
    unhandled = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    listener = make(dispatcher, uids, **options)
    server = await loop.create_unix_server(listener, str(path))
    lab = Lab(dispatcher, listener, path, "LHLO" if make is lmtp_listener else "EHLO")
    try:
        yield lab
    finally:
        server.close()
        for session in tuple(listener.sessions):
            session._connection.abort()
        dispatcher.may_end.set()
        await lab.settled()
    assert dispatcher.reserved == 0, "budget is left over"
    assert not unhandled


lmtp = functools.partial(listening, lmtp_listener)
smtp = functools.partial(listening, smtp_listener)
BOTH = pytest.mark.parametrize("listen", [lmtp, smtp], ids=["lmtp", "smtp"])


def live(test):
    """Run a test that is a coroutine."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@pytest.fixture
def records():
    """Return the log's records, of all loggers."""
    found, root = [], logging.getLogger()
    handler = logging.Handler(0)
    handler.emit = found.append
    ours = logging.getLogger("orderflow_ingest")
    levels = [(logger, logger.level) for logger in (root, ours)]
    for logger in (root, ours):
        logger.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield found
    root.removeHandler(handler)
    for logger, level in levels:
        logger.setLevel(level)


def ours(records):
    return [record for record in records if record.name == "orderflow_ingest"]


# Dialogue


@live
async def test_lmtp_says_lhlo_and_what_it_can(place):
    async with lmtp(place) as lab:
        client = await lab.connect()
        assert await client.reply() == "220 orderflow-ingest LMTP OrderFlow ingest"
        for other in ("HELO", "EHLO"):
            assert (await client.ask(f"{other} mail.example")).startswith("500 5.5.2 ")
        assert await client.ask("LHLO mail.example") == [
            "250-orderflow-ingest",
            "250-PIPELINING",
            f"250-SIZE {2 * MEGABYTE + 65536}",
            "250-8BITMIME",
            "250-SMTPUTF8",
            "250-ENHANCEDSTATUSCODES",
            "250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
        ]


@live
async def test_smtp_says_ehlo_or_helo_and_not_lhlo(place):
    async with smtp(place) as lab:
        client = await lab.connect()
        assert await client.reply() == "220 orderflow-ingest ESMTP OrderFlow ingest"
        assert (await client.ask("LHLO mail.example")).startswith("500 5.5.2 ")
        assert await client.ask("HELO mail.example") == "250 orderflow-ingest"
        assert len(await client.ask("EHLO mail.example")) == 7
        assert await client.deliver(ACME) == "250 2.0.0 message recorded"


@BOTH
@live
async def test_every_reply_has_an_enhanced_status_code_and_order_is_kept(listen, place):
    async with listen(place) as lab:
        client = await lab.connect()
        await client.reply()
        greeting = lab.hello
        answers = await client.replies("MAIL FROM:<a@shop.example>", "RCPT TO:<b@shop.example>", "DATA", greeting)
        assert [answer[:9] for answer in answers] == ["503 5.5.1", "503 5.5.1", "503 5.5.1", "501 5.5.4"]
        await client.ask(f"{greeting} mail.example")
        pairs = {
            f"RCPT TO:<{ACME}>": "503 5.5.1",
            "NOOP": "250 2.0.0",
            "NOOP whatever": "250 2.0.0",
            "RSET": "250 2.0.0",
            "RSET now": "501 5.5.4",
            "VRFY acme": "252 2.0.0",
            "AUTH PLAIN": "500 5.5.2",
            "STARTTLS": "500 5.5.2",
            "MAIL": "501 5.5.4",
            "MAIL FROM:<a@shop.example": "501 5.5.4",
            "MAIL FROM:<a@shop.example> SIZE=ten": "501 5.5.4",
            "MAIL FROM:<a@shop.example> SIZE=-10": "501 5.5.4",
            "MAIL FROM:<a@shop.example> SIZE": "501 5.5.4",
            "MAIL FROM:<a@shop.example> BODY=BINARYMIME": "555 5.5.4",
            "MAIL FROM:<a@shop.example> HOLDUNTIL=12": "555 5.5.4",
            "MAIL FROM:<a@shop.example> RET=HDRS ENVID=x AUTH=<>": "250 2.1.0",
            "MAIL FROM:<b@shop.example>": "503 5.5.1",
            "DATA": "503 5.5.1",
            "RCPT": "501 5.5.4",
            "RCPT TO:<>": "501 5.5.4",
            f"RCPT TO:<{ACME}> WHEN=now": "555 5.5.4",
            f"RCPT TO:<{ACME}> NOTIFY=NEVER ORCPT=rfc822;x@y": "250 2.1.5",
            "DATA now": "501 5.5.4",
            "RSET ": "250 2.0.0",
            "QUIT": "221 2.0.0",
        }
        for line, expected in pairs.items():
            assert (await client.ask(line)).startswith(expected + " "), line
        assert await client.closed() == "" and lab.dispatcher.delivered == []


# Messages


@BOTH
@live
async def test_a_message_arrives_as_pipe_would_have_brought_it(listen, place):
    async with listen(place) as lab:
        client, before = await lab.client(), datetime.now(UTC)
        assert (await client.deliver(ACME, options=" SIZE=99 BODY=8BITMIME")) == "250 2.0.0 message recorded"
        ((envelope, raw),) = lab.dispatcher.delivered
        assert raw == RAW
        assert (envelope.recipient, envelope.sender) == (ACME, "buyer@shop.example")
        assert before <= envelope.received_at <= datetime.now(UTC)
        assert envelope.received_at.utcoffset() == timedelta(0)


@BOTH
@pytest.mark.parametrize("mail", [b"", b"\r\n", b"a\rb\nc\r\r\nd\r\n", b"x" * 200000 + b"\r\n", b"\xff\x00\xfe\r\n"])
@live
async def test_content_is_taken_as_it_is(listen, mail, place):
    async with listen(place) as lab:
        client = await lab.client()
        assert (await client.deliver(ACME, mail=mail)).startswith("250 ")
        assert lab.dispatcher.delivered[0][1] == mail.replace(b"\r\n", b"\n")


@BOTH
@pytest.mark.parametrize("miss", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r"])
@live
async def test_no_message_is_smuggled_in_another(listen, miss, place):
    smuggled = miss + f"MAIL FROM:<ceo@shop.example>\r\nRCPT TO:<{BETA}>\r\nDATA\r\nX: y\r\n".encode()
    async with listen(place) as lab:
        client = await lab.client()
        await client.begin(ACME)
        client.send(b"a" + smuggled + b".\r\n")
        assert (await client.reply()).startswith("250 ")
        assert (await client.ask("NOOP")).startswith("250 ")
        assert [envelope.recipient for envelope, _ in lab.dispatcher.delivered] == [ACME]


@BOTH
@live
async def test_a_null_sender_is_empty(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        await client.deliver(ACME, sender="")
        assert lab.dispatcher.delivered[0][0].sender == ""


@BOTH
@pytest.mark.parametrize(
    "sender",
    ["büro@shop.example", "注文@例え.jp", b"b\xfcro@shop.example".decode("utf-8", "surrogateescape")],
    ids=["latin", "japanese", "no UTF-8"],
)
@live
async def test_an_address_of_any_bytes_is_taken(listen, sender, place):
    async with listen(place) as lab:
        client = await lab.client()
        await client.deliver(ACME, sender=sender, options=" SMTPUTF8")
        envelope = lab.dispatcher.delivered[0][0]
        assert envelope.sender == sender and encode_envelope(envelope)


@BOTH
@live
async def test_whole_transactions_may_come_in_one_write(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        one = f"MAIL FROM:<a@shop.example>\r\nRCPT TO:<{ACME}>\r\nDATA\r\n".encode() + MAIL + b".\r\n"
        client.send(one + b"NOOP\r\n" + one + b"QUIT\r\n")
        codes = [(await client.reply())[:3] for _ in range(10)]
        assert codes == ["250", "250", "354", "250", "250", "250", "250", "354", "250", "221"]
        assert [raw for _, raw in lab.dispatcher.delivered] == [RAW, RAW]


@BOTH
@live
async def test_a_transaction_may_come_byte_by_byte(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        sent = f"MAIL FROM:<a@shop.example>\r\nRCPT TO:<{ACME}>\r\nDATA\r\n".encode() + MAIL + b".\r\nQUIT\r\n"
        for position in range(len(sent)):
            client.send(sent[position : position + 1])
            await asyncio.sleep(0)
        assert [(await client.reply())[:3] for _ in range(5)] == ["250", "250", "354", "250", "221"]
        assert lab.dispatcher.delivered[0][1] == RAW


@BOTH
@live
async def test_what_was_said_ends_with_its_transaction(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        await client.ask("XFORWARD ADDR=192.0.2.1 IDENT=4ABC")
        await client.deliver(ACME, sender="one@shop.example")
        assert (await client.ask("DATA")).startswith("503")
        await client.deliver(BETA, sender="two@shop.example")
        await client.replies("MAIL FROM:<x@shop.example>", f"RCPT TO:<{ACME}>", "RSET")
        assert (await client.ask("DATA")).startswith("503")
        told = [(e.sender, e.recipient, e.client_address, e.queue_id) for e, _ in lab.dispatcher.delivered]
        assert told == [("one@shop.example", ACME, "192.0.2.1", "4ABC"), ("two@shop.example", BETA, "", "")]


@live
async def test_twenty_sessions_at_a_time_get_each_its_own(place):
    async with lmtp(place) as lab:
        lab.dispatcher.may_end.clear()

        async def send(number):
            client = await lab.client()
            mails = [b"Subject: %d of %d\r\n\r\n" % (part, number) + b"x" * 5000 + b"\r\n" for part in range(3)]
            return [await client.deliver(ACME, sender=f"{number}@shop.example", mail=mail) for mail in mails]

        sending = [asyncio.create_task(send(number)) for number in range(20)]
        async with asyncio.timeout(10):
            while lab.dispatcher.at_work < 20:
                await asyncio.sleep(0.005)
        lab.dispatcher.may_end.set()
        assert await asyncio.gather(*sending) == [["250 2.0.0 message recorded"] * 3] * 20
        for envelope, raw in lab.dispatcher.delivered:
            assert f" of {envelope.sender.partition('@')[0]}\n".encode() in raw
        assert len(lab.dispatcher.delivered) == 60


@BOTH
@live
async def test_random_mail_is_delivered_byte_for_byte(listen, place):
    random_ = random.Random(7)
    async with listen(place) as lab:
        client = await lab.client()
        for size in (0, 1, 5, 300, 70000, 400000):
            raw = (
                bytes(random_.choices(b".\n\rab \xe9\0", (3, 4, 1, 9, 9, 9, 1, 1), k=size)).replace(b"\r\n", b"")
                + b"\n"
            )
            lines = raw.split(b"\n")[:-1]
            await client.deliver(ACME, mail=b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in lines))
            assert lab.dispatcher.delivered[-1][1] == raw


# Outcomes


@pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.name)
@BOTH
@live
async def test_every_outcome_is_told_as_its_table_says(listen, outcome, place):
    async with listen(place) as lab:
        lab.dispatcher.outcomes[ACME] = outcome
        client = await lab.client()
        assert await client.deliver(ACME) == f"{outcome.reply_code} {outcome.dsn_code} {outcome.text}"


@pytest.mark.parametrize("outcome", [Outcome.ORG_DISABLED, Outcome.BACKEND_DOWN, Outcome.DEADLINE])
@BOTH
@live
async def test_a_recipient_is_refused_before_any_content(listen, outcome, place):
    async with listen(place) as lab:
        lab.dispatcher.refusals[BETA] = outcome
        client = await lab.client()
        await client.ask("MAIL FROM:<a@shop.example>")
        assert await client.ask(f"RCPT TO:<{NOPE}>") == "550 5.1.1 no such organization"
        assert await client.ask(f"RCPT TO:<{BETA}>") == f"{outcome.reply_code} {outcome.dsn_code} {outcome.text}"
        assert await client.ask("DATA") == "503 5.5.1 no recipient was accepted"
        assert await client.ask(f"RCPT TO:<{ACME}>") == "250 2.1.5 recipient noted"


@live
async def test_lmtp_answers_for_each_accepted_recipient_in_their_order(place):
    async with lmtp(place) as lab:
        lab.dispatcher.outcomes = {BETA: Outcome.BACKEND_DOWN, ACME.upper(): Outcome.DUPLICATE}
        client = await lab.client()
        client.send(
            f"MAIL FROM:<a@shop.example>\r\nRCPT TO:<{ACME}>\r\nRCPT TO:<{NOPE}>\r\nRCPT TO:<{BETA}>\r\n"
            f"RCPT TO:<{ACME.upper()}>\r\nDATA\r\n".encode()
        )
        assert [(await client.reply())[:3] for _ in range(6)] == ["250", "250", "550", "250", "250", "354"]
        client.send(MAIL + b".\r\n")
        assert [await client.reply() for _ in range(3)] == [
            "250 2.0.0 message recorded",
            "451 4.3.0 storage is not available, try again later",
            "250 2.0.0 message known already",
        ]
        assert lab.dispatcher.most_at_work == 3
        assert len({envelope.received_at for envelope, _ in lab.dispatcher.delivered}) == 1
        assert (await client.ask("NOOP")).startswith("250 ")


@BOTH
@live
async def test_a_transaction_has_a_thousand_recipients_at_most(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        client.send(b"MAIL FROM:<a@shop.example>\r\n" + f"RCPT TO:<{ACME}>\r\n".encode() * 1001)
        answers = [await client.reply() for _ in range(1002)]
        assert {answer[:9] for answer in answers[:-1]} == {"250 2.1.0", "250 2.1.5"}
        assert answers[-1] == "452 4.5.3 too many recipients"


@live
async def test_smtp_takes_mail_for_one_organization_at_a_time(place):
    async with smtp(place) as lab:
        client = await lab.client()
        answers = await client.replies(
            "MAIL FROM:<a@shop.example>",
            *(
                f"RCPT TO:<{recipient}>"
                for recipient in (NOPE, ACME, BETA, NOPE, ACME.replace("acme", "ACME"), "postmaster")
            ),
            "DATA",
        )
        assert [answer[:9] for answer in answers] == [
            "250 2.1.0", "550 5.1.1", "250 2.1.5", "452 4.5.3", "550 5.1.1", "250 2.1.5", "550 5.1.1", "354 end w",
        ]  # fmt: skip
        assert answers[3] == "452 4.5.3 one organization at a time, send this recipient again"
        client.send(MAIL + b".\r\n")
        assert (await client.reply()).startswith("250 ")
        assert len(lab.dispatcher.delivered) == 2
        assert (await client.deliver(BETA)).startswith("250 ")


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        (Outcome.DELIVERED, Outcome.DUPLICATE, 250),
        (Outcome.DELIVERED, Outcome.BACKEND_DOWN, 451),
        (Outcome.BACKEND_DOWN, Outcome.DELIVERED, 451),
        (Outcome.ORG_DISABLED, Outcome.SPOOL_FULL, 452),
        (Outcome.DELIVERED, Outcome.ORG_DISABLED, 550),
        (Outcome.TOO_BIG, Outcome.ORG_DISABLED, 552),
    ],
)
@live
async def test_smtp_answers_once_with_what_is_worst_unless_it_passes(first, second, answer, place):
    async with smtp(place) as lab:
        lab.dispatcher.outcomes = {ACME: first, ACME.upper(): second}
        client = await lab.client()
        assert (await client.deliver(ACME, ACME.upper())).startswith(f"{answer} ")
        assert (await client.ask("NOOP")).startswith("250 ")


# XFORWARD


@BOTH
@live
async def test_xforward_tells_the_client_and_the_queue_id(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        answers = await client.replies(
            "XFORWARD NAME=mail.shop.example ADDR=IPV6:2001:db8::1 PORT=2525 PROTO=ESMTP",
            "XFORWARD HELO=mail+2Eshop IDENT=4XyZ12 SOURCE=REMOTE",
        )
        assert {answer[:9] for answer in answers} == {"250 2.0.0"}
        await client.deliver(ACME)
        await client.ask("XFORWARD ADDR=[UNAVAILABLE] IDENT=[TEMPUNAVAIL]")
        await client.deliver(ACME)
        told = [(envelope.client_address, envelope.queue_id) for envelope, _ in lab.dispatcher.delivered]
        assert told == [("2001:db8::1", "4XyZ12"), ("", "")]


@BOTH
@live
async def test_xforward_has_no_place_in_a_transaction_and_needs_attributes(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        assert (await client.ask("XFORWARD")).startswith("501 5.5.4 ")
        assert (await client.ask("XFORWARD ADDR")).startswith("501 5.5.4 ")
        assert (await client.ask("XFORWARD COLOUR=red")).startswith("501 5.5.4 ")
        await client.ask("MAIL FROM:<a@shop.example>")
        assert (await client.ask("XFORWARD ADDR=192.0.2.1")).startswith("503 5.5.1 ")


# Size and budget


@BOTH
@live
async def test_what_is_surely_too_big_is_refused_at_mail(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        refused = await client.ask(f"MAIL FROM:<a@shop.example> SIZE={2 * MEGABYTE + 65537}")
        assert refused == "552 5.3.4 message exceeds the size limit"
        assert (await client.ask("DATA")).startswith("503 ")
        assert (await client.ask(f"MAIL FROM:<a@shop.example> SIZE={2 * MEGABYTE}")).startswith("250 ")


@BOTH
@live
async def test_the_limit_counts_lines_as_pipe_writes_them(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        lines = b"\r\n" * MEGABYTE
        assert (await client.deliver(ACME, mail=lines, options=f" SIZE={len(lines)}")).startswith("250 ")
        assert lab.dispatcher.delivered[0][1] == b"\n" * MEGABYTE
        assert await client.deliver(ACME, mail=lines + b"\r\n") == "552 5.3.4 message exceeds the size limit"
        assert len(lab.dispatcher.delivered) == 1 and lab.dispatcher.reserved == 0


@BOTH
@live
async def test_the_declared_size_is_held_from_mail_on_and_then_what_came(listen, place):
    async with listen(place) as lab:
        lab.dispatcher.may_end.clear()
        client = await lab.client()
        await client.begin(ACME, options=" SIZE=500000")
        assert lab.dispatcher.reserved == 500000
        client.send(MAIL + b".\r\n")
        async with asyncio.timeout(5):
            while not lab.dispatcher.at_work:
                await asyncio.sleep(0.005)
        assert lab.dispatcher.reserved == len(RAW)
        lab.dispatcher.may_end.set()
        await client.reply()
        assert lab.dispatcher.reserved == 0


@BOTH
@live
async def test_mail_is_refused_where_the_budget_has_no_room(listen, place):
    async with listen(place) as lab:
        lab.dispatcher.budget = 600000
        first, second = await lab.client(), await lab.client()
        await first.begin(ACME, options=" SIZE=500000")
        recipients = f"RCPT TO:<{ACME}>\r\n" * 50
        second.send(f"MAIL FROM:<a@shop.example> SIZE=200000\r\n{recipients}DATA\r\n".encode())
        assert [await second.reply() for _ in range(52)] == [
            "451 4.3.2 too much work waiting, try again later",
            *["503 5.5.1 MAIL comes first"] * 50,
            "503 5.5.1 no recipient was accepted",
        ]
        first.send(MAIL + b".\r\n")
        assert (await first.reply()).startswith("250 ")
        assert (await second.deliver(ACME, options=" SIZE=200000")).startswith("250 ")


@pytest.mark.parametrize("options", ["", " SIZE=10"], ids=["undeclared", "declared too small"])
@BOTH
@live
async def test_a_message_that_outgrows_the_budget_is_read_and_not_kept(listen, options, place):
    async with listen(place) as lab:
        lab.dispatcher.budget = MEGABYTE
        other, client = await lab.client(), await lab.client()
        await other.begin(ACME, options=" SIZE=500000")
        mail = (b"x" * 998 + b"\r\n") * 900
        assert (
            await client.deliver(ACME, mail=mail, options=options) == "451 4.3.2 too much work waiting, try again later"
        )
        assert lab.dispatcher.reserved == 500000
        other.send(MAIL + b".\r\n")
        assert (await other.reply()).startswith("250 ")
        assert (await client.deliver(ACME, mail=mail, options=options)).startswith("250 ")
        assert lab.dispatcher.most_reserved <= lab.dispatcher.budget


@live
async def test_one_message_alone_passes_whatever_the_budget(place):
    async with lmtp(place) as lab:
        lab.dispatcher.budget = 1000
        client = await lab.client()
        assert (await client.deliver(ACME, mail=b"x" * 900000 + b"\r\n")).startswith("250 ")


@live
async def test_memory_holds_a_message_once_and_nothing_of_one_that_is_refused(place):
    async with lmtp(place) as lab:
        lab.dispatcher.settings.max_message_size = lab.dispatcher.budget = 20 * MEGABYTE
        client, block = await lab.client(), (b"x" * 98 + b"\r\n") * 1000

        async def peak_of(blocks):
            await client.begin(ACME)
            tracemalloc.start()
            for _ in range(blocks):
                client.send(block)
                await client.writer.drain()
            client.send(b".\r\n")
            answer = await client.reply()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return answer[:3], peak

        answer, peak = await peak_of(150)
        assert answer == "250" and len(lab.dispatcher.delivered[0][1]) == 150 * 99000
        assert peak < 1.4 * 150 * 99000
        lab.dispatcher.settings.max_message_size = MEGABYTE
        answer, peak = await peak_of(300)
        assert answer == "552" and peak < 4 * MEGABYTE


# Ends


async def _reset(lab, client):
    await client.replies("MAIL FROM:<a@shop.example> SIZE=70000", f"RCPT TO:<{ACME}>", "RSET")


async def _greet_again(lab, client):
    await client.replies("MAIL FROM:<a@shop.example> SIZE=70000", f"{lab.hello} mail.example")


async def _quit(lab, client):
    await client.replies("MAIL FROM:<a@shop.example> SIZE=70000", "QUIT")


async def _leave_after_mail(lab, client):
    await client.ask("MAIL FROM:<a@shop.example> SIZE=70000")
    client.leave()


async def _leave_in_content(lab, client):
    await client.begin(ACME, options=" SIZE=70000")
    client.send(MAIL)
    await client.writer.drain()
    client.leave()


async def _leave_in_content_that_grows(lab, client):
    await client.begin(ACME)
    client.send(b"x" * 500000)
    await client.writer.drain()
    client.leave()


async def _break_off_in_content(lab, client):
    await client.begin(ACME, options=" SIZE=70000")
    connection = client.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


async def _too_many_errors(lab, client):
    await client.ask("MAIL FROM:<a@shop.example> SIZE=70000")
    client.send(b"RCPT TO:\r\n" * 20)


@pytest.mark.parametrize(
    "end",
    [
        _reset, _greet_again, _quit, _leave_after_mail, _leave_in_content, _leave_in_content_that_grows,
        _break_off_in_content, _too_many_errors,
    ],
)  # fmt: skip
@BOTH
@live
async def test_the_budget_is_given_back_however_a_transaction_ends(listen, end, place):
    async with listen(place) as lab:
        client = await lab.client()
        await end(lab, client)
        async with asyncio.timeout(5):
            while lab.dispatcher.reserved:
                await asyncio.sleep(0.005)
        assert lab.dispatcher.most_reserved >= 70000 and lab.dispatcher.delivered == []


@BOTH
@live
async def test_a_message_without_its_end_is_not_delivered_and_is_one_log_record(listen, place, records):
    async with listen(place) as lab:
        client = await lab.client()
        await client.ask("XFORWARD IDENT=4ABC")
        await client.begin(ACME)
        client.send(MAIL + b".")
        await client.writer.drain()
        await asyncio.sleep(0.05)
        client.leave()
        await lab.settled()
        assert lab.dispatcher.delivered == []
    (record,) = ours(records)
    assert (record.action, record.getMessage()) == ("receive", "Message ended early.")
    assert (record.queue_id, record.reason) == ("4ABC", "client closed the connection")
    assert not record.exc_info


@BOTH
@live
async def test_a_delivery_that_has_begun_goes_to_its_end_without_the_client(listen, place):
    async with listen(place) as lab:
        lab.dispatcher.may_end.clear()
        client = await lab.client()
        await client.begin(ACME)
        client.send(MAIL + b".\r\n")
        async with asyncio.timeout(5):
            while not lab.dispatcher.at_work:
                await asyncio.sleep(0.005)
            client.leave()
            while lab.listener.sessions:
                await asyncio.sleep(0.005)
        assert lab.dispatcher.reserved == len(RAW)
        lab.dispatcher.may_end.set()
        await lab.came(1)


@BOTH
@live
async def test_silence_ends_a_session_and_leaves_nothing(listen, place, records):
    async with listen(place, idle=0.2) as lab:
        client = await lab.client()
        await client.begin(ACME, options=" SIZE=70000")
        client.send(b"Subject: order\r\n")
        assert await client.closed() == "421 4.4.2 silence was too long\r\n"
        await lab.settled()
        assert lab.dispatcher.delivered == [] and lab.dispatcher.reserved == 0
    assert [record.reason for record in ours(records)] == ["client was silent too long"]


@BOTH
@live
async def test_a_slow_client_and_our_own_work_are_no_silence(listen, place):
    async with listen(place, idle=0.3) as lab:
        client = await lab.client()
        await client.begin(ACME)
        for _ in range(10):
            client.send(b"X-Slow: yes\r\n")
            await asyncio.sleep(0.06)
        lab.dispatcher.may_end.clear()
        client.send(b".\r\n")
        await asyncio.sleep(0.7)
        lab.dispatcher.may_end.set()
        assert (await client.reply()).startswith("250 ")
        assert (await client.ask("NOOP")).startswith("250 ")


@BOTH
@live
async def test_a_client_that_does_not_listen_is_left(listen, place):
    async with listen(place, idle=0.3) as lab:
        client = await lab.client()
        client.send(b"NOOP\r\n" * 200000)
        await lab.settled()


# Trust


@BOTH
@live
async def test_a_stranger_is_turned_away_and_logged(listen, place, records):
    async with listen(place, uids={os.geteuid() + 1}) as lab:
        client = await lab.connect()
        assert await client.closed() == "421 4.7.0 this user may not send mail here\r\n"
        assert not lab.listener.sessions
    (record,) = ours(records)
    assert (record.action, record.uid) == ("connect", os.geteuid())


@BOTH
@live
async def test_too_many_errors_end_the_session(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        client.send(b"MAIL FROM:\r\n" * 40 + f"MAIL FROM:<>\r\nRCPT TO:<{ACME}>\r\nDATA\r\na: b\r\n.\r\n".encode())
        *errors, last = (await client.closed()).splitlines()
        assert len(errors) == 20 and {error[:3] for error in errors} == {"501"}
        assert last == "421 4.7.0 too many errors"
        await lab.settled()
        assert lab.dispatcher.delivered == []


@BOTH
@live
async def test_refused_recipients_are_no_errors_of_the_client(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        for _ in range(30):
            answers = await client.replies("MAIL FROM:<a@shop.example>", f"RCPT TO:<{NOPE}>", "DATA", "RSET")
            assert [answer[:3] for answer in answers] == ["250", "550", "503", "250"]


@BOTH
@pytest.mark.parametrize(
    "line",
    [b"NOOP\nRSET\r\n", b"NOOP\rRSET\r\n", b"RSET\n\r\n", b"RSET\r\r\n", b"\r\n", b"NOOP \0\r\n", b"N\xd6OP\r\n",
     b"NOOP " + b"x" * 5000 + b"\r\n", b"NOOP " + b"x" * 500000 + b"\r\n", b"x\r" * 100000 + b"\r\n"],
    ids=lambda line: repr(line[:12]),
)  # fmt: skip
@live
async def test_a_line_that_is_no_command_is_one_error(listen, line, place):
    async with listen(place) as lab:
        client = await lab.client()
        client.send(line + b"NOOP\r\n")
        assert (await client.reply()).startswith("500 5.5.2 ")
        assert await client.reply() == "250 2.0.0 OK"


@BOTH
@live
async def test_a_bare_line_feed_ends_no_command(listen, place):
    async with listen(place) as lab:
        client = await lab.client()
        client.send(b"NOOP\n")
        await asyncio.sleep(0.1)
        client.send(b"\r\n")
        assert (await client.reply()).startswith("500 5.5.2 ")


@pytest.mark.parametrize("step", ["welcome", "deliver"])
@BOTH
@live
async def test_an_unexpected_error_defers_and_tells_nobody_its_text(listen, step, place, records):
    async with listen(place) as lab:
        secret = RuntimeError("the password is swordfish")
        (lab.dispatcher.refusals if step == "welcome" else lab.dispatcher.outcomes)[ACME] = secret
        client = await lab.client()
        await client.ask("MAIL FROM:<a@shop.example>")
        answer = await client.ask(f"RCPT TO:<{ACME}>")
        if step == "deliver":
            await client.ask("DATA")
            client.send(MAIL + b".\r\n")
            answer = await client.reply()
        assert answer == "451 4.3.0 internal error, try again later"
        assert (await client.ask("NOOP")).startswith("250 ")
    (record,) = ours(records)
    assert record.levelno == logging.ERROR and record.reason.startswith("RuntimeError at ")
    assert not any("swordfish" in str(vars(record)) for record in records)


@pytest.mark.parametrize("is_pipelined", [False, True])
@BOTH
@live
async def test_an_unexpected_error_amid_content_ends_the_session(listen, is_pipelined, place, records):
    class Breaking(FakeDispatcher):
        def reserve(self, size):
            raise MemoryError("swordfish")

    async with listen(place, dispatcher=Breaking()) as lab:
        client = await lab.client()
        client.send(f"MAIL FROM:<a@shop.example>\r\nRCPT TO:<{ACME}>\r\nDATA\r\n".encode() + MAIL * is_pipelined)
        if not is_pipelined:
            assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
            client.send(MAIL)
        client.send(b".\r\nRSET\r\n")
        assert "250 2.0.0" not in await client.closed()
        await lab.settled()
        assert lab.dispatcher.delivered == []
    assert ours(records)[0].reason.startswith("MemoryError at ")
    assert not any("swordfish" in str(vars(record)) for record in records)


@BOTH
@live
async def test_nothing_of_a_message_or_an_address_is_logged(listen, place, records):
    async with listen(place) as lab:
        client = await lab.client()
        await client.replies("XYZZY secret", "VRFY secret", "MAIL FROM:<secret@shop.example")
        await client.deliver(ACME, sender="secret@shop.example", mail=b"Subject: secret\r\n\r\nsecret\r\n")
        await client.begin(ACME)
        client.send(b"Subject: secret\r\n")
        await client.writer.drain()
        client.leave()
        await lab.settled()
    assert records and not any("secret" in str(vars(record)) for record in records)


# Draining


@BOTH
@live
async def test_a_draining_door_takes_nothing_new_and_finishes_what_it_has(listen, place):
    async with listen(place) as lab:
        idle, late, busy = await lab.client(), await lab.client(), await lab.client()
        await busy.begin(ACME)
        busy.send(MAIL)
        lab.dispatcher.is_draining = True
        assert await (await lab.connect()).closed() == "421 4.3.2 service is going down, try again later\r\n"
        late.send(f"MAIL FROM:<a@shop.example>\r\nRCPT TO:<{ACME}>\r\nDATA\r\n".encode() + MAIL + b".\r\n")
        assert await late.closed() == "421 4.3.2 service is going down, try again later\r\n"
        finishing = asyncio.create_task(lab.listener.finish())
        assert await idle.closed() == "421 4.3.2 service is going down, try again later\r\n"
        await asyncio.sleep(0.1)
        assert not finishing.done()
        busy.send(b".\r\n")
        assert await busy.reply() == "250 2.0.0 message recorded"
        assert await busy.closed() == "421 4.3.2 service is going down, try again later\r\n"
        await finishing
        assert len(lab.dispatcher.delivered) == 1


# Postmaster


class Listener:
    """A listener as Postfix's re-injection port is, which notes what it hears; `answers` replace its 250 by command."""

    def __init__(self, path, answers):
        self.path, self.answers, self.heard = path, answers, []

    async def serve(self, reader, writer):
        writer.write(b"220 postfix ESMTP\r\n")
        while line := await reader.readline():
            self.heard.append(line)
            word = line[:4].decode().upper()
            answer = self.answers.get(word, "354 go on" if word == "DATA" else "250 2.0.0 ok")
            if word == "EHLO":
                answer = "250-postfix\r\n250-8BITMIME\r\n250 SMTPUTF8"
            writer.write(answer.encode() + b"\r\n")
            if answer[:3] == "354":
                self.heard.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(self.answers.get(".", "250 2.0.0 queued").encode() + b"\r\n")
        writer.close()


@asynccontextmanager
async def relaying(place, **answers):
    listener = Listener(place / "postfix.sock", {name.replace("DOT", "."): answer for name, answer in answers.items()})
    server = await asyncio.start_unix_server(listener.serve, str(listener.path))
    async with smtp(place, relay=str(listener.path)) as lab:
        lab.relay = listener
        yield lab
    server.close()


@live
async def test_mail_for_the_postmaster_goes_back_to_postfix(place):
    sender = b"b\xfcro@shop.example".decode("utf-8", "surrogateescape")
    async with relaying(place) as lab:
        client = await lab.client()
        answer = await client.deliver(
            f"Postmaster@{DOMAIN}", f"abuse@{DOMAIN}", "postmaster", sender=sender, mail=MAIL + b"\xe9\r\n"
        )
        assert answer == "250 2.0.0 message passed on"
        assert lab.dispatcher.delivered == []
        _, mail, *recipients, _, data, _ = lab.relay.heard
        assert mail.startswith(b"MAIL FROM:<b\xfcro@shop.example> BODY=8BITMIME SMTPUTF8")
        assert recipients == [
            f"RCPT TO:<Postmaster@{DOMAIN}>\r\n".encode(),
            f"RCPT TO:<abuse@{DOMAIN}>\r\n".encode(),
            b"RCPT TO:<postmaster>\r\n",
        ]
        assert data == MAIL + b"\xe9\r\n.\r\n"


@live
async def test_the_postmaster_is_a_destination_of_its_own(place):
    async with relaying(place) as lab:
        client = await lab.client()
        await client.ask("MAIL FROM:<a@shop.example>")
        assert (await client.ask(f"RCPT TO:<abuse@{DOMAIN}>")).startswith("250 ")
        assert (await client.ask(f"RCPT TO:<{ACME}>")).startswith("452 4.5.3 ")
        await client.ask("RSET")
        await client.ask("MAIL FROM:<a@shop.example>")
        assert (await client.ask(f"RCPT TO:<{ACME}>")).startswith("250 ")
        assert (await client.ask(f"RCPT TO:<abuse@{DOMAIN}>")).startswith("452 4.5.3 ")


@pytest.mark.parametrize(
    ("command", "said", "heard"),
    [
        ("MAIL", "452 4.3.1 no space", "451 4.3.1 no space"),
        ("RCPT", "550 5.1.1 user unknown", "550 5.1.1 user unknown"),
        ("RCPT", "450 4.2.0 greylisted", "451 4.2.0 greylisted"),
        ("DATA", "554 5.5.1 no", postmaster_relay._REFUSED),
        ("DOT", "451 4.3.0 queue file write error", "451 4.3.0 queue file write error"),
        ("DOT", "552 5.3.4 too big", "552 5.3.4 too big"),
    ],
)
@live
async def test_what_postfix_says_of_the_postmasters_mail_the_sender_hears(command, said, heard, place):
    async with relaying(place, **{command: said}) as lab:
        client = await lab.client()
        assert await client.deliver(f"abuse@{DOMAIN}") == heard
        assert (await client.ask("NOOP")).startswith("250 ")


@pytest.mark.parametrize("relay", ["/nonexistent/postfix.sock", "127.0.0.1:1"])
@live
async def test_the_postmasters_mail_waits_where_postfix_does_not_answer(relay, place):
    async with smtp(place, relay=relay) as lab:
        client = await lab.client()
        assert (await client.deliver(f"abuse@{DOMAIN}")).startswith("451 4.4.1 ")


@live
async def test_without_a_relay_there_is_no_postmaster(place):
    async with smtp(place) as lab:
        client = await lab.client()
        await client.ask("MAIL FROM:<a@shop.example>")
        assert await client.ask(f"RCPT TO:<postmaster@{DOMAIN}>") == "550 5.1.1 no such mailbox"
