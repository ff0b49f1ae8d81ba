"""The load: distinct purchase orders by SMTP, each in a session of its own, at little cost.

Postfix's own smtp-source sends the same message again and again, which would be duplicates here. So does
this, but for the Message-ID, the number in subject and body, and the first bytes of the attachment, which
are patched into bytes that were made before; the rest is one buffer that all sessions send from. No
command is pipelined. One process and one epoll loop: it runs on the cores that are measured.

Two loads: closed, where a session begins when another ends, `sessions` of them at a time, as with
smtp-source; and open, where a session begins every 1/rate seconds, however many are busy still.
Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import base64
import json
import math
import random
import re
import resource
import select
import socket
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from tests.support.lab.deployment import DOMAIN

ORGANIZATIONS = ("acme", "beta", "gamma", "delta")
SENDER = "purchasing@buyer.example"
_GIVEN_UP = 300.0  # seconds without any answer
_LINE, _WIDTH = 57, 76  # so many bytes make one line of base64


@dataclass(frozen=True)
class Load:
    """What to send: `rate` messages a second, or as fast as `sessions` at a time allow if that is 0."""

    port: int
    run: str
    size: int
    count: int
    sessions: int
    rate: float = 0.0


@dataclass
class Sent:
    """One message: the end of its data and the answer to it; `text` is the reply that decided, 250 if accepted."""

    number: int
    data_end: float = 0.0
    answered: float = 0.0
    text: str = ""

    @property
    def accepted(self) -> bool:
        return self.text.startswith("250")


@dataclass
class Report:
    """All of a load: when the first session began, the sender's CPU seconds, each message in its order."""

    began: float
    cpu: float
    messages: list[Sent]


def sender_command(load: Load) -> list[str]:
    """Return the command that sends a load and prints its report; PYTHONPATH has to lead here."""
    sending = f"dataclasses.asdict(send({load!r}))"
    code = f"import dataclasses, json; from benchmarks.harness.sender import *; print(json.dumps({sending}))"
    return [sys.executable, "-c", code]


def read_report(text: str) -> Report:
    """Read what that command has printed. Raises ValueError."""
    found = json.loads(text)
    return Report(**found | {"messages": [Sent(**sent) for sent in found["messages"]]})


def recipient(number: int) -> str:
    """Return the recipient of a message."""
    return f"orders+{ORGANIZATIONS[number % len(ORGANIZATIONS)]}@{DOMAIN}"


def message_id(run: str, number: int) -> str:
    """Return the Message-ID of a message; `run` tells the runs apart."""
    return f"<{run}.{number}@buyer.example>"


class Mail:
    """The messages of one load, about `size` bytes each: a text and a PDF."""

    def __init__(self, run: str, size: int) -> None:
        self._run = run
        end = b"--=_part--\r\n"
        lines = (size - len(self.head(0)) - len(end)) // (_WIDTH + 2)
        payload = random.Random(4711).randbytes(max(0, lines) * _LINE)
        self.tail = base64.encodebytes(payload).replace(b"\n", b"\r\n") + end

    def head(self, number: int) -> bytes:
        """Return all that is a message's own, up to the first line of its attachment."""
        first = base64.b64encode(f"%PDF-1.4\n% order {number} of {self._run}".ljust(_LINE)[:_LINE].encode()).decode()
        text = f"""\
From: Purchasing <{SENDER}>
To: {recipient(number)}
Subject: Purchase order {number}: 12 widgets, 40 sprockets
Date: Fri, 20 Nov 2026 10:00:00 +0000
Message-ID: {message_id(self._run, number)}
User-Agent: Mozilla Thunderbird
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="=_part"

--=_part
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Dear Sir or Madam,

please find our order {number} attached. Delivery to our warehouse, please.

Kind regards
--=_part
Content-Type: application/pdf; name="order-{number}.pdf"
Content-Disposition: attachment; filename="order-{number}.pdf"
Content-Transfer-Encoding: base64

{first}
"""
        return text.replace("\n", "\r\n").encode()

    def raw(self, number: int) -> bytes:
        """Return a whole message as pipe(8) writes it, with bare line feeds."""
        return (self.head(number) + self.tail).replace(b"\r\n", b"\n")


class _RefusedError(Exception):
    """Another reply than the one that leads on."""


def send(load: Load) -> Report:
    """Send a load to a loopback port and report each message; nothing is tried twice."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    mail, epoll = Mail(load.run, load.size), select.epoll()
    report = Report(time.monotonic(), time.process_time(), [Sent(number) for number in range(load.count)])
    waiting, at_work = iter(report.messages), {}
    due, left = report.began, load.count
    while left:
        while len(at_work) < (load.sessions if not load.rate else left) and time.monotonic() >= due:
            if (sent := next(waiting, None)) is None:
                due = math.inf
                break
            sock = socket.socket()
            at_work[sock.fileno()] = sock, sent, _dialogue(sock, load.port, mail, sent)
            epoll.register(sock, select.EPOLLOUT)
            due += 1 / load.rate if load.rate else 0
        pause = _GIVEN_UP if due == math.inf or not load.rate else max(0.0, due - time.monotonic())
        events = epoll.poll(pause)
        if not events and not load.rate:
            raise TimeoutError(f"{left} messages were not answered within {_GIVEN_UP:g} s")
        for fd, _ in events:
            sock, sent, dialogue = at_work[fd]
            try:
                epoll.modify(fd, next(dialogue))
                continue
            except StopIteration:
                pass
            except (_RefusedError, OSError) as error:
                sent.text = sent.text or f"{type(error).__name__}: {error}"
            del at_work[fd]
            sock.close()
            left -= 1
    report.cpu = time.process_time() - report.cpu
    return report


def _dialogue(sock: socket.socket, port: int, mail: Mail, sent: Sent) -> Iterator[int]:
    """Send one message in a session of its own; yields what to wait for. Raises _RefusedError, OSError."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect_ex(("127.0.0.1", port))
    yield from _reply(sock, b"220")
    yield from _write(sock, b"HELO client.lab.example\r\n")
    yield from _reply(sock, b"250")
    yield from _write(sock, b"MAIL FROM:<%s>\r\n" % SENDER.encode())
    yield from _reply(sock, b"250")
    yield from _write(sock, b"RCPT TO:<%s>\r\n" % recipient(sent.number).encode())
    yield from _reply(sock, b"250")
    yield from _write(sock, b"DATA\r\n")
    yield from _reply(sock, b"354")
    yield from _write(sock, mail.head(sent.number), mail.tail, b".\r\n")
    sent.data_end = time.monotonic()
    sent.text = yield from _reply(sock, b"250")
    sent.answered = time.monotonic()
    yield from _write(sock, b"QUIT\r\n")
    yield from _reply(sock, b"221")


def _write(sock: socket.socket, *texts: bytes) -> Iterator[int]:
    rest = [memoryview(text) for text in texts]
    while rest:
        try:
            count = sock.sendmsg(rest)
        except BlockingIOError:
            yield select.EPOLLOUT
            continue
        while rest and count >= len(rest[0]):
            count -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][count:]


def _reply(sock: socket.socket, code: bytes) -> Generator[int, None, str]:
    """Read a reply. Raises _RefusedError if it has another code."""
    reply = b""
    while not re.search(rb"^\d{3} .*\n\Z", reply, re.MULTILINE):
        yield select.EPOLLIN
        data = sock.recv(4096)
        if not data:
            raise _RefusedError("connection closed")
        reply += data
    text = reply.decode(errors="replace").strip()
    if not reply.startswith(code):
        raise _RefusedError(text)
    return text
