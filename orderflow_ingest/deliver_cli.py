"""orderflow-deliver: deliver one message from standard input, for Postfix's pipe(8).

    orderflow-deliver [--settings FILE] [--sender ADDRESS] [--queue-id ID] [--client-address ADDRESS]
                      [--original-recipient ADDRESS] -- RECIPIENT
    orderflow-deliver --help | --version

Exit status and output are a contract with pipe(8), see `outcomes`: 0, 65, 67 or 75, and one line that
begins with a D.S.N. Whatever else happens here, an import that fails included, ends with 75, and the
shell script that starts this program turns what Python itself cannot catch into 75 as well.

A pipe(8) that is killed while it writes leaves a message that just ends. What Postfix writes always ends
with a line feed, and the shell script's parent is pipe(8): where either is not so any more when all is
on disk, the message is TRUNCATED, and Postfix, which still has it, sends it again. (`${size}` cannot
tell: it counts the records of Postfix's queue file.)

The deadline is kept twice: a signal ends a delivery that waits; where that does not help, since a
library does not come back to Python, a thread ends the process. An alarm stands over what comes before,
settings on a disk that hangs, say. All come long before Postfix's own time limit, which would bounce.

Nothing but the standard library's core and `outcomes` is imported before the net is up. --help is
answered only where standard input can hold no mail: Postfix takes exit 0 for a delivery, and a recipient
may be so spelled.
"""

import os
import signal
import stat
import sys
from collections.abc import Callable

from .outcomes import Outcome

OPTIONS = ("--settings", "--sender", "--queue-id", "--client-address", "--original-recipient")
_GRACE = 10.0
_STARTUP = 300  # seconds


class BadArguments(Exception):
    """Arguments that make no delivery: master.cf is not as it should be."""


def main() -> None:
    """Deliver one message and end the process; never returns, never raises."""
    status, output = Outcome.INTERNAL.exit_status, Outcome.INTERNAL.line
    try:
        signal.alarm(_STARTUP)
        os.umask(0o077)
        if sys.argv[1:] in (["--help"], ["--version"]) and not _may_hold_mail(0):
            status, output = 0, _about(sys.argv[1])
        else:
            outcome = run(sys.argv[1:])
            status, output = outcome.exit_status, outcome.line
    except BaseException as error:
        try:
            _log(error)
        except BaseException:
            output = Outcome.INTERNAL.line  # not even the log's imports work; Postfix's log has to do
    try:
        os.write(1, output)
    finally:
        os._exit(status)


def run(arguments: list[str]) -> Outcome:
    """Deliver the message on standard input as the arguments say."""
    from .settings import BadSettings, load

    try:
        options, recipient = read_arguments(arguments)
        settings = load(options.get("--settings"))
    except (BadArguments, BadSettings) as error:
        _log(error)
        return Outcome.MISCONFIGURED
    _end_after(settings.deadline + _GRACE)

    from . import logs
    from .assembly import open_parts
    from .deadline import deadline
    from .delivery import settle
    from .spool import InputTooBig, InputTruncated, SpoolFull

    logs.configure(settings.log, "deliver", settings.state_dir, on_standard_error=False)
    parts = open_parts(settings)
    envelope = _envelope(options, recipient)
    try:
        entry = parts.spool.write(envelope.encode(), _read_block, settings.max_message_size, _is_whole(_grandparent()))
    except (SpoolFull, InputTooBig, InputTruncated) as error:
        outcome = {SpoolFull: Outcome.SPOOL_FULL, InputTooBig: Outcome.TOO_BIG}.get(type(error), Outcome.TRUNCATED)
        logs.event(
            "spool",
            "Message was not spooled.",
            outcome=outcome.name,
            queue_id=envelope.queue_id,
            reason=error,
        )
        return outcome
    return settle(entry, parts, within=deadline(settings.deadline)).outcome


def read_arguments(arguments: list[str]) -> tuple[dict[str, str], str]:
    """Read `--option value` pairs, `--` and the recipient. Raises BadArguments."""
    options, rest = {}, list(arguments)
    while rest and rest[0] != "--":
        if rest[0] not in OPTIONS or len(rest) < 2:
            raise BadArguments("expected known options with a value each, then -- and the recipient")
        options[rest[0]] = rest[1]
        del rest[:2]
    if len(rest) != 2 or not rest[1]:
        raise BadArguments("expected -- and one recipient at the end")
    return options, rest[1]


def _envelope(options: dict[str, str], recipient: str):  # type: ignore[no-untyped-def]
    from datetime import UTC, datetime

    from .envelope import Envelope

    return Envelope(
        recipient=recipient,
        received_at=datetime.now(UTC),
        sender=options.get("--sender", ""),
        original_recipient=options.get("--original-recipient", ""),
        queue_id=options.get("--queue-id", ""),
        client_address=options.get("--client-address", ""),
    )


def _read_block(size: int) -> bytes:
    return os.read(0, size)


def _is_whole(writer: str) -> Callable[[bytes], bool]:
    return lambda last: last[-1:] in (b"\n", b"") and writer == _grandparent()


def _grandparent() -> str:
    """Give the process id of who started the shell script that started us."""
    with open(f"/proc/{os.getppid()}/stat", "rb") as stat_file:
        return stat_file.read().rpartition(b")")[2].split()[1].decode()


def _end_after(seconds: float) -> None:
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


def _about(option: str) -> bytes:
    from . import __version__

    text = f"orderflow-deliver {__version__}" if option == "--version" else (__doc__ or "").strip()
    return text.encode() + b"\n"


def _log(error: BaseException) -> None:
    """Log what kept a delivery from beginning, where that can be done; the outcome does not depend on it."""
    from . import logs
    from .settings import BadSettings

    if not logs.is_configured():
        logs.configure("auto", "deliver", None, on_standard_error=False)
    reason = str(error) if isinstance(error, BadArguments | BadSettings) else logs.place(error)
    logs.event("deliver", "Delivery did not begin.", logs.ERROR, reason=reason)
