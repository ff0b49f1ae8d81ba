"""The mail doors: LMTP for Postfix's lmtp(8), and SMTP for its smtpd_proxy_filter (before-queue).

LMTP answers for each recipient (RFC 2033, section 4.2). SMTP answers once: so there a transaction carries mail for
one organisation, or for the postmaster, and a recipient of another gets 452 and is sent again. Each answer is true
for each recipient. If one of them failed for a while, all are sent again, and who has it already has a duplicate.

A 452 for some recipients does not go together with Postfix's speed_adjust (smtpd_proxy_options in postconf(5)): there
the whole message gets it, each time. smtpd_recipient_limit = 1 then makes Postfix itself take one recipient at a time.

A door is made for asyncio's create_server(), which calls it for each connection. See `smtp_session` for what
both have in common.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from orderflow_ingest.domain.envelope import BEFORE_QUEUE
from orderflow_ingest.domain.outcomes import Outcome

from . import postmaster_relay
from .session import IDLE, MailListener, Session, Transaction, reply_of

if TYPE_CHECKING:
    from .dispatcher import Dispatcher

__all__ = ("MailListener", "lmtp_door", "smtp_door")

_POSTMASTER = "@"  # no organisation has this name
_ONE_AT_A_TIME = "452 4.5.3 one organisation at a time, send this recipient again"


def lmtp_door(desk: "Dispatcher", allowed_uids: Collection[int], idle: float = IDLE) -> MailListener:
    """Make the door for Postfix's lmtp(8)."""
    return MailListener(LmtpSession, desk, allowed_uids, idle)


def smtp_door(
    desk: "Dispatcher", allowed_uids: Collection[int], relay: str | None = None, idle: float = IDLE
) -> MailListener:
    """Make the door for Postfix's smtpd_proxy_filter; `relay` is where the postmaster's mail goes, see `postmaster`."""
    passing_on = postmaster_relay.Relay(relay) if relay else None
    return MailListener(lambda door: SmtpSession(door, passing_on), desk, allowed_uids, idle)


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
    door_name = BEFORE_QUEUE
    commands = ("HELO", *Session.commands)

    def __init__(self, door: MailListener, relay: postmaster_relay.Relay | None):
        super().__init__(door)
        self._relay = relay

    async def smtp_HELO(self, arg: str | None) -> None:
        await self._greet(arg, ())

    async def smtp_EHLO(self, arg: str | None) -> None:
        await self._greet(arg, self._extensions())

    def _completed(self, recipient: str) -> str:
        """Return a recipient with its domain; smtpd(8) has looked one up without a domain in one of its own."""
        if "@" in recipient or self.door.desk.settings.addresses.is_postmaster(recipient):
            return recipient
        whole = f"{recipient}@{self.door.desk.settings.domains[0]}"
        return whole if self.door.desk.organization(whole) else recipient

    async def _refusal(self, recipient: str) -> str | None:
        destination, transaction = self._destination(recipient), self.envelope
        if destination == _POSTMASTER:
            refusal = None if self._relay else postmaster_relay.NOBODY
        else:
            refusal = await super()._refusal(recipient)
        if refusal is None and transaction.destination not in (None, destination):
            return _ONE_AT_A_TIME
        if refusal is None:
            transaction.destination = destination
        return refusal

    def _destination(self, recipient: str) -> str | None:
        desk = self.door.desk
        if desk.settings.addresses.is_postmaster(recipient):
            return _POSTMASTER
        return desk.organization(recipient)

    async def _deliver(self, transaction: Transaction, raw: bytes) -> list[str]:
        if transaction.destination == _POSTMASTER and self._relay:
            return [await self._relay.pass_on(transaction.sender or "", transaction.recipients, raw)]
        return await super()._deliver(transaction, raw)

    def _replies(self, outcomes: list[Outcome]) -> list[str]:
        """Give the one reply: what has failed for a while comes before the worst."""
        temporary = next((outcome for outcome in outcomes if outcome.is_temporary), None)
        return [reply_of(temporary or max(outcomes, key=lambda outcome: outcome.reply_code))]
