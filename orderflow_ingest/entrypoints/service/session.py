"""SMTP sessions: what LMTP and SMTP have in common, from the connection to the reply after a message.

aiosmtpd holds the dialogue: it reads commands one after the other, and knows those that decide nothing. What decides
on mail is here. What it would do with content, line by line, `smtp_input` does in blocks.

    XFORWARD   ADDR and IDENT, Postfix's queue id, for the next transaction (Postfix's XFORWARD_README)
    MAIL       takes the declared size out of the in-flight budget. Where that has no room MAIL says so, not
               DATA: the commands that were pipelined behind it fail by themselves, and no content is sent
    RCPT       is answered from the organisation table: 550 and 451 reach the sender before any content does
    DATA       delivers to each recipient, at the same time

SIZE is announced with slack: it counts CR LF (RFC 1870) and Postfix counts the records of its queue file, our
limit counts LF. What is over twice our limit is surely too big; a smaller number would have Postfix bounce what we
would take. Content is counted as it comes.

The budget is given back however a transaction ends. A delivery that has begun goes to its end even where the
client does not: it has begun to make rows, and its bytes count until it is over. Where the client leaves before
the end mark nothing is delivered. Only the users that are told may connect. Once the desk drains, MAIL gets 421,
and a transaction in hand is finished.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

import aiosmtpd.smtp

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.observability import metrics
from orderflow_ingest.observability.logs import event, place

from .arguments import SmtpSyntaxError, client_address, declared_size, read_attributes, read_recipient, read_sender
from .data_reader import BudgetReservation, InputBuffer, MessageReader
from .peer_credentials import peer_uid

if TYPE_CHECKING:
    from .dispatcher import Dispatcher

IDLE = 300.0  # seconds, RFC 5321 section 4.5.3.2.7
_T = TypeVar("_T")
_NAME = "orderflow-ingest"  # not the host's: Postfix takes a server that has its own name for itself
_ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
# DSN and AUTH are not announced, and yet smtpd(8) passes its client's parameters on as they came.
_MAIL_PARAMETERS = {"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"}
_RCPT_PARAMETERS = {"NOTIFY", "ORCPT"}
_BODIES = ("7BIT", "8BITMIME")
_MOST_RECIPIENTS = 1000
_MOST_ERRORS = 20
_LOOK = 0.05  # seconds
# The classes of aiosmtpd's own replies, which have no enhanced status code (RFC 2034).
_DSN_CODES = {"221": "2.0.0", "250": "2.0.0", "500": "5.5.2", "501": "5.5.4", "502": "5.5.1", "503": "5.5.1"}
_ERRORS = ("500", "501", "502", "503", "555")
_DRAINING = "421 4.3.2 service is going down, try again later"

# aiosmtpd logs commands with their addresses, and some of them at levels that reach standard error.
logging.getLogger("mail.log").disabled = True


def reply_of(outcome: Outcome) -> str:
    """Give an outcome as a reply."""
    return f"{outcome.reply_code} {outcome.dsn_code} {outcome.text}"


class Transaction:
    """What a client has said since MAIL, and by XFORWARD before it."""

    def __init__(self, desk: "Dispatcher"):
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.destination: str | None = None
        self.forwarded: dict[str, str] = {}
        self.hold = BudgetReservation(desk)

    @property
    def queue_id(self) -> str:
        return self.forwarded.get("IDENT", "")

    def envelopes(self, door: str) -> list[Envelope]:
        """Give one envelope for each recipient, all of one instant."""
        now = datetime.now(UTC)
        address = client_address(self.forwarded.get("ADDR", ""))
        return [
            Envelope(
                recipient=recipient,
                received_at=now,
                sender=self.sender or "",
                queue_id=self.queue_id,
                client_address=address,
                door=door,
            )
            for recipient in self.recipients
        ]


class MailListener:
    """One listener: calling it makes the protocol of one connection, for asyncio's create_server()."""

    def __init__(
        self,
        session: "Callable[[MailListener], Session]",
        desk: "Dispatcher",
        allowed_uids: Collection[int],
        idle: float = IDLE,
    ):
        self.desk = desk
        self.allowed_uids = allowed_uids
        self.idle = idle
        self.sessions: set[Session] = set()
        self._deliveries: set[asyncio.Task[Any]] = set()
        self._session = session

    def __call__(self) -> "Session":
        return self._session(self)

    def begin(self, delivery: Coroutine[Any, Any, _T]) -> Awaitable[_T]:
        """Begin a delivery that goes to its end also where nobody waits for it any more."""
        task = asyncio.get_running_loop().create_task(delivery)
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)
        return asyncio.shield(task)

    async def finish(self) -> None:
        """End the sessions that have no transaction in hand, and wait for the others; call it once the desk drains."""
        while self.sessions or self._deliveries:
            for session in tuple(self.sessions):
                session.end_if_idle()
            await asyncio.sleep(_LOOK)


class Session(aiosmtpd.smtp.SMTP):
    """One connection."""

    greeting: str
    ident: str
    door_name = ""  # in envelopes
    commands: tuple[str, ...] = ("XFORWARD", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY")
    command_size_limit = 1 << 20  # Input has a limit, the same for every command

    session: aiosmtpd.smtp.Session
    envelope: Transaction  # type: ignore[assignment]

    def __init__(self, door: MailListener):
        self.door = door
        self._errors = 0
        self._is_at_work = False
        self._heard_at = 0.0
        self._why_ended = "client closed the connection"
        loop = asyncio.get_running_loop()
        super().__init__(
            None,
            data_size_limit=None,
            enable_SMTPUTF8=True,
            hostname=_NAME,
            ident=self.ident,
            timeout=door.idle,
            loop=loop,
        )

    def __dir__(self) -> Iterable[str]:
        # aiosmtpd looks here for its commands, for each connection, and here are all that we speak.
        return [f"smtp_{command}" for command in (self.greeting, *self.commands)]

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        uid = peer_uid(transport)
        if uid not in self.door.allowed_uids:
            event("connect", "Stranger was refused.", logging.WARNING, uid=uid)
            _turn_away(transport, "421 4.7.0 this user may not send mail here")
        elif self.door.desk.is_draining:
            _turn_away(transport, _DRAINING)
        else:
            super().connection_made(transport)
            self._connection = transport
            self._input = InputBuffer(transport, self.loop)
            self._reader = self._input  # type: ignore[assignment]
            self.door.sessions.add(self)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        try:
            self._input.feed(data)
        except Exception as error:  # no memory, say; asyncio would print it with all that it knows
            _log_error(error, self.envelope.queue_id)
            self._connection.abort()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.envelope.hold.release()
        self.door.sessions.discard(self)

    def end_if_idle(self) -> None:
        """End the session where no transaction is in hand."""
        if self.envelope.sender is None and not self._is_at_work and not self._connection.is_closing():
            self._end(_DRAINING)

    def _end(self, reply: str) -> None:
        """Say one thing more and close; what the client has sent by now is not read."""
        self._send(reply)
        self._connection.close()

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Begin to watch for silence: with one timer for a session, not one for each command."""
        self._heard_at = self.loop.time()
        if self._timeout_handle is None:
            self._timeout_handle = self.loop.call_later(self._timeout_duration, self._timeout_cb)

    def _timeout_cb(self) -> None:
        silence = 0.0 if self._is_at_work else self.loop.time() - self._heard_at
        if silence < self._timeout_duration:
            self._timeout_handle = self.loop.call_later(self._timeout_duration - silence, self._timeout_cb)
        else:
            self._why_ended = "client was silent too long"
            self._end("421 4.4.2 silence was too long")
            if self._connection.get_write_buffer_size():
                self._connection.abort()  # nor does it read: it would keep this open

    async def _work(self, work: Awaitable[_T]) -> _T:
        """Wait for something of ours: that is no silence of the client."""
        self._is_at_work = True
        try:
            return await work
        finally:
            self._is_at_work = False
            self._heard_at = self.loop.time()

    # Replies

    def _send(self, reply: str) -> None:
        self._connection.write(reply.encode("utf-8", "surrogateescape") + b"\r\n")

    async def _say(self, reply: str) -> None:
        self._send(reply)
        await self._writer.drain()

    async def push(self, status: str | bytes) -> None:
        """Send a reply. One that tells of a client's error is counted, and one of aiosmtpd's gets its status code."""
        reply = status.decode() if isinstance(status, bytes) else status
        code, _, text = reply.partition(" ")
        if code in _DSN_CODES and text[1:2] != ".":
            reply = f"{code} {_DSN_CODES[code]} {text}"
        await self._say(reply)
        if code in _ERRORS:
            self._errors += 1
            if self._errors >= _MOST_ERRORS:
                self._end("421 4.7.0 too many errors")

    async def handle_exception(self, error: Exception) -> str:
        _log_error(error, self.envelope.queue_id)
        if self._input.is_in_message:
            self._connection.abort()  # content must not be read as commands
        return reply_of(Outcome.INTERNAL)

    # Commands

    def _create_envelope(self) -> Transaction:  # type: ignore[override]
        return Transaction(self.door.desk)

    def _set_post_data_state(self) -> None:
        if self.envelope is not None:
            self.envelope.hold.release()
        self.envelope = self._create_envelope()

    async def _greet(self, hostname: str | None, extensions: Iterable[str]) -> None:
        if not hostname:
            await self.push("501 5.5.4 a host name is missing")
            return
        self._set_post_data_state()
        self.session.host_name = hostname
        *lines, last = (self.hostname, *extensions)
        await self._say("".join(f"250-{line}\r\n" for line in lines) + f"250 {last}")  # without status codes

    def _extensions(self) -> tuple[str, ...]:
        return (
            "PIPELINING",
            f"SIZE {self._most_declared}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            f"XFORWARD {' '.join(_ATTRIBUTES)}",
        )

    @property
    def _most_declared(self) -> int:
        return 2 * self.door.desk.settings.max_message_size + 65536

    async def smtp_XFORWARD(self, arg: str | None) -> None:
        if self.envelope.sender is not None:
            await self.push("503 5.5.1 a transaction is in hand")
            return
        try:
            attributes = read_attributes(arg, _ATTRIBUTES)
        except SmtpSyntaxError:
            await self.push("501 5.5.4 XFORWARD attribute=value")
            return
        self.envelope.forwarded |= attributes
        await self.push("250 2.0.0 noted")

    async def smtp_MAIL(self, arg: str | None) -> None:
        desk, transaction = self.door.desk, self.envelope
        if await self.check_helo_needed(self.greeting):
            return
        if desk.is_draining:
            self._end(_DRAINING)
            return
        if transaction.sender is not None:
            await self.push("503 5.5.1 a transaction is in hand")
            return
        try:
            sender, parameters = read_sender(arg)
            declared = declared_size(parameters)
        except SmtpSyntaxError:
            await self.push("501 5.5.4 MAIL FROM:<address>")
            return
        if not parameters.keys() <= _MAIL_PARAMETERS or parameters.get("BODY", _BODIES[0]).upper() not in _BODIES:
            await self.push("555 5.5.4 a parameter is not known")
            return
        if declared > self._most_declared:
            await self._refuse_message(Outcome.TOO_BIG, declared)
        elif declared and not transaction.hold.take(min(declared, desk.settings.max_message_size)):
            await self._refuse_message(Outcome.OVERLOADED, declared)
        else:
            transaction.sender = sender
            await self.push("250 2.1.0 sender noted")

    async def smtp_RCPT(self, arg: str | None) -> None:
        transaction = self.envelope
        if transaction.sender is None:
            await self._say("503 5.5.1 MAIL comes first")  # it may be one that was pipelined behind a refused MAIL
            return
        try:
            recipient, parameters = read_recipient(arg)
            recipient = self._completed(recipient)
        except SmtpSyntaxError:
            await self.push("501 5.5.4 RCPT TO:<address>")
            return
        if not parameters.keys() <= _RCPT_PARAMETERS:
            await self.push("555 5.5.4 a parameter is not known")
            return
        if len(transaction.recipients) >= _MOST_RECIPIENTS:
            await self.push("452 4.5.3 too many recipients")
            return
        refusal = await self._refusal(recipient)
        if refusal is None:
            transaction.recipients.append(recipient)
        await self.push(refusal or "250 2.1.5 recipient noted")

    async def smtp_DATA(self, arg: str | None) -> None:
        transaction = self.envelope
        if arg:
            await self.push("501 5.5.4 DATA takes no argument")
            return
        if not transaction.recipients:
            await self._say("503 5.5.1 no recipient was accepted")  # pipelined too (RFC 2033 section 4.2)
            return
        intake = MessageReader(transaction.hold, self.door.desk.settings.max_message_size)
        self._send("354 end with CR LF . CR LF")
        try:
            await self._input.read_message(intake)
        except asyncio.CancelledError:
            event(
                "receive", "Message ended early.", logging.WARNING,
                reason=self._why_ended, size=intake.size, queue_id=transaction.queue_id,
            )  # fmt: skip
            raise
        hold, self.envelope = transaction.hold, self._create_envelope()  # the hold is the delivery's from here on
        replies = await self._work(self.door.begin(self._answer(transaction, intake, hold)))
        await self._say("\r\n".join(replies))

    async def smtp_VRFY(self, arg: str | None) -> None:
        await self.push("252 2.0.0 RCPT will tell")

    # Decisions

    def _completed(self, recipient: str) -> str:
        """Return a recipient with its domain."""
        return recipient

    async def _refusal(self, recipient: str) -> str | None:
        """Give the reply that refuses a recipient; None where it is welcome."""
        outcome = await self._work(self.door.desk.welcome(recipient))
        return reply_of(outcome) if outcome else None

    async def _answer(self, transaction: Transaction, intake: MessageReader, hold: BudgetReservation) -> list[str]:
        """Deliver a message that was read whole, and give the replies."""
        refusal = intake.refusal
        try:
            if not refusal:
                hold.shrink(intake.size)
                return await self._deliver(transaction, intake.raw())
            _log_refusal(refusal, intake.size, transaction)
        except Exception as error:
            _log_error(error, transaction.queue_id)
            refusal = Outcome.INTERNAL
        finally:
            hold.release()
        return self._replies([refusal] * len(transaction.recipients))

    async def _deliver(self, transaction: Transaction, raw: bytes) -> list[str]:
        deliver = self.door.desk.deliver
        envelopes = transaction.envelopes(self.door_name)
        return self._replies(await asyncio.gather(*(deliver(envelope, raw) for envelope in envelopes)))

    def _replies(self, outcomes: list[Outcome]) -> list[str]:
        """Give the replies for the recipients' outcomes, in their order."""
        raise NotImplementedError

    async def _refuse_message(self, outcome: Outcome, size: int) -> None:
        _log_refusal(outcome, size, self.envelope)
        await self.push(reply_of(outcome))


def _turn_away(transport: asyncio.Transport, reply: str) -> None:
    transport.set_protocol(asyncio.Protocol())  # one that listens to nothing
    transport.write(reply.encode() + b"\r\n")
    transport.close()


def _log_error(error: Exception, queue_id: str) -> None:
    event("receive", "Session met an unexpected error.", logging.ERROR, reason=place(error), queue_id=queue_id)


def _log_refusal(outcome: Outcome, size: int, transaction: Transaction) -> None:
    event(
        "receive", "Message was refused.", logging.WARNING,
        outcome=outcome.name, size=size, queue_id=transaction.queue_id,
    )  # fmt: skip
    metrics.count(metrics.REFUSALS, outcome.name)
