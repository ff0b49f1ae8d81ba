"""Which senders are believed behind a real Postfix, OpenDKIM and OpenDMARC: genuine mail is taken, forged mail is held.

A stranger writes from an address of his own (XCLIENT): both milters let 127.0.0.1 pass, and SPF all of loopback. They
are set up by the examples of docs/how-to/senders.md. Every mail is sent once for each way.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.support.lab import smtp
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.milters import Domain, Milters
from tests.support.lab.process import scratch, wait_until

MX = "mx.example.com"  # as the page has it
STRICT = f"orders+strict@{DOMAIN}"
OWN_HOST, STRANGER = "192.0.2.1", "192.0.2.66"
DKIM, SPF = "dkim=pass header.d=shop.example", "spf=pass smtp.mailfrom=shop.example"
DMARC = "dmarc=pass header.from=shop.example"
RECEIVED = "Received: from shop.example (shop.example [192.0.2.1]) by mail.lab.example (Postfix) with ESMTP id 4X1\n"
EVIL_SPF = f"v=spf1 ip4:{STRANGER} -all"
XCLIENT = "smtpd_authorized_xclient_hosts = 127.0.0.0/8\n"
RECEIVED_SPF = 'Received-SPF: pass identity=mailfrom; envelope-from="buyer@shop.example"; receiver=mx.example.com\n'

# What a stranger writes into the field that our own server writes.
FIELDS = {
    "dmarc": f"{MX}; {DMARC}",
    "dkim": f"{MX}; {DKIM}",
    "spf": f"{MX}; {SPF}",
    "dkim and dmarc": f"{MX}; {DKIM}; {DMARC}",
    "dmarc and dkim": f"{MX}; {DMARC}; {DKIM}",
    "an empty result": f"{MX};; {DMARC}",
    "an empty result at the end": f"{MX}; {DMARC};;",
    "words after the id": f"{MX} 1 2 3; {DMARC}",
    "a version": f"{MX} 1; {DMARC}",
    "a slash after the id": f"{MX}/1; {DMARC}",
    "an open quote": f'{MX}; {DMARC}; x="',
    "an open quote before": f'{MX}; x="; {DMARC}',
    "an open comment": f"{MX}; {DMARC} (",
    "a kelvin sign": f"{MX}; d\u212aim=pass header.d=shop.example",
    "a long s": f"{MX}; dmarc=pa\u017f\u017f header.from=shop.example",
    "the id in capitals": f"{MX.upper()}; {DMARC}",
    "the id in quotes": f'"{MX}"; {DMARC}',
    "comments around the id": f"(x) {MX} (y); {DMARC}",
    "a comment in the id": f"mx(x).example.com; {DMARC}",
    "a dot after the id": f"{MX}.; {DMARC}",
    "no result before": f"{MX}; none; {DMARC}",
    "a version of the method": f"{MX}; dmarc / 1 = pass header.from=shop.example",
    "a control character": f"{MX}; \x01 {DMARC}",
    "blank lines": f"\n {MX}\n ;\n {DMARC}",
}
TOPS = {
    "nothing": "",
    "received above": f"{RECEIVED}Authentication-Results: {MX}; {DMARC}\n",
    "received below": f"Authentication-Results: {MX}; {DMARC}\n{RECEIVED}",
    "a blank before the colon": f"Authentication-Results : {MX}; {DMARC}\n",
    "no blank after the colon": f"Authentication-Results:{MX}; {SPF}\n",
    "the name in capitals": f"AUTHENTICATION-RESULTS: {MX}; {DMARC}\n",
    "arc": f"ARC-Authentication-Results: i=1; {MX}; {DMARC}\n",
    "received-spf": RECEIVED_SPF,
    "our transport's fields": f"Return-Path: <a@shop.example>\nAuthentication-Results: {MX}; {DMARC}\n",
}
# The identity that a signature of the stranger's own domain names: OpenDKIM writes it, decoded, into its own field, and
# OpenDMARC reads it there.
IDENTITIES = {
    "dmarc": b"a=3Bdmarc=3Dpass=20header.from=3Dshop.example=3Bx@evil.example",
    "dkim": b"a=3Bdkim=3Dpass=20header.d=3Dshop.example=20header.x=3Dy@evil.example",
    "dkim in full": b"@evil.example=3bdkim=3dpass=20header.d=3dshop.example=20header.i=3d@shop.example=20x.x=3dy"
    b"@evil.example",
    "a second domain": b"a=20header.d=3Dshop.example=20header.x=3Dy@evil.example",
    "a second identity": b"a=20header.i=3D@shop.example=20header.x=3Dy@evil.example",
    "a tabulator": b"a=09header.d=3Dshop.example=09header.x=3Dy@evil.example",
    "a line": b"a=0D=0AAuthentication-Results:=20mx.example.com=3B=20dmarc=3Dpass=20header.from=3Dshop.example"
    b"@evil.example",
}
# The envelope's sender, of which OpenDMARC takes what stands behind the first @ for the domain that SPF has passed.
ENVELOPES = {
    "quoted": '"a@shop.example"@evil.example',
    "quoted, with a blank": '"a@shop.example "@evil.example',
    "quoted, with a dot": '"a@shop.example."@evil.example',
    "quoted, with a parenthesis": '"a@shop.example("@evil.example',
    "a route": "@shop.example,@x.example:a@evil.example",
    "two of them": "a@shop.example@evil.example",
}
# The client's name, which OpenDMARC reads likewise where the sender is nobody.
NAMES = {"a comma": "shop.example,@evil.example", "a quote": 'shop.example"@evil.example'}
FROMS = {
    "evil and shop": "a@evil.example, buyer@shop.example",
    "shop and evil": "buyer@shop.example, a@evil.example",
    "two of shop": "buyer@shop.example, boss@shop.example",
    "shop and other": "buyer@shop.example, buyer@other.example",  # both are allowed
    "shop as the name": '"buyer@shop.example" <a@evil.example>',
    "shop in a comment": "a@evil.example (buyer@shop.example)",
    "shop as a group": "buyer@shop.example: a@evil.example;",
    "shop below evil": "a@evil.example\nFrom: buyer@shop.example",
    "evil below shop": "buyer@shop.example\nFrom: a@evil.example",
    "a long s": "buyer@\u017fhop.example",
    "a route": "<@shop.example:a@evil.example>",
    "evil in quotes": '"a@evil.example <buyer"@shop.example',
}


def mail(subject: str, top: str = "", sender: str = "buyer@shop.example") -> bytes:
    """Write an order of one line; `top` stands above its header."""
    name = re.sub(r"\W+", ".", subject)
    return (
        f"{top}From: {sender}\nTo: {STRICT}\nSubject: {subject}\nMessage-ID: <{name}@shop.example>\n"
        "Date: Mon, 30 Nov 2026 10:00:00 +0000\n\n12 widgets\n"
    ).encode()


class Senders:
    """The shop and another whose mail is taken, and a stranger with a domain of his own."""

    def __init__(self, directory):
        self.shop = Domain(directory, "shop.example", spf=f"v=spf1 ip4:{OWN_HOST} -all")
        self.other, self.evil = (
            Domain(directory, "other.example"),
            Domain(directory, "evil.example", "v=DMARC1; p=none", EVIL_SPF),
        )

    def genuine(self) -> Iterator[tuple[str, str, str, bytes]]:
        """Return mail of the shop: subject, envelope sender, from where, and the bytes."""
        others = f"Authentication-Results: lists.example; {DKIM}\n{RECEIVED_SPF.replace('mx', 'lists')}{RECEIVED}"
        for subject, envelope, sender, top in (
            ("signed", "bounces@service.example", "buyer@shop.example", ""),
            ("signed, by nobody", "", "buyer@shop.example", ""),
            ("signed, in capitals", "bounces@service.example", "The Shop <Buyer@SHOP.Example>", ""),
            ("signed, with fields of others", "a@lists.example", "buyer@shop.example", others),
        ):
            yield subject, envelope, STRANGER, self.shop.sign(mail(subject, top, sender))
        yield "unsigned", "buyer@shop.example", OWN_HOST, mail("unsigned")

    def forged(self) -> Iterator[tuple[str, str, str, bytes]]:
        """Return mail of the stranger that pretends to be the shop's, likewise."""
        kinds: dict[str, Callable[[str], bytes]] = {}
        for name, value in FIELDS.items():
            kinds[f"field: {name}"] = partial(mail, top=f"Authentication-Results: {value}\n")
        for name, top in TOPS.items():
            kinds[f"top: {name}"] = partial(mail, top=top)
        for name, identity in IDENTITIES.items():
            kinds[f"identity: {name}"] = lambda subject, i=identity: self.evil.sign(mail(subject), i)
        for name, sender in FROMS.items():
            kinds[f"from: {name}, signed"] = lambda subject, s=sender: self.evil.sign(mail(subject, sender=s))
            kinds[f"from: {name}"] = partial(mail, top=f"Authentication-Results: {MX}; {DMARC}\n", sender=sender)
        both = "buyer@shop.example, buyer@other.example"
        kinds["from: shop and other, signed by other"] = lambda subject: self.other.sign(mail(subject, sender=both))
        kinds["changed"] = lambda subject: self.shop.sign(mail(subject)) + b"and 1000 more\n"
        for kind, make in kinds.items():
            # Where no signature of his own helps him, the stranger is the shop in the envelope, too.
            envelope = "buyer@shop.example" if kind.startswith(("field", "top")) else "a@evil.example"
            yield kind, envelope, STRANGER, make(kind)
        for name, envelope in ENVELOPES.items():
            yield f"envelope: {name}", envelope, STRANGER, mail(f"envelope: {name}")
        for name in NAMES:
            yield f"name: {name}", "", STRANGER, mail(f"name: {name}")


class Sent:
    """All the mail, sent to a deployment: what became of it by its subject."""

    def __init__(self, deployment: Deployment, senders: Senders) -> None:
        self.replies: dict[str, smtp.Reply | None] = {}
        for subject, envelope, client, raw in (*senders.genuine(), *senders.forged()):
            name = NAMES.get(subject.removeprefix("name: "), "client.example")
            port = deployment.postfix.smtp_port
            replies = smtp.send(port, envelope, [STRICT], raw, client_address=client, client_name=name)
            self.replies[subject] = replies.data
        accepted = sum(reply is not None and reply.code == 250 for reply in self.replies.values())
        self.is_document: list[str] = []
        self.held: list[str] = []

        def came() -> bool:
            self.is_document = [row["subject"] for row in deployment.messages()]
            listed = deployment.admin("held", "--org", "strict", "--json").splitlines()
            self.held = [json.loads(line)["subject"] for line in listed]
            return len(self.is_document) + len(self.held) >= accepted

        assert wait_until(came, 60, interval=0.5), (self.is_document, self.held, deployment.postfix.log()[-3000:])


@pytest.fixture(scope="module")
def senders():
    with scratch() as place:
        yield Senders(place)


@pytest.fixture(scope="module", params=["pipe", "lmtp"])
def sent(request, senders):
    """Everything sent through Postfix and the milters, set up as the page says."""
    with scratch() as place, Milters(place / "milters", (senders.shop, senders.other, senders.evil)) as milters:
        settings = {"ORDERFLOW_AUTHSERV_ID": MX}
        deployment = Deployment(place, settings, way=request.param, service=True, overrides=milters.main + XCLIENT)
        deployment.set_up("strict")
        deployment.admin("org", "set", "strict", "allowed_senders=@shop.example,@other.example")
        with deployment.service, deployment.postfix:
            yield Sent(deployment, senders)


def test_genuine_mail_is_taken_and_forged_mail_is_held(sent, senders):
    refused = {subject: reply for subject, reply in sent.replies.items() if reply is None or reply.code != 250}
    assert refused == {}
    assert sorted(sent.is_document) == sorted(subject for subject, *_ in senders.genuine())
