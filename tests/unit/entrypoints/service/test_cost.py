"""What a delivery makes of a mail counts against the service's budget, so its memory stays below the bound."""

import smtplib

import pytest

from orderflow_ingest.entrypoints.service.cost import FIELD_FACTOR, HEADER_READ, cost, cost_of_read, header_size
from orderflow_ingest.entrypoints.service.postmaster_relay import _on_the_wire

MEGABYTE = 1 << 20
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
