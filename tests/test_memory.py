"""What a delivery makes of a mail counts against the service's budget, so its memory stays below the bound."""

import re
import smtplib
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.service.cost import FIELD_FACTOR, HEADER_READ, cost, cost_of_read, header_size
from orderflow_ingest.entrypoints.service.postmaster_relay import _on_the_wire
from tests.lab.deployment import DOMAIN, Deployment
from tests.lab.process import scratch

MEGABYTE = 1 << 20
AT_ONCE = 12
OWN = b"From: a@b.example\nSubject: x\n"


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (b"", 0),
        (OWN + b"\nbody\n\n" + b"x" * 1000, len(OWN) - 1),
        (OWN.replace(b"\n", b"\r\n") + b"\r\nbody\r\n\r\n", len(OWN) + 1),
        (b"\n\n" + OWN + b"\nbody", len(OWN) + 1),
        (OWN, len(OWN)),
        (b"Received: by x\n\n" + OWN + b"\nbody\n\n", 15 + len(OWN)),
        (b"Received: by x\n id y\nReturn-Path: <>\n\n\n" + b"To: a\n" * 1000 + b"\nbody", 39 + 5999),
        (b"To: a\n" * MEGABYTE, HEADER_READ),
        (b"Received: x\n" * MEGABYTE, HEADER_READ),
        (b"Received: x\n\n" + b"To: a\n" * MEGABYTE, HEADER_READ),
        (OWN + b"\n" + b"x" * 10 * MEGABYTE, len(OWN) - 1),
    ],
)
def test_a_mail_costs_its_size_and_a_factor_of_its_header(raw, size):
    assert header_size(raw) == size
    assert cost(len(raw), raw) == len(raw) + FIELD_FACTOR * size
    assert cost_of_read(len(raw), lambda most: raw[:most]) == cost(len(raw), raw)


RUNS = (b"\n", b"\r", b"\r\n", b"\r\r\n", b"Received", b"Received: ", b"Received:\n", b" \n", b"\0", b"a")


@pytest.mark.parametrize("run", RUNS)
def test_the_header_of_anything_is_measured(run):
    for raw in (run * 200_000, b"Received:" + run * 200_000, b"Received: x\n\n" + run * 200_000, OWN + run * 200_000):
        assert 0 <= header_size(raw) <= min(len(raw), HEADER_READ)


@pytest.mark.parametrize("dots", [b".", b"\n.", b"\n\n..", b"x"])
def test_a_message_is_passed_on_in_blocks_as_it_would_be_whole(dots):
    for before in range(65530, 65540):
        raw = b"y" * before + dots * 40 + b"\n.end\n"
        blocks = b"".join(_on_the_wire(raw, start) for start in range(0, len(raw), 65536))
        assert blocks == smtplib._quote_periods(raw.replace(b"\n", b"\r\n"))


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
    """Send a mail over lmtp.sock; give the code that it ends with."""
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
