"""What orderflow-deliver does without a service, and after a failure. Unlike `pipe` it may import every library.

The deadline is enforced twice. A signal ends a delivery that waits. Where a library does not return to Python, a thread
ends the process. Both come long before Postfix's own time limit. Every function returns an outcome, which `pipe` turns
into the exit status.
"""

import os
import stat
from collections.abc import Callable, Mapping

from orderflow_ingest.domain.outcomes import Outcome

_GRACE = 10.0  # seconds


def deliver(
    options: Mapping[str, str],
    header: bytes,
    read: Callable[[int], bytes],
    is_whole: Callable[[bytes], bool],
    why: str,
) -> Outcome:
    """Deliver the message that `read` returns. `why` is the reason why no service does it. Raise SettingsError."""
    from orderflow_ingest.config import load

    settings = load(options.get("--settings"))
    _exit_after(settings.deadline + _GRACE)

    from orderflow_ingest.app import open_app
    from orderflow_ingest.observability import logs, metrics
    from orderflow_ingest.pipeline.receive import deliver_spooled
    from orderflow_ingest.storage.spool_entry import MessageTooBigError, MessageTruncatedError, SpoolWriteError

    from .deadline import deadline

    logs.configure(settings.log, "deliver", settings.state_dir, on_standard_error=False)
    metrics.start(settings.metrics_dir)
    if why:
        logs.event("deliver", "Service could not be asked.", logs.WARNING, reason=why, settings=settings.source)
    app = open_app(settings)
    try:
        entry = app.spool.write(header, read, settings.max_message_size, is_whole)
    except (SpoolWriteError, MessageTooBigError, MessageTruncatedError) as error:
        return spool_outcome(error, options.get("--queue-id", ""), settings.spool_dir)
    return deliver_spooled(entry, app, within=deadline(settings.deadline)).outcome


def spool_outcome(error: Exception, queue_id: str, spool: "str | os.PathLike[str]") -> Outcome:
    """Return, log and count the outcome of a message that was not spooled."""
    from orderflow_ingest.observability import logs
    from orderflow_ingest.storage.spool_entry import MessageTooBigError, SpoolWriteError

    outcome = {SpoolWriteError: Outcome.SPOOL_FULL, MessageTooBigError: Outcome.TOO_BIG}.get(
        type(error), Outcome.TRUNCATED
    )
    _ensure_logging()
    logs.event("spool", "Message was not spooled.", outcome=outcome.name, queue_id=queue_id, reason=error, spool=spool)
    _count_refusal(outcome, spool)
    return outcome


def unanswered_outcome(entry: str, queue_id: str, spool: str, *, hangs: bool, is_withdrawn: bool) -> Outcome:
    """Return, log and count the outcome of a message that a service has taken and not answered."""
    from orderflow_ingest.observability import logs

    outcome = Outcome.DEADLINE if hangs else Outcome.INTERNAL
    names = {"outcome": outcome.name, "queue_id": queue_id, "entry": entry, "withdrawn": is_withdrawn}
    _ensure_logging()
    logs.event("deliver", "Service did not answer.", logs.ERROR, **names)
    _count_refusal(outcome, spool)
    return outcome


def failure_outcome(error: BaseException) -> Outcome:
    """Return and log the outcome of an uncaught exception. A log that fails changes nothing."""
    try:
        from orderflow_ingest.observability import logs

        ours = type(error).__module__.partition(".")[0] == "orderflow_ingest"
        _ensure_logging()
        reason = str(error) if ours else logs.error_location(error)
        logs.event("deliver", "Delivery did not begin.", logs.ERROR, reason=reason)
    except BaseException:
        return Outcome.INTERNAL  # not even the log's imports work; Postfix's log has to do
    return Outcome.MISCONFIGURED if type(error).__name__ in ("ArgumentsError", "SettingsError") else Outcome.INTERNAL


def help_text(option: str, manual: str) -> bytes:
    """Return the text of --help or --version. B"" where standard input may hold a mail."""
    from orderflow_ingest import __version__

    if _may_hold_mail(0):
        return b""
    text = f"orderflow-deliver {__version__}" if option == "--version" else manual.strip()
    return text.encode() + b"\n"


def _count_refusal(outcome: Outcome, spool: "str | os.PathLike[str]") -> None:
    """Count a refusal where this host's metrics are: beside the spool, as `settings` has it."""
    from orderflow_ingest.observability import metrics

    metrics.start(os.path.join(os.path.dirname(spool), "metrics"))
    metrics.count(metrics.REFUSALS, outcome.name)


def _ensure_logging() -> None:
    from orderflow_ingest.observability import logs

    if not logs.is_configured():
        logs.configure("auto", "deliver", None, on_standard_error=False)


def _exit_after(seconds: float) -> None:
    """End the process from a thread, for a main thread that hangs in a library."""
    import threading

    def end() -> None:
        try:
            os.write(1, Outcome.DEADLINE.line)
        finally:
            os._exit(Outcome.DEADLINE.exit_status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _may_hold_mail(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)
