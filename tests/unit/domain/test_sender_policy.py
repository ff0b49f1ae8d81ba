"""Who a mail is from: what a From says, and what our server says of it above its own Received field."""

import pytest

from orderflow_ingest.domain.addresses import _ascii_label
from orderflow_ingest.domain.org_settings import read_settings
from orderflow_ingest.domain.sender_policy import Authenticator, Rejection, check_raw_sender, check_sender
from orderflow_ingest.parsing.mime.fields import HEADER_LINES, read_mail_header
from tests.support.sender_fields import ALLOWED, MX, OURS, QUEUE_ID, doubt_mail, fields

DMARC = f"{MX}; dmarc=pass (p=none dis=none) header.from=shop.example"
DKIM = f"{MX}; dkim=pass (2048-bit key) header.d=shop.example header.i=@shop.example header.s=s1"


def doubt(source: str, results: str | None = None, authserv_id: str = "") -> Rejection | None:
    """Judge a mail of which our server says this."""
    return doubt_mail(fields(results), source=source, authserv_id=authserv_id)


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
    assert doubt(source) is Rejection.NOT_ALLOWED


@pytest.mark.parametrize("raw", [b"Subject: x\n\n", b"From: \n\n", b"From: undisclosed\n\nbuyer@shop.example\n", b""])
def test_a_mail_without_an_address_in_from_is_from_nobody(raw):
    assert check_raw_sender(raw, ALLOWED, "") is Rejection.NO_ADDRESS


@pytest.mark.parametrize(
    "results",
    [
        DMARC,
        f"{MX} 1; dmarc = pass header.from = Shop.Example",
        f"{MX.upper()};\n\tdmarc=pass header.from=SHOP.example",
        f'"{MX}" (our own) ; dmarc/1=PASS reason="a; b" header.from=shop.example',
        DKIM,
        f'{DKIM} header.b="Ab/+cd=="',
        f"{DKIM} header.a=rsa-sha256 header.b=Ab/+cd==;\n\tdkim-atps=neutral",
        f"{MX}; dkim=pass header.d=shop.example header.i=@sub.shop.example",
        f"{MX}; spf=pass smtp.mailfrom=bounce@shop.example",
        f"{MX}; spf=pass smtp.mailfrom=shop.example",
        f'{MX}; spf=pass reason="a; (b" smtp.mailfrom="odd x"@shop.example',
        f"b.example; dmarc=fail header.from=a\nAuthentication-Results: {DMARC}",
        f"{MX}; spf=fail smtp.mailfrom=x@y.example\nAuthentication-Results: {DMARC}",
        f"{MX}; dkim=none; dkim-atps=neutral\nAuthentication-Results: {DMARC}",
        f"{MX}; spf=fail smtp.helo=client.example\nAuthentication-Results: {DMARC}",
    ],
)
def test_who_is_authenticated_is_taken(results):
    assert doubt("buyer@shop.example", results, MX) is None
    assert doubt('"buyer@shop.example" <Buyer@Shop.example>', results, MX) is None


@pytest.mark.parametrize(
    "results",
    [
        None,
        f"{MX}; none",
        f"{MX}",
        "",
        ";",
        "evil.example; dmarc=pass header.from=shop.example",
        f"{MX}; dmarc=fail header.from=shop.example",
        f"{MX}; dmarc=pass header.from=evil.example",
        f"{MX}; dmarc=pass header.from=a@shop.example",
        f"{MX}; dmarc=pass",
        f"{MX}; dkim=pass header.d=evil.example header.i=@shop.example",
        f"{MX}; dkim=pass header.d=shop.example header.i=@evil.example",
        f"{MX}; dkim=pass header.d=sub.shop.example",
        f"{MX}; dkim=pass header.d=example",
        f"{MX}; spf=pass smtp.mailfrom=x@evil.example",
        f"{MX}; spf=pass smtp.helo=shop.example",
        f"{MX}; auth=pass header.from=shop.example",
        # Results that are more than one: whatever wrote them may have written what a sender chose.
        f"{DKIM}; dmarc=pass header.from=shop.example",
        f"{MX}; dkim=fail header.d=shop.example; dkim=pass header.d=shop.example",
        f"{DMARC}; dkim-atps=neutral",
        f"{MX}; dkim=pass header.d=evil.example header.i=a;dmarc=pass header.from=shop.example;x@evil.example",
        f"{MX}; dkim=pass header.d=evil.example header.i=a;dkim-atps=pass header.d=shop.example;dkim-atps=neutral",
        f"{MX}; dkim=pass header.d=evil.example header.i=a;dkim=pass header.d=shop.example header.i=b@evil.example",
        # Properties that stand there twice, or that nobody writes.
        f"{MX}; dkim=pass header.d=shop.example header.d=evil.example",
        f"{MX}; dkim=pass header.d=evil.example header.i=a header.d=shop.example header.s=b@evil.example",
        f"{MX}; dkim=pass header.d=shop.example header.x=evil.example",
        f"{MX}; dmarc=pass header.from=shop.example policy.x=a.evil.example",
        f"{MX}; spf=pass smtp.mailfrom=shop.example smtp.helo=a.evil.example",
        # What does not parse.
        f"{MX};; dmarc=pass header.from=shop.example",
        f"{MX}; dmarc=pass header.from=shop.example;",
        f"{MX} is mine; dmarc=pass header.from=shop.example",
        f"{MX} 1x; dmarc=pass header.from=shop.example",
        f"{MX}, dmarc=pass header.from=shop.example",
        f'{MX}; dmarc=pass header.from="shop.example',
        f'{MX}; dmarc=pass header.from="shop.example"',
        f'"{MX}; dmarc=pass header.from=shop.example',
        f'{MX}; dmarc=pass reason="x header.from=shop.example',
        f"{MX}; dmarc=pass (x header.from=shop.example",
        f"{MX}; dmarc=pass x) header.from=shop.example",
        f"{MX}; dmarc=pass header.from=shop.example (x)",
        f"{MX}; dmarc=pass header.(x)from=shop.example",
        f"{MX}; dmarc(x)=pass header.from=shop.example",
        f"{MX}; dmarc=pass header.from=(x)shop.example",
        f"{MX}; dmarc=pass header.from=shop.example(.evil.example",
        f"{MX}; dkim=pass header.d=shop.example(x header.i=) header.i=q@shop.example(x header.s=lab) header.b=X",
        f"{MX}; dmarc=passheader.from=shop.example",
        f"{MX}; dmarc==pass header.from=shop.example",
        f"{MX}; dmarc=pass header.from=shop.example x",
        f"{MX}; \u212a=y; dmarc=pass header.from=shop.example",
        f"{MX}; d\u212aim=pass header.d=shop.example",
        f"{MX}; dmarc=pass header.from=shop.examp\u0130e",
        f"{MX}\0; dmarc=pass header.from=shop.example",
        f"{MX}; x=y (; dmarc=pass header.from=shop.example)",
        f"{MX}; x=y ((; dmarc=pass header.from=shop.example)",
        f'{MX}; x=y reason="; dmarc=pass header.from=shop.example"',
        f'{MX}; spf=pass smtp.mailfrom="a@shop.example; dmarc=pass header.from=shop.example;"@evil.example',
        # OpenDMARC writes one field. Two that differ are not both its own.
        f"{MX}; dmarc=fail header.from=shop.example\nAuthentication-Results: {DMARC}",
        f"{DMARC}\nAuthentication-Results: {MX}; dmarc=fail header.from=shop.example",
    ],
)
def test_what_our_server_does_not_say_for_certain_is_doubted(results):
    assert doubt("buyer@shop.example", results, MX) in (Rejection.NOT_AUTHENTICATED, Rejection.AMBIGUOUS_RESULTS)


ATTACK = "dkim=pass header.d=shop.example header.i=@shop.example"
EVIL = f"{MX}; dkim=pass header.d=evil.example header.i="


@pytest.mark.parametrize(
    "results",
    [
        f"{EVIL}a;dmarc=pass header.from=shop.example;x@evil.example header.s=y",
        f"{EVIL}a header.d=shop.example header.x=y@evil.example header.s=y",
        f"{EVIL}@evil.example;dkim=pass header.d=shop.example header.i=b@evil.example",
        f"{EVIL}@evil.example;{ATTACK} x.x=y@evil.example",
        f'{MX}; spf=pass smtp.mailfrom=shop.example"@evil.example',
        f'{MX}; spf=pass smtp.mailfrom=shop.example "@evil.example',
        f'{MX}; spf=pass smtp.mailfrom=shop.example("@evil.example',
        f"{MX}; spf=pass smtp.helo=a@shop.example",
        f"{MX}; spf=pass smtp.mailfrom=shop.example smtp.helo=a.evil.example",
    ],
)
def test_where_a_sender_has_written_into_a_field_of_our_server_no_other_field_is_believed(results):
    assert doubt_mail(fields(DMARC, results)) is Rejection.AMBIGUOUS_RESULTS
    assert doubt_mail(fields(results, DKIM)) is Rejection.AMBIGUOUS_RESULTS


@pytest.mark.parametrize(
    ("identity", "judged"),
    [
        ("@shop.example", None),
        ("buyer+x_1@\n\tsub.shop.example", None),
        ("a=3Bdmarc=3Dpass=20header.from=3Dshop.example=3Bx@evil.example", Rejection.AMBIGUOUS_RESULTS),
        (f"@evil.example=3B{ATTACK.replace(' ', '=20')}{'=20' * 300}@evil.example", Rejection.AMBIGUOUS_RESULTS),
        ("a b@evil.example", None),
        ('"a b"@evil.example', Rejection.AMBIGUOUS_RESULTS),
        (f"{'a' * 300}@evil.example", Rejection.AMBIGUOUS_RESULTS),
        ("@evil.example; i=a=3Bb@evil.example", Rejection.AMBIGUOUS_RESULTS),
        ("", Rejection.AMBIGUOUS_RESULTS),
    ],
)
def test_a_signature_whose_identity_is_more_than_an_address_makes_all_unclear(identity, judged):
    assert doubt_mail(fields(DMARC), f"DKIM-Signature: v=1; d=evil.example; I = {identity}; s=x\n") is judged
    assert doubt_mail(fields(DMARC), f"DKIM-Signature: i={identity}\n") is judged
    assert doubt_mail(fields(DMARC), "DKIM-Signature: v=1; bi=x; d=shop.example\n") is None


@pytest.mark.parametrize(
    ("sender", "judged"),
    [
        ("", None),
        ("a+b=c@shop.example", None),
        ("a@shop.example@evil.example", Rejection.AMBIGUOUS_RESULTS),
        ('"a@shop.example"@evil.example', Rejection.AMBIGUOUS_RESULTS),
        ("a@shop.example @evil.example", Rejection.AMBIGUOUS_RESULTS),
        ("@shop.example,@x.example:a@evil.example", Rejection.AMBIGUOUS_RESULTS),
    ],
)
def test_an_envelope_sender_that_can_be_read_in_two_ways_makes_all_unclear(sender, judged):
    header = read_mail_header(f"{fields(DMARC)}{OURS}From: a@shop.example\n\n".encode())
    assert check_sender(header, ALLOWED, Authenticator(MX, QUEUE_ID, sender)) is judged


def test_mail_of_two_signatures_is_authenticated_by_dmarc():
    both = f"{DKIM}; dkim=pass header.d=service.example header.i=@service.example; dkim-atps=neutral"
    assert doubt_mail(fields(DMARC, both)) is None
    assert doubt_mail(fields(both)) is Rejection.NOT_AUTHENTICATED


@pytest.mark.parametrize(
    "below",
    [
        fields(DMARC),
        fields(f"{MX}; spf=pass smtp.mailfrom=shop.example"),
        f"authentication-results :{MX.upper()};spf=pass smtp.mailfrom=shop.example\n",
        f"Authentication-Results:\n {MX};\n spf=pass smtp.mailfrom=shop.example\n",
        f"Received: from x by y id {QUEUE_ID}; then\n{fields(DMARC)}",
        fields("mx.(a)example(b).com (c) 1; spf=pass smtp.mailfrom=shop.example"),
        fields('"mx.example.com"; spf=pass smtp.mailfrom=shop.example'),
        fields(r"m\x . example . com; spf=pass smtp.mailfrom=shop.example"),
        fields('("((=") mx.example.com;; spf = pass'),
        fields(f"x y {MX}"),
        fields(f"({'c' * 20_000}) {MX}; spf=pass smtp.mailfrom=shop.example"),
    ],
)
def test_a_field_of_our_server_below_its_received_is_forged_and_what_stands_above_counts_for_nothing(below):
    assert doubt_mail(fields(DMARC, DKIM), below) is Rejection.FORGED_RESULTS


@pytest.mark.parametrize(
    "below",
    [
        fields("relay.example; spf=pass smtp.mailfrom=shop.example"),
        fields(f"relay.example; spf=pass smtp.rcpttodomain={MX}"),
        fields("spf=none (sender IP is ) smtp.mailfrom=mx.example.com; dkim=none"),
        f"ARC-Authentication-Results: i=1; {DMARC}\nX-Authentication-Results: {DMARC}\n",
        "Received: from x by y id 12; then\n",
    ],
)
def test_fields_of_other_servers_below_are_nothing_to_us(below):
    assert doubt_mail(fields(DMARC), below) is None


def test_what_is_no_field_of_the_mail_is_no_forgery():
    raw = f"{fields(DMARC)}{OURS}From: buyer@shop.example\n\n{fields(DMARC)}"
    assert check_raw_sender(raw.encode(), ALLOWED, MX) is None


def test_dmarc_that_may_rest_on_a_received_spf_of_the_sender_needs_a_second_witness():
    spf = "Received-SPF: pass identity=mailfrom; envelope-from=a@shop.example\n"
    assert doubt_mail(fields(DMARC), spf) is Rejection.RECEIVED_SPF
    assert doubt_mail(fields(DMARC, DKIM), spf) is None
    assert doubt_mail(fields(DMARC, f"{MX}; spf=pass smtp.mailfrom=shop.example"), spf) is None
    assert doubt_mail(fields(DMARC, f"{MX}; spf=pass smtp.mailfrom=evil.example"), spf) is Rejection.RECEIVED_SPF
    assert doubt_mail(spf + fields(DMARC)) is None


@pytest.mark.parametrize(
    ("received", "queue_id"),
    [
        ("", QUEUE_ID),
        ("", None),
        (OURS, ""),
        (OURS, QUEUE_ID[:-1]),
        (OURS, QUEUE_ID.lower()),
        ("Received: from x by y with SMTP id 12; then\n", QUEUE_ID),
        (f"Received: from {QUEUE_ID} by y; then\n", QUEUE_ID),
        (f"Received: from x by y with SMTP id 12; then\n{OURS}", QUEUE_ID),
        (OURS.replace("Received", "X-Received"), QUEUE_ID),
    ],
)
def test_where_the_topmost_received_is_not_our_postfixs_nothing_is_authenticated(received, queue_id):
    assert doubt_mail(fields(DMARC), received=received, queue_id=queue_id) is Rejection.NOT_AUTHENTICATED


@pytest.mark.parametrize(
    "received",
    [
        f"Received: by mail.example (Postfix, from userid 0)\n\tid {QUEUE_ID}; Mon, 30 Nov 2026 10:00:00 +0000 (UTC)\n",
        f"Received: from x (x [1.2.3.4])\n\t(using TLSv1.3)\n\tby m (Postfix) with ESMTPS id {QUEUE_ID}; now\n",
        f"received:from x by y id {QUEUE_ID};now\n",
    ],
)
def test_a_received_of_our_postfix_is_known_by_the_queue_id(received):
    assert doubt_mail(fields(DMARC), received=received) is None
    crlf = f"{fields(DMARC)}{received}From: a@shop.example\n\n".replace("\n", "\r\n")
    assert check_sender(read_mail_header(crlf.encode()), ALLOWED, Authenticator(MX, QUEUE_ID)) is None


def test_a_line_that_a_cr_makes_of_a_senders_text_is_not_believed():
    for more in ("X: y", f"Received: id {QUEUE_ID};"):
        identity = f"a\r{fields(DMARC).strip()}\r{more}@evil.example"
        own = f"{MX}; dkim=pass header.d=evil.example header.i={identity}"
        assert doubt_mail(fields(own)) is Rejection.NOT_AUTHENTICATED
        assert doubt_mail(fields(DMARC, own)) is Rejection.NOT_AUTHENTICATED


@pytest.mark.parametrize(
    "source",
    [
        "a@shop.example, b@shop.example",
        "a@shop.example, ann@other.example",
        '"b@shop.example" <a@shop.example>',
        "a@shop.example\nFrom: a@shop.example",
        "a@shop.example\nFROM: ",
    ],
)
def test_a_from_of_more_than_one_address_or_field_is_never_authenticated(source):
    results = f"{DMARC}\nAuthentication-Results: {MX}; spf=pass smtp.mailfrom=other.example"
    assert doubt(source, results, MX) is Rejection.NOT_AUTHENTICATED
    assert doubt(source) is None


@pytest.mark.parametrize("domain", ["shop.examp\u212ae", "s\u212aop.example", "\u017fhop.example", "sh\u0130p.example"])
def test_letters_that_only_unicode_folds_to_ascii_are_other_letters(domain):
    for allowed in (
        ("@shop.example",),
        read_settings({"allowed_senders": f"@shop.example, buyer@{domain}"}).allowed_senders,
    ):
        header = read_mail_header(f"From: buyer@{domain}\n\n".encode())
        judged = check_sender(header, allowed, Authenticator())
        assert judged is (Rejection.NOT_ALLOWED if len(allowed) == 1 else None)
    assert check_sender(read_mail_header("From: a@\u212a.example\n\n".encode()), ("@k.example",), Authenticator())


@pytest.mark.parametrize("entry", ["@b\u00fccher.example", "@xn--bcher-kva.example"])
@pytest.mark.parametrize("source", ["a@b\u00fccher.example", "a@B\u00fccher.Example", "a@XN--bcher-kva.example"])
def test_both_spellings_of_a_domain_beyond_ascii_are_the_same_domain(entry, source):
    allowed = read_settings({"allowed_senders": entry}).allowed_senders
    for results, judged in (
        (f"{MX}; dkim=pass header.d=xn--bcher-kva.example header.i=@xn--bcher-kva.example header.s=s1", None),
        (f"{MX}; dkim=pass header.d=bcher.example header.i=@bcher.example header.s=s1", Rejection.NOT_AUTHENTICATED),
    ):
        header = read_mail_header(f"{fields(results)}{OURS}From: {source}\n\n".encode())
        assert check_sender(header, allowed, Authenticator(MX, QUEUE_ID)) is judged
    for other in (
        "a@bu\u0308cher.example",
        "a@b\u00fccher.xn--example",
        "a@" + "\u00fc" * 64 + ".example",
        "a@bcher.example",
    ):
        assert check_sender(read_mail_header(f"From: {other}\n\n".encode()), allowed, Authenticator())


def test_domains_beyond_ascii_that_nobody_allowed_cost_one_conversion():
    source = ", ".join(f"a@{chr(0x4E00 + n) * 63}.example" for n in range(300))
    _ascii_label.cache_clear()
    assert doubt(source) is Rejection.NOT_ALLOWED and _ascii_label.cache_info().misses == 1


def test_what_has_passed_nobody_who_authenticates_is_not_authenticated_whatever_it_says():
    raw = f"{fields(DMARC)}{OURS}From: a@shop.example\n\n".encode()
    assert check_raw_sender(raw, ALLOWED, MX) is None and check_raw_sender(raw, ALLOWED, "", is_filtered=False) is None
    assert check_raw_sender(raw, ALLOWED, MX, is_filtered=False) is Rejection.NOT_AUTHENTICATED


def test_where_the_header_of_the_sender_was_taken_for_body_his_own_results_count_for_nothing():
    raw = f"{OURS}\n\n{fields(DMARC)}From: buyer@shop.example\nSubject: x\n\n".encode()
    assert check_raw_sender(raw, ALLOWED, MX) is Rejection.FORGED_RESULTS


def test_nobody_is_judged_by_a_part_of_a_header():
    long = "X: y\n" * HEADER_LINES
    assert doubt_mail(fields(DMARC), long) is Rejection.HEADER_TOO_LONG
    assert doubt(f"buyer@shop.example {'(' * 100_000}") is Rejection.HEADER_TOO_LONG
    assert doubt(f"{'x' * 2_000_000} <bob@evil.example>") is Rejection.HEADER_TOO_LONG
    assert doubt(f"{'x' * 60_000} <bob@evil.example>") is Rejection.NOT_ALLOWED
