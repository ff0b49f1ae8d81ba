"""An envelope is read as it was written, and the recipient's extension alone names the organisation."""

import random
from datetime import UTC, datetime, timedelta, timezone

import pytest

from orderflow_ingest.envelope import BadEnvelope, Envelope, ForeignDomain, decode, is_slug, organization_slug

NOW = datetime(2026, 11, 20, 8, 30, 15, 123456, tzinfo=UTC)
DOMAINS = ("orderflow.example.com", "orders.example.net")


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
@pytest.mark.parametrize("field", ["recipient", "sender", "original_recipient", "queue_id", "client_address", "door"])
def test_what_was_encoded_is_decoded(field, text):
    written = envelope(**{field: text})
    header = written.encode()
    assert decode(header) == written
    assert header.count(b"\n") == 7 and b"\r" not in header and b"\n\n" not in header
    assert decode(header.rstrip(b"\n")) == written


@pytest.mark.parametrize(
    "moment",
    [NOW, NOW.replace(microsecond=0), NOW.astimezone(timezone(timedelta(hours=5, minutes=45)))],
)
def test_the_time_of_receipt_is_kept_to_the_microsecond(moment):
    found = decode(envelope(received_at=moment).encode()).received_at
    assert found == moment and found.tzinfo is not None


def test_an_entry_of_a_newer_writer_is_read():
    assert decode(b"priority: 1\n" + envelope().encode() + b"x-new: yes\nno colon at all\n") == envelope()


HEADER = envelope().encode()


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
    with pytest.raises(BadEnvelope) as refused:
        decode(header)
    assert "orders+acme" not in str(refused.value) and refused.value.__cause__ is None


def test_damaged_headers_are_refused_or_read_and_never_anything_else():
    chosen = random.Random(1)
    for _ in range(2000):
        damaged = bytearray(HEADER)
        for _ in range(chosen.randrange(1, 6)):
            damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        try:
            decode(bytes(damaged))
        except BadEnvelope:
            continue


@pytest.mark.parametrize("text", ["a", "0", "acme", "acme-2", "a--b", "7-eleven", "a" * 63, "xn--bcher-kva"])
def test_a_good_slug(text):
    assert is_slug(text)


@pytest.mark.parametrize(
    "text",
    ["", "-", "-a", "a-", "A", "Acme", "a_b", "a.b", "a+b", "a b", "a\n", "\na", "ä", "a" * 64, "a/b", "٣", "a\0"],
)
def test_a_bad_slug(text):
    assert not is_slug(text)


@pytest.mark.parametrize(
    ("recipient", "slug"),
    [
        ("orders+acme@orderflow.example.com", "acme"),
        ("Orders+ACME@OrderFlow.Example.COM", "acme"),
        ("orders+acme-2@orders.example.net", "acme-2"),
        ("orders+acme@orderflow.example.com.", "acme"),
        ("order\u017f+\u212ai\u017fs@Orderflow.example.com", "kiss"),
        ("orders+gro\u00df@orders.example.net", "gross"),
        ("orders+\uff41cme@orderflow.example.com", None),
        ("orders@orderflow.example.com", None),
        ("orders+@orderflow.example.com", None),
        ("orders+a+b@orderflow.example.com", None),
        ("orders+-acme@orderflow.example.com", None),
        ("orders-acme@orderflow.example.com", None),
        ("invoices+acme@orderflow.example.com", None),
        ("+acme@orderflow.example.com", None),
        ('"orders+acme"@orderflow.example.com', None),
        ("orders+acme@evil@orderflow.example.com", None),
        ("orders+../../etc@orderflow.example.com", None),
        ("orders+ac me@orderflow.example.com", None),
        ("orders+" + "a" * 64 + "@orderflow.example.com", None),
        ("orders+b\udce9@orderflow.example.com", None),
    ],
)
def test_the_extension_alone_names_the_organisation(recipient, slug):
    assert organization_slug(recipient, "orders", DOMAINS) == slug


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "orders+acme",
        "orders+acme@",
        "orders+acme@example.com",
        "orders+acme@evil.orderflow.example.com",
        "orders+acme@orderflow.example.com..",
        "orders+acme@.",
        "orders+acme@orderflow.example.com@evil.example",
    ],
)
def test_a_foreign_domain_is_our_fault_and_not_the_senders(recipient):
    with pytest.raises(ForeignDomain) as refused:
        organization_slug(recipient, "orders", DOMAINS)
    assert "acme" not in str(refused.value)
