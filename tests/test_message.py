"""A message's identity stays the same through every redelivery, and nothing raises on any input."""

import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orderflow_ingest import message as module
from orderflow_ingest.message import read_message
from orderflow_ingest.mime.words import storable

ORDER = b"""From: Buyer <buyer@shop.example>
To: orders+acme@orderflow.example.com
Subject: Order 17
Date: Fri, 20 Nov 2026 09:30:15 +0100
Message-ID: <17@shop.example>

ten of them
"""


def with_field(name, value, raw=ORDER):
    """Give the order with one field replaced, or put first where there was none."""
    lines = raw.partition(b"\n\n")[0].split(b"\n")
    kept = [line for line in lines if not line.lower().startswith(name.lower() + b":")]
    return b"\n".join([name + b": " + value, *kept]) + b"\n\n" + raw.partition(b"\n\n")[2]


def without_field(name):
    return with_field(name, b"").partition(b"\n")[2]


def test_an_order_is_read():
    found = read_message(ORDER)
    assert replace(found, fingerprint="") == module.Message(
        source_message_id="<17@shop.example>",
        message_id_is_synthetic=False,
        from_email="buyer@shop.example",
        subject="Order 17",
        sent_at=datetime(2026, 11, 20, 8, 30, 15, tzinfo=UTC),
        size=len(ORDER),
        digest=hashlib.sha256(ORDER).hexdigest(),
        fingerprint="",
    )


def test_the_fingerprint_is_the_one_that_was_stored_before():
    hashed = (
        b"from:Buyer <buyer@shop.example>\nto:orders+acme@orderflow.example.com\nsubject:Order 17\n"
        b"date:Fri, 20 Nov 2026 09:30:15 +0100\nmessage-id:<17@shop.example>\n\nten of them"
    )
    assert read_message(ORDER).fingerprint == hashlib.sha256(hashed).hexdigest()


@pytest.mark.parametrize(
    "again",
    [
        ORDER.replace(b"\n", b"\r\n"),
        ORDER.replace(b"\n", b"\r"),
        ORDER + b"\n\r\n\n",
        ORDER.rstrip(b"\n"),
        b"Received: from mx (mx [192.0.2.1]) by us; Fri, 20 Nov 2026 09:31:00 +0100\n" + ORDER,
        b"Received: by us\n\tfor <orders>;\n\tFri, 20 Nov 2026 09:31:00 +0100\n" + ORDER,
        b"Return-Path: <buyer@shop.example>\nDelivered-To: orders+acme@orderflow.example.com\n" + ORDER,
        b"DKIM-Signature: v=1; a=rsa-sha256\nARC-Seal: i=1\nX-Spam-Score: 3\n" + ORDER,
        ORDER.replace(b"Subject: Order 17", b"Subject:  Order\n\t17 "),
        ORDER.replace(b"Subject:", b"SUBJECT :"),
        b"To: orders+acme@orderflow.example.com\n" + without_field(b"To"),
        b"From buyer@shop.example Fri Nov 20 09:30:15 2026\n" + ORDER,
    ],
)
def test_a_redelivery_has_the_same_fingerprint(again):
    assert read_message(again).fingerprint == read_message(ORDER).fingerprint


@pytest.mark.parametrize(
    "other",
    [
        ORDER.replace(b"ten", b"two"),
        ORDER.replace(b"ten of", b"ten  of"),
        ORDER.replace(b"ten of", b"ten\nof"),
        b"\n".join((ORDER.partition(b"\n\n")[0], b"", b"", b"ten of them")),
        *(with_field(name, b"other") for name in (b"From", b"To", b"Cc", b"Subject", b"Date", b"Message-ID")),
        ORDER.replace(b"Subject: Order 17", b"Subject: Order 17\nSubject: Order 18"),
    ],
)
def test_what_the_sender_changed_has_another_fingerprint(other):
    assert read_message(other).fingerprint != read_message(ORDER).fingerprint


def test_the_body_is_hashed_alike_wherever_its_blocks_end(monkeypatch):
    chosen = random.Random(7)
    for _ in range(300):
        body = b"".join(
            chosen.choice([b"a", b"\r", b"\n", b"\r\n", b"bc", b"\n\n"]) for _ in range(chosen.randrange(40))
        )
        whole = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n")
        expected = hashlib.sha256(b"subject:x\n\n" + whole).hexdigest()
        for block in (1, 2, 3, 7, 1 << 20):
            monkeypatch.setattr(module, "_BLOCK", block)
            assert read_message(b"Subject: x\n\n" + body).fingerprint == expected, (body, block)


@pytest.mark.parametrize(
    ("value", "message_id"),
    [
        (b"<17@shop.example>", "<17@shop.example>"),
        (b"  <17@shop.example>  ", "<17@shop.example>"),
        (b"<17@shop.example> (added by the gateway)", "<17@shop.example>"),
        (b"(first) <17@shop.example>", "<17@shop.example>"),
        (b"<17 @shop\t.example>", "<17@shop.example>"),
        (b"<17\n @shop.example>", "<17@shop.example>"),
        (b"17@shop.example", "17@shop.example"),
        (b"<Case@Shop.Example>", "<Case@Shop.Example>"),
        ("<bü@shop.example>".encode(), "<bü@shop.example>"),
        (b"<b\xfc@shop.example>", "<b\ufffd@shop.example>"),
        (b"<a\0b@shop.example>", "<ab@shop.example>"),
        (b"<" + b"x" * 498 + b">", "<" + "x" * 498 + ">"),
    ],
)
def test_a_message_id_is_taken_trimmed(value, message_id):
    found = read_message(with_field(b"Message-ID", value))
    assert (found.source_message_id, found.message_id_is_synthetic) == (message_id, False)


@pytest.mark.parametrize(
    "raw",
    [
        without_field(b"Message-ID"),
        with_field(b"Message-ID", b""),
        with_field(b"Message-ID", b"  \t "),
        with_field(b"Message-ID", b"<>"),
        with_field(b"Message-ID", b"< \t >"),
        with_field(b"Message-ID", b"<" + b"x" * 499 + b">"),
        with_field(b"Message-ID", b"synthetic:" + b"0" * 64),
        with_field(b"Message-ID", b"synth etic:1"),
    ],
)
def test_an_unusable_message_id_becomes_the_fingerprint(raw):
    found = read_message(raw)
    assert found.source_message_id == "synthetic:" + found.fingerprint and found.message_id_is_synthetic


def test_a_second_delivery_without_message_id_has_the_same_synthetic_one():
    raw = without_field(b"Message-ID")
    again = b"Received: by us; later\r\n" + raw.replace(b"\n", b"\r\n")
    assert read_message(again).source_message_id == read_message(raw).source_message_id


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"\r\n\r\n",
        b"no field at all\n\nbody\n",
        b"\0" * 100,
        b"\xff\xfe" * 50,
        b"Received: by us; now\n\nbody\n",
        b"Return-Path: <>\nReceived: by us\nDelivered-To: a@b\nX-Original-To: a@b\n\nbody\n",
    ],
)
def test_a_message_without_one_field_of_its_sender_is_none(raw):
    assert read_message(raw) is None


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b"buyer@shop.example", "buyer@shop.example"),
        (b'"Buyer, The" <buyer@shop.example>', "buyer@shop.example"),
        (b"a@shop.example, b@shop.example", "a@shop.example"),
        ("Büro <büro@shop.example>".encode(), "büro@shop.example"),
        (b"=?utf-8?Q?B=C3=BCro?= <buero@shop.example>", "buero@shop.example"),
        (b"", ""),
        (b"<>", "<>"),
        (b"(no address)", "(noaddress)"),
        (b"a\0b@shop.example", "ab@shop.example"),
    ],
)
def test_the_first_address_of_from_is_taken(value, address):
    assert read_message(with_field(b"From", value)).from_email == address


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (b"Fri, 20 Nov 2026 09:30:15 +0100", datetime(2026, 11, 20, 8, 30, 15, tzinfo=UTC)),
        (b"20 Nov 2026 09:30 GMT", datetime(2026, 11, 20, 9, 30, tzinfo=UTC)),
        (b"Fri, 20 Nov 2026 09:30:15 -0000", datetime(2026, 11, 20, 9, 30, 15, tzinfo=UTC)),
        (b"Fri, 20 Nov 26 09:30:15 EST", datetime(2026, 11, 20, 14, 30, 15, tzinfo=UTC)),
        (b"", None),
        (b"yesterday", None),
        (b"Fri, 99 Nov 2026 99:30:15 +0100", None),
        (b"Fri, 20 Nov 99999999999 09:30:15 +0100", None),
        (b"Fri, 31 Dec 9999 23:59:59 -2300", None),
        (b"Fri, 20 Nov 2026 09:30:15 +99999999999999999999", None),
        (b"\xff\xfe\0", None),
    ],
)
def test_the_date_is_aware_utc_or_none(value, moment):
    assert read_message(with_field(b"Date", value)).sent_at == moment


@pytest.mark.parametrize(
    ("value", "subject"),
    [
        (b"=?utf-8?Q?B=C3=BCro?=", "Büro"),
        (b"a\0b", "ab"),
        (b"=?utf-8?Q?a=00b?=", "ab"),
        (b"=?utf-7?Q?+2AA-?=", "\ufffd"),
        (b"x" * 5000, "x" * 1000),
        ("\U0001f4e6".encode() * 1200, "\U0001f4e6" * 1000),
    ],
)
def test_a_subject_is_decoded_and_fit_for_postgresql(value, subject):
    found = read_message(with_field(b"Subject", value)).subject
    assert found == subject and "\0" not in found and found.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("", ""),
        ("plain \U0001f4e6", "plain \U0001f4e6"),
        ("\ufeffbom stays", "\ufeffbom stays"),
        ("a\0b", "ab"),
        ("\udc80", "\ufffd"),
        ("a\ud83d", "a\ufffd"),
        ("\ud83dx", "\ufffdx"),
        ("\udcffx\ud800y", "\ufffdx\ufffdy"),
        ("x" * 1001, "x" * 1000),
    ],
)
def test_text_is_made_storable(text, stored):
    assert storable(text) == stored


def test_no_input_raises_and_every_text_is_storable():
    chosen = random.Random(3)
    pieces = [
        b"\0",
        b"\xff",
        b"\r",
        b"\n",
        b"=?utf-8?B?",
        b"?=",
        b"=?utf-7?Q?+2AA-",
        b"(",
        b'"',
        b"<",
        b">",
        b"@",
        b":",
        b";",
    ]
    for _ in range(1500):
        raw = bytearray(ORDER)
        for _ in range(chosen.randrange(1, 12)):
            at = chosen.randrange(len(raw))
            raw[at : at + chosen.randrange(3)] = chosen.choice(pieces) * chosen.choice([1, 1, 1, 2, 50])
        found = read_message(bytes(raw))
        if found is None:
            continue
        text = found.source_message_id + found.from_email + found.subject
        assert storable(text, len(text)) == text and len(found.source_message_id) <= 500


@pytest.mark.parametrize(
    "value", [b"(" * 20000, b"<" * 20000, b'"\\' * 10000, b"a@b," * 5000, b"=?utf-8?B?" * 2000, b"\0" * 20000]
)
@pytest.mark.parametrize("name", [b"From", b"Subject", b"Date", b"Message-ID"])
def test_hostile_fields_are_read(name, value):
    assert read_message(with_field(name, value)).size > 10000
