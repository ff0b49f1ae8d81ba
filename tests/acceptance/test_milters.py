"""What OpenDKIM and OpenDMARC do behind Postfix: docs/how-to/senders.md says it, and the sender policy rests on it.

`plain` is how Debian installs them, `page` how the page sets them up. A new version that does otherwise is noticed.
"""

import re

import pytest

from tests.support.lab import smtp
from tests.support.lab.milters import Domain, Milters, example
from tests.support.lab.postfix import Postfix
from tests.support.lab.process import scratch, wait_until

MX = "mx.example.com"  # as the page has it
PLAIN = tuple(f"AuthservID {MX}\nSocket inet:{port}@127.0.0.1\n" for port in (8891, 8893))
OUTBOUND = """
virtual_mailbox_domains = inbox.example
virtual_mailbox_maps = static:yes
virtual_transport = outbound:$lab_directory/outbound
local_header_rewrite_clients =
smtpd_authorized_xclient_hosts = 127.0.0.0/8
"""
EVIL = "192.0.2.66"
DMARC, DKIM = "dmarc=pass header.from=shop.example", "dkim=pass header.d=shop.example"


class Behind:
    """Postfix with both milters; send() gives the header that a delivery gets."""

    def __init__(self, postfix: Postfix, shop: Domain, evil: Domain) -> None:
        self.postfix, self.shop, self.evil = postfix, shop, evil

    def send(
        self, raw: bytes, envelope: str = "a@evil.example", client: str = EVIL, name: str = ""
    ) -> tuple[list[str], str]:
        """Send as a client; return the values of the fields above the topmost Received, and what stands below it."""
        before = set(self.postfix.outbound())
        replies = smtp.send(
            self.postfix.smtp_port, envelope, ["a@inbox.example"], raw, client_address=client, client_name=name
        )
        assert replies.accepted, replies
        assert wait_until(lambda: bool(set(self.postfix.outbound()) - before), 30)
        (came,) = set(self.postfix.outbound()) - before
        above, _, below = came.decode(errors="replace").partition("\n\n")[0].partition("\nReceived: ")
        fields = re.findall(r"^Authentication-Results: *(.*(?:\n\s.*)*)", above, re.MULTILINE)
        return [" ".join(field.split()) for field in fields], below


def mail(top: str = "", sender: str = "a@shop.example", body: str = "12 widgets") -> bytes:
    """Write a mail; `body` makes it one that no other test sends."""
    return f"{top}From: {sender}\nSubject: order\nDate: Mon, 30 Nov 2026 10:00:00 +0000\n\n{body}\n".encode()


@pytest.fixture(scope="module")
def behind():
    """Return a function that puts Postfix behind milters that are set up in a way."""
    with scratch() as place:
        shop, postfix = Domain(place, "shop.example"), Postfix(place / "postfix")
        evil = Domain(place, "evil.example", "v=DMARC1; p=none", f"v=spf1 ip4:{EVIL} -all")
        rejects = example("/etc/opendmarc.conf") + "RejectMultiValueFrom true\n"
        ways = {"plain": PLAIN, "page": (None, None), "rejecting": (None, rejects)}
        milters = {name: Milters(place / name, [shop, evil], *texts) for name, texts in ways.items()}
        with milters["plain"], milters["page"], milters["rejecting"]:
            postfix.configure(OUTBOUND)
            with postfix:

                def put(way: str) -> Behind:
                    postfix.configure(OUTBOUND + milters[way].main)
                    postfix.reload()
                    return Behind(postfix, shop, evil)

                yield put


@pytest.fixture(params=["plain", "page"])
def any_way(request, behind) -> Behind:
    return behind(request.param)


@pytest.fixture
def page(behind) -> Behind:
    return behind("page")


@pytest.fixture
def plain(behind) -> Behind:
    return behind("plain")


def test_fields_of_the_milters_stand_above_the_received_of_postfix_and_the_senders_below(any_way):
    field = f"Authentication-Results: {MX}; {DMARC}\n"
    above, below = any_way.send(any_way.shop.sign(mail(body="above and below", top="X-First: x\n")))
    assert above[0] == f"{MX}; dmarc=pass (p=reject dis=none) header.from=shop.example"
    assert above[-1].startswith(f"{MX}; dkim=pass (2048-bit key) header.d=shop.example header.i=@shop.example ")
    assert above[-1].endswith("; dkim-atps=neutral"), "a second result, by Debian's OpenDKIM"
    assert "X-First" in below
    above, below = any_way.send(mail(f"Received: from x by {MX} (Postfix) with ESMTP id 4X1\n{field}", body="forged"))
    assert [one for one in above if "dmarc=pass" in one] == []
    assert "by mail.lab.example" in below.partition("\nReceived: ")[0]


def test_a_field_without_a_dkim_result_is_left_by_default_and_removed_as_the_page_has_it(plain, behind):
    field = f"Authentication-Results: {MX}; {DMARC}\n"
    assert field in plain.send(mail(field, body="left"))[1]
    assert f"; {DKIM}" not in plain.send(mail(f"Authentication-Results: {MX}; {DKIM}\n", body="with dkim"))[1]
    assert field not in behind("page").send(mail(field, body="removed"))[1]


@pytest.mark.parametrize("value", [f"{MX};; {DKIM}", f"{MX} 1 2 3; {DKIM}", f"{MX}.; {DKIM}", f"{MX}; none; {DKIM}"])
def test_a_field_that_opendkim_cannot_read_is_left(any_way, value):
    assert f"Authentication-Results: {value}" in any_way.send(mail(f"Authentication-Results: {value}\n", body=value))[1]


def test_opendkim_says_nothing_of_unsigned_mail_unless_it_is_told_to(plain, behind):
    assert [one for one in plain.send(mail(body="unsigned"))[0] if "dkim" in one] == []
    assert f"{MX}; dkim=none; dkim-atps=neutral" in behind("page").send(mail(body="unsigned, page"))[0]


def test_opendmarc_steps_aside_for_two_domains_unless_it_is_told_to_refuse(any_way, behind):
    two = mail(sender="a@evil.example, a@shop.example", body="two")
    above, _ = any_way.send(any_way.evil.sign(two))
    assert [one for one in above if "dmarc" in one] == []
    rejecting = behind("rejecting")
    replies = smtp.send(rejecting.postfix.smtp_port, "", ["a@inbox.example"], two, client_address=EVIL)
    assert replies.data.code == 550


def test_opendmarc_believes_the_senders_own_received_spf_unless_it_is_told_not_to(plain, behind):
    forged = mail(f'Received-SPF: pass identity=mailfrom; envelope-from="a@shop.example"; receiver={MX}\n', body="spf")
    assert "dmarc=pass" in plain.send(forged, "a@shop.example")[0][0]
    above, _ = behind("page").send(forged, "a@shop.example")
    assert above[0].startswith(f"{MX}; dmarc=fail ")
    assert above[1] == f"{MX}; spf=fail smtp.mailfrom=shop.example"


@pytest.mark.parametrize(
    "identity",
    [
        b"a=3Bdkim=3Dpass=20header.d=3Dshop.example=20header.x=3Dy@evil.example",
        b"a=20header.d=3Dshop.example=20header.x=3Dy@evil.example",
    ],
)
def test_opendkim_writes_the_senders_identity_as_it_is_and_opendmarc_believes_what_is_in_it(any_way, identity):
    above, _ = any_way.send(any_way.evil.sign(mail(body=repr(identity)), identity))
    assert above[0] == f"{MX}; dmarc=pass (p=reject dis=none) header.from=shop.example"
    assert "header.d=evil.example header.i=a" in above[-1] and "header.d=shop.example" in above[-1]


@pytest.mark.parametrize("envelope", ['"a@shop.example"@evil.example', '"a@shop.example."@evil.example'])
def test_opendmarc_takes_the_domain_of_an_envelope_sender_from_its_first_at_sign(page, envelope):
    above, _ = page.send(mail(body=envelope), envelope)
    assert above[0] == f"{MX}; dmarc=pass (p=reject dis=none) header.from=shop.example"
    assert above[1].startswith(f"{MX}; spf=pass smtp.mailfrom=shop.example")


@pytest.mark.parametrize("name", ["shop.example,@evil.example", 'shop.example"@evil.example'])
def test_opendmarc_takes_the_domain_of_a_null_sender_from_the_clients_name_as_far_as_a_comma_or_quote(page, name):
    above, _ = page.send(mail(body=name), "", name=name)
    assert above[:2] == [
        f"{MX}; dmarc=pass (p=reject dis=none) header.from=shop.example",
        f"{MX}; spf=pass smtp.helo={name}",
    ]


def test_of_two_from_fields_opendmarc_judges_the_topmost(any_way):
    above, _ = any_way.send(any_way.evil.sign(mail(sender="a@evil.example\nFrom: a@shop.example", body="two fields")))
    assert above[0] == f"{MX}; dmarc=pass (p=none dis=none) header.from=evil.example"


def test_opendmarc_does_not_judge_mail_from_this_host(page):
    above, _ = page.send(page.shop.sign(mail(body="from here")), client="")
    (field,) = above
    assert field.startswith(f"{MX}; {DKIM.replace(' ', ' (2048-bit key) ')}")
