"""What a real Postfix makes of a mail for a next hop without 8BITMIME is the same mail."""

import pytest
from aiosmtpd.controller import Controller

from orderflow_ingest.domain.identity import read_mail
from orderflow_ingest.domain.outcomes import Outcome
from tests.support.fakes import embedded
from tests.support.lab.postfix import Postfix
from tests.support.lab.process import free_port, scratch, wait_until
from tests.support.lab.smtp import send
from tests.support.rewritten import ACME, UMLAUTS, attached, difference, mixed, post, renumbered, written


@pytest.fixture
def app(place):
    return embedded(place)


class Sink:
    """The next hop: it keeps what it gets."""

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, server, session, envelope):
        self.mails.append(envelope.content)
        return "250 OK"


@pytest.fixture(scope="module")
def downgraded():
    """Return mails as Postfix hands them on to a next hop without 8BITMIME."""
    sink = Controller(Sink(), hostname="127.0.0.1", port=free_port())
    with scratch() as directory:
        postfix = Postfix(directory / "postfix")
        to_sink = f"default_transport = smtp:[127.0.0.1]:{sink.port}"
        postfix.configure(overrides=f"{to_sink}\nsmtp_discard_ehlo_keywords = 8bitmime, smtputf8\n")
        sink.start()
        try:
            with postfix:
                for raw in GATED.values():
                    sent = send(postfix.smtp_port, "a@b.example", [ACME], raw, mail_options=["BODY=8BITMIME"])
                    assert sent.accepted
                assert wait_until(lambda: len(sink.handler.mails) == len(GATED), 60)
        finally:
            sink.stop()
        yield {read_mail(raw).message.source_message_id: raw for raw in sink.handler.mails}


GATED = {
    "text": written(),
    "latin": renumbered(written(UMLAUTS, "iso-8859-1")),
    "parts": mixed().replace(b"order-1@", b"order-3@"),
    "attached": attached("Order 2").replace(b"order-1@", b"order-4@", 1),
}


@pytest.mark.parametrize("name", GATED)
def test_what_postfix_makes_of_a_mail_for_a_next_hop_without_8bitmime_is_the_same_mail(downgraded, app, name):
    raw = GATED[name]
    changed = downgraded[read_mail(raw).message.source_message_id]
    assert b"quoted-printable" in changed
    assert read_mail(changed).message.fingerprint != read_mail(raw).message.fingerprint
    assert difference(raw, changed) == ""
    assert post(app, raw).outcome is Outcome.DELIVERED
    assert post(app, changed).outcome is Outcome.DUPLICATE
    other = changed.replace(b"12", b"13").replace(b"=FC", b"=E4").replace(b"W-1", b"W-2")
    assert difference(raw, other)
