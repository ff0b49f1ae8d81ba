"""A hostile mail takes bounded time and memory, and keeps what was found before the limit.

Each case runs in a process of its own, since the peak of a process never falls. The bounds are generous: quadratic
time, or a copy of the mail for each level, passes them by far.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orderflow_ingest.parsing.documents import read_parts
from orderflow_ingest.parsing.mime.bodies import find_uuencoded
from orderflow_ingest.parsing.mime.fields import find_sender_header
from orderflow_ingest.parsing.mime.tree import MAX_DEPTH, MAX_PARTS
from orderflow_ingest.parsing.mime.words import decode_text
from tests.support.cost import unit

MIXED = b"Content-Type: multipart/mixed; boundary=b\n\n"
ATTACHED = b"Content-Disposition: attachment"
MILLION = 1_000_000
UNITS = 2000
MEGABYTES = 250


def in_base64(levels: int) -> bytes:
    mail = b"Subject: x\n\ninnermost"
    for _ in range(levels):
        head = b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n"
        mail = head + base64.encodebytes(mail)
    return mail


def levels(count: int) -> bytes:
    return b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(count))


# What is read, how many parts are found, and what is noted on the last of them.
MAILS: dict[str, tuple[Callable[[], bytes], int, list[str]]] = {
    "30,000 parts": (lambda: MIXED + b"--b\nX: y\n\ntext\n" * 30_000, MAX_PARTS + 1, ["too many parts"]),
    "a million parts without header": (lambda: MIXED + b"--b\n\n" * MILLION, MAX_PARTS + 1, ["too many parts"]),
    "100 MB of empty parts": (lambda: MIXED + b"--b\n" * 25 * MILLION, MAX_PARTS + 1, ["too many parts"]),
    "2,000 levels": (lambda: levels(2000), MAX_DEPTH + 1, ["nested too deep", "multipart never closed"]),
    "50,000 levels of messages": (
        lambda: b"Content-Type: message/rfc822\n\n" * 50_000,
        MAX_DEPTH + 1,
        ["nested too deep"],
    ),
    "messages without empty lines": (
        lambda: b"Content-Type: message/rfc822\n>From x\n" * 50_000,
        MAX_DEPTH + 1,
        ["empty line after the header missing", "nested too deep"],
    ),
    "40 levels of base64": (lambda: in_base64(40), 41, []),
    "a header line of 10 MB": (lambda: b"Subject: " + b"x" * 10 * MILLION + b"\n\ntext", 1, []),
    "a content type of 10 MB": (lambda: b"Content-Type: a/b; name=" + b"x" * 10 * MILLION + b"\n\ntext", 1, []),
    "a content type of 10 MB of blanks": (lambda: b"Content-Type: a/b;" + b" " * 10 * MILLION + b"\n\ntext", 1, []),
    "a million fields": (lambda: b"A: b\n" * MILLION + b"\ntext", 1, ["text may stand in the header"]),
    "a million odd lines": (
        lambda: b"A: b\n" + b"a b\n" * MILLION + b"\ntext",
        1,
        ["odd line in the header", "text may stand in the header"],
    ),
    "a million parameters": (lambda: ATTACHED + b";a=b" * MILLION + b"\n\ntext", 1, ["too many parameters"]),
    "a million sections": (
        lambda: ATTACHED + b"".join(b";filename*%d*=%%41" % n for n in range(MILLION)) + b"\n\ntext",
        1,
        ["too many parameters"],
    ),
    "a million encoded words": (
        lambda: ATTACHED + b'; filename="' + b"=?utf-8?Q?a?= " * MILLION + b'"\n\ntext',
        1,
        [],
    ),
    "a million comments": (lambda: b"Content-Transfer-Encoding: " + b"(" * MILLION + b")" * MILLION + b"\n\nx", 1, []),
    "4 MB of lines of blanks": (lambda: MIXED + b"--b\n" + b" \n" * 2 * MILLION, 2, ["multipart never closed"]),
    "4 MB of line ends": (lambda: b"Subject: x\n\n" + b"\r\n" * 2 * MILLION, 1, []),
    "3 MB of lines of dashes": (lambda: MIXED + b"--\n" * MILLION, 2, ["multipart without parts"]),
    "10 MB of dashes": (lambda: MIXED + b"-" * 10 * MILLION, 2, ["multipart without parts"]),
    "500 empty lines in 5,000 headers": (
        lambda: MIXED + b"--b\n" + (b"A: b\n" + b"\n" * 500 + b"--b\n") * 5_000,
        5_002,
        ["multipart never closed"],
    ),
}
OTHERS: dict[str, Callable[[], object]] = {
    "a million encoded words in a subject": lambda: decode_text(b"=?utf-8?Q?a?= " * MILLION),
    "a trace of 10 MB": lambda: find_sender_header(b"Received: a\n" + b" b\n" * 3 * MILLION),
    "blanks behind the name of a uuencoded file": lambda: list(find_uuencoded(b"begin 644 x" + b" " * 5 * MILLION)),
    "300,000 uuencoded files": lambda: list(find_uuencoded(b"begin 644 x  \n" * 300_000)),
    "a million empty uuencoded lines": lambda: list(find_uuencoded(b"begin 644 x\n" + b"`\n" * MILLION)),
}


def _most_held() -> float:
    """Return the peak of this process since the reset, in MB; ru_maxrss counts what the parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(name: str) -> None:
    """Read a case in this process and print what was found, what it cost (see `cost`) and the peak of megabytes."""
    found: list[object] = []
    raw = MAILS[name][0]() if name in MAILS else b""
    one = unit()
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    if name in MAILS:
        count = 0
        for part in read_parts(raw):
            count, defects = count + 1, list(part.defects)
        found = [count, defects]
    else:
        OTHERS[name]()
    spent = time.process_time() - start
    peak = _most_held() - 2 * len(raw) / 1e6
    print(json.dumps([found, spent / max(one, unit()), peak]), flush=True)


def serve() -> None:
    """Measure each case that a line of standard input names, in a process of its own, which has all loaded."""
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            measure(json.loads(line))
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print("null", flush=True)


@pytest.fixture(scope="module")
def measured() -> Iterator[Callable[[str], Any]]:
    """Return what measures a case in a process that has little else in its memory."""
    code = "from tests.robustness.test_mime_limits import serve; serve()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None and server.stdout is not None
        asked, told = server.stdin, server.stdout

        def ask(name: str) -> Any:
            asked.write(json.dumps(name).encode() + b"\n")
            asked.flush()
            return json.loads(told.readline())

        yield ask
        asked.close()


@pytest.mark.parametrize("name", [*MAILS, *OTHERS])
def test_time_and_memory_are_bounded_for(name: str, measured: Callable[[str], Any]) -> None:
    found, units, peak = measured(name)
    if name in MAILS:
        assert found == [*MAILS[name][1:]]
    assert units < UNITS
    assert peak < MEGABYTES
