"""Stores and proxies that are not as AWS is: what they make of metadata, checksums, addresses and sizes."""

import hashlib
from datetime import UTC, datetime
from email.header import Header
from urllib.parse import quote, unquote, unquote_plus

import boto3
import pytest

from orderflow_ingest import delivery
from orderflow_ingest.archive import open_archive
from orderflow_ingest.archive.metadata import read_headers, write_headers
from orderflow_ingest.archived import write_organizations
from orderflow_ingest.envelope import Envelope
from orderflow_ingest.keeping.erasure import Request, erase
from orderflow_ingest.keys import raw_key
from orderflow_ingest.outcomes import Outcome
from orderflow_ingest.rebuild import Choice, Note, Tally, find_organizations, rebuild
from orderflow_ingest.records import Filter, Records, schema
from tests.fakes import embedded
from tests.lab.odd_store import PREFIX, OddStore
from tests.mails import mail, order

RAW = b"Subject: order 17\n\nten of them\n"
DIGEST = hashlib.sha256(RAW).hexdigest()
KEY = raw_key(7, DIGEST)
AT = datetime(2026, 3, 14, 15, 9, 26, 535897, UTC)
TOLD = {
    "org": "acme",
    "sender": "büro+100%41=?@shop.example",
    "recipient": "orders+acme@orderflow.example.com",
    "original-recipient": "",
    "queue-id": "4XYZ",
    "received-at": AT.isoformat(),
    "held": "a, b;c  d/e",
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "LABACCESSKEY00000009")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-any-log")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def as_latin1(text: str) -> str:
    """Give UTF-8 as a client sees it that takes headers for Latin-1, as Python's does."""
    return text.encode().decode("latin-1")


# Metadata

NAMES = {
    "as sent": lambda name: name,
    "titled": str.title,
    "upper": str.upper,
    "titled, no prefix's case": lambda name: PREFIX + name.removeprefix(PREFIX).title(),
    "underscores": lambda name: PREFIX + name.removeprefix(PREFIX).replace("-", "_"),
    "doubled prefix": lambda name: PREFIX + name,
}
VALUES = {
    "as sent": lambda value: value,
    "decoded to UTF-8": lambda value: as_latin1(unquote(value)),
    "decoded as a form": lambda value: as_latin1(unquote_plus(value)),
    "decoded to Latin-1": unquote,
    "encoded once more": lambda value: quote(value, safe=""),
    "percent alone encoded": lambda value: value.replace("%", "%25"),
    "RFC 2047": lambda value: Header(unquote(value), "utf-8", maxlinelen=10**6).encode(),
    "RFC 2047 of what was sent": lambda value: Header(value, "utf-8", maxlinelen=10**6).encode(),
    "padded": lambda value: f"  {value} ",
    "twice": lambda value: f"{value}, {value}",
    "lower-case escapes": lambda value: quote(unquote(value), safe="@.:/").replace("%C3%BC", "%c3%bc"),
}


@pytest.mark.parametrize("names", NAMES)
def test_names_are_ours_whatever_letters_a_store_writes_them_in(names):
    with OddStore(names=NAMES[names]) as store:
        archive = open_archive("s3://orders", store.endpoint)
        archive.put(KEY, RAW, DIGEST, TOLD)
        for found in (archive.describe(KEY), archive.fetch(KEY)):
            assert (found.metadata, found.is_changed) == (TOLD, False)
        archive.put(KEY, RAW, DIGEST, long := {**TOLD, "sender": "x" * 3000})
        assert archive.describe(KEY).metadata == archive.fetch(KEY).metadata == long


@pytest.mark.parametrize("values", VALUES)
def test_values_come_back_whatever_a_store_or_a_proxy_made_of_them(values):
    with OddStore(values=VALUES[values]) as store:
        archive = open_archive("s3://orders", store.endpoint)
        archive.put(KEY, RAW, DIGEST, TOLD)
        found = archive.describe(KEY)
        assert (found.metadata, found.is_changed) == (TOLD, False)


@pytest.mark.parametrize(
    "value", ["", "a%41b", "%25", " around ", "=?utf-8?q?a?=", "Ã¼", "a, a", "a+b", "注文", "\x7f"]
)
@pytest.mark.parametrize("change", VALUES)
def test_no_value_is_read_as_another_one_and_said_to_be_right(value, change):
    """What cannot be had back, such as blanks at the end, is told as changed."""
    told = {"sender": value, "org": "acme"}
    headers = {name: VALUES[change](text).strip() for name, text in write_headers(told).items()}
    found = read_headers(headers)
    assert found.metadata == told or found.is_changed


@pytest.mark.parametrize("lost", ["sender", "queue-id", "check"])
def test_what_is_lost_on_the_way_is_missing_and_never_empty(lost):
    headers = {name: text for name, text in write_headers(TOLD).items() if name != lost}
    found = read_headers(headers)
    assert lost not in found.metadata and found.is_changed is (lost != "check")
    assert found.metadata["recipient"] == TOLD["recipient"]


def test_a_value_that_was_cut_is_told_as_changed():
    headers = write_headers(TOLD)
    found = read_headers({**headers, "sender": headers["sender"][:9]})
    assert found.is_changed and found.metadata["org"] == "acme"


def test_two_headers_of_one_name_that_differ_are_told_as_changed():
    headers = write_headers({"sender": "a@b.example"})
    assert read_headers({"Sender": "evil@x.example", **headers}).is_changed


FORMER = {"org": "acme", "sender": "b%C3%BCro+x@shop.example", "queue-id": "4X", "received-at": AT.isoformat()}


@pytest.mark.parametrize(
    ("change", "sender"),
    [
        (lambda value: value, "büro+x@shop.example"),
        (lambda value: quote(value, safe=""), "büro+x@shop.example"),
        (lambda value: as_latin1(unquote(value)), "büro+x@shop.example"),
        (lambda value: value.lower(), "büro+x@shop.example"),
    ],
    ids=["as sent", "encoded once more", "decoded", "lower case"],
)
def test_what_an_earlier_version_wrote_is_read_by_what_it_never_wrote_so(change, sender):
    found = read_headers({name.title(): change(value) for name, value in FORMER.items()})
    assert (found.metadata["sender"], found.metadata["queue-id"].upper()) == (sender, "4X")


# Rebuild and erasure


def store_parts(place, endpoint):
    """Give a deployment whose archive is an odd store."""
    parts = embedded(place)
    object.__setattr__(parts, "archive", open_archive("s3://orders", endpoint))
    return parts


def deliver(parts, raw, **told):
    envelope = {"sender": "bounces@esp.example", "queue_id": "4XYZ", "client_address": "192.0.2.7", "received_at": AT}
    return delivery.deliver(Envelope("orders+acme@orderflow.example.com", **(envelope | told)), raw, parts).outcome


def rebuilt(parts, place):
    """Rebuild into a database of its own; give the rows and what was noted."""
    records = Records(f"sqlite:///{place}/again.db", create=True)
    schema.upgrade(records.database)
    object.__setattr__(parts, "records", records)
    found = list(find_organizations(parts.archive))
    for one in found:
        records.restoring.add_organization(one.org)
    tally = Tally()
    for _ in rebuild([one.org for one in found], Choice(AT, "jo@desk"), parts, 0, tally):
        pass
    rows = [*records.messages.select(Filter(), 9), *records.conflicts.open()]
    return {(row.subject, row.raw_key): row for row in rows}, tally


@pytest.mark.parametrize("names", ["titled", "underscores"])
def test_a_rebuild_from_a_store_that_writes_names_in_its_own_way_makes_the_same_rows(place, names):
    with OddStore(names=NAMES[names]) as store:
        parts = store_parts(place, store.endpoint)
        assert deliver(parts, order(1)) is Outcome.DELIVERED
        assert deliver(parts, mail(2), sender="") is Outcome.DELIVERED
        assert deliver(parts, order(1) + b"other") is Outcome.HELD
        parts.records.organizations.change_settings("acme", {"conflicts": "accept"})
        assert deliver(parts, order(1) + b"third") is Outcome.DELIVERED
        write_organizations(parts.records, parts.archive)
        before = {row.raw_key: row for row in parts.records.messages.select(Filter(), 9)}
        _, tally = rebuilt(parts, place)
        assert tally.notes == {Note.UNFINISHED: 3}
        after = {row.raw_key: row for row in parts.records.messages.select(Filter(), 9)}
        told = ("id", "envelope_sender", "queue_id", "received_at", "source_message_id", "traits", "client_address")
        for key, row in before.items():
            assert [getattr(after[key], name) for name in told] == [getattr(row, name) for name in told]
        (held,) = parts.records.conflicts.open()
        assert held.envelope_sender == "bounces@esp.example"
        org = parts.records.organizations.find("acme")
        assert erase(Request(org, sender="bounces@esp.example"), parts, "jo@desk").messages == 2


def test_a_rebuild_from_a_store_that_loses_metadata_says_so_and_takes_nobody_for_the_null_sender(place):
    with OddStore(names=lambda name: None) as store:
        parts = store_parts(place, store.endpoint)
        for number in (1, 2):
            assert deliver(parts, order(number), sender="") is Outcome.DELIVERED
        write_organizations(parts.records, parts.archive)
        found, tally = rebuilt(parts, place)
        assert tally.notes[Note.NO_SENDER] == tally.notes[Note.NO_ENVELOPE] == 2
        assert {(row.envelope_sender, *row.traits) for row in found.values()} == {("<unknown>",)}


def test_a_rebuild_counts_what_a_store_has_changed(place):
    with OddStore(values=lambda value: value[:12]) as store:
        parts = store_parts(place, store.endpoint)
        assert deliver(parts, order(1)) is Outcome.DELIVERED
        write_organizations(parts.records, parts.archive)
        _, tally = rebuilt(parts, place)
        assert tally.notes[Note.CHANGED] == 1
