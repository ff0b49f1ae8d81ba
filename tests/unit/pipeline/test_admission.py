"""Whose copy of a mail came first never decides what becomes of it; and what was recorded before is known again."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

import orderflow_ingest
from orderflow_ingest.app import App
from orderflow_ingest.config import load
from orderflow_ingest.domain.addresses import Addresses
from orderflow_ingest.domain.ascii_case import ascii_lower
from orderflow_ingest.domain.envelope import BEFORE_QUEUE, Envelope
from orderflow_ingest.domain.identity import disambiguated_message_id, read_mail, read_message
from orderflow_ingest.domain.org_settings import read_settings
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import HoldReason
from orderflow_ingest.maintenance.imports import importer as imports
from orderflow_ingest.maintenance.imports.sources import FileMail
from orderflow_ingest.parsing.mime.fields import HEADER_LINES
from orderflow_ingest.pipeline import replay
from orderflow_ingest.pipeline.deliver import Delivery
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import NO_TENANT, Filter, IdentityTakenError
from orderflow_ingest.storage.database.tables import held_mail, inbound_message
from tests.support.fakes import embedded
from tests.support.mails import mail

ACME = "orders+acme@orderflow.example.com"
MX = "mx.example.com"
PASS = f"Authentication-Results: {MX}; dmarc=pass (p=reject dis=none) header.from=shop.example\n"
FAIL = PASS.replace("=pass", "=fail")


@pytest.fixture
def app(place) -> App:
    return embedded(place, ORDERFLOW_AUTHSERV_ID=MX)


def post(app: App, raw: bytes, results: str = "", queue_id: str = "Q1", listener: str = "") -> Delivery:
    """Deliver a mail as Postfix gives it, with what our server says of its sender."""
    top = f"{results}Received: from client by mx (Postfix) with ESMTP id {queue_id};\n\t{datetime.now(UTC)}\n"
    envelope = Envelope(recipient=ACME, received_at=datetime.now(UTC), queue_id=queue_id, listener=listener)
    return deliver_from_memory(envelope, top.encode() + raw, app)


def choose(app: App, **settings: str) -> None:
    assert app.records.organizations.change_settings("acme", settings)


def rows(app: App):
    return app.records.messages.select(Filter(), 100)


@pytest.fixture
def strict(app) -> App:
    choose(app, allowed_senders="@shop.example")
    return app


@pytest.mark.parametrize("decide", ["open", "discard"])
@pytest.mark.parametrize("results", ["", FAIL, PASS.replace("shop", "evil")])
def test_a_mail_that_passes_is_delivered_though_a_strangers_copy_is_held_or_was_discarded(strict, decide, results):
    assert post(strict, mail(), results).outcome is Outcome.HELD
    (copy,) = strict.records.held_mail.open()
    if decide == "discard":
        assert replay.discard_held(copy, strict, "me@here", "not theirs")
    ended = post(strict, mail(), PASS, "Q2")
    assert ended.outcome is Outcome.DELIVERED and len(rows(strict)) == 1
    assert strict.archive.read(copy.raw_key, copy.digest).endswith(mail())
    assert post(strict, mail(), PASS, "Q3") == Delivery(Outcome.DUPLICATE, "acme", ended.message_id)
    assert len(strict.queue.extractions) == 1
    if decide == "open":
        with pytest.raises(IdentityTakenError):
            replay.accept_held(copy, strict, "me@here")
    assert len(rows(strict)) == 1 and len(strict.archive.objects()) == 2 + (decide == "discard")


def test_a_stranger_is_told_the_same_whatever_the_organization_has(strict):
    known, other = mail(), mail(body=b"13 widgets\n")
    assert post(strict, known, PASS).outcome is Outcome.DELIVERED
    (row,) = rows(strict)
    for raw in (known, other, mail(2)):
        assert post(strict, raw, FAIL, "Q2").outcome is Outcome.HELD
        assert post(strict, raw, FAIL, "Q3").outcome is Outcome.HELD
    assert strict.records.held_mail.count_open() == 3
    assert {one.inbound_message_id for one in strict.records.held_mail.open()} == {None}
    assert rows(strict) == [row] and strict.archive.read(row.raw_key, row.digest)
    choose(strict, max_message_size=str(len(known)))
    assert post(strict, known, FAIL, "Q4").outcome is Outcome.TOO_BIG


def test_a_stranger_who_uses_a_message_id_first_takes_it_from_nobody(strict):
    assert post(strict, mail(body=b"none at all\n")).outcome is Outcome.HELD
    assert post(strict, mail(), PASS, "Q2").outcome is Outcome.DELIVERED
    (row,) = rows(strict)
    assert row.source_message_id == "<order-1@shop.example>"
    (copy,) = strict.records.held_mail.open()
    assert replay.accept_held(copy, strict, "me@here")
    assert len(rows(strict)) == 2


def test_a_strangers_copy_that_is_a_message_is_the_order_and_the_senders_own_mail_its_duplicate(app):
    assert post(app, mail()).outcome is Outcome.DELIVERED
    choose(app, allowed_senders="@shop.example")
    assert post(app, mail(), PASS, "Q2").outcome is Outcome.DUPLICATE
    assert post(app, mail(2), FAIL, "Q3").outcome is Outcome.HELD
    (copy,) = app.records.held_mail.open()
    assert replay.accept_held(copy, app, "me@here")
    assert post(app, mail(2), PASS, "Q4").outcome is Outcome.DUPLICATE
    assert len(rows(app)) == 2


def test_content_of_a_stranger_under_a_message_id_that_he_had_before_the_policy_holds_the_mail_and_loses_nothing(app):
    assert post(app, mail(body=b"none at all\n")).outcome is Outcome.DELIVERED
    choose(app, allowed_senders="@shop.example")
    assert post(app, mail(), PASS, "Q2").outcome is Outcome.HELD
    (held,) = app.records.held_mail.open()
    assert held.reason is HoldReason.MESSAGE_ID_REUSED and app.archive.read(held.raw_key, held.digest).endswith(mail())


@pytest.mark.parametrize("decide", ["open", "discard", "erased"])
def test_a_strangers_copy_that_was_held_for_its_message_id_does_not_stand_for_the_senders_own_mail(app, decide):
    post(app, mail(body=b"other\n"))
    assert post(app, mail()).outcome is Outcome.HELD
    (copy,) = app.records.held_mail.open()
    if decide == "discard":
        replay.discard_held(copy, app, "me@here")
    if decide == "erased":
        app.archive.delete(copy.raw_key)
    choose(app, allowed_senders="@shop.example")
    ended = post(app, mail(), PASS, "Q2")
    assert ended.outcome is Outcome.DELIVERED
    assert post(app, mail(), PASS, "Q3") == Delivery(Outcome.DUPLICATE, "acme", ended.message_id)
    assert len(rows(app)) == 2


def test_what_the_sender_himself_had_held_for_its_message_id_stays_held(strict):
    post(strict, mail(body=b"other\n"), PASS)
    assert post(strict, mail(), PASS, "Q2").outcome is Outcome.HELD
    (held,) = strict.records.held_mail.open()
    assert post(strict, mail(), PASS, "Q3").outcome is Outcome.DUPLICATE
    replay.discard_held(held, strict, "me@here")
    assert post(strict, mail(), PASS, "Q4").outcome is Outcome.DUPLICATE
    assert len(rows(strict)) == 1


def test_a_strangers_copy_takes_no_object_from_a_mail_that_is_being_recorded(strict):
    real, raws = strict.archive.put, []

    def put(key, data, *more):
        strict.archive.put = real
        real(key, data, *more)
        raws.append(data)
        envelope = Envelope(recipient=ACME, received_at=datetime.now(UTC), listener=BEFORE_QUEUE)
        assert deliver_from_memory(envelope, data, strict).outcome is Outcome.HELD
        assert deliver_from_memory(envelope, data, strict).outcome is Outcome.HELD

    strict.archive.put = put
    assert post(strict, mail(), PASS).outcome is Outcome.DELIVERED
    (row,) = rows(strict)
    assert strict.archive.read(row.raw_key, row.digest) == raws[0]


def test_before_the_queue_nobody_is_authenticated(strict):
    assert post(strict, mail(), PASS, listener=BEFORE_QUEUE).outcome is Outcome.HELD
    assert post(strict, mail(), PASS).outcome is Outcome.DELIVERED


def test_a_mail_whose_header_is_too_long_to_be_judged_is_held_and_delivered_where_nobody_is_judged(strict):
    long = mail(1, **{"X-Filler": "y\n z" * HEADER_LINES})
    ended = post(strict, long, PASS)
    assert (ended.outcome, ended.reason) == (Outcome.HELD, "its header is too long to be judged")
    choose(strict, allowed_senders="")
    assert post(strict, long, "", "Q2").outcome is Outcome.DELIVERED
    assert post(strict, long, PASS, "Q3").outcome is Outcome.DUPLICATE
    assert post(strict, long + b"more", PASS, "Q4").outcome is Outcome.HELD
    (row,) = rows(strict)
    assert (row.source_message_id, row.subject) == ("<order-1@shop.example>", "Order 1")


# What earlier versions recorded


ODD = mail(1, To='"A  B" <orders@orderflow.example.com>')
PLAIN = ODD.replace(b"A  B", b"A B")
NAMELESS = mail(1, To='"A  B" <orders@orderflow.example.com>', **{"Message-ID": ""})


def make_former(app: App, raw: bytes) -> None:
    """Have what is recorded of a mail be recorded as an earlier version did."""
    message = read_message(raw)
    new, former = message.fingerprint, message.former_fingerprint
    assert former
    with app.records.database.write(NO_TENANT) as connection:
        for table in (inbound_message, held_mail):
            connection.execute(table.update().where(table.c.fingerprint == new).values(fingerprint=former))
            own = disambiguated_message_id("<order-1@shop.example>", new)
            changes = {
                f"synthetic:{new}": f"synthetic:{former}",
                own: disambiguated_message_id("<order-1@shop.example>", former),
            }
            for now, then in changes.items():
                one = table.c.source_message_id == now
                connection.execute(table.update().where(one).values(source_message_id=then))


@pytest.mark.parametrize("raw", [ODD, NAMELESS, ODD.replace(b"12 ", b"12\r"), NAMELESS.replace(b"12 ", b"12\r\n")])
def test_what_an_earlier_version_recorded_is_a_duplicate_when_it_comes_again(app, raw):
    first = post(app, raw)
    make_former(app, raw)
    assert post(app, raw, "", "Q2") == Delivery(Outcome.DUPLICATE, "acme", first.message_id)
    assert len(rows(app)) == len(app.archive.objects()) == 1


@pytest.mark.parametrize("policy", ["hold", "accept"])
def test_what_an_earlier_version_held_or_accepted_is_known_too(app, policy):
    choose(app, reused_message_id=policy)
    post(app, mail(body=b"other\n"))
    post(app, ODD, "", "Q2")
    make_former(app, ODD)
    assert post(app, ODD, "", "Q3").outcome is Outcome.DUPLICATE
    assert len(rows(app)) + app.records.held_mail.count_open() == len(app.archive.objects()) == 2


def test_what_an_earlier_version_held_for_its_sender_is_held_once(strict):
    post(strict, ODD)
    make_former(strict, ODD)
    assert post(strict, ODD, "", "Q2").outcome is Outcome.HELD
    assert strict.records.held_mail.count_open() == len(strict.archive.objects()) == 1


@pytest.mark.parametrize("is_former", [False, True])
@pytest.mark.parametrize("name", ["<order-1@shop.example>", ""])
@pytest.mark.parametrize("is_odd_first", [False, True])
def test_two_mails_that_earlier_versions_took_for_one_are_two(app, is_former, name, is_odd_first):
    odd, plain = (raw if name else without_name(raw) for raw in (ODD, PLAIN))
    first, second = (odd, plain) if is_odd_first else (plain, odd)
    assert post(app, first).outcome is Outcome.DELIVERED
    if is_former and is_odd_first:
        make_former(app, first)
    ended = post(app, second, "", "Q2")
    if is_former and is_odd_first:
        # The second has no fingerprint but the former one of the first: it was a duplicate, and is one.
        assert ended.outcome is Outcome.DUPLICATE
        return
    assert ended.outcome is (Outcome.HELD if name else Outcome.DELIVERED)
    assert len(app.archive.objects()) == 2


def without_name(raw: bytes) -> bytes:
    return raw.replace(b"Message-ID: <order-1@shop.example>\n", b"")


def test_where_the_archive_does_not_answer_an_old_mail_waits_and_where_it_has_lost_it_the_mail_is_held(app):
    post(app, ODD)
    make_former(app, ODD)
    app.archive.fault = ArchiveUnavailable("archive: away")
    assert post(app, ODD, "", "Q2").outcome is Outcome.BACKEND_DOWN
    app.archive.fault = None
    (row,) = rows(app)
    app.archive.delete(row.raw_key)
    assert post(app, ODD, "", "Q3").outcome is Outcome.HELD


def test_an_import_knows_what_an_earlier_version_recorded(app):
    for number, raw in enumerate((ODD, NAMELESS)):
        post(app, raw, "", f"Q{number}")
        make_former(app, raw)
        org = app.records.organizations.find("acme")
        importer = imports.Importer(app, org, "me@here", None, again=False, wait=lambda: None)
        verdict = importer.preview(FileMail("a.eml", len(raw), raw=raw), read_mail(raw))
        assert verdict.outcome is imports.ImportOutcome.CAME_BY_MAIL


# Letter case


def test_ascii_lower_folds_ascii_alone():
    assert ascii_lower("ABCxyz\u212a\u0130ÄÖ@") == "abcxyz\u212a\u0130ÄÖ@"
    assert ascii_lower("A" * 100) == "a" * 100


def test_no_name_of_other_letters_is_taken_for_one_of_ours():
    environ = {"ORDERFLOW_SETTINGS": "/dev/null", "ORDERFLOW_DOMAIN": "K.example"}
    assert load(environ=environ).domains == ("k.example",)
    assert read_settings({"allowed_senders": "@\u212a.example, @A.example"}).allowed_senders == (
        "@\u212a.example",
        "@a.example",
    )


def test_a_recipient_is_folded_as_postfix_folds_it():
    """Postfix's maps find acme for what Unicode folds to it: 250 at RCPT, and a bounce if we did not (real Postfix)."""
    addresses = Addresses("book", "+", ("k.example",))
    for recipient in ("BOOK+K@K.Example", "book+k@\u212a.example", "boo\u212a+k@k.example", "book+\u212a@k.example"):
        assert addresses.slug(recipient) == "k"
    assert addresses.is_postmaster("postmaster@\u212a.example")


# Where str.lower() stands for something that is no id, address or domain, or is compared with what a database folds.
_OTHER_WORDS = re.compile(
    r"(?i)\b(?:address|domain|sender|slug|recipient|authserv|org|local|user)\w*\)?\.(?:lower|casefold)\("
)
_AS_THE_DATABASE_FOLDS = {"entrypoints/admin/erase.py", "maintenance/erasure.py", "storage/database/selection.py"}


def test_ids_addresses_and_domains_are_folded_by_one_function():
    package = Path(orderflow_ingest.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if _OTHER_WORDS.search(line)
    }
    assert found <= _AS_THE_DATABASE_FOLDS
