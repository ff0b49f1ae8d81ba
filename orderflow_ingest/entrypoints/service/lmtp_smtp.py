"""The listeners for mail: LMTP for Postfix's lmtp(8), SMTP for its smtpd_proxy_filter (before-queue).

LMTP replies for each recipient (RFC 2033, section 4.2). SMTP replies once, so a transaction carries mail for one
organization only, or for the postmaster. A recipient of another one gets 452 and is sent again. The reply is true for
each recipient: if one of them failed temporarily, all are sent again, and the others end as duplicates.

A 452 for some recipients does not work with Postfix's speed_adjust (smtpd_proxy_options in postconf(5)): there the
whole message gets it, each time. smtpd_recipient_limit = 1 makes Postfix itself send one recipient at a time.

`session` has what both protocols share. A listener is called by asyncio's create_server() for each connection.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from orderflow_ingest.domain.envelope import BEFORE_QUEUE
from orderflow_ingest.domain.outcomes import Outcome

from . import postmaster_relay
from .session import IDLE, MailListener, Session, Transaction, reply_of

if TYPE_CHECKING:
    from .dispatcher import Dispatcher

__all__ = ("MailListener", "lmtp_listener", "smtp_listener")

_POSTMASTER = "@"  # no organization has this name
_ONE_AT_A_TIME = "452 4.5.3 one organization at a time, send this recipient again"


def lmtp_listener(dispatcher: "Dispatcher", allowed_uids: Collection[int], idle: float = IDLE) -> MailListener:
    """Return the listener for Postfix's lmtp(8)."""
    return MailListener(LmtpSession, dispatcher, allowed_uids, idle)


def smtp_listener(
    dispatcher: "Dispatcher", allowed_uids: Collection[int], relay: str | None = None, idle: float = IDLE
) -> MailListener:
    """Return the listener for Postfix's smtpd_proxy_filter. The postmaster's mail goes to `relay`."""
    postmaster = postmaster_relay.Relay(relay) if relay else None
    return MailListener(lambda listener: SmtpSession(listener, postmaster), dispatcher, allowed_uids, idle)


class LmtpSession(Session):
    """One connection of an LMTP client: one reply for each recipient."""

    greeting = "LHLO"
    ident = "LMTP OrderFlow ingest"

    async def smtp_LHLO(self, arg: str | None) -> None:
        await self._greet(arg, self._extensions())

    def _replies(self, outcomes: list[Outcome]) -> list[str]:
        return [reply_of(outcome) for outcome in outcomes]


class SmtpSession(Session):
    """One connection of a before-queue client: one reply, so one destination for each transaction."""

    greeting = "EHLO"
    ident = "ESMTP OrderFlow ingest"
    listener_name = BEFORE_QUEUE
    commands = ("HELO", *Session.commands)

    def __init__(self, listener: MailListener, relay: postmaster_relay.Relay | None):
        super().__init__(listener)
        self._relay = relay

    async def smtp_HELO(self, arg: str | None) -> None:
        await self._greet(arg, ())

    async def smtp_EHLO(self, arg: str | None) -> None:
        await self._greet(arg, self._extensions())

    def _with_domain(self, recipient: str) -> str:
        """Return a recipient with its domain. Smtpd(8) looks up one without a domain in one of its own."""
        if "@" in recipient or self.listener.dispatcher.settings.addresses.is_postmaster(recipient):
            return recipient
        address = f"{recipient}@{self.listener.dispatcher.settings.domains[0]}"
        return address if self.listener.dispatcher.organization_slug(address) else recipient

    async def _refuse_recipient(self, recipient: str) -> str | None:
        destination, transaction = self._destination_of(recipient), self.envelope
        if destination == _POSTMASTER:
            refusal = None if self._relay else postmaster_relay.NOBODY
        else:
            refusal = await super()._refuse_recipient(recipient)
        if refusal is None and transaction.destination not in (None, destination):
            return _ONE_AT_A_TIME
        if refusal is None:
            transaction.destination = destination
        return refusal

    def _destination_of(self, recipient: str) -> str | None:
        dispatcher = self.listener.dispatcher
        if dispatcher.settings.addresses.is_postmaster(recipient):
            return _POSTMASTER
        return dispatcher.organization_slug(recipient)

    async def _deliver(self, transaction: Transaction, raw: bytes) -> list[str]:
        if transaction.destination == _POSTMASTER and self._relay:
            return [await self._relay.pass_on(transaction.sender or "", transaction.recipients, raw)]
        return await super()._deliver(transaction, raw)

    def _replies(self, outcomes: list[Outcome]) -> list[str]:
        """Return the one reply: a temporary failure comes before a permanent one."""
        temporary = next((outcome for outcome in outcomes if outcome.is_temporary), None)
        return [reply_of(temporary or max(outcomes, key=lambda outcome: outcome.reply_code))]
