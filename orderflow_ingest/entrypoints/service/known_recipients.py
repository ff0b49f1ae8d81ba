"""Which organizations take mail, held in memory, for the answer to RCPT TO.

    active in memory    there, without a question; also while the database is away
    not in memory       the database is asked before anybody hears no: another host may have added it a second ago
    no answer           UnknownForNow: the database is away or slow, or its table is empty, which is another database
                        than was meant or one that is being set up. What memory has then stays

A no bounces an order, so it is only said by a read of the table that began after the question had come. Memory says
none, however young it is: what another host adds is accepted from its commit on. The questions of one statement leave
`_waiting` before it is sent, on the loop. A question that comes later, the same name's too, waits for the next one.

    _waiting    questions that no statement carries yet: all later names, and those that are asked for once more
    in hand     at most MOST_AT_A_TIME of them, in one statement, in one thread, over one connection

So guesses cost one statement for all that came while the one before was asked, and one that comes alone costs one round
trip. They take turns in the order they came, so a new organization waits for few statements, however many guess. What
is in memory waits for none, and no delivery waits for this thread. A connection of the door asks one question at a
time, so there are at most as many as connections; one that is not answered within PATIENCE is dropped.

Memory is read again every FRESH seconds: for so long may an organization that was switched off elsewhere hear yes at
RCPT TO, and its mail is then refused by the delivery. All methods belong to the event loop's thread, which shares
nothing with the other one but questions that are handed over and answers that come back.

Measured by `python -m benchmarks.recipients` in CPU time beside Postfix's own map of the same database, machine busy: a
guess alone cost 1.2 to 2.5 times the map's with SQLite and 1.3 to 1.5 with PostgreSQL, 20 at a time by RCPT TO 1.8 to
2.1, and 20 that come together at the socket 0.3 to 0.7. Of a question to SQLite the statement takes 0.06 ms, and the
thread most of the rest; a statement on the loop would be cheaper, and a disk that hangs would stop all mail.
"""

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple, Protocol

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.observability.logs import ERROR, WARNING, event, place
from orderflow_ingest.storage.database import DatabaseUnavailable

FRESH = 5.0  # seconds
PATIENCE = 5.0  # seconds; Postfix waits 100, and other recipients behind this one
MOST_AT_A_TIME = 500


class RecipientUndecided(OrderflowError):
    """Whether an organization takes mail cannot be said now."""


class Table(Protocol):
    """What is asked: `Organizations`."""

    def active_slugs(self, among: set[str] | None = None) -> set[str] | None:
        """Return active slugs, of all or of those named; None while there is no organization. Raise."""


class Said(NamedTuple):
    """What the database said: active slugs, or why there are none to name, and how bad that is."""

    found: set[str]
    trouble: str = ""
    level: int = WARNING


class KnownOrganizations:
    """The active organizations of one process."""

    def __init__(self, table: Table, patience: float = PATIENCE):
        self._patience = patience
        self._active: set[str] = set()
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._is_asking = False
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._trouble = ""
        Thread(target=_ask, args=(table, self._asked), name="recipients", daemon=True).start()
        weakref.finalize(self, self._asked.put, None)

    def remembers(self, slug: str) -> bool:
        """Return whether memory alone says that an organization takes mail."""
        return slug in self._active

    def takes_mail(self, slug: str) -> "asyncio.Future[bool]":
        """Return whether an organization takes mail, or UnknownForNow, once that is known; others share the answer."""
        answer = self._waiting.get(slug)
        if answer is not None and not answer.done():
            return answer
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        if slug in self._active:
            answer.set_result(True)
            return answer
        self._waiting[slug] = answer
        given_up = loop.call_later(self._patience, self._give_up, slug, answer)
        answer.add_done_callback(partial(_seen, given_up))
        self._go_on()
        return answer

    async def refresh(self) -> None:
        """Read the whole table; where it is away or empty, memory stays as it is."""
        read: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._hand_over(None, partial(_settle, read))
        said = await read
        self._note(said)
        if not said.trouble:
            self._active = said.found

    async def keep_fresh(self) -> None:
        """Refresh again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(FRESH)

    def _go_on(self) -> None:
        if self._waiting and not self._is_asking:
            # They leave before the statement is sent: who asks from now on waits for the next one.
            batch = {slug: self._waiting.pop(slug) for slug in list(islice(self._waiting, MOST_AT_A_TIME))}
            self._is_asking = True
            self._hand_over(set(batch), partial(self._answer, batch))

    def _answer(self, batch: "dict[str, asyncio.Future[bool]]", said: Said) -> None:
        self._is_asking = False
        self._note(said)
        self._active |= said.found
        for slug, answer in batch.items():
            if answer.done():  # given up
                continue
            if said.trouble:
                answer.set_exception(RecipientUndecided(said.trouble))
            else:
                answer.set_result(slug in said.found)
        self._go_on()

    def _give_up(self, slug: str, answer: "asyncio.Future[bool]") -> None:
        if self._waiting.get(slug) is answer:
            del self._waiting[slug]
        if not answer.done():
            answer.set_exception(RecipientUndecided("the database has not answered in time"))

    def _hand_over(self, slugs: set[str] | None, done: Callable[[Said], None]) -> None:
        loop = asyncio.get_running_loop()
        self._asked.put((slugs, lambda said: loop.call_soon_threadsafe(done, said)))

    def _note(self, said: Said) -> None:
        """Log what changes."""
        if said.trouble and said.trouble != self._trouble:
            event("recipients", "Organizations could not be asked for.", said.level, reason=said.trouble)
        elif self._trouble and not said.trouble:
            event("recipients", "Organizations can be asked for again.")
        self._trouble = said.trouble


_Asked = tuple[set[str] | None, Callable[[Said], object]]


def _ask(table: Table, asked: "SimpleQueue[_Asked | None]") -> None:
    """Ask the table, one statement after the other, until None comes."""
    while (question := asked.get()) is not None:
        slugs, done = question
        with suppress(RuntimeError):  # the loop is closed
            done(_said(table, slugs))
        del question, done  # they hold whom the answer is for


def _said(table: Table, slugs: set[str] | None) -> Said:
    try:
        found = table.active_slugs(slugs)
    except DatabaseUnavailable as error:
        return Said(set(), str(error))
    except Exception as error:
        return Said(set(), place(error), ERROR)
    return Said(set(), "no organization is in the database") if found is None else Said(found)


def _seen(given_up: asyncio.TimerHandle, answer: "asyncio.Future[bool]") -> None:
    """Look at an answer for which nobody may wait any more, so that asyncio does not report it."""
    given_up.cancel()
    if not answer.cancelled():
        answer.exception()


def _settle(read: "asyncio.Future[Said]", said: Said) -> None:
    if not read.done():  # cancelled: the service ends
        read.set_result(said)
