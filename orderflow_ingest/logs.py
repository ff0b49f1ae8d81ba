"""Logs: JSON records, to standard error, to syslog (so to the journal), or to a file.

Never to pipe(8)'s output: standard output and error of `orderflow-deliver` go into Postfix's log and
into the bounce that a sender reads. So that program logs to syslog where there is one, else to
`log/deliver.log` in the state directory, each record one write to a file opened for appending.

A record is a plain past-tense sentence and the fields `action`, `org`, `org_id`, `message_id` (of the row),
`source_message_id` (the mail's Message-ID as it is recorded, at most 500 characters; JSON escapes what is not ASCII),
`queue_id`, `extension` where they are known; never a message's content, a secret, or an exception's text that
could hold either. An OSError, as any field's value, is logged as its errno by name (`durable.os_reason`).
A log that cannot be written loses its records and never a message.
"""

import logging
import logging.handlers
import os
import sys
from contextlib import suppress
from pathlib import Path
from traceback import extract_tb
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from .durable import os_reason

ERROR, WARNING = logging.ERROR, logging.WARNING
SYSLOG = "/dev/log"
_logger = logging.getLogger("orderflow_ingest")


def configure(log: str, program: str, state_dir: Path | None, on_standard_error: bool = True) -> None:
    """Send this process's records where the setting ORDERFLOW_LOG says.

    Without `on_standard_error`, standard error is nobody's to write: records that find no other place are lost.
    """
    if log == "auto" or (log == "stderr" and not on_standard_error):
        file = str(state_dir / "log" / "deliver.log") if state_dir else "stderr"
        log = "stderr" if on_standard_error else ("syslog" if os.path.exists(SYSLOG) else file)
    handler = _handler(log, on_standard_error)
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
    """Tell whether configure() was called."""
    return bool(_logger.handlers)


def event(action: str, sentence: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log one step; fields that are None or empty are left out."""
    known = {name: value for name, value in fields.items() if value not in (None, "")}
    plain = {name: _plain(value) for name, value in known.items()}
    _logger.log(level, sentence, extra={"action": action, **plain})


def place(error: BaseException, is_ours: bool = True) -> str:
    """Tell an error by its class and the line it came through, ours or the deepest one, and not by its text.

    The text may hold message content.
    """
    frames = extract_tb(error.__traceback__)
    wanted = "orderflow_ingest" if is_ours else ""
    # A time limit is raised by a signal's handler, on top of the line that it interrupts.
    below = [frame for frame in frames if "/huey/" not in frame.filename and frame.name != "time_up"]
    ours = [frame for frame in below if wanted in frame.filename]
    chosen = (ours or frames)[-1:]
    kind, why = type(error).__name__, os_reason(error)
    head = kind if why == kind else f"{kind} {why}"
    return head + "".join(f" at {os.path.basename(f.filename)}:{f.lineno}" for f in chosen)


def _plain(value: object) -> int | float | str:
    if isinstance(value, int | float):
        return value
    return os_reason(value) if isinstance(value, OSError) else str(value)


def _handler(log: str, on_standard_error: bool) -> logging.Handler:
    with suppress(OSError):
        if log == "syslog":
            return _Syslog(SYSLOG, facility=logging.handlers.SysLogHandler.LOG_MAIL)
        if log.startswith("/"):
            os.makedirs(os.path.dirname(log), mode=0o750, exist_ok=True)
            return logging.handlers.WatchedFileHandler(log)
    return logging.StreamHandler(sys.stderr) if on_standard_error else logging.NullHandler()


class _Syslog(logging.handlers.SysLogHandler):
    ident = "orderflow: "
