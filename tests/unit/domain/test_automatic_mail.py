"""Traits: what speaks of a loop or of a program that wrote a mail, by its header and its envelope."""

import pytest

from orderflow_ingest.domain.automatic_mail import AutomaticMailSignal, read_signals
from orderflow_ingest.parsing.mime.fields import read_mail_header
from tests.support.mails import mail

OWN = "orders+acme@orderflow.example.com"


def traits(*lines: str, sender: str = "buyer@shop.example", raw: bytes = mail(1)) -> list[AutomaticMailSignal]:
    header = read_mail_header("".join(f"{line}\r\n" for line in lines).encode() + raw)
    return read_signals(header, sender, lambda text: text == OWN)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Auto-Submitted: auto-replied", [AutomaticMailSignal.AUTO_SUBMITTED]),
        ("auto-submitted: Auto-Generated; owner-email=x@y.example", [AutomaticMailSignal.AUTO_SUBMITTED]),
        ("Auto-Submitted: no", []),
        ("Auto-Submitted: No ; because=not", []),
        ("Auto-Submitted:", []),
        ("Precedence: bulk", [AutomaticMailSignal.BULK]),
        ("Precedence: LIST", [AutomaticMailSignal.BULK]),
        ("Precedence: junk", [AutomaticMailSignal.BULK]),
        ("Precedence: first-class", []),
        ("Delivered-To: " + OWN, [AutomaticMailSignal.OWN_DELIVERED_TO]),
        (f"Delivered-To: <{OWN.upper()}>", [AutomaticMailSignal.OWN_DELIVERED_TO]),
        ("Delivered-To: buyer@shop.example", []),
        ("X-Auto-Submitted: auto-replied", []),
    ],
)
def test_a_field_is_a_trait_or_not(line, found):
    assert traits(line) == found


def test_the_null_sender_is_one_and_all_are_told_in_one_order():
    lines = ("Precedence: bulk", "Auto-Submitted: auto-generated", f"Delivered-To: {OWN}")
    assert traits(*lines, sender="") == ["auto-submitted", "bulk", "null sender", "own delivered-to"]
    assert traits(*reversed(lines), sender="") == traits(*lines, sender="")


def test_an_ordinary_mail_has_none():
    assert traits() == []


def test_what_stands_in_the_body_is_none():
    assert traits(raw=mail(1) + b"\r\n\r\nPrecedence: bulk\r\n") == []


def test_a_header_that_a_server_took_for_body_is_read_too():
    found = traits("Received: from x", raw=b"\r\n" + b"Auto-Submitted: auto-replied\r\n" + mail(1))
    assert found == [AutomaticMailSignal.AUTO_SUBMITTED]


@pytest.mark.parametrize("raw", [b"", b"\0" * 100, b"\xff\xfe", b"Auto-Submitted", b"Precedence:" + b"x" * 5_000_000])
def test_nothing_raises(raw):
    assert traits(raw=raw) in ([], [AutomaticMailSignal.AUTO_SUBMITTED])
