"""File names and boundaries are found in whatever form senders write them."""

import pytest

from orderflow_ingest.parsing.mime.parameters import parse_parameters
from tests.support.cost import at_most


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b'x; filename="order.pdf"', "order.pdf"),
        (b"x; FILENAME = order.pdf ;size=1", "order.pdf"),
        (b"x; filename=my order (1) [a].pdf; size=1", "my order (1) [a].pdf"),
        (b"x filename=order.pdf", "order.pdf"),
        (b"x; filename=order.pdf charset=utf-8", "order.pdf"),
        (b'x; filename="a;b=c.pdf"', "a;b=c.pdf"),
        (b'x; filename="a "b" c.pdf"; size=1', 'a "b" c.pdf'),
        (b'x; filename="a\\"b.pdf"', 'a"b.pdf'),
        (b'x; filename="C:\\dir\\a.pdf"', "C:\\dir\\a.pdf"),
        (b'x; filename="never closed.pdf; size=1', "never closed.pdf"),
        (b"x; filename='order.pdf'", "order.pdf"),
        (b'x; filename=report "final".pdf', "report final.pdf"),
        (b'filename="no value.pdf"', "no value.pdf"),
        (b'x; (comment) filename="order.pdf"', "order.pdf"),
        (b'x; bare; filename="order.pdf"', "order.pdf"),
        (b'x; filename="\xc3\xbc.pdf"', "ü.pdf"),
        (b'x; filename="M\xfcller\'s Bestellung.pdf"', "Müller's Bestellung.pdf"),
        (b'x; filename="b%C3%BCro%201.pdf"', "büro 1.pdf"),
        (b'x; filename="100%25 sure.pdf"', "100%25 sure.pdf"),
        (b"x; filename=utf-8''b%C3%BCro.pdf", "büro.pdf"),
    ],
)
def test_plain_names_are_read(value: bytes, name: str) -> None:
    assert parse_parameters(value).get("filename") == name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"x; filename*=utf-8''b%C3%BCro.pdf", "büro.pdf"),
        (b"x; filename*=iso-8859-1'de'b%FCro.pdf", "büro.pdf"),
        (b"x; filename*=b%C3%BCro.pdf", "büro.pdf"),
        (b"x; filename*=\"utf-8''b%C3%BCro.pdf\"", "büro.pdf"),
        (b"x; filename*=no-such''b%C3%BCro.pdf", "büro.pdf"),
        (b"x; filename=plain.pdf; filename*=utf-8''extended.pdf", "extended.pdf"),
        (b"x; filename*=utf-8''extended.pdf; filename=plain.pdf", "extended.pdf"),
        (b"x; filename=plain.pdf; filename*0=sec; filename*1=tion.pdf", "section.pdf"),
        (b"x; filename*1=b.pdf; filename*0=a", "ab.pdf"),
        (b"x; filename*0=a; filename*2=c.pdf", "ac.pdf"),
        (b"x; filename*0=a; filename*0=z; filename*1=b", "ab"),
        (b"x; filename*0*=utf-8''b%C3; filename*1*=%BCro; filename*2=%41.pdf", "büro%41.pdf"),
        (b"x; filename*0*=utf-8''a; filename*1*=utf-8''b", "ab"),
        (b'x; filename*0="=?utf-8?B?QsO8c"; filename*1="m8=?="', "Büro"),
    ],
)
def test_rfc_2231_names_are_joined_and_win(value: bytes, name: str) -> None:
    assert parse_parameters(value).get("filename") == name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b'x; name="=?utf-8?Q?b=C3=BCro.pdf?="', "büro.pdf"),
        (b"x; name==?utf-8?Q?b=C3=BCro;1.pdf?=", "büro;1.pdf"),
        (b'x; name="=?utf-8?Q?b=C3?= =?utf-8?Q?=BCro.pdf?="', "büro.pdf"),
    ],
)
def test_encoded_words_in_parameters_are_decoded(value: bytes, name: str) -> None:
    assert parse_parameters(value).get("name") == name


@pytest.mark.parametrize(
    ("value", "boundary"),
    [
        (b"multipart/mixed; boundary=a=b", b"a=b"),
        (b'multipart/mixed; boundary="a b"', b"a b"),
        (b"multipart/mixed; boundary=ab (comment)", b"ab"),
        (b"multipart/mixed; charset=x boundary=ab", b"ab"),
        (b'multipart/mixed; boundary="ab', b"ab"),
        (b"multipart/mixed; boundary*0=a; boundary*1=b", b"ab"),
        (b"multipart/mixed", None),
    ],
)
def test_boundaries_stay_bytes(value: bytes, boundary: bytes | None) -> None:
    parsed = parse_parameters(value)
    assert (parsed.value, parsed.get_bytes("boundary")) == ("multipart/mixed", boundary)


@pytest.mark.parametrize("value", [b"Text/Plain", b" text/plain (why) ; x=y", b"text/plain;;;", b"\0text/plain"])
def test_the_value_is_lower_case_and_without_comment(value: bytes) -> None:
    assert parse_parameters(value).value == "text/plain"


@pytest.mark.parametrize(
    "piece",
    [b'a="', b';a="x', b" ", b"(", b"(x ", b'"', b"name*1=a;", b" name", b"=?a?b?", b"\\", b"name=a" + b" " * 50],
)
def test_a_long_value_takes_little(piece: bytes) -> None:
    value = b"x; name=y" + piece * (600_000 // len(piece))
    with at_most(400):
        parse_parameters(value).get("name")
