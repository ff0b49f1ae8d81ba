"""The tree of a mail is found whatever is wrong with its boundaries and headers."""

import base64

import pytest

from orderflow_ingest.parsing.mime.tree import MAX_PARTS, walk

MIXED = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=bb\r\n\r\n"


def leaves(raw: bytes) -> list[tuple[str, str, bytes]]:
    return [(e.path, e.header.type, e.source[e.start : e.end]) for e in walk(raw) if e.kind == "leaf"]


def defects(raw: bytes) -> set[str]:
    return {defect for entity in walk(raw) for defect in (*entity.defects, *entity.header.defects)}


def mixed(*parts: bytes) -> bytes:
    return MIXED + b"".join(b"--bb\r\n" + part + b"\r\n" for part in parts) + b"--bb--\r\n"


def test_paths_are_those_of_imap() -> None:
    inner = b"Subject: inner\r\nContent-Type: multipart/alternative; boundary=ii\r\n\r\n"
    inner += b"--ii\r\n\r\na\r\n--ii\r\n\r\nb\r\n--ii--"
    raw = mixed(b"\r\none", b"Content-Type: message/rfc822\r\n\r\n" + inner, b"\r\nthree")
    assert [(e.path, e.kind, e.header.type) for e in walk(raw)] == [
        ("0", "multipart", "multipart/mixed"),
        ("1", "leaf", "text/plain"),
        ("2", "message", "message/rfc822"),
        ("2.0", "multipart", "multipart/alternative"),
        ("2.1", "leaf", "text/plain"),
        ("2.2", "leaf", "text/plain"),
        ("3", "leaf", "text/plain"),
    ]
    assert leaves(b"Subject: x\r\n\r\nbody") == [("1", "text/plain", b"body")]


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b"\r"])
def test_every_line_end_serves(line_end: bytes) -> None:
    raw = mixed(b"\r\none", b"Content-Type: a/b\r\n\r\ntwo").replace(b"\r\n", line_end)
    assert leaves(raw) == [("1", "text/plain", b"one"), ("2", "a/b", b"two")]


@pytest.mark.parametrize(
    "raw",
    [
        MIXED + b"--bb\r\n\r\none\r\n--bb\r\n\r\ntwo",
        MIXED + b"--bb\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--bb--",
        MIXED + b"preamble\r\n--bb \t\r\n\r\none\r\n--BB\r\n\r\ntwo\r\n--bb--\r\nepilogue",
        MIXED + b"--bb\r\n\r\none\r\n--bb--\r\n--bb\r\n\r\ntwo\r\n--bb--\r\n",
        MIXED.replace(b"=bb", b"=wrong") + b"--bb\r\nContent-Type: text/plain\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--bb--",
        MIXED.replace(b"; boundary=bb", b"")
        + b"--bb\r\nContent-Type: text/plain\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--bb--",
        MIXED.replace(b"\r\n\r\n", b"\r\n") + b"--bb\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--bb--",
        b"\r\n\r\n" + MIXED + b"--bb\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--bb--",
        b"From x Mon Jan  1 00:00:00 2024\r\n" + MIXED + b"--bb\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--bb--",
        b"an odd line\r\nX Y: z\r\n" + MIXED + b"--bb\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--bb--",
        b"Subject: empty line too early\r\n\r\n" + MIXED + b"--bb\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--bb--",
    ],
)
def test_a_spoiled_multipart_still_has_both_parts(raw: bytes) -> None:
    assert [body.rstrip() for _, _, body in leaves(raw)] == [b"one", b"two"]


def test_an_inner_multipart_may_share_the_boundary_or_never_be_closed() -> None:
    inner = b"Content-Type: multipart/related; boundary=%s\r\n\r\n--%s\r\n\r\none\r\n"
    shared = MIXED + b"--bb\r\n" + inner % (b"bb", b"bb") + b"--bb--\r\n--bb\r\n\r\ntwo\r\n--bb--"
    unclosed = MIXED + b"--bb\r\n" + inner % (b"ii", b"ii") + b"--bb\r\n\r\ntwo\r\n--bb--"
    assert leaves(shared) == [("1.1", "text/plain", b"one"), ("2", "text/plain", b"two")]
    assert leaves(unclosed) == leaves(shared)


def test_a_boundary_that_begins_like_the_outer_one_is_its_own() -> None:
    inner = b"Content-Type: multipart/related; boundary=bbb\r\n\r\n--bbb\r\n\r\none\r\n--bbb--\r\n"
    assert leaves(mixed(inner, b"\r\ntwo")) == [("1.1", "text/plain", b"one"), ("2", "text/plain", b"two")]


def test_a_part_without_header_or_without_empty_line_keeps_its_content() -> None:
    raw = mixed(b"\r\nwith empty line", b"no header here\r\n\r\nsecond", b"Content-Type: a/b\r\nJVBERi0xLjQK")
    assert [body for _, _, body in leaves(raw)] == [
        b"with empty line",
        b"no header here\r\n\r\nsecond",
        b"JVBERi0xLjQK",
    ]


def test_a_multipart_without_parts_becomes_a_leaf() -> None:
    raw = MIXED + b"only text"
    assert leaves(raw) == [("1", "multipart/mixed", b"only text")]
    assert "multipart without parts" in defects(raw)


@pytest.mark.parametrize("encoding", [b"base64", b"BASE64 ", b'"base64"', b"base64 (why)", b"base64;"])
def test_an_encoded_message_is_descended(encoding: bytes) -> None:
    message = base64.encodebytes(b"Subject: x\n\ninner")
    part = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n" + message
    assert leaves(mixed(part)) == [("1.1", "text/plain", b"inner")]


def test_a_file_named_eml_is_descended_only_if_it_is_a_message() -> None:
    head = b'Content-Type: application/octet-stream; name="Order.EML"\r\n\r\n'
    assert leaves(mixed(head + b"Subject: x\r\n\r\ninner")) == [("1.1", "text/plain", b"inner")]
    assert leaves(mixed(head + b"%PDF-1.4")) == [("1", "application/octet-stream", b"%PDF-1.4")]


def test_the_parts_of_a_digest_are_messages_by_default() -> None:
    raw = mixed(b"\r\nSubject: x\r\n\r\ninner").replace(b"multipart/mixed", b"multipart/digest")
    assert leaves(raw) == [("1.1", "text/plain", b"inner")]


def test_an_encoded_multipart_is_decoded_first() -> None:
    inner = base64.encodebytes(b"--ii\r\n\r\none\r\n--ii--\r\n")
    part = b"Content-Type: multipart/mixed; boundary=ii\r\nContent-Transfer-Encoding: base64\r\n\r\n" + inner
    assert leaves(mixed(part)) == [("1.1", "text/plain", b"one")]


def test_the_limit_of_parts_is_a_defect_and_keeps_what_was_found() -> None:
    raw = MIXED + b"--bb\r\n\r\n" * (MAX_PARTS * 3)
    entities = list(walk(raw))
    assert len(entities) == MAX_PARTS + 1
    assert "too many parts" in entities[-1].defects


def test_the_limit_of_depth_is_a_defect_and_keeps_what_was_found() -> None:
    levels = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(700))
    assert "nested too deep" in defects(levels + b"\n\ndeep")
    assert "nested too deep" in defects(b"Content-Type: message/rfc822\n\n" * 700 + b"deep")


@pytest.mark.parametrize(
    "level",
    [
        b"Content-Type: message/rfc822\nContent-Transfer-Encoding: quoted-printable\n\n",
        b"Content-Type: message/rfc822\n\n",
        b"Content-Type: a/b; name=x.eml\n\n",
    ],
)
def test_nested_messages_do_not_multiply_the_mail_in_memory(level: bytes) -> None:
    raw = level * 400 + b"Subject: x\n\n" + b"y\n" * 50_000
    sources = {id(entity.source): len(entity.source) for entity in walk(raw)}
    assert sum(sources.values()) <= 5 * len(raw) + 16_000_000 < 400 * len(raw)
