"""The organizations that take mail, in memory, for the answer to RCPT TO.

    active in memory    yes, without a query; also while the database is unavailable
    not in memory       the database is asked before the answer is no: another host may have added it a second ago
    no result           RecipientUndecidedError: the database is unavailable or slow, or its table is empty (the wrong
                        database, or one that is being set up). Memory then stays as it is

A no bounces an order, so it needs a read of the table that began after the question arrived. Memory never says no,
however fresh: what another host adds is accepted from its commit on. The questions of one query leave `_waiting`
before it is sent, on the loop. A later question, for the same slug too, waits for the next query.

    _waiting    questions that no query carries yet
    in flight   at most BATCH_SIZE of them, in one query, in one thread, over one connection

So guessed addresses cost one query for all that arrived during the one before. Questions are answered in their order:
a new organization waits for few queries, however many guess. Slugs in memory wait for none, and no delivery waits
for this thread. A question without a result within LOOKUP_TIMEOUT is dropped.

Memory is refreshed every REFRESH_INTERVAL seconds: for so long RCPT TO may accept an organization that another host
has switched off. Its mail is then refused by the delivery. All methods are for the event loop's thread.

Measured by benchmarks.throughput.recipients in CPU time beside Postfix's own map of the same database, machine busy: a
guess alone cost 1.2 to 2.5 times the map's with SQLite and 1.3 to 1.5 with PostgreSQL, 20 at a time by RCPT TO 1.8 to
2.1, and 20 that come together at the socket 0.3 to 0.7. A query on the loop would be cheaper, and a disk that hangs
would stop all mail.
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
from orderflow_ingest.observability.logs import ERROR, WARNING, error_location, event
from orderflow_ingest.storage.database import DatabaseUnavailable

REFRESH_INTERVAL = 5.0  # seconds
LOOKUP_TIMEOUT = 5.0  # seconds; Postfix waits 100, and other recipients behind this one
BATCH_SIZE = 500


class RecipientUndecidedError(OrderflowError):
    """It is not known now whether an organization takes mail."""


class OrganizationTable(Protocol):
    """The table that is queried, see `Organizations`."""

    def active_slugs(self, among: set[str] | None = None) -> set[str] | None:
        """Return active slugs, of all or of those named. None while there is no organization. Raise."""


class LookupResult(NamedTuple):
    """The result of a query: active slugs, or an error with its log level."""

    found: set[str]
    error: str = ""
    level: int = WARNING


class KnownOrganizations:
    """The active organizations, as this process knows them."""

    def __init__(self, table: OrganizationTable, timeout: float = LOOKUP_TIMEOUT):
        self._timeout = timeout
        self._active: set[str] = set()
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._is_busy = False
        self._lookups: SimpleQueue[_Lookup | None] = SimpleQueue()
        self._last_error = ""
        Thread(target=_run_lookups, args=(table, self._lookups), name="recipients", daemon=True).start()
        weakref.finalize(self, self._lookups.put, None)

    def remembers(self, slug: str) -> bool:
        """Return whether an organization takes mail by what is in memory."""
        return slug in self._active

    def takes_mail(self, slug: str) -> "asyncio.Future[bool]":
        """Return a future: whether an organization takes mail, or RecipientUndecidedError. Callers share it."""
        answer = self._waiting.get(slug)
        if answer is not None and not answer.done():
            return answer
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        if slug in self._active:
            answer.set_result(True)
            return answer
        self._waiting[slug] = answer
        timer = loop.call_later(self._timeout, self._time_out, slug, answer)
        answer.add_done_callback(partial(_retrieve_exception, timer))
        self._start_lookup()
        return answer

    async def refresh(self) -> None:
        """Read the whole table. Where it is unavailable or empty, memory stays as it is."""
        read: asyncio.Future[LookupResult] = asyncio.get_running_loop().create_future()
        self._enqueue(None, partial(_set_result, read))
        result = await read
        self._log_change(result)
        if not result.error:
            self._active = result.found

    async def keep_fresh(self) -> None:
        """Refresh again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_INTERVAL)

    def _start_lookup(self) -> None:
        if self._waiting and not self._is_busy:
            # They leave before the query is sent: later questions wait for the next one.
            batch = {slug: self._waiting.pop(slug) for slug in list(islice(self._waiting, BATCH_SIZE))}
            self._is_busy = True
            self._enqueue(set(batch), partial(self._answer, batch))

    def _answer(self, batch: "dict[str, asyncio.Future[bool]]", result: LookupResult) -> None:
        self._is_busy = False
        self._log_change(result)
        self._active |= result.found
        for slug, answer in batch.items():
            if answer.done():  # timed out
                continue
            if result.error:
                answer.set_exception(RecipientUndecidedError(result.error))
            else:
                answer.set_result(slug in result.found)
        self._start_lookup()

    def _time_out(self, slug: str, answer: "asyncio.Future[bool]") -> None:
        if self._waiting.get(slug) is answer:
            del self._waiting[slug]
        if not answer.done():
            answer.set_exception(RecipientUndecidedError("the database has not answered in time"))

    def _enqueue(self, slugs: set[str] | None, done: Callable[[LookupResult], None]) -> None:
        loop = asyncio.get_running_loop()
        self._lookups.put((slugs, lambda result: loop.call_soon_threadsafe(done, result)))

    def _log_change(self, result: LookupResult) -> None:
        """Log a change."""
        if result.error and result.error != self._last_error:
            event("recipients", "Organizations could not be read.", result.level, reason=result.error)
        elif self._last_error and not result.error:
            event("recipients", "Organizations can be read again.")
        self._last_error = result.error


_Lookup = tuple[set[str] | None, Callable[[LookupResult], object]]


def _run_lookups(table: OrganizationTable, lookups: "SimpleQueue[_Lookup | None]") -> None:
    """Query the table, one query after the other, until None."""
    while (lookup := lookups.get()) is not None:
        slugs, done = lookup
        with suppress(RuntimeError):  # the loop is closed
            done(_look_up(table, slugs))
        del lookup, done  # they reference the futures


def _look_up(table: OrganizationTable, slugs: set[str] | None) -> LookupResult:
    try:
        found = table.active_slugs(slugs)
    except DatabaseUnavailable as error:
        return LookupResult(set(), str(error))
    except Exception as error:
        return LookupResult(set(), error_location(error), ERROR)
    return LookupResult(set(), "no organization is in the database") if found is None else LookupResult(found)


def _retrieve_exception(timer: asyncio.TimerHandle, answer: "asyncio.Future[bool]") -> None:
    """Retrieve the exception of a future that nobody may wait for any more, so that asyncio does not report it."""
    timer.cancel()
    if not answer.cancelled():
        answer.exception()


def _set_result(read: "asyncio.Future[LookupResult]", result: LookupResult) -> None:
    if not read.done():  # cancelled: the service ends
        read.set_result(result)
