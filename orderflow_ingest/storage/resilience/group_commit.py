"""Group commit: work that several threads want done at the same time is done once for all of them.

A transaction costs a sync or a round trip, whether it writes one row or twenty. The first of the waiting threads does
the work of all. Threads that come meanwhile form the next group. A single thread waits for no other, and no call
returns before its own item is done.

Measured at 20 SMTP sessions, embedded, for the files of the archive alone: a sixth less CPU per message and half of
the context switches.
"""

import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

RETRIES = 5.0  # seconds; the retries of one group end after them
Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """A function of one item over `work`, which takes a list of items and returns a result for each, in order.

    If `work` fails for several items, it is called again for each alone, so that one item cannot spoil the others. An
    error of the classes `shared`, such as an unavailable server, is the error of the whole group. With `owner`, which
    names the owner of an item, it is the error of that owner's items alone: the node with its rows may be the only one
    that is unavailable. So a group of several owners is tried once more for each of them. That ends after RETRIES
    seconds, and the other items get the error.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], list[Result]],
        shared: tuple[type[Exception], ...],
        most: int = 50,
        owner: Callable[[Item], Hashable] | None = None,
    ):
        self._work, self._shared, self._most, self._owner = work, shared, most, owner
        self._waiting: list[_Request[Item, Result]] = []
        self._leader = threading.Lock()

    def __call__(self, item: Item) -> Result:
        """Do the work for one item, together with the items that wait. Raise what the work raises for it."""
        request = _Request[Item, Result](item)
        self._waiting.append(request)
        try:
            self._wait(request)
        except BaseException:  # of a signal: an item that no thread waits for must not be done
            with suppress(ValueError):
                self._waiting.remove(request)
            raise
        # Not kept in the request: its frames would keep the caller's message in memory until a garbage collection.
        error, request.error = request.error, None
        try:
            if error is not None:
                raise error
            return request.results[0]
        finally:
            del error

    def _wait(self, request: "_Request[Item, Result]") -> None:
        while not request.is_done:
            with self._leader:
                if not request.is_done:
                    group = self._waiting[: self._most]
                    del self._waiting[: len(group)]
                    self._do(group)

    def _do(self, group: "list[_Request[Item, Result]]", *, is_retry: bool = False) -> None:
        try:
            results = self._work([request.item for request in group])
            for request, result in zip(group, results, strict=True):
                request.results.append(result)
        except BaseException as error:
            if len(group) == 1:
                group[0].error = error
            elif not isinstance(error, self._shared):
                for request in group:
                    self._do([request])
            elif not is_retry and len(owned := self._by_owner(group)) > 1:
                self._retry(owned, error)
            else:
                _fail(group, error)

    def _by_owner(self, group: "list[_Request[Item, Result]]") -> "list[list[_Request[Item, Result]]]":
        owned: dict[Hashable, list[_Request[Item, Result]]] = {}
        for request in group:
            owned.setdefault(self._owner(request.item) if self._owner else None, []).append(request)
        return list(owned.values())

    def _retry(self, owned: "list[list[_Request[Item, Result]]]", error: BaseException) -> None:
        until = time.monotonic() + RETRIES
        for group in owned:
            if time.monotonic() < until:
                self._do(group, is_retry=True)
            else:
                _fail(group, error)


def _fail(group: "list[_Request[Item, Result]]", error: BaseException) -> None:
    for request in group:
        request.error = type(error)(*error.args)  # one for each thread: an exception has one traceback


class _Request(Generic[Item, Result]):
    """One item, and its result or error."""

    def __init__(self, item: Item):
        self.item = item
        self.results: list[Result] = []
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return bool(self.results) or self.error is not None
