"""Which organizations take mail, held in memory, for the answer to RCPT TO.

    active in memory    there, without a question; also while the database is away
    not in memory       the database is asked before anybody hears no: another host may have added it a second ago
    no answer           UnknownForNow: the database is away or slow, or its table is empty, which is another database
                        than was meant or one that is being set up. What memory has then stays

One question goes to the database at a time, and carries all that have come while the one before was asked, up to
MOST_AT_A_TIME. So any number of unknown recipients, a spammer's guesses say, costs one connection. On PostgreSQL a
question of its own costs 1.5 ms of CPU time, and one of a hundred in a statement 0.04 ms (measured). Memory is read
again every FRESH seconds: for so long may an organization that was switched off elsewhere hear yes at RCPT TO, and
its mail is then refused by the delivery. All methods belong to the event loop's thread.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

from ..logs import ERROR, WARNING, event, place
from ..records import RecordsUnavailable

FRESH = 5.0  # seconds
PATIENCE = 5.0  # seconds; Postfix waits 100, and other recipients behind this one
MOST_AT_A_TIME = 500


class UnknownForNow(Exception):
    """Whether an organization takes mail cannot be said now."""


class Table(Protocol):
    """What is asked: `Organizations`."""

    def active_slugs(self, among: set[str] | None = None) -> set[str] | None:
        """Return active slugs, of all or of those named; None while there is no organization. Raise."""


class KnownOrganizations:
    """The active organizations of one process."""

    def __init__(self, table: Table, patience: float = PATIENCE):
        self._table, self._patience = table, patience
        self._active: set[str] = set()
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recipients")
        self._trouble = ""

    def remembers(self, slug: str) -> bool:
        """Return whether memory alone says that an organization takes mail."""
        return slug in self._active

    async def takes_mail(self, slug: str) -> bool:
        """Return whether an organization takes mail. Raise UnknownForNow."""
        if slug in self._active:
            return True
        answer = self._waiting.get(slug)
        if answer is None:
            answer = self._waiting[slug] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(_seen)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            return await asyncio.wait_for(asyncio.shield(answer), self._patience)
        except TimeoutError:
            raise UnknownForNow("the database has not answered in time") from None

    async def refresh(self) -> None:
        """Read the whole table; where it is away or empty, memory stays as it is."""
        found = await self._asked(None)
        if isinstance(found, set):
            self._active = found

    async def keep_fresh(self) -> None:
        """Refresh again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(FRESH)

    async def _ask(self) -> None:
        try:
            while self._waiting:
                batch = {slug: self._waiting.pop(slug) for slug in list(islice(self._waiting, MOST_AT_A_TIME))}
                found = await self._asked(set(batch))
                if isinstance(found, set):
                    self._active |= found
                for slug, answer in batch.items():
                    if isinstance(found, set):
                        answer.set_result(slug in found)
                    else:
                        answer.set_exception(UnknownForNow(found))
        finally:
            self._asking = None

    async def _asked(self, slugs: set[str] | None) -> set[str] | str:
        """Return what the database says, or why it says nothing; what changes in that is logged once."""
        level = WARNING
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._thread, self._table.active_slugs, slugs)
            trouble = "no organization is in the database" if found is None else ""
        except RecordsUnavailable as error:
            found, trouble = None, str(error)
        except Exception as error:
            found, trouble, level = None, place(error), ERROR
        if trouble and trouble != self._trouble:
            event("recipients", "Organizations could not be asked for.", level, reason=trouble)
        elif self._trouble and not trouble:
            event("recipients", "Organizations can be asked for again.")
        self._trouble = trouble
        return trouble if found is None else found


def _seen(answer: "asyncio.Future[bool]") -> None:
    """Look at an answer for which nobody may wait any more, so that asyncio does not report it."""
    if not answer.cancelled():
        answer.exception()
