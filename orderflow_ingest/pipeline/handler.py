"""The document handler: what it is called with, what it may raise, and how it is loaded.

The handler is `package.module:function`, called with an OrderDocument. It must know a document that comes again by its
id: a worker can be killed after the handler returned and before that is noted. What it raises, SystemExit and the like
included, is a failed attempt (see `retry`). By TryLater it asks for a later time instead. A handler that cannot be
loaded or cannot be called with one argument is an outage: the document waits for one that can.

A handler is a plain function: nobody awaits a coroutine here. An `async def`, or a function with `yield`, cannot be
loaded. A handler that returns a coroutine or a generator, for example behind a decorator, has failed, since none of its
own lines has run.
"""

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.observability import logs
from orderflow_ingest.observability.logs import event
from orderflow_ingest.storage.archive import Archive, read_object
from orderflow_ingest.storage.database import Document, InboundMessage
from orderflow_ingest.storage.resilience.timeouts import TaskDeadlineReached

_LONGEST_REASON = 500  # characters
_LEAST_DELAY, _MOST_DELAY = 1.0, 30 * 86400.0  # seconds


@dataclass(frozen=True)
class OrderDocument:
    """What a document handler is called with: one document, where it came from, and a way to its bytes.

    org       the organization's slug, as `orderflow-admin org add` was given it
    message   the mail that the document came in, see InboundMessage
    document  the document, see Document. `document.id` is the key by which a handler knows one that comes again

        def receive(order: OrderDocument) -> None:
            if not orders.exists(order.document.id):
                orders.add(order.document.id, order.org, order.message.from_email, order.read())
    """

    org: str
    message: InboundMessage
    document: Document
    _archive: Archive

    def read(self) -> bytes:
        """Return the document's bytes, `document.size` of them, verified by their SHA-256.

        Raise ArchiveUnavailable where the archive cannot be read now, ObjectMissing or ObjectDamaged where it has lost
        the document. A handler need not catch them: the attempt fails, and another one follows.
        """
        return read_object(self.document.org_id, self.document.object_key, self.document.digest, self._archive)

    def open(self) -> BinaryIO:
        """Return the document's bytes as a file in memory, open for reading. Raise what read() raises."""
        return BytesIO(self.read())


Handler = Callable[[OrderDocument], object]
"""The type of a document handler: what it returns counts for nothing, what it raises is a failed attempt."""


class TryLater(OrderflowError):
    """Raised by a handler that cannot take a document now. It uses up no attempt.

    reason   shown to support people, at most 500 characters
    after    a timedelta or a number of seconds, from 1 second to 30 days. None leaves it to ORDERFLOW_RETRY_DELAY

        if shop.is_closed():
            raise TryLater("the shop is closed for the night", after=timedelta(hours=8))
    """

    def __init__(self, reason: str, after: timedelta | float | None = None):
        super().__init__("".join(one if one.isprintable() else " " for one in str(reason))[:_LONGEST_REASON])
        self.after: timedelta | None = None
        if after is not None:
            seconds = after.total_seconds() if isinstance(after, timedelta) else float(after)
            # What is no number is too short.
            self.after = timedelta(seconds=min(seconds, _MOST_DELAY) if seconds >= _LEAST_DELAY else _LEAST_DELAY)


class HandlerUnavailable(OrderflowError):
    """The document handler cannot be imported, or is not there: a deploy is half done."""


class HandlerNotRun(OrderflowError):
    """The handler returned something to await or to iterate, and nobody does that."""


def load_handler(target: str) -> Handler:
    """Import the handler that ORDERFLOW_DOCUMENT_HANDLER names. Raise HandlerUnavailable."""
    module, _, function = target.partition(":")
    try:
        handler: Handler = getattr(import_module(module), function)
    except (KeyboardInterrupt, TaskDeadlineReached):
        raise
    except BaseException as error:  # Rust's libraries have one of their own
        why = os_reason(error)
        if isinstance(error, ModuleNotFoundError) and error.name:
            why = f"no module is named {error.name}"
        elif isinstance(error, AttributeError) and module in sys.modules:
            why = f"{module} has no {function}"
        raise HandlerUnavailable(f"{target} cannot be loaded: {why}") from error
    if _usable.get(target) is not handler:
        if fault := _fault(handler):
            raise HandlerUnavailable(f"{target} cannot be used: it {fault}")
        logs.adopt(module.partition(".")[0])
        _usable[target] = handler
    return handler


def handler_place(target: str) -> str:
    """Return the directory of the handler's own package, or the file of its module, and "" while it is not loaded."""
    package = sys.modules.get(target.partition(":")[0].partition(".")[0])
    file = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", ())), "")
    return str(Path(file).parent) if file.endswith("__init__.py") else file


_usable: dict[str, Handler] = {}  # what was looked at before
_KINDS = (
    (inspect.iscoroutinefunction, "is an async function: let a plain one call asyncio.run()"),
    (inspect.isasyncgenfunction, "is an async function with yield: let a plain one call asyncio.run()"),
    (inspect.isgeneratorfunction, "has a yield, so that calling it runs none of its lines"),
)


def _fault(handler: object) -> str:
    """Return why a handler cannot be used, "" if it can as far as its look tells."""
    if not callable(handler):
        return "is not callable"
    called: Any = handler
    while isinstance(called, functools.partial):
        called = called.func
    if not inspect.isroutine(called) and not inspect.isclass(called):
        called = type(called).__call__  # which inspect does not look at by itself
    for is_kind, fault in _KINDS:
        if is_kind(called):
            return fault
    try:
        # Not of what a decorator has wrapped: it may add an argument of its own.
        signature = inspect.signature(handler, follow_wrapped=False)
    except (TypeError, ValueError):  # a builtin that tells nothing of its parameters
        return ""
    try:
        signature.bind(None)
    except TypeError:
        return "cannot be called with one argument"
    return ""


def log_document(order: OrderDocument) -> None:
    """Log a document's coming: the handler of a deployment that has none yet."""
    event(
        "document",
        "Document received; no handler is configured.",
        org=order.org,
        org_id=order.message.org_id,
        message_id=order.message.id,
        source_message_id=order.message.source_message_id,
        document_id=order.document.id,
        kind=order.document.kind.value,
        content_type=order.document.detected_type,
        size=order.document.size,
    )


def check_result(result: object) -> None:
    """Refuse a result that is the beginning of the work and not its end. Raises HandlerNotRun."""
    if not (isinstance(result, Awaitable | Generator | AsyncGenerator) or inspect.isawaitable(result)):
        return
    if isinstance(result, Coroutine | Generator):
        result.close()  # or Python warns that it was never awaited
    raise HandlerNotRun(f"the handler returned a {type(result).__name__}")
