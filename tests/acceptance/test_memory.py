"""Mails at the same time take no more memory than the budget of the service."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.service.cost import cost
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch

MEGABYTE = 1 << 20
AT_ONCE = 12
OWN = b"From: a@b.example\nSubject: x\n"


HOSTILE = {
    "short fields": lambda: b"To: a\n" * (4 * MEGABYTE // 6) + b"\nhi\n",
    "empty fields": lambda: b"To:\n" * MEGABYTE + b"\nhi\n",
    "fields of a server, then of a sender": lambda: b"Received: x\n\n" + b"Cc:b\n" * (4 * MEGABYTE // 5) + b"\nhi\n",
    "one field in many lines": lambda: OWN + b"To: a\n" + b" a\n" * (4 * MEGABYTE // 3) + b"\nhi\n",
    "a large body": lambda: OWN + b"\n" + b"x" * 20 * MEGABYTE + b"\n",
}


@pytest.fixture(scope="module")
def deployment():
    with scratch() as place:
        deployment = Deployment(place, way="lmtp")
        deployment.admin("init")
        deployment.admin("org", "add", "acme")
        yield deployment


def deliver(deployment, raw: bytes) -> int:
    """Send a mail over lmtp.sock; return the code that it ends with."""
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answers:
        client.settimeout(300)
        client.connect(str(deployment.sockets / "lmtp.sock"))
        codes = [answers.readline()[:3]]
        lines = ("LHLO x", f"MAIL FROM:<a@b.example> SIZE={len(raw)}", f"RCPT TO:<orders+acme@{DOMAIN}>", "DATA")
        for line in lines:
            client.sendall(line.encode() + b"\r\n")
            while (reply := answers.readline())[3:4] == b"-":
                continue
            codes.append(reply[:3])
            if codes[-1][:1] in b"45":
                return int(codes[-1])
        client.sendall(raw.replace(b"\n", b"\r\n") + b".\r\n")
        return int(answers.readline()[:3])


def memory(deployment, field: str) -> int:
    status = Path(f"/proc/{deployment.service.pid}/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)[1]) << 10


@pytest.mark.parametrize("kind", HOSTILE)
def test_mails_at_the_same_time_take_no_more_memory_than_the_budget(deployment, kind):
    """And one alone is always taken; what it takes beyond the budget is what `cost` says of it."""
    raw = HOSTILE[kind]()
    deployment.service.start()
    try:
        deliver(deployment, OWN + b"\nfirst\n")
        idle = memory(deployment, "VmRSS")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            codes = list(pool.map(lambda number: deliver(deployment, b"Bcc: %d\n" % number + raw), range(AT_ONCE)))
        assert set(codes) <= {250, 451}
        assert deliver(deployment, b"Bcc: alone\n" + raw) == 250
        alone = cost(len(raw), raw)
        bound = min(max(load(None, {}).max_in_flight, alone), AT_ONCE * alone)
        assert memory(deployment, "VmHWM") - idle <= bound + bound // 4
    finally:
        deployment.service.stop()
