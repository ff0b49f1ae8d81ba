"""The load: a steady stream of orders by SMTP, and the answers that each client got.

Each message has a Message-ID of its own and up to three files whose digests are known; one in ten has a file that
others have too, one in twenty goes to two organizations. One in twenty-five is sent again a while later, and one
in forty is followed by another content under its Message-ID, which is to be held. All of it comes from a seed.

Who sends is a sender's queue, as in front of any Postfix: what got no answer or 4xx is sent again after a while, for
the recipients that are left, until it is taken. A 5xx is a bounce, and none of these mails deserves one.
"""

import base64
import hashlib
import heapq
import itertools
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.support.lab import smtp
from tests.support.lab.deployment import DOMAIN

ORGANIZATIONS = ("acme", "beta", "gamma", "delta")
SENDER = "purchasing@buyer.example"
START = b"From: Purchasing <"  # where what the sender wrote begins; before it stand trace fields
_THREADS, _AGAIN = 16, 1.0
_QUEUED = re.compile(r"queued as (\w+)")
_SHARED = b"%PDF-1.4\n% our terms, the same in every mail\n%%EOF\n"


@dataclass(frozen=True)
class Mail:
    """One content: its identity, its bytes with line feeds, and the digests of the documents that it holds."""

    message_id: str
    raw: bytes
    documents: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what was sent."""
        return hashlib.sha256(self.raw).hexdigest()


@dataclass(frozen=True)
class Identity:
    """What may be there once: a Message-ID in an organization."""

    org: str
    message_id: str


@dataclass(frozen=True)
class Refusal:
    """A reply that would bounce a mail."""

    identity: Identity
    text: str


@dataclass(order=True)
class _Waiting:
    """A mail in the sender's queue, for the organizations that have not taken it."""

    due: float
    number: int
    mail: Mail = field(compare=False)
    orgs: tuple[str, ...] = field(compare=False)
    tries: int = field(default=0, compare=False)


def content_digest(raw: bytes) -> str:
    """Return the digest of what its sender wrote of a mail that has passed through Postfix; "" if that is not in it."""
    text = raw.replace(b"\r\n", b"\n")
    start = text.find(START)
    return hashlib.sha256(text[start:]).hexdigest() if start >= 0 else ""


def write_mail(message_id: str, number: int, files: Sequence[bytes], body: str) -> Mail:
    """Write an order."""
    head = (
        f"{START.decode()}{SENDER}>\nTo: orders@{DOMAIN}\nSubject: Purchase order {number}\n"
        f"Date: Fri, 20 Nov 2026 10:00:00 +0000\nMessage-ID: {message_id}\nMIME-Version: 1.0\n"
    )
    if not files:
        text = f"{body}\n"
        return Mail(message_id, f"{head}Content-Type: text/plain; charset=utf-8\n\n{text}".encode(), (_digest(text),))
    parts = [f"--=_part\nContent-Type: text/plain; charset=utf-8\n\n{body}\n"]
    for index, content in enumerate(files):
        name = f"order-{number}-{index}.pdf"
        parts.append(
            f'--=_part\nContent-Type: application/pdf; name="{name}"\nContent-Disposition: attachment; '
            f'filename="{name}"\nContent-Transfer-Encoding: base64\n\n{base64.encodebytes(content).decode()}'
        )
    text = f'{head}Content-Type: multipart/mixed; boundary="=_part"\n\n{"".join(parts)}--=_part--\n'
    digests = [_digest(body), *(hashlib.sha256(content).hexdigest() for content in files)]
    return Mail(message_id, text.encode(), tuple(sorted(digests)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def mails(run: str, rng: random.Random) -> Iterator[tuple[Mail, tuple[str, ...]]]:
    """Return mails with their organizations, those that come again or clash among them, without an end."""
    later: list[tuple[int, Mail, tuple[str, ...]]] = []
    for number in itertools.count():
        if later and later[0][0] <= number:
            yield later.pop(0)[1:]
            continue
        message_id = f"<{run}.{number}@buyer.example>"
        orgs = tuple(rng.sample(ORGANIZATIONS, 2 if rng.random() < 0.05 else 1))
        mail = _mail(message_id, number, rng)
        yield mail, orgs
        fate = rng.random()
        if fate < 0.04:
            later.append((number + rng.randrange(1, 40), mail, orgs))
        elif fate < 0.065:
            later.append((number + rng.randrange(1, 40), _mail(message_id, number, rng), orgs))
        later.sort(key=lambda one: one[0])


def _mail(message_id: str, number: int, rng: random.Random) -> Mail:
    sizes = rng.choices((2_000, 20_000, 100_000), (80, 17, 3), k=rng.choice((0, 1, 1, 2, 3)))
    files = [b"%PDF-1.4\n" + rng.randbytes(size // 2) + b"\n%%EOF\n" for size in sizes]
    if files and rng.random() < 0.1:
        files.append(_SHARED)
    return write_mail(message_id, number, files, f"Please find our order {number} attached, {rng.getrandbits(64):x}.")


class Load:
    """One stream of mails to a loopback port, `count` at the least: it goes on until enough().

    After twice `count` it thins out, to half the rate with each `count` more: where a server is slow to start, the
    load would else grow beyond what the machine can finish.
    """

    def __init__(self, port: int, run: str, count: int, rate: float, rng: random.Random) -> None:
        self.run, self.count = run, count
        self.contents: dict[Identity, dict[str, Mail]] = {}  # what was tried
        self.accepted: dict[Identity, set[str]] = {}  # the digests of what a client got 250 for
        self.queue_ids: set[str] = set()
        self.refusals: list[Refusal] = []
        self.taken = self.put_off = self.again = self.sent = 0
        self._port, self._rate = port, rate
        self._plan = mails(run, rng)
        self._lock, self._number = threading.Condition(), itertools.count()
        self._waiting: list[_Waiting] = []
        self._busy, self._is_enough, self._is_over, self._is_stopped = 0, False, False, False
        self._threads = [threading.Thread(target=self._feed, daemon=True)]
        self._threads += [threading.Thread(target=self._send, daemon=True) for _ in range(_THREADS)]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def enough(self) -> None:
        """Send no more than `count`."""
        self._is_enough = True

    def stop(self) -> None:
        """Give up what is not taken yet."""
        with self._lock:
            self._is_stopped = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(90)

    @property
    def pause(self) -> float:
        """Return the seconds between one mail and the next."""
        return float(2 ** max(0.0, self.sent / self.count - 2) / self._rate)

    @property
    def is_done(self) -> bool:
        """Return whether every mail was taken, or refused for good."""
        with self._lock:
            return self._is_over and not self._waiting and not self._busy

    def _feed(self) -> None:
        due = time.monotonic()
        for mail, orgs in self._plan:
            due += self.pause
            with self._lock:
                while (left := due - time.monotonic()) > 0 and not self._is_stopped:
                    self._lock.wait(left)
                if self._is_stopped or (self._is_enough and self.sent >= self.count):
                    break
                for org in orgs:
                    self.contents.setdefault(Identity(org, mail.message_id), {})[mail.digest] = mail
                heapq.heappush(self._waiting, _Waiting(0.0, next(self._number), mail, orgs))
                self.sent += 1
                self._lock.notify()
        with self._lock:
            self._is_over = True
            self._lock.notify_all()

    def _send(self) -> None:
        while (one := self._next()) is not None:
            try:
                recipients = [f"orders+{org}@{DOMAIN}" for org in one.orgs]
                replies = smtp.send(self._port, SENDER, recipients, one.mail.raw, timeout=100)
            except (OSError, ValueError):
                replies = smtp.Replies(smtp.Reply(0, "no answer"))
            self._note(one, replies)

    def _next(self) -> _Waiting | None:
        with self._lock:
            while not self._is_stopped:
                pause = self._waiting[0].due - time.monotonic() if self._waiting else 0.5
                if self._waiting and pause <= 0:
                    self._busy += 1
                    return heapq.heappop(self._waiting)
                if self._is_over and not self._waiting and not self._busy:
                    return None
                self._lock.wait(min(pause, 0.5))
        return None

    def _note(self, one: _Waiting, replies: smtp.Replies) -> None:
        """Note each recipient's answer; what is left waits for another time."""
        with self._lock:
            left = []
            for org, reply in zip(one.orgs, _answers(replies, len(one.orgs)), strict=True):
                identity = Identity(org, one.mail.message_id)
                if reply.code in (250, 251):
                    self.accepted.setdefault(identity, set()).add(one.mail.digest)
                elif 500 <= reply.code < 600:
                    self.refusals.append(Refusal(identity, f"{reply.code} {reply.text}"))
                else:
                    left.append(org)
            if replies.accepted and replies.data and (found := _QUEUED.search(replies.data.text)):
                self.queue_ids.add(found[1])
            if left:
                self.put_off += 1
                self.again += not one.tries
                due = time.monotonic() + _AGAIN * min(4, 1 + one.tries)
                heapq.heappush(self._waiting, _Waiting(due, one.number, one.mail, tuple(left), one.tries + 1))
            else:
                self.taken += 1
            self._busy -= 1
            self._lock.notify()


def _answers(replies: smtp.Replies, count: int) -> list[smtp.Reply]:
    """Return the reply that decides for each recipient."""
    if not replies.rcpt:
        return [replies.mail or replies.greeting] * count if not _is_ok(replies.mail) else [smtp.Reply(0, "")] * count
    return [(replies.data or smtp.Reply(0, "")) if _is_ok(reply) else reply for reply in replies.rcpt]


def _is_ok(reply: smtp.Reply | None) -> bool:
    return reply is not None and reply.code in (250, 251)
