"""SMTP sessions: what LMTP and SMTP share, from the connection to the reply after a message.

aiosmtpd reads the commands one after the other, and answers those that decide nothing. Commands that decide on mail
are here. Content is read in blocks by `data_reader`, not line by line by aiosmtpd.

    XFORWARD   ADDR and IDENT, Postfix's queue id, for the next transaction (Postfix's XFORWARD_README)
    MAIL       reserves the declared size in the in-flight budget. Without room MAIL is refused, not DATA: the
               commands that were pipelined behind it fail by themselves, and no content is sent
    RCPT       is answered from the organization table: 550 and 451 reach the sender before any content does
    DATA       delivers to all recipients at the same time

SIZE is announced with slack. It counts CR LF (RFC 1870), Postfix counts the records of its queue file, our limit
counts LF. What exceeds twice our limit is surely too big. A smaller number would have Postfix bounce mail that is
within it. Content is counted as it arrives.

The budget is released however a transaction ends. A delivery that has begun runs to its end even after the client
has disconnected: it has begun to write rows, and its bytes count until it ends. If the client disconnects before the
end mark, nothing is delivered. Only the allowed users may connect. Once the dispatcher drains, MAIL gets 421, and a
transaction that has begun is finished.
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
from orderflow_ingest.observability.logs import error_location, event

from .arguments import SmtpSyntaxError, client_address, declared_size, read_attributes, read_recipient, read_sender
from .data_reader import BudgetReservation, InputBuffer, MessageReader
from .peer_credentials import peer_uid

if TYPE_CHECKING:
    from .dispatcher import Dispatcher

IDLE = 300.0  # seconds, RFC 5321 section 4.5.3.2.7
_T = TypeVar("_T")
_NAME = "orderflow-ingest"  # not the host's: Postfix takes a server that has its own name for itself
_XFORWARD_ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
# DSN and AUTH are not announced, and yet smtpd(8) passes its client's parameters on as they came.
_MAIL_PARAMETERS = {"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"}
_RCPT_PARAMETERS = {"NOTIFY", "ORCPT"}
_BODIES = ("7BIT", "8BITMIME")
_MAX_RECIPIENTS = 1000
_MAX_ERRORS = 20
_POLL_INTERVAL = 0.05  # seconds
# The classes of aiosmtpd's own replies, which have no enhanced status code (RFC 2034).
_DSN_CODES = {"221": "2.0.0", "250": "2.0.0", "500": "5.5.2", "501": "5.5.4", "502": "5.5.1", "503": "5.5.1"}
_ERRORS = ("500", "501", "502", "503", "555")
_DRAINING = "421 4.3.2 service is going down, try again later"

# aiosmtpd logs commands with their addresses, and some of them at levels that reach standard error.
logging.getLogger("mail.log").disabled = True


def reply_of(outcome: Outcome) -> str:
    """Return the reply for an outcome."""
    return f"{outcome.reply_code} {outcome.dsn_code} {outcome.text}"


class Transaction:
    """The transaction of a client: sender, recipients, and the attributes of XFORWARD before it."""

    def __init__(self, dispatcher: "Dispatcher"):
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.destination: str | None = None
        self.forwarded: dict[str, str] = {}
        self.reservation = BudgetReservation(dispatcher)

    @property
    def queue_id(self) -> str:
        return self.forwarded.get("IDENT", "")

    def envelopes(self, listener: str) -> list[Envelope]:
        """Return one envelope for each recipient, all with the same time."""
        now = datetime.now(UTC)
        address = client_address(self.forwarded.get("ADDR", ""))
        return [
            Envelope(
                recipient=recipient,
                received_at=now,
                sender=self.sender or "",
                queue_id=self.queue_id,
                client_address=address,
                listener=listener,
            )
            for recipient in self.recipients
        ]


class MailListener:
    """One listener. Asyncio's create_server() calls it for the protocol of each connection."""

    def __init__(
        self,
        session: "Callable[[MailListener], Session]",
        dispatcher: "Dispatcher",
        allowed_uids: Collection[int],
        idle: float = IDLE,
    ):
        self.dispatcher = dispatcher
        self.allowed_uids = allowed_uids
        self.idle = idle
        self.sessions: set[Session] = set()
        self._deliveries: set[asyncio.Task[Any]] = set()
        self._session = session

    def __call__(self) -> "Session":
        return self._session(self)

    def begin(self, delivery: Coroutine[Any, Any, _T]) -> Awaitable[_T]:
        """Start a delivery that runs to its end also where its client disconnects."""
        task = asyncio.get_running_loop().create_task(delivery)
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)
        return asyncio.shield(task)

    async def finish(self) -> None:
        """Close the sessions that have no transaction, and wait for the others. Call it once the dispatcher drains."""
        while self.sessions or self._deliveries:
            for session in tuple(self.sessions):
                session.end_if_idle()
            await asyncio.sleep(_POLL_INTERVAL)


class Session(aiosmtpd.smtp.SMTP):
    """One connection."""

    greeting: str
    ident: str
    listener_name = ""  # in envelopes
    commands: tuple[str, ...] = ("XFORWARD", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY")
    command_size_limit = 1 << 20  # InputBuffer has a limit, the same for every command

    session: aiosmtpd.smtp.Session
    envelope: Transaction  # type: ignore[assignment]

    def __init__(self, listener: MailListener):
        self.listener = listener
        self._errors = 0
        self._is_working = False
        self._last_input_at = 0.0
        self._end_reason = "client closed the connection"
        loop = asyncio.get_running_loop()
        super().__init__(
            None,
            data_size_limit=None,
            enable_SMTPUTF8=True,
            hostname=_NAME,
            ident=self.ident,
            timeout=listener.idle,
            loop=loop,
        )

    def __dir__(self) -> Iterable[str]:
        # aiosmtpd looks up its commands here, for each connection; these are all that we support.
        return [f"smtp_{command}" for command in (self.greeting, *self.commands)]

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        uid = peer_uid(transport)
        if uid not in self.listener.allowed_uids:
            event("connect", "Connection was refused: this user may not send mail here.", logging.WARNING, uid=uid)
            _refuse_connection(transport, "421 4.7.0 this user may not send mail here")
        elif self.listener.dispatcher.is_draining:
            _refuse_connection(transport, _DRAINING)
        else:
            super().connection_made(transport)
            self._connection = transport
            self._input = InputBuffer(transport, self.loop)
            self._reader = self._input  # type: ignore[assignment]
            self.listener.sessions.add(self)

    def data_received(self, data: bytes) -> None:
        self._last_input_at = self.loop.time()
        try:
            self._input.feed(data)
        except Exception as error:  # MemoryError, for example; asyncio would print it with content
            _log_error(error, self.envelope.queue_id)
            self._connection.abort()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.envelope.reservation.release()
        self.listener.sessions.discard(self)

    def end_if_idle(self) -> None:
        """Close the session where it has no transaction."""
        if self.envelope.sender is None and not self._is_working and not self._connection.is_closing():
            self._close_with(_DRAINING)

    def _close_with(self, reply: str) -> None:
        """Send a last reply and close. Further input is not read."""
        self._send(reply)
        self._connection.close()

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Start the idle timer: one for a session, not one for each command."""
        self._last_input_at = self.loop.time()
        if self._timeout_handle is None:
            self._timeout_handle = self.loop.call_later(self._timeout_duration, self._timeout_cb)

    def _timeout_cb(self) -> None:
        silence = 0.0 if self._is_working else self.loop.time() - self._last_input_at
        if silence < self._timeout_duration:
            self._timeout_handle = self.loop.call_later(self._timeout_duration - silence, self._timeout_cb)
        else:
            self._end_reason = "client was silent too long"
            self._close_with("421 4.4.2 silence was too long")
            if self._connection.get_write_buffer_size():
                self._connection.abort()  # it does not read either: it would keep the connection open

    async def _wait_for(self, work: Awaitable[_T]) -> _T:
        """Wait for work of ours. The client does not count as idle meanwhile."""
        self._is_working = True
        try:
            return await work
        finally:
            self._is_working = False
            self._last_input_at = self.loop.time()

    # Replies

    def _send(self, reply: str) -> None:
        self._connection.write(reply.encode("utf-8", "surrogateescape") + b"\r\n")

    async def _say(self, reply: str) -> None:
        self._send(reply)
        await self._writer.drain()

    async def push(self, status: str | bytes) -> None:
        """Send a reply. Error replies are counted, and those of aiosmtpd get an enhanced status code."""
        reply = status.decode() if isinstance(status, bytes) else status
        code, _, text = reply.partition(" ")
        if code in _DSN_CODES and text[1:2] != ".":
            reply = f"{code} {_DSN_CODES[code]} {text}"
        await self._say(reply)
        if code in _ERRORS:
            self._errors += 1
            if self._errors >= _MAX_ERRORS:
                self._close_with("421 4.7.0 too many errors")

    async def handle_exception(self, error: Exception) -> str:
        _log_error(error, self.envelope.queue_id)
        if self._input.is_in_message:
            self._connection.abort()  # content must not be read as commands
        return reply_of(Outcome.INTERNAL)

    # Commands

    def _create_envelope(self) -> Transaction:  # type: ignore[override]
        return Transaction(self.listener.dispatcher)

    def _set_post_data_state(self) -> None:
        if self.envelope is not None:
            self.envelope.reservation.release()
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
            f"SIZE {self._max_declared_size}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            f"XFORWARD {' '.join(_XFORWARD_ATTRIBUTES)}",
        )

    @property
    def _max_declared_size(self) -> int:
        return 2 * self.listener.dispatcher.settings.max_message_size + 65536

    async def smtp_XFORWARD(self, arg: str | None) -> None:
        if self.envelope.sender is not None:
            await self.push("503 5.5.1 a transaction has begun")
            return
        try:
            attributes = read_attributes(arg, _XFORWARD_ATTRIBUTES)
        except SmtpSyntaxError:
            await self.push("501 5.5.4 XFORWARD attribute=value")
            return
        self.envelope.forwarded |= attributes
        await self.push("250 2.0.0 noted")

    async def smtp_MAIL(self, arg: str | None) -> None:
        dispatcher, transaction = self.listener.dispatcher, self.envelope
        if await self.check_helo_needed(self.greeting):
            return
        if dispatcher.is_draining:
            self._close_with(_DRAINING)
            return
        if transaction.sender is not None:
            await self.push("503 5.5.1 a transaction has begun")
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
        if declared > self._max_declared_size:
            await self._refuse_message(Outcome.TOO_BIG, declared)
        elif declared and not transaction.reservation.take(min(declared, dispatcher.settings.max_message_size)):
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
            recipient = self._with_domain(recipient)
        except SmtpSyntaxError:
            await self.push("501 5.5.4 RCPT TO:<address>")
            return
        if not parameters.keys() <= _RCPT_PARAMETERS:
            await self.push("555 5.5.4 a parameter is not known")
            return
        if len(transaction.recipients) >= _MAX_RECIPIENTS:
            await self.push("452 4.5.3 too many recipients")
            return
        refusal = await self._refuse_recipient(recipient)
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
        reader = MessageReader(transaction.reservation, self.listener.dispatcher.settings.max_message_size)
        self._send("354 end with CR LF . CR LF")
        try:
            await self._input.read_message(reader)
        except asyncio.CancelledError:
            event(
                "receive", "Message ended early.", logging.WARNING,
                reason=self._end_reason, size=reader.size, queue_id=transaction.queue_id,
            )  # fmt: skip
            raise
        self.envelope = self._create_envelope()  # the reservation is the delivery's from here on
        replies = await self._wait_for(self.listener.begin(self._deliver_or_refuse(transaction, reader)))
        await self._say("\r\n".join(replies))

    async def smtp_VRFY(self, arg: str | None) -> None:
        await self.push("252 2.0.0 use RCPT")

    # Decisions

    def _with_domain(self, recipient: str) -> str:
        """Return a recipient with its domain."""
        return recipient

    async def _refuse_recipient(self, recipient: str) -> str | None:
        """Return the reply that refuses a recipient, or None where it is accepted."""
        outcome = await self._wait_for(self.listener.dispatcher.check_recipient(recipient))
        return reply_of(outcome) if outcome else None

    async def _deliver_or_refuse(self, transaction: Transaction, reader: MessageReader) -> list[str]:
        """Deliver a message that was read completely, and return the replies."""
        refusal = reader.refusal
        try:
            if not refusal:
                transaction.reservation.shrink(reader.size)
                return await self._deliver(transaction, reader.raw())
            _log_refusal(refusal, reader.size, transaction)
        except Exception as error:
            _log_error(error, transaction.queue_id)
            refusal = Outcome.INTERNAL
        finally:
            transaction.reservation.release()
        return self._replies([refusal] * len(transaction.recipients))

    async def _deliver(self, transaction: Transaction, raw: bytes) -> list[str]:
        deliver = self.listener.dispatcher.deliver
        envelopes = transaction.envelopes(self.listener_name)
        return self._replies(await asyncio.gather(*(deliver(envelope, raw) for envelope in envelopes)))

    def _replies(self, outcomes: list[Outcome]) -> list[str]:
        """Return the replies for the recipients' outcomes, in their order."""
        raise NotImplementedError

    async def _refuse_message(self, outcome: Outcome, size: int) -> None:
        _log_refusal(outcome, size, self.envelope)
        await self.push(reply_of(outcome))


def _refuse_connection(transport: asyncio.Transport, reply: str) -> None:
    transport.set_protocol(asyncio.Protocol())  # one that reads nothing
    transport.write(reply.encode() + b"\r\n")
    transport.close()


def _log_error(error: Exception, queue_id: str) -> None:
    event("receive", "Session met an unexpected error.", logging.ERROR, reason=error_location(error), queue_id=queue_id)


def _log_refusal(outcome: Outcome, size: int, transaction: Transaction) -> None:
    event(
        "receive", "Message was refused.", logging.WARNING,
        outcome=outcome.name, size=size, queue_id=transaction.queue_id,
    )  # fmt: skip
    metrics.count(metrics.REFUSALS, outcome.name)
