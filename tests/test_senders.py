"""Who a mail is from: what a From says, and what Authentication-Results says of it."""

import pytest

from orderflow_ingest.senders import Doubt, doubt_sender

ALLOWED = ("@shop.example", "ann@other.example")
MX = "mx.example.com"


def doubt(source: str, results: str | None = None, authserv_id: str = "") -> Doubt | None:
    head = f"Authentication-Results: {results}\n" if results is not None else ""
    return doubt_sender(f"Received: from x\n{head}From: {source}\nSubject: x\n\n".encode(), ALLOWED, authserv_id)


@pytest.mark.parametrize(
    "source",
    [
        "buyer@shop.example",
        "Purchasing <BUYER@Shop.Example>",
        '"Shop, Purchasing" <buyer@shop.example>',
        "<ann@other.example>",
        "a@shop.example, ann@other.example",
        "=?utf-8?q?M=C3=A4rz?= <buyer@shop.example>",
    ],
)
def test_who_is_allowed_is_taken(source):
    assert doubt(source) is None


@pytest.mark.parametrize(
    "source",
    [
        "bob@other.example",
        "buyer@sub.shop.example",
        "buyer@shop.example.evil.example",
        "buyer@shop.example, bob@evil.example",
        "buyer@shop.example <bob@evil.example>",
        '"buyer@shop.example" <bob@evil.example>',
        "bob@evil.example (buyer@shop.example)",
        "buyer@shop.example\nFrom: bob@evil.example",
        "MAILER-DAEMON@shop.example, <postmaster@evil.example>",
    ],
)
def test_one_address_in_from_that_is_not_allowed_is_enough_to_doubt(source):
    assert doubt(source) is Doubt.NOT_ALLOWED


@pytest.mark.parametrize("raw", [b"Subject: x\n\n", b"From: \n\n", b"From: undisclosed\n\nbuyer@shop.example\n", b""])
def test_a_mail_without_an_address_in_from_is_from_nobody(raw):
    assert doubt_sender(raw, ALLOWED, "") is Doubt.NO_ADDRESS


@pytest.mark.parametrize(
    "results",
    [
        f"{MX}; dmarc=pass (p=none dis=none) header.from=shop.example",
        f"{MX} 1; spf=fail smtp.mailfrom=x@y.example; dmarc = pass header.from=Shop.Example",
        f"{MX}; dkim=pass (2048-bit key) header.d=shop.example header.i=@shop.example header.s=s1",
        f"{MX}; dkim=fail header.d=shop.example; dkim=pass header.d=shop.example",
        f"{MX}; spf=pass smtp.mailfrom=bounce@shop.example",
        f"{MX.upper()}; spf=pass smtp.mailfrom=shop.example",
        f'{MX}; spf=pass reason="a; (b" smtp.mailfrom="odd x"@shop.example',
        f"b.example; dmarc=fail header.from=a\nAuthentication-Results: {MX}; dmarc=pass header.from=shop.example",
    ],
)
def test_who_is_authenticated_is_taken(results):
    assert doubt("buyer@shop.example", results, MX) is None


@pytest.mark.parametrize(
    "results",
    [
        None,
        f"{MX}; none",
        f"{MX}",
        "",
        "evil.example; dmarc=pass header.from=shop.example",
        f"{MX}; dmarc=fail header.from=shop.example",
        f"{MX}; dmarc=pass header.from=evil.example",
        f"{MX}; dkim=pass header.d=evil.example header.i=@shop.example",
        f"{MX}; dkim=pass header.d=sub.shop.example",
        f"{MX}; dkim=pass header.d=example",
        f"{MX}; spf=pass smtp.mailfrom=x@evil.example",
        f"{MX}; spf=pass smtp.helo=shop.example",
        f"{MX}; auth=pass header.from=shop.example",
        f"{MX}; x=y (; dmarc=pass header.from=shop.example)",
        f"{MX}; x=y ((; dmarc=pass header.from=shop.example)",
        f'{MX}; x=y reason="; dmarc=pass header.from=shop.example"',
        f'{MX}; spf=pass smtp.mailfrom="a@shop.example; dmarc=pass header.from=shop.example;"@evil.example',
        f"{MX}; dmarc=fail header.from=shop.example\nAuthentication-Results: {MX}; dmarc=pass header.from=shop.example",
    ],
)
def test_what_the_topmost_field_of_our_server_does_not_say_is_doubted(results):
    assert doubt("buyer@shop.example", results, MX) is Doubt.NOT_AUTHENTICATED


def test_every_address_of_from_has_to_be_authenticated():
    one = f"{MX}; dmarc=pass header.from=shop.example"
    assert doubt("a@shop.example, ann@other.example", one, MX) is Doubt.NOT_AUTHENTICATED
    assert doubt("a@shop.example, ann@other.example", f"{one}; spf=pass smtp.mailfrom=other.example", MX) is None


def test_what_has_passed_nobody_who_authenticates_is_not_authenticated_whatever_it_says():
    raw = f"Authentication-Results: {MX}; dmarc=pass header.from=shop.example\nFrom: a@shop.example\n\n".encode()
    assert doubt_sender(raw, ALLOWED, MX) is None and doubt_sender(raw, ALLOWED, "", is_filtered=False) is None
    assert doubt_sender(raw, ALLOWED, MX, is_filtered=False) is Doubt.NOT_AUTHENTICATED


def test_where_the_header_of_the_sender_was_taken_for_body_his_own_results_count_for_nothing():
    forged = f"Authentication-Results: {MX}; dmarc=pass header.from=shop.example\n"
    raw = f"Received: from x\n\n\n{forged}From: buyer@shop.example\nSubject: x\n\n".encode()
    assert doubt_sender(raw, ALLOWED, MX) is Doubt.NOT_AUTHENTICATED


def test_a_long_from_is_read_in_linear_time_and_to_its_end():
    filler = "x" * 2_000_000
    assert doubt(f"{filler} <bob@evil.example>") is Doubt.NOT_ALLOWED
    assert doubt(f"buyer@shop.example {'(' * 100_000}", f"{MX}; {'(' * 100_000}", MX) is Doubt.NOT_AUTHENTICATED
