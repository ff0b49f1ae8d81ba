"""An envelope is read as it was written."""

import random
from datetime import UTC, datetime, timedelta, timezone

import pytest

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.storage.envelope_header import EnvelopeError, decode_envelope, encode_envelope

NOW = datetime(2026, 11, 20, 8, 30, 15, 123456, tzinfo=UTC)


def envelope(**changes):
    return Envelope(**{"recipient": "orders+acme@orderflow.example.com", "received_at": NOW, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "buyer@shop.example",
        '"a b"@shop.example',
        "büro@shop.example",
        "注文@例え.jp",
        "\U0001f4e6@shop.example",
        "two\nlines",
        "two\r\nlines",
        "\n\n",
        "a\nrecipient: orders+other@orderflow.example.com",
        "%",
        "%0A",
        "%250A",
        "%25250A%0D",
        "100%25",
        ": ",
        "key: value",
        " blanks around ",
        "nul\0in it",
        "\x85 \u2028 \x0b \x1c",
        b"latin \xe9\xff".decode("utf-8", "surrogateescape"),
        "x" * 5000,
    ],
)
@pytest.mark.parametrize(
    "field", ["recipient", "sender", "original_recipient", "queue_id", "client_address", "listener"]
)
def test_what_was_encoded_is_decoded(field, text):
    written = envelope(**{field: text})
    header = encode_envelope(written)
    assert decode_envelope(header) == written
    assert header.count(b"\n") == 7 and b"\r" not in header and b"\n\n" not in header
    assert decode_envelope(header.rstrip(b"\n")) == written


@pytest.mark.parametrize(
    "moment",
    [NOW, NOW.replace(microsecond=0), NOW.astimezone(timezone(timedelta(hours=5, minutes=45)))],
)
def test_the_time_of_receipt_is_kept_to_the_microsecond(moment):
    found = decode_envelope(encode_envelope(envelope(received_at=moment))).received_at
    assert found == moment and found.tzinfo is not None


def test_an_entry_of_a_newer_writer_is_read():
    assert (
        decode_envelope(b"priority: 1\n" + encode_envelope(envelope()) + b"x-new: yes\nno colon at all\n") == envelope()
    )


HEADER = encode_envelope(envelope())


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\n",
        b"recipient: a@b\n",
        HEADER.replace(b"received_at", b"received"),
        HEADER.replace(b"recipient: ", b"recipient "),
        HEADER.replace(b"2026-11-20", b"2026-13-40"),
        HEADER.replace(b"2026-11-20", b"\xff\xfe"),
        HEADER[: HEADER.index(b"sender")],
        b"From: a@b\nSubject: an order\n",
    ],
)
def test_a_header_that_does_not_read_as_an_envelope_is_refused(header):
    with pytest.raises(EnvelopeError) as refused:
        decode_envelope(header)
    assert "orders+acme" not in str(refused.value) and refused.value.__cause__ is None


def test_damaged_headers_are_refused_or_read_and_never_anything_else():
    chosen = random.Random(1)
    for _ in range(2000):
        damaged = bytearray(HEADER)
        for _ in range(chosen.randrange(1, 6)):
            damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        try:
            decode_envelope(bytes(damaged))
        except EnvelopeError:
            continue


@pytest.mark.parametrize("key", ["door", "listener"])
def test_the_listener_of_an_entry_is_read_by_its_old_and_its_new_key(key):
    lines = encode_envelope(Envelope(recipient="a@b.example", received_at=NOW, listener="before-queue"))
    assert b"door: before-queue\n" in lines, "a service of the version before may read it"
    assert decode_envelope(lines.replace(b"door: ", f"{key}: ".encode())).listener == "before-queue"
