"""orderflow-deliver: deliver one message from standard input, for Postfix's pipe(8).

    orderflow-deliver [--settings FILE] [--socket PATH] [--sender ADDRESS] [--queue-id ID] [--client-address ADDRESS]
                      [--original-recipient ADDRESS] -- RECIPIENT
    orderflow-deliver --help | --version

With --socket the message is written into the spool of the service that listens there, and the service
delivers it. The greeting tells where and how much. Without it, or where nobody answers whom we trust (root or
this user), the same delivery runs in this process, see `pipe_fallback`. If the service dies with our entry in
hand, or does not answer, Postfix keeps the message: the entry is withdrawn, or left to who is at it.

Exit status and output are a contract with pipe(8), see `outcomes`: 0, 65, 67 or 75, and one line that
begins with a D.S.N. What Python itself cannot catch is turned into 75 by who started it: Postfix's
pipe_delivery_status_filter, or the shell script of this name.

A pipe(8) that is killed while it writes leaves a message that just ends. What Postfix writes always ends
with a line feed, and our parent, or the shell script's, is pipe(8): where either is not so any more when all
is on disk, the message is TRUNCATED, and Postfix, which still has it, sends it again. (`${size}` cannot
tell: it counts the records of Postfix's queue file.)

This runs once per message: up to a service's answer it imports built-in modules alone. --help is answered
only where standard input can hold no mail: Postfix takes exit 0 for a delivery, and a recipient may be so
spelled.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import posix as os
import sys
import time

from orderflow_ingest.storage.spool_entry import (
    GREETING,
    MessageTooBigError,
    MessageTruncatedError,
    SpoolWriteError,
    encode_header,
    withdraw_entry,
    write_entry,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orderflow_ingest.domain.outcomes import Outcome

OPTIONS = ("--settings", "--socket", "--sender", "--queue-id", "--client-address", "--original-recipient")
STATUSES = (b"0", b"65", b"67", b"75")
_STARTUP = 300  # seconds
_PATIENCE = 5  # seconds, for a greeting; the service tells how long to wait for its answer
_SO_PEERCRED = 17


class ArgumentsError(Exception):
    """Arguments that make no delivery: master.cf is not as it should be."""


def main(*, via_shell: bool = False) -> None:
    """Deliver one message and end the process. It never returns. pipe(8) is our parent, or the shell script's."""
    try:
        _signal.alarm(_STARTUP)
        os.umask(0o077)
        status, output = _answer_option(sys.argv[1:]) or run(sys.argv[1:], via_shell=via_shell)
    except BaseException as error:
        from .pipe_fallback import failure_outcome

        status, output = _result(failure_outcome(error))
    try:
        os.write(1, output)
    finally:
        os._exit(status)


def run(arguments: list[str], *, via_shell: bool) -> tuple[int, bytes]:
    """Deliver the message on standard input as the arguments say. Return the exit status and the output."""
    options, recipient = read_arguments(arguments)
    header = _encode_envelope(options, recipient)
    is_whole = _completeness_test(_grandparent if via_shell else os.getppid)
    path, why = options.get("--socket"), ""
    if path:
        try:
            service, greeting = _connect(path)
        except OSError as error:
            from orderflow_ingest.domain.os_errors import os_reason

            why = f"{os_reason(error)} at {path}"
        else:
            if greeting.startswith(GREETING):
                return _deliver_by_service(service, greeting, header, is_whole, options.get("--queue-id", ""))
            refusal = _parse_reply(greeting)
            if refusal:
                return refusal
            why = f"no greeting at {path}"
    from .pipe_fallback import deliver

    return _result(deliver(options, header, _read, is_whole, why))


def read_arguments(arguments: list[str]) -> tuple[dict[str, str], str]:
    """Read `--option value` pairs, `--` and the recipient. Raise ArgumentsError."""
    options, rest = {}, list(arguments)
    while rest and rest[0] != "--":
        if rest[0] not in OPTIONS or len(rest) < 2:
            raise ArgumentsError("expected known options with a value each, then -- and the recipient")
        options[rest[0]] = rest[1]
        del rest[:2]
    if len(rest) != 2 or not rest[1]:
        raise ArgumentsError("expected -- and one recipient at the end")
    return options, rest[1]


def _answer_option(arguments: list[str]) -> tuple[int, bytes] | None:
    """Answer --help and --version."""
    if arguments not in (["--help"], ["--version"]):
        return None
    from .pipe_fallback import help_text

    text = help_text(arguments[0], __doc__)
    return (0, text) if text else None


def _completeness_test(writer: "Callable[[], int]") -> "Callable[[bytes], bool]":
    """Return the test whether a message is complete, by its last block. See this module's header."""
    before = writer()
    return lambda last: last[-1:] in (b"\n", b"") and writer() == before


def _read(size: int) -> bytes:
    return os.read(0, size)


def _connect(path: str) -> "tuple[_socket.socket, bytes]":
    """Connect to the service and read its greeting. Raise OSError where nobody is whom we would trust."""
    service = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    service.settimeout(_PATIENCE)
    service.connect(path)
    owner = service.getsockopt(_socket.SOL_SOCKET, _SO_PEERCRED, 12)
    if int.from_bytes(owner[4:8], sys.byteorder) not in (0, os.geteuid()):
        raise PermissionError
    greeting = _read_line(service)
    if not greeting:
        raise ConnectionResetError
    return service, greeting


def _deliver_by_service(
    service: "_socket.socket", greeting: bytes, header: bytes, is_whole: "Callable[[bytes], bool]", queue_id: str
) -> tuple[int, bytes]:
    """Write the entry and have it delivered. The service, or Postfix, has the message in the end."""
    limit, patience, directory = greeting[len(GREETING) :].rstrip(b"\n").split(b" ", 2)
    spool = directory.decode("utf-8", "surrogateescape")
    try:
        name, fd = write_entry(spool, header, _read, int(limit), is_whole)
    except (SpoolWriteError, MessageTooBigError, MessageTruncatedError) as error:
        from .pipe_fallback import spool_outcome

        return _result(spool_outcome(error, queue_id, spool))
    os.close(fd)
    _signal.alarm(int(float(patience)) + _STARTUP)
    service.settimeout(float(patience))
    try:
        service.sendall(name.encode() + b"\n")
        answer = _parse_reply(_read_line(service))
        if answer:
            return answer
        hangs = False
    except OSError as error:
        hangs = isinstance(error, TimeoutError)
    is_withdrawn = withdraw_entry(spool, name)
    from .pipe_fallback import unanswered_outcome

    return _result(unanswered_outcome(name, queue_id, spool, hangs=hangs, is_withdrawn=is_withdrawn))


def _read_line(service: "_socket.socket") -> bytes:
    """Read one line. B"" if the other end is gone before its end."""
    line = b""
    while not line.endswith(b"\n"):
        block = service.recv(4096)
        if not block:
            return b""
        line += block
    return line


def _parse_reply(answer: bytes) -> tuple[int, bytes] | None:
    """Read `STATUS D.S.N text`, or None where it is none that may leave this program."""
    status, _, output = answer.partition(b" ")
    return (int(status), output) if status in STATUSES and output else None


def _result(outcome: "Outcome") -> tuple[int, bytes]:
    return outcome.exit_status, outcome.line


def _encode_envelope(options: dict[str, str], recipient: str) -> bytes:
    """Return the envelope as header lines. `decode_envelope` reads them."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return encode_header(
        {
            "recipient": recipient,
            "received_at": f"{at}.{nanoseconds // 1000:06d}+00:00",
            "sender": options.get("--sender", ""),
            "original_recipient": options.get("--original-recipient", ""),
            "queue_id": options.get("--queue-id", ""),
            "client_address": options.get("--client-address", ""),
        }
    )


def _grandparent() -> int:
    """Return the id of the process that started the shell script that started this one."""
    fd = os.open(f"/proc/{os.getppid()}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 4096).rpartition(b")")[2].split()[1])
    finally:
        os.close(fd)
