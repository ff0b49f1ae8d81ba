"""The desk: where the service's doors bring their messages; it holds the bounds and knows the outcomes.

    places     so many deliveries run at a time, each in a thread; the others wait
    bytes      so many bytes of messages are in memory at a time; beyond them OVERLOADED. One message alone
               always passes
    deadline   an answer comes within the delivery's deadline, DEADLINE if no other. A thread cannot be ended
               from outside: it goes on, keeps its place and its bytes, and what it records is recorded; its
               backends' own time limits end it. While it has every place, nothing new is taken

All methods belong to the event loop's thread. Nothing here raises: a door gets an outcome.
"""

import asyncio
import os
import pwd
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

from .. import __version__, delivery
from ..assembly import Parts
from ..envelope import Envelope, ForeignDomain, organization_slug
from ..logs import ERROR, WARNING, event, place
from ..outcomes import Outcome

Result = TypeVar("Result")


class Desk:
    """The one place where deliveries of this process are begun."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self.settings = parts.settings
        self.is_draining = False
        self._pool = ThreadPoolExecutor(self.settings.concurrency, thread_name_prefix="delivery")
        self._in_flight = 0
        self._running: set[asyncio.Future[Outcome]] = set()
        self._overdue: set[asyncio.Future[Outcome]] = set()
        self._ended: Counter[str] = Counter()
        self._started_at = datetime.now(UTC)

    def reserve(self, size: int) -> bool:
        """Take so many bytes of the bound; False if there are not as many."""
        if self._in_flight and self._in_flight + size > self.settings.max_in_flight:
            return False
        self._in_flight += size
        return True

    def free(self, size: int) -> None:
        """Give bytes back."""
        self._in_flight -= size

    @property
    def is_stuck(self) -> bool:
        """Tell whether every place is held by a delivery that is past its deadline."""
        return len(self._overdue) >= self.settings.concurrency

    def organization(self, recipient: str) -> str | None:
        """Give the slug that a recipient names, whether there is such an organisation or not."""
        try:
            return organization_slug(recipient, self.settings.local_part, self.settings.domains)
        except ForeignDomain:
            return None

    async def welcome(self, recipient: str) -> Outcome | None:
        """Tell what keeps mail for this recipient from being delivered; None if nothing does."""
        known = self.parts.records.organizations.remembered(self.organization(recipient) or "")
        if known is not None and known.is_active:
            return None
        if self.is_stuck:
            return Outcome.OVERLOADED
        welcome = asyncio.get_running_loop().run_in_executor(None, delivery.welcome, recipient, self.parts)
        ended, _ = await asyncio.wait({welcome}, timeout=self.settings.deadline)
        if not ended:
            return Outcome.DEADLINE
        return _result(welcome)

    async def deliver(self, envelope: Envelope, raw: bytes) -> Outcome:
        """Deliver a message that its sender still has."""
        return await self._within_bounds(lambda: delivery.receive(envelope, raw, self.parts).outcome, len(raw), False)

    async def settle(self, name: str) -> Outcome:
        """Deliver a spool entry; its bytes are reserved here."""
        entry = self.parts.spool.claim(name)
        if entry is None:
            event("spool", "Spool entry is gone, or another process is at it.", WARNING, entry=name)
            return Outcome.INTERNAL
        size = entry.size
        if self.is_stuck or not self.reserve(size):
            self.parts.spool.finish(entry)
            return self._ended_with(Outcome.OVERLOADED)
        return await self._within_bounds(lambda: delivery.settle(entry, self.parts).outcome, size, True)

    def health(self) -> dict[str, object]:
        """Tell how the service does."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "spool": self.parts.spool.directory,
            "started_at": self._started_at.isoformat(timespec="seconds"),
            "draining": self.is_draining,
            "places": self.settings.concurrency,
            "busy": len(self._running),
            "overdue": len(self._overdue),
            "in_flight": self._in_flight,
            "max_in_flight": self.settings.max_in_flight,
            "deliveries": self._ended.total(),
            "outcomes": dict(self._ended),
        }

    async def drain(self) -> None:
        """Take nothing new, and wait until what is in hand has been answered."""
        self.is_draining = True
        while self._running - self._overdue:
            await asyncio.wait(self._running - self._overdue, timeout=0.2)
        self._pool.shutdown(wait=False)

    async def _within_bounds(self, work: Callable[[], Outcome], size: int, is_reserved: bool) -> Outcome:
        """Do the work in a place of the pool; bytes that are ours to free are freed when it has really ended."""
        if self.is_stuck:
            return self._ended_with(Outcome.OVERLOADED)
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._running.add(running)
        running.add_done_callback(lambda ended: self._over(ended, size if is_reserved or ended in self._overdue else 0))
        done, _ = await asyncio.wait({running}, timeout=self.settings.deadline)
        if done:
            return self._ended_with(_result(running))
        self._overdue.add(running)
        self._in_flight += 0 if is_reserved else size
        event("deliver", "Delivery has not ended by its deadline.", ERROR, outcome=Outcome.DEADLINE.name)
        return self._ended_with(Outcome.DEADLINE)

    def _over(self, ended: "asyncio.Future[Outcome]", size: int) -> None:
        self._running.discard(ended)
        self._overdue.discard(ended)
        self._in_flight -= size

    def _ended_with(self, outcome: Outcome) -> Outcome:
        self._ended[outcome.name] += 1
        return outcome


def _result(work: "asyncio.Future[Result]") -> Result | Outcome:
    """Give what the work gave; INTERNAL for what nobody has foreseen."""
    try:
        return work.result()
    except Exception as error:
        event("deliver", "Delivery broke.", ERROR, outcome=Outcome.INTERNAL.name, reason=place(error))
        return Outcome.INTERNAL
