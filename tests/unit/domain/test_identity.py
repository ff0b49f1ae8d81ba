"""A message's identity stays the same through every redelivery, and nothing raises on any input."""

import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orderflow_ingest.domain import identity as module
from orderflow_ingest.domain.identity import read_mail, read_message
from orderflow_ingest.parsing.mime.fields import HEADER_BYTES, HEADER_LINES
from orderflow_ingest.parsing.mime.words import storable

ORDER = b"""From: Buyer <buyer@shop.example>
To: orders+acme@orderflow.example.com
Subject: Order 17
Date: Fri, 20 Nov 2026 09:30:15 +0100
Message-ID: <17@shop.example>

ten of them
"""


def with_field(name, value, raw=ORDER):
    """Return the order with one field replaced, or put first where there was none."""
    lines = raw.partition(b"\n\n")[0].split(b"\n")
    kept = [line for line in lines if not line.lower().startswith(name.lower() + b":")]
    return b"\n".join([name + b": " + value, *kept]) + b"\n\n" + raw.partition(b"\n\n")[2]


def without_field(name):
    return with_field(name, b"").partition(b"\n")[2]


def test_an_order_is_read():
    found = read_message(ORDER)
    assert replace(found, fingerprint="") == module.MessageIdentity(
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


BINARY = b"--b\nContent-Transfer-Encoding: binary\n\n\x89PNG ONE\x1a TWO\n--b--\n"
PARTS = with_field(b"Content-Type", b"multipart/mixed; boundary=b").replace(b"ten of them\n", BINARY)


@pytest.mark.parametrize(
    ("raw", "other"),
    [
        (with_field(b"To", b'"A  B" <a@b.example>'), with_field(b"To", b'"A B" <a@b.example>')),
        (with_field(b"Subject", b'pipe "3  4"'), with_field(b"Subject", b'pipe "3 4"')),
        (with_field(b"Subject", b'pipe 3"  4'), with_field(b"Subject", b'pipe 3" 4')),
        (with_field(b"Content-Type", b'a/b; name="x\\"  y"'), with_field(b"Content-Type", b'a/b; name="x\\" y"')),
        (PARTS.replace(b"ONE", b"\r"), PARTS.replace(b"ONE", b"\n")),
        (PARTS.replace(b"ONE", b"\r\n"), PARTS.replace(b"ONE", b"\n")),
        (PARTS.replace(b"ONE", b"\r\n"), PARTS.replace(b"ONE", b"\r")),
        (PARTS.replace(b"\n", b"\r\n").replace(b"ONE", b"\r"), PARTS.replace(b"\n", b"\r\n").replace(b"ONE", b"\n")),
        (ORDER.replace(b"\n\nten", b"\nten"), ORDER.replace(b"\n\nten", b"\ntwo")),
    ],
)
def test_what_earlier_versions_took_for_the_same_is_told_apart_and_found_by_the_former_fingerprint(raw, other):
    one, two = read_message(raw), read_message(other)
    assert one.fingerprint != two.fingerprint
    assert (one.former_fingerprint or one.fingerprint) == (two.former_fingerprint or two.fingerprint)
    assert one.former_fingerprint or two.former_fingerprint
    for mail in (raw, other):
        crossed = mail.replace(b"\r\n", b"\n") if b"\n\n" not in mail else None
        again = b"Received: by us; later\n" + mail if crossed is None else crossed
        assert read_message(again).fingerprint == read_message(mail).fingerprint


def test_the_former_fingerprint_is_the_one_that_was_stored_before():
    raw = with_field(b"To", b'"A  B" <a@b.example>').replace(b"ten of", b"ten\rof")
    hashed = (
        b'from:Buyer <buyer@shop.example>\nto:"A B" <a@b.example>\nsubject:Order 17\n'
        b"date:Fri, 20 Nov 2026 09:30:15 +0100\nmessage-id:<17@shop.example>\n\nten\nof them"
    )
    assert read_message(raw).former_fingerprint == hashlib.sha256(hashed).hexdigest()
    assert (
        read_message(ORDER).former_fingerprint
        == ""
        == read_message(with_field(b"To", b'"A B" <a@b>')).former_fingerprint
    )
    assert "former_fingerprint" not in read_message(raw).recorded()


def test_a_mail_in_either_form_of_line_ends_has_one_fingerprint_and_one_former_one():
    raw = PARTS.replace(b"ONE", b"\r x \r").replace(b"ten", b"\rten")
    for again in (raw, raw.replace(b"\n", b"\r\n")):
        found = read_message(again)
        assert (found.fingerprint, found.former_fingerprint) == (
            read_message(raw).fingerprint,
            read_message(raw).former_fingerprint,
        )


@pytest.mark.parametrize(
    "padding",
    [b"X: y\n" * HEADER_LINES, b"To: a\n" * HEADER_LINES, b"X: " + b"y" * HEADER_BYTES + b"\n", b"X: y\n z\n" * 50_000],
)
def test_a_header_over_the_bound_is_known_by_all_its_bytes_and_loses_nothing(padding):
    long = ORDER.replace(b"\n\nten", b"\n" + padding + b"\nten")
    found = read_message(long)
    assert (found.source_message_id, found.from_email, found.subject) == (
        "<17@shop.example>",
        "buyer@shop.example",
        "Order 17",
    )
    assert found.sent_at == read_message(ORDER).sent_at
    again = [
        b"Received: by us\n\tfor <x>; later\n" * 40 + long,
        b"Return-Path: <a@b>\nAuthentication-Results: mx; none\nDKIM-Filter: x\nReceived: by us\n" + long,
        long.replace(b"\n", b"\r\n"),
        long + b"\n\n",
    ]
    assert {read_message(raw).fingerprint for raw in again} == {found.fingerprint}
    assert {read_message(raw).source_message_id for raw in again} == {"<17@shop.example>"}
    for other in (long.replace(b"ten of", b"two of"), long.replace(b"\n\nten", b"\nCc: last@b\n\nten")):
        assert read_message(other).fingerprint != found.fingerprint


def test_a_message_id_behind_the_bound_is_not_read_and_neither_joins_nor_parts_mails():
    late = b"To: a@b\n" * HEADER_LINES + ORDER
    again = b"Received: by us; later\n" * 30 + late
    other = late.replace(b"ten of", b"two of")
    found = [read_message(raw) for raw in (late, again, other)]
    assert [one.message_id_is_synthetic for one in found] == [True] * 3
    assert found[0].source_message_id == found[1].source_message_id != found[2].source_message_id


def test_what_servers_add_before_the_senders_fields_takes_nothing_from_their_bound():
    near = ORDER.replace(b"\n\nten", b"\n" + b"X: y\n" * (HEADER_LINES - 10) + b"\nten")
    assert read_mail(near).header.is_whole
    again = b"Received: by us; later\n" * 500 + near
    assert read_mail(again).header.is_whole
    assert read_message(again).fingerprint == read_message(near).fingerprint == read_message(ORDER).fingerprint


def test_no_header_is_refused_for_its_size():
    for raw in (
        b"x" * 400_000,
        b"\n" * 400_000 + ORDER,
        b"received: x\n" * 300_000 + ORDER,
        b"X: y\n" * 300_000,
    ):
        assert read_message(raw).size == len(raw)


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
        former = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n")
        for line_end in (b"\n", b"\r\n", b"\r"):
            whole = body.replace(b"\r\n", b"\n") if line_end != b"\n" else body
            whole = whole.replace(b"\r", b"\n") if line_end == b"\r" else whole
            texts = (b"subject:x\n\n" + whole.rstrip(b"\r\n"), b"subject:x\n\n" + former)
            # Another separator would be read where such a body begins with a line end.
            raw = b"Subject: x" + 2 * line_end + b"b" + body
            for block in (1, 2, 3, 7, 1 << 20):
                monkeypatch.setattr(module, "_BLOCK", block)
                found = read_message(raw)
                expected = [hashlib.sha256(text.replace(b"\n\n", b"\n\nb", 1)).hexdigest() for text in texts]
                assert [found.fingerprint, found.former_fingerprint or found.fingerprint] == expected, (raw, block)


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


ODD_LINES = {
    "between fields": b"To: a@b.example\nodd line\nSubject: x\n\nhi\n",
    "the last of the header": b"To: a@b.example\nodd line\n\nhi\n",
    "the last of the mail": b"To: a@b.example\nodd line\n",
    "with a NUL": b"To: a@b.example\nod\0d line\nSubject: x\n\nhi\n",
    "with a continuation": b"To: a@b.example\nodd line\n more of it\n\nhi\n",
}


@pytest.mark.parametrize("raw", ODD_LINES.values(), ids=ODD_LINES)
def test_a_header_with_a_line_that_is_no_field_has_one_fingerprint_whatever_servers_put_before_it(raw):
    own = read_message(raw)
    for trace in (b"Received: from a by b\n", b"Return-Path: <a@b.example>\nReceived: from c\n\tby d\n"):
        again = read_message(trace + raw)
        assert (again.fingerprint, again.former_fingerprint) == (own.fingerprint, own.former_fingerprint)
    assert read_message(raw.replace(b"d line", b"d lines")).fingerprint != own.fingerprint


@pytest.mark.parametrize("line", [b"From buyer@shop.example Fri Nov 20 10:00:00 2026\n", b">From buyer Fri\n"])
@pytest.mark.parametrize("top", [b"", b"Received: by mx; today\n", b"Return-Path: <>\nAuthentication-Results: mx\n"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_mboxs_line_before_what_a_sender_wrote_is_nobodys_content(line, top, line_end):
    """An import finds it first in its file, and mail that came by SMTP has it below what servers put before it."""
    raw = (top + line + ORDER).replace(b"\n", line_end)
    assert read_message(raw).fingerprint == read_message(ORDER).fingerprint
    assert read_message(raw).former_fingerprint == ""
    below = ORDER.replace(b"To: ", line + b"To: ")
    assert read_message(top + below).fingerprint != read_message(ORDER).fingerprint, "among fields it is content"
