"""Header fields are read past everything that is none, in linear time."""

import pytest

from orderflow_ingest.parsing.mime.fields import (
    HEADER_BYTES,
    HEADER_LINES,
    Field,
    find_sender_header,
    iterate_fields,
    looks_like_header,
    read_mail_header,
    skip_leading_blanks,
    split_header,
)


def names_and_values(block: bytes) -> list[tuple[str, bytes]]:
    return [(field.name, field.value) for field in iterate_fields(block)]


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b"\r", b"\r\r\n"])
def test_every_line_end_ends_a_field_and_a_fold_becomes_its_blank(line_end: bytes) -> None:
    block = line_end.join([b"Subject: an", b"\torder", b"To: a@example.com", b""])
    assert names_and_values(block) == [("subject", b"an\torder"), ("to", b"a@example.com")]


@pytest.mark.parametrize(
    ("odd", "fields"),
    [
        (b"no colon at all\n", []),
        (b"two words: value\n", []),
        (b"From sender@example.com Mon Jan  1 10:00:00 2024\n", []),
        (b">From sender@example.com Mon Jan  1 10:00:00 2024\n", []),
        (b": no name\n", []),
        (b"bad line\n with: a continuation\n", []),
        (b"Subject : blank before the colon\n", [("subject", b"blank before the colon")]),
        (b"Sub\0ject: NUL in the name\n", [("subject", b"NUL in the name")]),
        (b"X-Empty:\n", [("x-empty", b"")]),
        (b"X-Folded:\n \n value\n", [("x-folded", b"value")]),
        (b"X-Raw: M\xfcller\n", [("x-raw", b"M\xfcller")]),
    ],
)
def test_an_odd_line_never_hides_the_fields_after_it(odd: bytes, fields: list[tuple[str, bytes]]) -> None:
    assert names_and_values(odd + b"To: a@example.com\n") == [*fields, ("to", b"a@example.com")]


def test_a_byte_order_mark_and_an_indented_first_line_are_read_past() -> None:
    assert tuple(iterate_fields(b"\xef\xbb\xbfTo: a")) == (Field("to", b"a"),)
    assert tuple(iterate_fields(b"  To: a\nCc: b")) == (Field("to", b"a"), Field("cc", b"b"))


def test_a_line_without_indent_continues_an_open_parameter_list() -> None:
    block = b'Content-Type: text/csv;\nname="a:b.csv"\nTo: x'
    assert names_and_values(block) == [("content-type", b'text/csv; name="a:b.csv"'), ("to", b"x")]


@pytest.mark.parametrize(
    ("raw", "header", "body"),
    [
        (b"A: b\r\n\r\nbody", b"A: b", b"body"),
        (b"A: b\n\nbody", b"A: b", b"body"),
        (b"A: b\r\rbody", b"A: b", b"body"),
        (b"A: b\r\r\n\r\r\nbody", b"A: b", b"body"),
        (b"A: b\r\n\nbody", b"A: b", b"body"),
        (b"A: b\n \nC: d\n\nbody", b"A: b\n \nC: d", b"body"),
        (b"\r\nbody", b"", b"body"),
        (b"\nbody", b"", b"body"),
        (b"A: b", b"A: b", b""),
        (b"", b"", b""),
    ],
)
def test_a_header_ends_at_the_first_empty_line(raw: bytes, header: bytes, body: bytes) -> None:
    end, start = split_header(raw)
    assert (raw[:end].rstrip(b"\r"), raw[start:]) == (header, body)
    assert split_header(memoryview(raw)) == (end, start)


def test_a_mails_header_is_read_once_past_blanks_and_its_body_follows() -> None:
    raw = b"\xef\xbb\xbf\r\nA: b\r\nC: d\r\n\r\nE: f\n\nbody"
    header = read_mail_header(raw)
    assert header.fields == header.top == (Field("a", b"b"), Field("c", b"d"))
    assert (raw[header.body_start :], header.line_end, header.is_whole) == (b"E: f\n\nbody", b"\r\n", True)
    assert read_mail_header(b"").fields == read_mail_header(b"\n\nno header").fields == ()


@pytest.mark.parametrize("line", [b"odd line", b"od\0d line", b"\xef\xbb\xbfodd line", b">From me"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\r\r\n"])
def test_the_place_of_the_first_odd_line_is_told(line: bytes, end: bytes) -> None:
    header = read_mail_header(end.join((b"To: a", b" " + line, line, b"X: y", line, b"", b"body")))
    assert header.odd_line is not None
    assert header.block[header.odd_line :].rstrip(b"\n") == b"\n".join((line, b"X: y", line))


def test_the_header_that_a_server_took_for_body_is_the_senders() -> None:
    raw = b"Return-Path: <a>\nReceived: x\n\nodd line\nFrom: a\nX: y\n\nbody"
    header = read_mail_header(raw)
    assert [field.name for field in header.top] == ["return-path", "received"]
    assert [field.name for field in header.fields] == ["from", "x"]
    assert (raw[header.body_start :], header.odd_line) == (b"body", 0)
    assert header.start == find_sender_header(raw) == raw.index(b"odd line")


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    ("fields", "is_whole"),
    [
        (b"X: y\n" * (HEADER_LINES - 2), True),
        (b"X: y\n" * HEADER_LINES, False),
        (b"X: y\n " * (HEADER_LINES // 2) + b"\n", True),
        (b"X: y\n z\n" * HEADER_LINES, False),
        (b"X: " + b"y" * (HEADER_BYTES - 100) + b"\n", True),
        (b"X: " + b"y" * HEADER_BYTES + b"\n", False),
    ],
)
def test_a_header_is_whole_up_to_the_bound_whatever_servers_put_before_it(
    line_end: bytes, fields: bytes, is_whole: bool
) -> None:
    for before in (b"", b"Received: x\n y\n" * 100, b"Authentication-Results: x\nReceived: y\n" * 100):
        raw = (before + b"From: a\nTo: b\n" + fields + b"\nbody").replace(b"\n", line_end)
        header = read_mail_header(raw)
        assert (header.is_whole, header.line_end) == (is_whole, line_end)
        assert [field.value for field in header.fields if field.name in ("from", "to")] == [b"a", b"b"]
        if not is_whole:
            assert raw[header.first_own :].startswith(b"From: a") and header.body_start == header.first_own


def test_what_is_read_of_a_long_header_is_bounded() -> None:
    for raw in (b"To:\n" * 400_000, b"received:\n" * 400_000 + b"To:\n" * 400_000, b"\r" * 400_000 + b"a:\r" * 400_000):
        header = read_mail_header(raw)
        assert len(header.fields) <= 2 * HEADER_LINES and len(header.top_block) <= 2 * HEADER_BYTES


def test_empty_lines_before_a_message_are_skipped_only_if_a_header_follows() -> None:
    assert skip_leading_blanks(b"\r\n\r\nA: b") == 4
    assert skip_leading_blanks(b"\r\n\r\nbody text") == 0
    assert looks_like_header(b"From x@example.com\nA: b")
    assert not looks_like_header(b"%PDF-1.4")
