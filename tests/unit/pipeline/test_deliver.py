"""deliver.py: the steps, the outcomes, and what becomes of a spool entry."""

import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import read_mail, read_message
from orderflow_ingest.domain.object_keys import decision_key
from orderflow_ingest.domain.outcomes import DeadlineReached, Outcome
from orderflow_ingest.domain.sender_policy import Authenticator
from orderflow_ingest.domain.states import HoldReason
from orderflow_ingest.parsing.documents import read_parts
from orderflow_ingest.parsing.mime.fields import read_mail_header
from orderflow_ingest.pipeline import deliver, extract, receive, replay
from orderflow_ingest.pipeline.admission import classify
from orderflow_ingest.pipeline.archive_manifest import read_decision
from orderflow_ingest.pipeline.deliver import Delivery
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import NO_TENANT, DatabaseUnavailable, Filter, IdentityTakenError, messages
from orderflow_ingest.storage.database.tables import organization
from orderflow_ingest.storage.envelope_header import encode_envelope
from tests.support.fakes import embedded
from tests.support.lab.process import wait_until
from tests.support.mails import mail, order
from tests.support.posting import ACME, post


@pytest.fixture
def app(place) -> App:
    return embedded(place)


def hand(app: App, raw: bytes, recipient: str = ACME) -> Delivery:
    """Deliver a message from memory, as the mail doors do."""
    return deliver_from_memory(Envelope(recipient=recipient, received_at=datetime.now(UTC), queue_id="Q2"), raw, app)


def rows(app: App):
    return app.records.messages.select(Filter(), 100)


def test_a_message_ends_as_one_object_one_row_one_task_and_no_entry(app):
    ended = post(app, order())
    (row,) = rows(app)
    assert ended == Delivery(Outcome.DELIVERED, "acme", row.id)
    assert app.archive.objects() == [row.raw_key]
    assert app.archive.read(row.raw_key, row.digest) == order()
    assert app.queue.extractions == [(row.org_id, row.id)]
    assert app.spool.entries() == []
    assert (row.envelope_sender, row.envelope_recipient, row.queue_id) == ("buyer@shop.example", ACME, "Q1")


@pytest.mark.parametrize(
    ("recipient", "outcome"),
    [
        ("orders+acme@orderflow.example.com", Outcome.DELIVERED),
        ("Orders+ACME@OrderFlow.Example.COM", Outcome.DELIVERED),
        ("orders+nope@orderflow.example.com", Outcome.UNKNOWN_ORG),
        ("orders@orderflow.example.com", Outcome.UNKNOWN_ORG),
        ("orders+@orderflow.example.com", Outcome.UNKNOWN_ORG),
        ("orders+acme+extra@orderflow.example.com", Outcome.UNKNOWN_ORG),
        ("orders+../../etc@orderflow.example.com", Outcome.UNKNOWN_ORG),
        ("orders+acme'--@orderflow.example.com", Outcome.UNKNOWN_ORG),
        ("orders+" + "a" * 64 + "@orderflow.example.com", Outcome.UNKNOWN_ORG),
        ("invoices+acme@orderflow.example.com", Outcome.UNKNOWN_ORG),
        ("--help", Outcome.MISCONFIGURED),
        ("orders+acme@elsewhere.example", Outcome.MISCONFIGURED),
    ],
)
def test_the_organization_comes_from_the_recipient(app, recipient, outcome):
    assert post(app, mail(), recipient).outcome is outcome
    assert len(rows(app)) == (outcome is Outcome.DELIVERED)
    assert app.spool.entries() == []


def test_headers_never_choose_the_organization(app):
    raw = mail(To="orders+beta@orderflow.example.com", Delivered_To="orders+beta@orderflow.example.com")
    assert post(app, raw).org == "acme"


def test_a_disabled_organization_bounces(app):
    app.records.organizations.set_active("acme", is_active=False)
    assert post(app, mail()).outcome is Outcome.ORG_DISABLED


@pytest.mark.parametrize("raw", [b"", b"no header at all\n", b"Received: from a by b\n\nbody\n", b"\n\n\n", b"\0\0\0"])
def test_a_message_without_a_header_of_its_sender_is_malformed(app, raw):
    assert post(app, raw).outcome is Outcome.MALFORMED
    assert rows(app) == []


def test_a_redelivery_with_other_trace_headers_is_a_duplicate_without_an_orphan_object(app):
    first = post(app, b"Received: from a\n" + mail())
    second = post(app, b"Received: from b\nX-Spam: no\n" + mail())
    assert second == Delivery(Outcome.DUPLICATE, "acme", first.message_id)
    assert len(app.archive.objects()) == len(rows(app)) == len(app.queue.extractions) == 1


def test_a_mail_without_message_id_is_a_duplicate_of_itself(app):
    raw = mail(Message_ID="")
    assert post(app, raw).outcome is Outcome.DELIVERED
    assert post(app, raw).outcome is Outcome.DUPLICATE
    assert rows(app)[0].message_id_is_synthetic


def test_a_message_id_that_comes_with_other_content_is_held_archived_and_visible(app):
    first = post(app, mail())
    held = post(app, mail(body=b"13 widgets\n"))
    assert held == Delivery(Outcome.HELD, "acme", first.message_id)
    (held_row,) = app.records.held_mail.open()
    assert app.archive.read(held_row.raw_key, held_row.digest) == mail(body=b"13 widgets\n")
    assert len(rows(app)) == 1
    again = post(app, b"Received: from c\n" + mail(body=b"13 widgets\n"))
    assert again.outcome is Outcome.DUPLICATE
    assert len(app.archive.objects()) == 2
    assert app.records.held_mail.count_open() == 1


def test_a_mail_sent_again_with_its_mime_header_mended_is_not_taken_for_the_broken_one(app):
    """The body is the same to the letter; but the first one has no attachment in it."""
    mended = order(1)
    broken = mended.replace(b"Content-Type: multipart/mixed", b"X-Lost: multipart/mixed", 1)
    assert post(app, broken).outcome is Outcome.DELIVERED
    assert post(app, mended).outcome is Outcome.HELD


@pytest.mark.parametrize(
    "odd", [b"\xef\xbb\xbf", b"\n\n", b" \n", b"X-Mailer our great erp\n", "X-Größe: 1\n".encode()]
)
def test_a_header_that_postfix_took_for_body_is_read(app, odd):
    """Before a line that is no field Postfix ends the header, and puts its trace fields in front."""
    ended = post(app, b"Return-Path: <a@b>\nReceived: from a by b\n\n" + odd + order(1))
    assert ended.outcome is Outcome.DELIVERED
    (row,) = rows(app)
    assert (row.subject, row.source_message_id) == ("Order 1", "<order-1@shop.example>")
    names = [part.filename for part in read_parts(app.archive.read(row.raw_key, row.digest)) if part.is_document]
    assert names == ["order-1-0.pdf", "order-1-1.pdf"]


def test_a_queue_that_is_away_is_asked_once_in_a_delivery(app):
    app.queue.is_away = True
    post(app, mail())
    assert app.queue.calls == 1


def test_the_same_mail_for_two_organizations_is_two_messages(app):
    post(app, mail())
    assert post(app, mail(), "orders+beta@orderflow.example.com").outcome is Outcome.DELIVERED
    assert {row.org_id for row in rows(app)} == {1, 2}
    assert len(app.archive.objects()) == 2


def test_who_loses_the_race_for_an_identity_takes_its_own_object_back(app):
    """The other delivery comes in between the look-up and the insert."""
    other = b"Received: from b\n" + mail()
    real = app.archive.put

    def put(*arguments):
        app.archive.put = real
        assert post(app, other).outcome is Outcome.DELIVERED
        real(*arguments)

    app.archive.put = put
    assert post(app, b"Received: from a\n" + mail()).outcome is Outcome.DUPLICATE
    (row,) = rows(app)
    assert app.archive.objects() == [row.raw_key]
    assert app.archive.read(row.raw_key, row.digest) == other


def other_comes_first(app):
    """Let a mail with the same Message-ID and another body be recorded while the next one is put into the archive."""
    real = app.archive.put

    def put(*arguments):
        app.archive.put = real
        post(app, mail(body=b"13 widgets\n"))
        real(*arguments)

    app.archive.put = put


def test_who_loses_the_race_against_other_content_is_held(app):
    other_comes_first(app)
    assert post(app, mail()).outcome is Outcome.HELD
    assert len(app.archive.objects()) == 2
    assert app.records.held_mail.count_open() == 1


def test_a_queue_that_is_away_leaves_the_message_to_the_sweep(app):
    app.queue.is_away = True
    assert post(app, mail()).outcome is Outcome.DELIVERED
    (row,) = rows(app)
    assert app.records.messages.due(row.next_attempt_at, 10) == [(row.org_id, row.id)]


def headers_read(run) -> Counter:
    """Return how often the header of each mail is parsed in a run, in this thread."""
    read = Counter()

    def count(frame, event, _):
        if event == "call" and frame.f_code is read_mail_header.__code__:
            read[frame.f_locals["raw"]] += 1

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return read


def test_the_header_of_a_mail_is_parsed_once_in_a_delivery(place):
    app = embedded(place, ORDERFLOW_AUTHSERV_ID="mx.example")
    choose(app, allowed_senders="@shop.example")
    results = b"Authentication-Results: mx.example; dkim=pass header.d=shop.example\n"
    new = results + b"Received: from x by y with ESMTP id 4bXyz1;\n\tnow\n" + mail()
    stray, other = new.replace(b"@shop", b"@far"), new + b"other\n"

    def send(raw: bytes) -> None:
        envelope = Envelope(ACME, datetime.now(UTC), "bounce@shop.example", queue_id="4bXyz1")
        outcomes.append(deliver_from_memory(envelope, raw, app).outcome)

    outcomes: list[Outcome] = []
    assert headers_read(lambda: send(new)) == headers_read(lambda: send(new)) == {new: 1}
    assert headers_read(lambda: send(stray)) == {stray: 1}
    assert headers_read(lambda: send(other))[other] == 1
    put, winner = app.archive.put, new.replace(b"order-1@", b"order-2@")
    loser = winner + b"late\n"

    def lose(*arguments) -> None:
        app.archive.put = put
        send(winner)
        put(*arguments)

    app.archive.put = lose
    assert headers_read(lambda: send(loser))[loser] == 1
    assert outcomes == [
        Outcome.DELIVERED,
        Outcome.DUPLICATE,
        Outcome.HELD,
        Outcome.HELD,
        Outcome.DELIVERED,
        Outcome.HELD,
    ]


def test_a_queue_that_is_too_long_defers_new_mail_and_knows_old_mail(place):
    app = embedded(place, ORDERFLOW_MAX_QUEUE="3")
    post(app, mail(1))
    app.queue.waiting = 3
    assert post(app, mail(2)).outcome is Outcome.OVERLOADED
    assert post(app, mail(1)).outcome is Outcome.DUPLICATE
    assert len(rows(app)) == 1


def test_work_that_waits_too_long_defers_what_is_new_and_no_duplicate(place, monkeypatch):
    monkeypatch.setattr(messages, "_LAG_SECONDS", 0.0)
    app = embedded(place, ORDERFLOW_MAX_LAG="0.2")
    first = post(app, mail(1))
    assert first.outcome is Outcome.DELIVERED
    numbers = itertools.count(10)
    assert wait_until(lambda: post(app, mail(next(numbers))).outcome is Outcome.OVERLOADED, 60, interval=0.1)
    assert post(app, mail(1)).outcome is Outcome.DUPLICATE
    for row in rows(app):
        extract.extract(1, row.id, app)
    assert post(app, mail(3)).outcome is Outcome.DELIVERED


@pytest.mark.parametrize("database_answers", [True, False], ids=["one that answers", "one known to be unavailable"])
def test_mail_is_taken_where_how_late_the_workers_are_cannot_be_asked(place, caplog, monkeypatch, database_answers):
    app = embedded(place, ORDERFLOW_MAX_LAG="10")
    reason = "database: a node is away"

    def lag(_now):
        raise DatabaseUnavailable(reason)

    if database_answers:
        monkeypatch.setattr(app.records.messages, "lag", lag)
    else:
        monkeypatch.setattr(app.records.database, "now", lambda: lag(None))
        monkeypatch.setattr(App, "swept_at", lambda _: datetime.now(UTC))
    caplog.set_level("WARNING", logger="orderflow_ingest")
    assert [post(app, mail(n)).outcome for n in (1, 2)] == [Outcome.DELIVERED] * 2
    told = [record for record in caplog.records if record.message.startswith("How late the workers are is not known")]
    assert len(told) == 2 and told[0].reason == reason


@contextlib.contextmanager
def _no_time() -> Iterator[None]:
    raise DeadlineReached
    yield


def _away(app: App) -> None:
    app.archive.fault = ArchiveUnavailable("archive: away")


def _broken(app: App) -> None:
    app.archive.fault = KeyError("secret content")


def _nothing(app: App) -> None:
    """Break nothing."""


@pytest.mark.parametrize(
    ("mode", "sender_waits", "fault", "recipient", "outcome", "entries", "dead"),
    [
        ("defer", True, _nothing, ACME, Outcome.DELIVERED, 0, 0),
        ("defer", True, _nothing, "orders+nope@orderflow.example.com", Outcome.UNKNOWN_ORG, 0, 0),
        ("defer", True, _away, ACME, Outcome.BACKEND_DOWN, 0, 0),
        ("defer", True, _broken, ACME, Outcome.INTERNAL, 0, 0),
        ("accept", True, _nothing, ACME, Outcome.DELIVERED, 0, 0),
        ("accept", True, _nothing, "orders+nope@orderflow.example.com", Outcome.UNKNOWN_ORG, 0, 0),
        ("accept", True, _away, ACME, Outcome.SPOOLED, 1, 0),
        ("accept", True, _broken, ACME, Outcome.INTERNAL, 0, 0),
        ("accept", True, _nothing, "orders+acme@elsewhere.example", Outcome.MISCONFIGURED, 0, 0),
        ("defer", False, _nothing, ACME, Outcome.DELIVERED, 0, 0),
        ("defer", False, _nothing, "orders+nope@orderflow.example.com", Outcome.UNKNOWN_ORG, 0, 1),
        ("defer", False, _away, ACME, Outcome.BACKEND_DOWN, 1, 0),
        ("accept", False, _broken, ACME, Outcome.INTERNAL, 1, 0),
    ],
)
def test_what_becomes_of_an_entry(place, mode, sender_waits, fault, recipient, outcome, entries, dead):
    app = embedded(place, ORDERFLOW_SPOOL_MODE=mode)
    fault(app)
    assert post(app, mail(), recipient, sender_waits).outcome is outcome
    assert (len(app.spool.entries()), len(app.spool.dead())) == (entries, dead)


@pytest.mark.parametrize(("mode", "outcome"), [("defer", Outcome.DEADLINE), ("accept", Outcome.SPOOLED)])
def test_a_deadline_defers_or_leaves_the_message_in_the_spool(place, mode, outcome):
    app = embedded(place, ORDERFLOW_SPOOL_MODE=mode)
    assert post(app, mail(), within=_no_time()).outcome is outcome
    assert len(app.spool.entries()) == (mode == "accept")


def test_the_third_unexpected_error_on_one_content_sets_it_aside_and_tells_why_without_its_text(app):
    _broken(app)
    ends = [post(app, mail()).outcome for _ in range(3)]
    assert ends == [Outcome.INTERNAL, Outcome.INTERNAL, Outcome.DEAD_LETTER]
    ((name, why),) = app.spool.dead()
    assert why.count("KeyError at fakes.py") + why.count("KeyError at deliver.py") == 3
    assert "secret content" not in why
    assert app.spool.read_dead(name)[1] == mail()
    assert post(app, mail(2)).outcome is Outcome.INTERNAL, "another content counts for itself"


def test_a_deploy_that_does_not_import_sets_nothing_aside(app):
    app.archive.fault = ImportError("boto3")
    assert {post(app, mail()).outcome for _ in range(5)} == {Outcome.INTERNAL}
    assert app.spool.dead() == []


def test_a_delivery_that_works_at_last_forgets_its_failures(app):
    _broken(app)
    post(app, mail())
    app.archive.fault = None
    assert post(app, mail()).outcome is Outcome.DELIVERED
    assert not any((app.settings.spool_dir / "failures").iterdir())


def test_a_stray_exit_inside_a_delivery_is_a_fault_of_ours(app):
    app.archive.fault = SystemExit(0)
    assert post(app, mail()).outcome is Outcome.INTERNAL


def test_the_drain_delivers_what_was_left_and_stops_at_a_backend_that_is_away(place):
    app = embedded(place, ORDERFLOW_SPOOL_MODE="accept")
    _away(app)
    for number in range(3):
        assert post(app, mail(number)).outcome is Outcome.SPOOLED
    assert [ended.outcome for _, ended in receive.drain(app)] == [Outcome.BACKEND_DOWN]
    app.archive.fault = None
    assert [ended.outcome for _, ended in receive.drain(app)] == [Outcome.DELIVERED] * 3
    assert app.spool.entries() == []


def test_the_drain_passes_over_an_entry_that_another_process_works_on(app):
    blocks = iter((mail(), b""))
    envelope = Envelope(recipient=ACME, received_at=datetime.now(UTC))
    entry = app.spool.write(encode_envelope(envelope), lambda _: next(blocks), limit=1 << 30)
    assert list(receive.drain(app)) == []
    entry.release()
    assert [ended.outcome for _, ended in receive.drain(app)] == [Outcome.DELIVERED]


def test_a_damaged_entry_is_set_aside_after_the_third_drain(app):
    (app.settings.spool_dir / "new" / "short").write_bytes(b"orderflow-spool 1 000000000100\nrecipient: a\n\nhalf")
    for _ in range(3):
        list(receive.drain(app))
    assert [name for name, _ in app.spool.dead()] == ["short"]


# From memory


@pytest.mark.parametrize(
    ("mode", "fault", "recipient", "outcome", "entries"),
    [
        ("defer", _nothing, ACME, Outcome.DELIVERED, 0),
        ("defer", _nothing, "orders+nope@orderflow.example.com", Outcome.UNKNOWN_ORG, 0),
        ("defer", _away, ACME, Outcome.BACKEND_DOWN, 0),
        ("defer", _broken, ACME, Outcome.INTERNAL, 0),
        ("accept", _nothing, ACME, Outcome.DELIVERED, 0),
        ("accept", _away, ACME, Outcome.SPOOLED, 1),
        ("accept", _broken, ACME, Outcome.INTERNAL, 0),
        ("accept", _nothing, "orders+acme@elsewhere.example", Outcome.MISCONFIGURED, 0),
    ],
)
def test_a_message_from_memory_is_spooled_only_where_it_is_to_stay(place, mode, fault, recipient, outcome, entries):
    app = embedded(place, ORDERFLOW_SPOOL_MODE=mode)
    fault(app)
    assert hand(app, mail(), recipient).outcome is outcome
    assert len(app.spool.entries()) == entries
    assert app.spool.dead() == []
    app.archive.fault = None
    assert [ended.outcome for _, ended in receive.drain(app)] == [Outcome.DELIVERED] * entries


def test_a_message_from_memory_is_set_aside_too_whichever_door_it_came_through(app):
    _broken(app)
    ends = [hand(app, mail()).outcome, post(app, mail()).outcome, hand(app, mail()).outcome]
    assert ends == [Outcome.INTERNAL, Outcome.INTERNAL, Outcome.DEAD_LETTER]
    ((name, _),) = app.spool.dead()
    assert app.spool.read_dead(name)[1] == mail()
    assert app.spool.entries() == []


@pytest.mark.parametrize(
    ("fault", "times", "outcome"), [(_away, 1, Outcome.BACKEND_DOWN), (_broken, 3, Outcome.INTERNAL)]
)
def test_where_the_spool_is_gone_the_message_stays_with_its_sender(place, fault, times, outcome):
    app = embedded(place, ORDERFLOW_SPOOL_MODE="accept")
    for _ in range(times - 1):
        fault(app)
        hand(app, mail())
    fault(app)
    (app.settings.spool_dir / "tmp").rmdir()
    assert hand(app, mail()).outcome is outcome


def test_deliveries_at_the_same_time_share_their_work_and_each_gets_its_own_end(app):
    """Duplicates, held mail and another organization in one group."""
    other = order(1).replace(b"Order", b"Odour")
    beta = "orders+beta@orderflow.example.com"
    posts = [(order(1), ACME)] * 4 + [(other, ACME)] * 2 + [(order(1), beta)] * 2
    posts += [(order(number), ACME) for number in range(2, 14)]
    with ThreadPoolExecutor(len(posts)) as pool:
        ends = list(pool.map(lambda post: hand(app, *post).outcome, posts))
    first = Counter(ends[:6])
    assert first[Outcome.DELIVERED] == 1
    # Which content came first is open, and so is whether the other was held before it came once more.
    assert first[Outcome.DUPLICATE] + first[Outcome.HELD] == 5 and 1 <= first[Outcome.HELD] <= 4
    assert sorted(end.name for end in ends[6:8]) == ["DELIVERED", "DUPLICATE"]
    assert set(ends[8:]) == {Outcome.DELIVERED}
    assert len(rows(app)) == 14
    assert len(app.records.held_mail.open()) == 1
    assert len(app.queue.extractions) == 14
    assert len(app.archive.objects()) == 15


# The settings of an organization


def choose(app: App, **settings: str) -> None:
    """Set what acme's settings are; what was remembered of it is forgotten."""
    assert app.records.organizations.change_settings("acme", settings)


def test_mail_of_a_sender_that_is_not_allowed_is_held_archived_and_told_once(app):
    choose(app, allowed_senders="@other.example")
    held = post(app, mail())
    (held_row,) = app.records.held_mail.open()
    assert held == Delivery(Outcome.HELD, "acme", held_row.id)
    assert (held_row.reason, held_row.inbound_message_id, rows(app)) == (HoldReason.SENDER_NOT_ALLOWED, None, [])
    assert app.archive.read(held_row.raw_key, held_row.digest) == mail()
    assert app.queue.extractions == []
    again = post(app, b"Received: from b\n" + mail())
    assert again == held and app.archive.objects() == [held_row.raw_key]
    assert app.records.held_mail.count_open() == 1


def test_a_redelivery_of_held_mail_that_lost_the_race_leaves_no_orphan(app):
    choose(app, allowed_senders="@other.example")
    real = app.archive.put

    def put(*arguments):
        app.archive.put = real
        assert post(app, b"Received: from b\n" + mail()).outcome is Outcome.HELD
        real(*arguments)

    app.archive.put = put
    late = post(app, mail())
    (held_row,) = app.records.held_mail.open()
    assert late == Delivery(Outcome.HELD, "acme", held_row.id)
    assert app.archive.objects() == [held_row.raw_key]


def test_held_mail_that_was_accepted_is_a_duplicate_when_it_comes_again(app):
    choose(app, allowed_senders="@other.example")
    post(app, mail())
    (held_row,) = app.records.held_mail.open()
    assert replay.accept_held(held_row, app, "me@here")
    (row,) = rows(app)
    assert row.source_message_id == "<order-1@shop.example>"
    for allowed in ("@other.example", "@shop.example", ""):
        choose(app, allowed_senders=allowed)
        assert post(app, b"Received: from c\n" + mail()).outcome is Outcome.DUPLICATE
    assert len(rows(app)) == 1
    assert app.archive.objects() == [decision_key(row.raw_key), row.raw_key]


def test_held_mail_that_came_again_as_a_message_is_not_accepted_as_a_second_one(app):
    choose(app, allowed_senders="@other.example")
    post(app, mail())
    (held_row,) = app.records.held_mail.open()
    choose(app, allowed_senders="")
    assert post(app, b"Received: from c\n" + mail()).outcome is Outcome.DELIVERED
    with pytest.raises(IdentityTakenError):
        replay.accept_held(held_row, app, "me@here")
    assert len(rows(app)) == 1 and app.records.held_mail.open() == [held_row]
    assert replay.identity_of(held_row, app) is None


def test_the_first_decision_on_held_mail_stands_in_the_archive_too(app):
    choose(app, allowed_senders="@other.example")
    post(app, mail())
    (held_row,) = app.records.held_mail.open()
    assert replay.accept_held(held_row, app, "ann@desk", "rang them")
    assert not replay.discard_held(held_row, app, "bob@desk", "an old page")
    decision = read_decision(held_row.raw_key, app.archive)
    assert decision is not None
    assert (decision.resolution, decision.actor, decision.why) == ("ACCEPTED", "ann@desk", "rang them")
    assert decision.identity == rows(app)[0].source_message_id


def test_mail_that_is_held_by_one_process_takes_no_object_from_another_that_records_it(app):
    """Two that deliver the same mail while a setting changes: each knows another one for a second."""
    assert post(app, mail()).outcome is Outcome.DELIVERED
    (row,) = rows(app)
    envelope, org = Envelope(row.envelope_recipient, row.received_at), app.records.organizations.get(1)
    inbound = deliver._InboundMail(envelope, read_mail(mail()), org, deliver.BY_SMTP)
    new = deliver._new_message(envelope, read_message(mail()), org, [], deliver.BY_SMTP)
    assert deliver._hold(None, new, HoldReason.SENDER_NOT_ALLOWED, inbound, app).outcome is Outcome.HELD
    assert app.archive.read(row.raw_key, row.digest) == mail()


@pytest.mark.parametrize("allowed", ["@shop.example", ""])
def test_mail_that_passes_is_delivered_though_it_was_held_before_and_what_is_held_stays(app, allowed):
    choose(app, allowed_senders="@other.example")
    post(app, mail())
    (held_row,) = app.records.held_mail.open()
    choose(app, allowed_senders=allowed)
    assert post(app, b"Received: from b\n" + mail()).outcome is Outcome.DELIVERED
    assert post(app, mail()).outcome is Outcome.DUPLICATE
    assert app.records.held_mail.open() == [held_row]
    assert app.archive.read(held_row.raw_key, held_row.digest) == mail()
    with pytest.raises(IdentityTakenError):
        replay.accept_held(held_row, app, "me@here")
    assert len(rows(app)) == 1


def test_an_accepted_held_mail_whose_message_id_was_taken_meanwhile_is_a_message_of_its_own(app):
    choose(app, allowed_senders="@other.example")
    post(app, mail())
    choose(app, allowed_senders="")
    post(app, mail(body=b"13 widgets\n"))
    (held_row,) = app.records.held_mail.open()
    assert replay.accept_held(held_row, app, "me@here")
    assert len({row.source_message_id for row in rows(app)}) == 2


@pytest.mark.parametrize("raw", [mail(), b"Received: from x\n" + mail(Subject="Other")])
def test_mail_of_an_allowed_sender_is_delivered(app, raw):
    choose(app, allowed_senders="@other.example, BUYER@shop.example")
    assert post(app, raw).outcome is Outcome.DELIVERED


def test_where_a_reused_message_id_is_accepted_other_content_is_a_message_at_once_and_its_redelivery_a_duplicate(app):
    choose(app, reused_message_id="accept")
    post(app, mail())
    other = mail(body=b"13 widgets\n")
    second = post(app, other)
    assert second.outcome is Outcome.DELIVERED and len(app.queue.extractions) == 2
    assert post(app, b"Received: from b\n" + other) == Delivery(Outcome.DUPLICATE, "acme", second.message_id)
    choose(app, reused_message_id="hold")
    assert post(app, b"Received: from c\n" + other) == Delivery(Outcome.DUPLICATE, "acme", second.message_id)
    assert len(rows(app)) == len(app.archive.objects()) == 2
    assert app.records.held_mail.count_open() == 0


def test_what_was_held_before_a_reused_message_id_was_accepted_is_held_still(app):
    post(app, mail())
    post(app, mail(body=b"13 widgets\n"))
    choose(app, reused_message_id="accept")
    assert post(app, mail(body=b"13 widgets\n")).outcome is Outcome.DUPLICATE
    assert (len(rows(app)), app.records.held_mail.count_open()) == (1, 1)


def test_who_loses_the_race_against_other_content_is_a_message_of_its_own_where_a_reused_message_id_is_accepted(app):
    choose(app, reused_message_id="accept")
    other_comes_first(app)
    assert post(app, mail()).outcome is Outcome.DELIVERED
    assert len(rows(app)) == len(app.archive.objects()) == len(app.queue.extractions) == 2


def test_mail_over_the_organizations_own_size_is_too_big_unless_it_is_known(app):
    post(app, mail(1))
    choose(app, max_message_size=str(len(mail(1)) - 1))
    assert post(app, mail(1)).outcome is Outcome.DUPLICATE
    assert post(app, mail(2)).outcome is Outcome.TOO_BIG
    assert post(app, mail(2), "orders+beta@orderflow.example.com").outcome is Outcome.DELIVERED
    assert len(app.archive.objects()) == 2


def test_settings_that_do_not_read_defer_mail(app):
    with app.records.database.write(NO_TENANT) as connection:
        connection.execute(organization.update().values(settings={"reused_message_id": "whatever"}))
    assert post(app, mail()).outcome is Outcome.MISCONFIGURED
    assert app.archive.objects() == []


def test_what_an_operator_brings_is_judged_by_neither_its_sender_nor_its_size(app):
    choose(app, allowed_senders="@other.example", max_message_size="10")
    org, read = app.records.organizations.find("acme"), read_mail(mail())
    trusted = classify(read, org, "UPLOAD", None, app)
    assert (trusted.outcome, trusted.hold_reason) == (None, None)
    judged = classify(read, org, "UPLOAD", Authenticator(), app)
    assert judged.outcome is Outcome.TOO_BIG
