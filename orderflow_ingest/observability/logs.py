"""Logs: JSON records, to standard error, to syslog (so to the journal), or to a file.

Never to pipe(8)'s output: standard output and error of `orderflow-deliver` go into Postfix's log and
into the bounce that a sender reads. So that program logs to syslog where there is one, else to
`log/deliver.log` in the state directory, each record one write to a file opened for appending.

A record is a plain past-tense sentence and the fields `action`, `org`, `org_id`, `message_id` (of the row),
`source_message_id` (the mail's Message-ID as it is recorded, at most 500 characters. JSON escapes what is not ASCII),
`queue_id`, `extension` where they are known, never a message's content, a secret, or an exception's text that
could hold either. An OSError, as any field's value, is logged as its errno by name (`durable.os_reason`).
A log that cannot be written loses its records and never a message. So does a journal or syslog that hangs: its socket
is waited for a fifth of a second, and then not tried again for five seconds. The journal gets how many were lost.
"""

import logging
import logging.handlers
import os
import select
import socket
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from traceback import extract_tb
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from orderflow_ingest.domain.os_errors import os_reason

ERROR, WARNING = logging.ERROR, logging.WARNING
SYSLOG = "/dev/log"
_PATIENCE = 0.2  # seconds
_PAUSE = 5.0  # seconds
_logger = logging.getLogger("orderflow_ingest")


def configure(log: str, program: str, state_dir: Path | None, *, on_standard_error: bool = True) -> None:
    """Send this process's records where the setting ORDERFLOW_LOG says.

    Without `on_standard_error`, standard error is nobody's to write: records that find no other place are lost.
    """
    if log == "auto" or (log == "stderr" and not on_standard_error):
        file = str(state_dir / "log" / "deliver.log") if state_dir else "stderr"
        log = "stderr" if on_standard_error else ("syslog" if os.path.exists(SYSLOG) else file)
    handler = _handler(log, on_standard_error=on_standard_error)
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{message}{process}", style="{", timestamp=True,
            rename_fields={"levelname": "level", "process": "pid"}, static_fields={"program": program},
        )
    )  # fmt: skip
    # What no record of ours holds need not be found out for each, see "Optimization" in Python's logging HOWTO.
    logging.logThreads = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.raiseExceptions = False  # what cannot be logged must not reach standard error
    _logger.handlers = [handler]
    _logger.setLevel(logging.INFO)
    _logger.propagate = False


def is_configured() -> bool:
    """Return whether configure() was called."""
    return bool(_logger.handlers)


def event(action: str, sentence: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log one step. Fields that are None or empty are left out."""
    known = {name: value for name, value in fields.items() if value not in (None, "")}
    plain = {name: _plain(value) for name, value in known.items()}
    _logger.log(level, sentence, extra={"action": action, **plain})


def adopt(name: str) -> None:
    """Send the records of another package's logger to the same place as ours, from INFO on."""
    logger = logging.getLogger(name)
    if logger is _logger:
        return
    for handler in _logger.handlers:
        logger.addHandler(handler)  # once, however often
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def error_location(error: BaseException, *, within: str = "orderflow_ingest") -> str:
    """Return an error as its class and the deepest line it came through below a path, else the deepest of all.

    Its text is left out, since it may hold message content.
    """
    frames = extract_tb(error.__traceback__)
    # A time limit is raised by a signal's handler, on top of the line that it interrupts.
    below = [frame for frame in frames if "/huey/" not in frame.filename and frame.name != "raise_task_deadline"]
    ours = [frame for frame in below if within in frame.filename]
    chosen = (ours or frames)[-1:]
    kind, why = type(error).__name__, os_reason(error)
    head = kind if why == kind else f"{kind} {why}"
    return head + "".join(f" at {os.path.basename(f.filename)}:{f.lineno}" for f in chosen)


def _plain(value: object) -> int | float | str:
    if isinstance(value, int | float):
        return value
    return os_reason(value) if isinstance(value, OSError) else str(value)


def _handler(log: str, *, on_standard_error: bool) -> logging.Handler:
    with suppress(OSError):
        if log == "syslog":
            return _Syslog(SYSLOG, facility=logging.handlers.SysLogHandler.LOG_MAIL)
        if log.startswith("/"):
            os.makedirs(os.path.dirname(log), mode=0o750, exist_ok=True)
            return logging.handlers.WatchedFileHandler(log)
    if not on_standard_error:
        return logging.NullHandler()
    with suppress(OSError, ValueError):  # replaced by an object without a descriptor, or closed
        if stat.S_ISSOCK(os.fstat(sys.stderr.fileno()).st_mode):
            return _Journal(sys.stderr.fileno())
    return logging.StreamHandler(sys.stderr)


class _Journal(logging.Handler):
    """Writes to standard error where that is a socket: systemd gives a unit one to the journal.

    Every thread logs, the event loop's too. With a blocking write a journal that hangs would hold up all of them.
    """

    def __init__(self, fd: int):
        super().__init__()
        self._socket = socket.socket(fileno=os.dup(fd))
        self._cut, self._lost, self._not_before = b"", 0, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            lines = self.format(record) + "\n"
            if self._lost:
                lines = self.format(_lost_records(self._lost)) + "\n" + lines
            is_sent = time.monotonic() >= self._not_before and self._send(self._cut + lines.encode())
            self._lost = 0 if is_sent else self._lost + 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _send(self, data: bytes) -> bool:
        """Send all of it, within the time. Return whether that was so. What was cut off gets its line's end later."""
        rest, until = memoryview(data), time.monotonic() + _PATIENCE
        ready = select.poll()
        ready.register(self._socket, select.POLLOUT)
        while rest:
            try:
                rest = rest[self._socket.send(rest, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                left = until - time.monotonic()
                if left <= 0 or not ready.poll(left * 1000):
                    self._not_before = time.monotonic() + _PAUSE
                    self._cut = b"\n" if len(rest) < len(data) else self._cut
                    return False
        self._cut = b""
        return True


def _lost_records(count: int) -> logging.LogRecord:
    said = {"msg": "Records were lost: the journal did not take them.", "levelname": "WARNING", "levelno": WARNING}
    return logging.makeLogRecord({**said, "action": "log", "count": count})


class _Syslog(logging.handlers.SysLogHandler):
    ident = "orderflow: "
    _not_before = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() >= self._not_before:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], TimeoutError):
            self._not_before = time.monotonic() + _PAUSE
        super().handleError(record)

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)  # type: ignore[misc]
        self.socket.settimeout(_PATIENCE)  # type: ignore[attr-defined]
