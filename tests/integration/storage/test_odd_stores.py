"""Stores and proxies that are not as AWS is: what they make of metadata, checksums, addresses and sizes."""

import hashlib
import io
import socket
import threading
import traceback
import zlib
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from email.header import Header
from types import SimpleNamespace
from urllib.parse import quote, unquote, unquote_plus

import boto3
import pytest
from botocore.exceptions import ClientError

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.object_keys import raw_key
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints.admin.checks import s3
from orderflow_ingest.entrypoints.admin.checks.s3 import PROBE, check_archive
from orderflow_ingest.maintenance.erasure import ErasureRequest, erase
from orderflow_ingest.maintenance.rebuild.organizations import find_organizations
from orderflow_ingest.maintenance.rebuild.parse_object import ObjectNote, RebuildOptions
from orderflow_ingest.maintenance.rebuild.rebuilder import RebuildProgress, rebuild_organizations
from orderflow_ingest.maintenance.reconcile.findings import ReconcileOptions
from orderflow_ingest.maintenance.reconcile.reconciler import reconcile_host, reconcile_organization
from orderflow_ingest.pipeline import deliver as delivery
from orderflow_ingest.pipeline.archive_manifest import write_organizations
from orderflow_ingest.storage.archive import ArchiveUnavailable, Fetched, ObjectDamaged, S3Archive, open_archive
from orderflow_ingest.storage.archive.metadata import read_headers, write_headers
from orderflow_ingest.storage.database import Filter, Records, schema
from orderflow_ingest.storage.resilience import timeouts
from tests.support.fakes import embedded
from tests.support.lab.odd_store import PREFIX, OddStore, Reply, error, page
from tests.support.mails import mail, order
from tests.support.servers import BUCKET

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
    """Return UTF-8 as a client sees it that takes headers for Latin-1, as Python's does."""
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
    """What cannot be had back, such as blanks at the end, is reported as changed."""
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


def store_app(place, endpoint):
    """Return a deployment whose archive is an odd store."""
    app = embedded(place)
    object.__setattr__(app, "archive", open_archive("s3://orders", endpoint))
    return app


def deliver(app, raw, **told):
    envelope = {"sender": "bounces@esp.example", "queue_id": "4XYZ", "client_address": "192.0.2.7", "received_at": AT}
    return delivery.deliver(Envelope("orders+acme@orderflow.example.com", **(envelope | told)), raw, app).outcome


def rebuilt(app, place):
    """Rebuild into a database of its own; return the rows and what was noted."""
    records = Records(f"sqlite:///{place}/again.db", create=True)
    schema.upgrade(records.database)
    object.__setattr__(app, "records", records)
    found = list(find_organizations(app.archive))
    for one in found:
        records.rebuild_writes.add_organization(one.org)
    tally = RebuildProgress()
    for _ in rebuild_organizations([one.org for one in found], RebuildOptions(AT, "jo@desk"), app, 0, tally):
        pass
    rows = [*records.messages.select(Filter(), 9), *records.held_mail.open()]
    return {(row.subject, row.raw_key): row for row in rows}, tally


@pytest.mark.parametrize("names", ["titled", "underscores"])
def test_a_rebuild_from_a_store_that_writes_names_in_its_own_way_makes_the_same_rows(place, names):
    with OddStore(names=NAMES[names]) as store:
        app = store_app(place, store.endpoint)
        assert deliver(app, order(1)) is Outcome.DELIVERED
        assert deliver(app, mail(2), sender="") is Outcome.DELIVERED
        assert deliver(app, order(1) + b"other") is Outcome.HELD
        app.records.organizations.change_settings("acme", {"reused_message_id": "accept"})
        assert deliver(app, order(1) + b"third") is Outcome.DELIVERED
        write_organizations(app.records, app.archive)
        before = {row.raw_key: row for row in app.records.messages.select(Filter(), 9)}
        _, tally = rebuilt(app, place)
        assert tally.notes == {ObjectNote.UNFINISHED: 3}
        after = {row.raw_key: row for row in app.records.messages.select(Filter(), 9)}
        told = ("id", "envelope_sender", "queue_id", "received_at", "source_message_id", "traits", "client_address")
        for key, row in before.items():
            assert [getattr(after[key], name) for name in told] == [getattr(row, name) for name in told]
        (held,) = app.records.held_mail.open()
        assert held.envelope_sender == "bounces@esp.example"
        org = app.records.organizations.find("acme")
        assert erase(ErasureRequest(org, sender="bounces@esp.example"), app, "jo@desk").messages == 2


def test_a_rebuild_from_a_store_that_loses_metadata_says_so_and_takes_nobody_for_the_null_sender(place):
    with OddStore(names=lambda name: None) as store:
        app = store_app(place, store.endpoint)
        for number in (1, 2):
            assert deliver(app, order(number), sender="") is Outcome.DELIVERED
        write_organizations(app.records, app.archive)
        found, tally = rebuilt(app, place)
        assert tally.notes[ObjectNote.NO_SENDER] == tally.notes[ObjectNote.NO_ENVELOPE] == 2
        assert {(row.envelope_sender, *row.traits) for row in found.values()} == {("<unknown>",)}


def test_a_rebuild_counts_what_a_store_has_changed(place):
    with OddStore(values=lambda value: value[:12]) as store:
        app = store_app(place, store.endpoint)
        assert deliver(app, order(1)) is Outcome.DELIVERED
        write_organizations(app.records, app.archive)
        _, tally = rebuilt(app, place)
        assert tally.notes[ObjectNote.CHANGED] == 1


# Checksums and addresses

CHECKSUMS = {
    "sha256": {"content-md5", "x-amz-checksum-sha256"},
    "crc32": {"content-md5", "x-amz-checksum-crc32"},
    "md5": {"content-md5"},
    "none": set(),
}


def sums(request):
    """Return the checksums of a request that are right, by the names of their headers."""
    right = {
        "content-md5": hashlib.md5(RAW).digest(),
        "x-amz-checksum-sha256": hashlib.sha256(RAW).digest(),
        "x-amz-checksum-crc32": zlib.crc32(RAW).to_bytes(4, "big"),
    }
    names = {name.lower() for name in request.headers if "checksum" in name.lower() or "md5" in name.lower()}
    assert all(b64decode(request.headers[name]) == right[name] for name in names)
    return names


@pytest.mark.parametrize("kind", CHECKSUMS)
def test_a_put_sends_the_checksums_of_the_setting_and_nothing_of_the_sdks_own(kind, monkeypatch):
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    with OddStore() as store:
        archive = open_archive("s3://orders", store.endpoint, checksum=kind)
        archive.put(KEY, RAW, DIGEST)
        assert archive.read(KEY, DIGEST) == archive.fetch(KEY).data == RAW
        (put, *reads) = store.requests
        assert sums(put) == CHECKSUMS[kind]
        assert put.headers["x-amz-content-sha256"] == DIGEST, "in the clear the signature covers the body"
        assert not any("checksum" in name.lower() for request in reads for name in request.headers)


@pytest.mark.parametrize("kind", CHECKSUMS)
def test_what_is_read_is_verified_whatever_the_store_has_checked(kind):
    with OddStore() as store:
        archive = open_archive("s3://orders", store.endpoint, checksum=kind)
        archive.put(KEY, RAW, DIGEST)
        store.objects[KEY] = (RAW.replace(b"ten", b"two"), {})
        with pytest.raises(ObjectDamaged):
            archive.read(KEY, DIGEST)


@pytest.mark.parametrize("kind", CHECKSUMS)
def test_the_real_store_takes_every_kind_of_checksum(ceph, authority, place, monkeypatch, kind):
    keys = {"AWS_ACCESS_KEY_ID": ceph.access_key, "AWS_SECRET_ACCESS_KEY": ceph.secret_key}
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    for endpoint in (ceph.endpoint, ceph.tls_endpoint):
        archive = open_archive(f"s3://{BUCKET}/{place.name}", endpoint, checksum=kind)
        archive.put(KEY, RAW, DIGEST, TOLD)
        assert archive.fetch(KEY) == Fetched(RAW, TOLD)
        archive.delete(KEY)


def refuse_checksums(code, message, *headers):
    """Return a store that refuses puts with these headers."""
    return lambda request: (
        error(400 if code != "NotImplemented" else 501, code, message)
        if request.method == "PUT" and any(request.headers.get(name) for name in headers)
        else None
    )


SAID = "set ORDERFLOW_S3_CHECKSUM = "
REFUSED = [
    ("InvalidArgument", "Unsupported header 'x-amz-checksum-sha256' received for this API call.", "crc32"),
    ("NotImplemented", "A header you provided implies functionality that is not implemented", "md5"),
    ("InvalidRequest", "Value for x-amz-checksum-sha256 header is invalid.", "md5"),
    ("InvalidDigest", "", "none"),
]


@pytest.mark.parametrize(("code", "message", "works"), REFUSED)
def test_a_store_that_refuses_a_checksum_is_recognized_and_check_names_the_one_that_works(place, code, message, works):
    order = ["x-amz-checksum-sha256", "x-amz-checksum-crc32", "content-md5"]
    headers = order[: ["crc32", "md5", "none"].index(works) + 1]
    with OddStore(refuse=refuse_checksums(code, message, *headers)) as store:
        with pytest.raises(ArchiveUnavailable, match=SAID):
            open_archive("s3://orders", store.endpoint).put(KEY, RAW, DIGEST)
        ((level, text),) = checked(place, store)
        assert level == "TROUBLE" and text.endswith(f"tried, and it works: ORDERFLOW_S3_CHECKSUM = {works}")
        assert checked(place, store, ORDERFLOW_S3_CHECKSUM=works)[0][0] == "OK"
        assert store.objects == {}


def checked(place, store, **settings):
    """Return what check finds with an odd store, but for the room on disk."""
    urls = {
        "ARCHIVE_URL": "s3://orders/mail",
        "S3_ENDPOINT_URL": store.endpoint,
        "ORDERFLOW_MAX_MESSAGE_SIZE": "300000",
    }
    environ = {"ORDERFLOW_STATE_DIR": str(place), "ORDERFLOW_SETTINGS": "/dev/null", **urls, **settings}
    return list(check_archive(open_app(load(environ=environ), create=True, guarded=False)))


@pytest.fixture
def named_hosts(monkeypatch):
    """Have names below .test lead to this host, as a wildcard in DNS does."""
    resolve = socket.getaddrinfo

    def find(host, *arguments, **others):
        return resolve("127.0.0.1" if str(host).endswith(".test") else host, *arguments, **others)

    monkeypatch.setattr(socket, "getaddrinfo", find)


def test_the_buckets_name_stands_where_the_setting_says(place, named_hosts):
    with OddStore(is_virtual=True) as store:
        store.endpoint = f"http://store.test:{store.port}"
        with pytest.raises(ArchiveUnavailable, match="set ORDERFLOW_S3_ADDRESSING = virtual"):
            open_archive("s3://orders", store.endpoint).put(KEY, RAW, DIGEST)
        ((_, text),) = checked(place, store)
        assert text.endswith("tried, and it works: ORDERFLOW_S3_ADDRESSING = virtual")
        assert checked(place, store, ORDERFLOW_S3_ADDRESSING="virtual")[0][0] == "OK"
        archive = open_archive("s3://orders/mail", store.endpoint, addressing="virtual")
        archive.put(KEY, RAW, DIGEST, TOLD)
        assert archive.fetch(KEY) == Fetched(RAW, TOLD) and [one.key for one in archive.iterate()] == [KEY]
        assert {request.bucket for request in store.requests[-3:]} == {"orders"}


# Proxies

PAGES = {
    401: "wants a login",
    403: "a proxy or firewall before the store refuses it",
    408: "does not wait for the whole request",
    411: "let it pass HTTP/1.1 as it is",
    413: "client_max_body_size",
    429: "too many requests",
    431: "large_client_header_buffers",
    502: "gets no answer from it",
    503: "overloaded or failing",
    504: "has waited for it in vain",
    507: "the store is full",
    511: "a network login page answers",
}


@pytest.mark.parametrize("is_xml", [False, True])
@pytest.mark.parametrize("status", PAGES)
def test_a_proxys_page_has_a_reason_of_its_own_and_none_of_its_words_get_out(monkeypatch, status, is_xml):
    monkeypatch.setattr(timeouts, "S3_ATTEMPTS", 1)
    with OddStore(refuse=lambda request: page(status, is_xml)) as store:
        archive = open_archive("s3://orders", store.endpoint)
        for step in (lambda: archive.put(KEY, RAW, DIGEST), lambda: archive.read(KEY, DIGEST), archive.probe_listing):
            try:
                said = step().refusal
            except ArchiveUnavailable as away:
                said = "".join(traceback.format_exception(away))
                assert away.is_answer is (status in (413, 431))
            assert f" was answered with {status}: " in said and PAGES[status] in said
            assert "secret-of-the-page" not in said and "xxxx" not in said


def test_a_code_is_passed_on_if_it_is_a_short_name_and_else_the_status(monkeypatch):
    monkeypatch.setattr(timeouts, "S3_ATTEMPTS", 1)
    with OddStore(refuse=lambda request: error(403, "x" * 9000)) as store:
        with pytest.raises(ArchiveUnavailable, match=r"put_object was answered with 403: \S+") as away:
            open_archive("s3://orders", store.endpoint).put(KEY, RAW, DIGEST)
        assert len(str(away.value)) < 200


@pytest.mark.parametrize("reply", [page(200, is_xml=True), page(200), Reply(200)], ids=["XML", "HTML", "empty"])
def test_a_page_with_status_200_is_no_object_no_list_and_no_damage(monkeypatch, reply):
    monkeypatch.setattr(timeouts, "S3_ATTEMPTS", 1)
    with OddStore(refuse=lambda request: reply) as store:
        archive = open_archive("s3://orders", store.endpoint)
        steps = [lambda: archive.put(KEY, RAW, DIGEST), lambda: archive.read(KEY, DIGEST), lambda: archive.fetch(KEY)]
        for step in (*steps, lambda: archive.describe(KEY), lambda: list(archive.iterate())):
            with pytest.raises(ArchiveUnavailable):
                step()


# check's probe


@pytest.mark.parametrize("status", [413, 0])
def test_a_proxy_that_takes_less_than_the_largest_mail_is_found_out_by_check(place, monkeypatch, status):
    """Some say 413, and some hang up."""
    monkeypatch.setattr(timeouts, "S3_ATTEMPTS", 1)

    def refuse(request):
        return page(status) if status and request.length > 200_000 else None

    store = OddStore(refuse=refuse if status else lambda r: Reply(400, hangs_up=True) if r.length > 200_000 else None)
    with store:
        ((level, text),) = checked(place, store)
        assert level == "TROUBLE"
        assert "an object of 300000 bytes (ORDERFLOW_MAX_MESSAGE_SIZE) cannot be stored, and a small one can" in text
        assert "bounce" in text and store.objects == {}


@pytest.mark.parametrize(
    ("names", "values", "said"),
    [
        (str.title, lambda value: value, ""),
        (lambda name: name, lambda value: quote(value, safe=""), ""),
        (lambda name: None, lambda value: value, "metadata is lost on its way"),
        (lambda name: name, lambda value: value[:40], "metadata comes back changed"),
        (
            lambda name: None if name.endswith("beside") else name,
            lambda value: value,
            "metadata of more than 2 KB is lost on its way",
        ),
    ],
    ids=["titled", "encoded", "lost", "cut", "long lost"],
)
def test_what_becomes_of_metadata_is_found_out_by_check(place, names, values, said):
    with OddStore(names=names, values=values) as store:
        level, text = checked(place, store)[0]
        assert (level, said in text) == (("TROUBLE" if said else "OK"), True)
        assert store.objects == {}, "nothing is left"


def test_a_store_that_is_slow_with_the_largest_mail_is_found_out_in_the_time_of_a_delivery(place):
    over = threading.Event()

    def refuse(request):
        if request.length > 200_000:
            over.wait(20)
        return None

    with OddStore(refuse=refuse) as store:
        (*_, (level, text)) = checked(place, store, ORDERFLOW_DEADLINE="1")  # a busy machine is slow with metadata too
        over.set()
        assert level == "TROUBLE" and "took over 1 s, as long as a delivery has (ORDERFLOW_DEADLINE)" in text


def test_a_probe_that_a_killed_run_left_is_nobodys_mail_and_gone_after_the_next_run(place):
    with OddStore() as store:
        app = store_app(place, store.endpoint)
        for key in (PROBE, PROBE + ".meta"):
            app.archive.put(key, RAW, DIGEST, TOLD)
        org = app.records.organizations.find("acme")
        scope = ReconcileOptions(actor="jo@desk", object_age=timedelta(0))
        assert not list(reconcile_organization(org, scope, app)) and not list(reconcile_host(None, scope, app))
        assert not list(find_organizations(app.archive))
        store.objects = {f"mail/{key}": one for key, one in store.objects.items()}
        assert len(store.objects) == 2 and checked(place, store)[0][0] == "OK"
        assert store.objects == {}


class VersionedStore:
    """A client of a bucket that keeps versions, of which its role may delete one or not."""

    def __init__(self, is_allowed):
        self.is_allowed, self.versions = is_allowed, []

    def put_object(self, *, Body, **_):
        self.versions.append(Body)
        return {"ETag": "x"}

    def get_object(self, **_):
        return {"ETag": "x", "Body": io.BytesIO(self.versions[-1])}

    def head_object(self, **_):
        return {"ETag": "x", "ContentLength": 1, "VersionId": "v1"}

    def delete_object(self, *, VersionId="", **_):
        if VersionId and not self.is_allowed:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "DeleteObject")
        if VersionId:
            self.versions.pop()
        return {}


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_probe_of_full_size_stays_in_no_bucket_with_versions_or_that_is_said(is_allowed):
    store = VersionedStore(is_allowed)
    settings = SimpleNamespace(max_message_size=5000, archive_url="s3://b")
    said = list(s3._largest(SimpleNamespace(settings=settings, archive=S3Archive(store, "b", ""))))
    assert len(store.versions) == len(said) == (0 if is_allowed else 1)
    assert all(level == "WARNING" and "leaves one of 5000 bytes" in text for level, text in said)
