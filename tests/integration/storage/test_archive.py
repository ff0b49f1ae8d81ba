"""Both archives keep what they were given, notice what was changed behind our back, and say when they are away."""

import hashlib
import os
import socket
import subprocess
import time
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import boto3
import pytest
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

from orderflow_ingest.domain.object_keys import document_key, raw_key
from orderflow_ingest.storage.archive import (
    ArchiveUnavailable,
    Description,
    Fetched,
    ObjectDamaged,
    ObjectMissing,
    S3Archive,
    open_archive,
    s3,
)
from orderflow_ingest.storage.resilience import circuit_breaker, timeouts
from tests.support.lab.process import free_port
from tests.support.s3_answers import DIGEST, KEY, RAW, Answers, Files, Objects, client_of
from tests.support.servers import BUCKET

SECRET = "not-for-any-log"


@pytest.fixture
def credentials(monkeypatch):
    """Return the AWS SDK these credentials, as a settings file would; it keeps none of the test before."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)

    def use(access_key, secret_key):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    use("LABACCESSKEY00000009", SECRET)
    return use


@pytest.fixture(scope="module")
def client(ceph):
    with client_of(ceph) as client:
        yield client


@pytest.fixture(params=["file", "s3"])
def store(request, place):
    return Files(place) if request.param == "file" else Objects(place, request.getfixturevalue("client"))


@pytest.fixture
def impatient(monkeypatch):
    """Shorten the time limits of clients that are made from now on."""
    monkeypatch.setattr(timeouts, "CONNECT", 0.3)
    monkeypatch.setattr(timeouts, "READ", 0.3)
    monkeypatch.setattr(timeouts, "S3_ATTEMPTS", 2)


# Objects


def test_the_keys_are_the_ones_that_objects_were_stored_under_before():
    assert raw_key(7, "ab12") == "org/7/raw/ab12.eml" and document_key(7, "ab12") == "org/7/documents/ab12"


@pytest.mark.parametrize("data", [b"", b"\0", RAW, bytes(range(256)) * 20000], ids=len)
def test_what_was_put_is_read(store, data):
    digest = hashlib.sha256(data).hexdigest()
    store.archive.put(document_key(7, digest), data, digest)
    assert store.archive.read(document_key(7, digest), digest) == data


def test_a_second_put_is_the_same_object(store):
    for _ in range(2):
        store.archive.put(KEY, RAW, DIGEST)
    assert store.names() == [KEY] and store.archive.read(KEY, DIGEST) == RAW


def test_puts_of_one_object_at_the_same_time_make_one_object(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.archive.put(KEY, RAW, DIGEST, {"org": "acme"}), range(24)))
    assert store.archive.read(KEY, DIGEST) == RAW and [k for k in store.names() if k.endswith(".eml")] == [KEY]


def test_two_tenants_with_the_same_content_have_an_object_each(store):
    for org_id in (7, 8):
        store.archive.put(raw_key(org_id, DIGEST), RAW, DIGEST)
    store.archive.delete(raw_key(7, DIGEST))
    assert store.archive.read(raw_key(8, DIGEST), DIGEST) == RAW


@pytest.mark.parametrize(
    "changed", [b"", RAW[:-1], RAW + b"\n", RAW.replace(b"ten", b"two"), b"\0" * len(RAW), RAW[::-1]], ids=len
)
def test_an_object_that_was_changed_behind_our_back_is_damaged(store, changed):
    store.archive.put(KEY, RAW, DIGEST)
    store.change(KEY, changed)
    with pytest.raises(ObjectDamaged):
        store.archive.read(KEY, DIGEST)


@pytest.mark.parametrize("changed", [b"", RAW[:-1], RAW.replace(b"ten", b"two")], ids=len)
def test_a_put_heals_a_damaged_object(store, changed):
    store.archive.put(KEY, RAW, DIGEST)
    store.change(KEY, changed)
    store.archive.put(KEY, RAW, DIGEST)
    assert store.archive.read(KEY, DIGEST) == RAW


def test_an_object_that_is_not_there_is_missing(store):
    with pytest.raises(ObjectMissing):
        store.archive.read(KEY, DIGEST)
    store.archive.put(KEY, RAW, DIGEST)
    with pytest.raises(ObjectMissing):
        store.archive.read(raw_key(8, DIGEST), DIGEST)


def test_an_object_is_deleted_twice_with_all_that_belongs_to_it(store):
    store.archive.delete(KEY)
    store.archive.put(KEY, RAW, DIGEST, {"org": "acme"})
    for _ in range(2):
        store.archive.delete(KEY)
    assert store.names() == []
    with pytest.raises(ObjectMissing):
        store.archive.read(KEY, DIGEST)


def test_preparing_again_changes_nothing(store):
    store.archive.put(KEY, RAW, DIGEST)
    store.archive.prepare()
    assert store.archive.read(KEY, DIGEST) == RAW


@pytest.mark.parametrize(
    "value",
    [
        "acme",
        "",
        "buyer+x@shop.example",
        '"a b" <b@shop.example>',
        "two  blanks",
        " around ",
        "büro@shop.example",
        "注文 \U0001f4e6",
        "100%25 %",
        "a\r\nx-amz-acl: public-read",
        "tab\tand\0nul",
        "a,b;c=d",
    ],
)
def test_metadata_tells_the_envelope_of_any_text(store, value):
    metadata = {"sender": value, "queue-id": "4XYZ", "received-at": "2026-11-20T08:30:15.123456+00:00"}
    store.archive.put(KEY, RAW, DIGEST, metadata)
    assert store.metadata(KEY) == metadata and store.archive.read(KEY, DIGEST) == RAW


LONG = {"sender": "ü" * 1000, "recipient": "x" * 9000, "id": "7", "empty": ""}


@pytest.mark.parametrize("metadata", [LONG, {f"name-{n}": "y" * 240 for n in range(12)}], ids=["values", "sum"])
def test_metadata_of_any_length_comes_back_whole_and_goes_with_its_object(store, metadata):
    store.archive.put(KEY, RAW, DIGEST, metadata)
    assert store.archive.describe(KEY).metadata == store.archive.fetch(KEY).metadata == metadata
    assert store.archive.read(KEY, DIGEST) == RAW
    assert [one.key for one in store.archive.iterate()] == [KEY], "a listing tells objects alone"
    store.archive.delete(KEY)
    assert store.names() == []


def test_metadata_is_that_of_the_last_put_however_long_it_was_before(store):
    for metadata in (LONG, {"sender": "short"}):
        store.archive.put(KEY, RAW, DIGEST, metadata)
        assert store.archive.describe(KEY).metadata == metadata


def test_metadata_that_was_lost_beside_its_object_is_damage_and_not_an_empty_envelope(store):
    store.archive.put(KEY, RAW, DIGEST, LONG)
    store.change(KEY + ".meta", b"[not metadata")
    with pytest.raises(ObjectDamaged):
        store.archive.describe(KEY)


def test_an_object_is_described_and_fetched_as_it_is_even_damaged(store):
    store.archive.put(KEY, RAW, DIGEST, {"org": "acme"})
    store.archive.put(document_key(7, DIGEST), RAW, DIGEST)
    store.change(document_key(7, DIGEST), b"other")
    assert store.archive.describe(KEY) == Description(len(RAW), {"org": "acme"})
    assert store.archive.fetch(KEY) == Fetched(RAW, {"org": "acme"})
    assert store.archive.fetch(document_key(7, DIGEST)) == Fetched(b"other", {})


@pytest.mark.parametrize("ask", ["describe", "fetch"])
@pytest.mark.parametrize("key", [KEY, "org/7/raw", "org/7/raw/none/below"])
def test_what_is_not_there_is_missing_to_every_question(store, ask, key):
    store.archive.put(raw_key(7, "a" * 64), RAW, DIGEST)
    with pytest.raises(ObjectMissing):
        getattr(store.archive, ask)(key)


KEYS = [
    "org/1-2/raw/x", "org/1/documents/aa", "org/1/organization.json", "org/1/raw/0f.eml", "org/1/raw/held/0a.eml",
    "org/1/raw/upload/0a.eml", "org/10/raw/a.eml", "org/2/raw/a.eml", "org/2/raw/é.eml", "probe/x",
]  # fmt: skip


def test_a_listing_is_in_the_order_of_keys_with_what_is_asked_for_alone(store):
    assert list(store.archive.iterate("org/")) == []
    for key in reversed(KEYS):
        store.archive.put(key, RAW, DIGEST, {"org": "acme"})
    listed = list(store.archive.iterate())
    assert [one.key for one in listed] == KEYS
    assert {one.size for one in listed} == {len(RAW)} and all(one.put_at.tzinfo for one in listed)
    for prefix in ("", "org/", "org/1", "org/1/", "org/1/raw/", "org/1/raw/he", "org/3/", "none"):
        wanted = [key for key in KEYS if key.startswith(prefix)]
        assert [one.key for one in store.archive.iterate(prefix)] == wanted, prefix
        for after in (*KEYS, "org/10", "org/1/raw/zzz", "org/9"):
            found = [one.key for one in store.archive.iterate(prefix, after)]
            assert found == [key for key in wanted if key > after], (prefix, after)


def test_what_a_killed_put_left_behind_is_in_no_listing(place):
    files = Files(place)
    files.archive.put(KEY, RAW, DIGEST, {"org": "acme"})
    (files.root / "tmp" / "half.1.2").write_bytes(b"half")
    assert [one.key for one in files.archive.iterate()] == [KEY]


def test_a_listing_of_more_than_a_page_is_whole_and_goes_on_anywhere(place, client):
    archive = Objects(place, client).archive
    keys = [f"org/1/raw/{n:04}.eml" for n in range(1203)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: archive.put(key, b"", hashlib.sha256(b"").hexdigest()), keys))
    assert [one.key for one in archive.iterate("org/1/")] == keys
    assert [one.key for one in archive.iterate("org/1/", keys[99])] == keys[100:]


# Archives that are away


def refused(store):
    """Do everything an archive can do, and return what it said each time."""
    texts = []
    for step in (
        lambda: store.archive.put(KEY, RAW, DIGEST, {"sender": "buyer@shop.example"}),
        lambda: store.archive.read(KEY, DIGEST),
        lambda: store.archive.delete(KEY),
        lambda: store.archive.describe(KEY),
        lambda: store.archive.fetch(KEY),
        lambda: list(store.archive.iterate("org/")),
    ):
        with pytest.raises(ArchiveUnavailable) as away:
            step()
        texts.append(str(away.value))
    return texts


def test_no_directory_and_no_bucket_is_unavailable_and_not_a_missing_object(store):
    store.lose()
    assert all("buyer" not in text for text in refused(store))


class Away:
    """An S3 archive behind an endpoint that does not do its work."""

    def __init__(self, endpoint, bucket=BUCKET):
        self.archive = open_archive(f"s3://{bucket}", endpoint)


def test_a_wrong_secret_is_unavailable_and_is_not_told(ceph, credentials):
    credentials(ceph.access_key, SECRET)
    texts = refused(Away(ceph.endpoint))
    assert all("SignatureDoesNotMatch" in text or "403" in text for text in texts[:1])
    assert all(SECRET not in text and ceph.access_key not in text for text in texts)


def test_an_unknown_access_key_is_unavailable(ceph, credentials):
    refused(Away(ceph.endpoint))


def test_missing_credentials_are_unavailable(ceph, monkeypatch, place):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(place / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    refused(Away(ceph.endpoint))


def test_the_client_has_the_time_limits_that_the_header_tells(credentials):
    for deadline in (60, 600):  # a longer one changes nothing
        config = s3.s3_client("http://127.0.0.1:9", timeouts.scaled_to(deadline)).meta.config
        assert (config.connect_timeout, config.read_timeout) == (3, 10)
        assert config.retries["total_max_attempts"] == 2


def test_a_store_that_nobody_listens_for_is_unavailable(credentials, impatient):
    refused(Away(f"http://127.0.0.1:{free_port()}"))


def test_a_store_that_accepts_and_never_answers_is_unavailable_after_two_attempts(credentials, impatient):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = Away(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ArchiveUnavailable, match="ReadTimeout"):
            store.archive.put(KEY, RAW, DIGEST)
        silent.setblocking(False)
        for _ in range(2):
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_store_that_does_not_take_a_connection_is_unavailable_in_time(credentials, impatient):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(4)]  # fill the queue of connections: the kernel drops the next ones
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(full.getsockname())
        store = Away(f"http://127.0.0.1:{full.getsockname()[1]}")
        with pytest.raises(ArchiveUnavailable, match="ConnectTimeout"):
            store.archive.read(KEY, DIGEST)
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (404, "NoSuchBucket"),
        (400, "InvalidAccessKeyId"),
        (400, "RequestTimeTooSkewed"),
        (500, "InternalError"),
        (503, "SlowDown"),
        (507, "QuotaExceeded"),
    ],
)
def test_a_store_that_refuses_is_unavailable_with_its_code(credentials, monkeypatch, status, code):
    monkeypatch.setattr(timeouts, "S3_ATTEMPTS", 1)
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
    with Answers(status, body) as server:
        texts = refused(Away(server.endpoint))
    # The answer to a HEAD has no body, hence no word for it.
    words = (f" was answered with {code}: ", f" was answered with {status}")
    assert all(any(word in text for word in words) and SECRET not in text for text in texts)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"<Error/>"])
def test_an_answer_that_is_none_is_unavailable(credentials, monkeypatch, body):
    monkeypatch.setattr(timeouts, "S3_ATTEMPTS", 1)
    with Answers(502, body) as server:
        refused(Away(server.endpoint))


def test_an_object_whose_transfer_breaks_is_unavailable_and_not_damaged(credentials, impatient):
    with Answers(200, RAW[:10], cut=20) as server, pytest.raises(ArchiveUnavailable):
        Away(server.endpoint).archive.read(KEY, DIGEST)


def test_a_put_is_tried_twice(credentials):
    with Answers(503) as server:
        with pytest.raises(ArchiveUnavailable):
            Away(server.endpoint).archive.put(KEY, RAW, DIGEST)
        assert [command for command, _, _ in server.requests] == ["PUT"] * 2


def test_a_put_sends_both_checksums_below_bucket_and_prefix_and_wants_an_answer(credentials):
    with Answers(200) as server:
        # It says 200 to anything and confirms nothing, like a captive portal: that is no store.
        with pytest.raises(ArchiveUnavailable, match="no store"):
            open_archive("s3://orders/a/b", server.endpoint).put(KEY, RAW, DIGEST, {"org": "acme"})
        ((_, path, headers),) = server.requests
    assert path == f"/orders/a/b/{KEY}" and headers["x-amz-meta-org"] == "acme"
    assert b64decode(headers["Content-MD5"]) == hashlib.md5(RAW).digest()
    assert b64decode(headers["x-amz-checksum-sha256"]).hex() == DIGEST


# Encryption by the store


@pytest.fixture
def encrypting(ceph, client, place):
    """Return an archive in the real store that demands an encryption."""
    return lambda encryption: S3Archive(client, BUCKET, place.name, encryption)


def test_an_object_is_encrypted_with_the_key_that_the_setting_names(ceph, client, encrypting, place):
    archive = encrypting(f"aws:kms:{ceph.kms_key}")
    archive.put(KEY, RAW, DIGEST, {"org": "acme"})
    found = client.head_object(Bucket=BUCKET, Key=f"{place.name}/{KEY}")
    assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", ceph.kms_key)
    assert archive.read(KEY, DIGEST) == RAW == encrypting("").read(KEY, DIGEST)
    archive.put(KEY, RAW, DIGEST)
    archive.delete(KEY)
    with pytest.raises(ObjectMissing):
        archive.read(KEY, DIGEST)


def test_a_key_that_the_store_does_not_know_is_unavailable(encrypting):
    with pytest.raises(ArchiveUnavailable, match="put_object was answered with"):
        encrypting("aws:kms:no-such-key").put(KEY, RAW, DIGEST)


@pytest.mark.parametrize("confirmed", [None, "AES256"])
def test_a_store_that_passes_over_the_encryption_is_unavailable(credentials, confirmed):
    """As Ceph 16 does with AES256: it answers 200, and keeps the object in the clear."""
    headers = {"ETag": '"e"', **({"x-amz-server-side-encryption": confirmed} if confirmed else {})}
    with Answers(200, headers=headers) as server:
        archive = open_archive("s3://orders", server.endpoint, "aws:kms" if confirmed else "AES256")
        with pytest.raises(ArchiveUnavailable, match="did not encrypt the object as ORDERFLOW_S3_ENCRYPTION says"):
            archive.put(KEY, RAW, DIGEST)


@pytest.mark.parametrize("key", [None, "arn:aws:kms:eu-central-1:1:key/other"])
def test_a_store_that_takes_another_key_than_the_one_named_is_unavailable(credentials, key):
    headers = {"ETag": '"e"', "x-amz-server-side-encryption": "aws:kms"}
    headers |= {"x-amz-server-side-encryption-aws-kms-key-id": key} if key else {}
    with Answers(200, headers=headers) as server, pytest.raises(ArchiveUnavailable, match="did not encrypt"):
        open_archive("s3://orders", server.endpoint, "aws:kms:a-b").put(KEY, RAW, DIGEST)


@pytest.mark.parametrize(
    ("setting", "sent", "key"),
    [
        ("", None, None),
        ("AES256", "AES256", None),
        ("aws:kms", "aws:kms", None),
        ("aws:kms:alias/orders", "aws:kms", "alias/orders"),
        ("aws:kms:arn:aws:kms:eu-central-1:1:key/a-b", "aws:kms", "arn:aws:kms:eu-central-1:1:key/a-b"),
    ],
)
def test_a_put_demands_the_encryption_and_is_content_with_its_confirmation(credentials, setting, sent, key):
    confirmed = {"x-amz-server-side-encryption": sent} if sent else {}
    if key and "alias" not in key:
        confirmed["x-amz-server-side-encryption-aws-kms-key-id"] = key
    with Answers(200, headers={"ETag": '"e"', **confirmed}) as server:
        open_archive("s3://orders", server.endpoint, setting).put(KEY, RAW, DIGEST)
        ((_, _, headers),) = server.requests
    prefix = "x-amz-server-side-encryption"
    assert (headers[prefix], headers[f"{prefix}-aws-kms-key-id"]) == (sent, key)


def test_an_object_that_is_damaged_is_told_as_such_by_a_store_that_keeps_checksums_too(credentials):
    """botocore, left to itself, would compare them and end the read as if the store were away."""
    headers = {"x-amz-checksum-sha256": b64encode(bytes.fromhex(DIGEST)).decode(), "x-amz-checksum-type": "FULL_OBJECT"}
    headers["ETag"] = '"e"'
    with Answers(200, body=b"x" + RAW[1:], headers=headers) as server, pytest.raises(ObjectDamaged):
        open_archive("s3://orders", server.endpoint).read(KEY, DIGEST)


def test_a_body_that_was_damaged_on_its_way_is_refused_by_the_store(place, client):
    store = Objects(place, client)

    def damage(request, **_):
        request.data = RAW.replace(b"ten", b"two")

    client.meta.events.register("before-sign.s3.PutObject", damage)
    try:
        with pytest.raises(ArchiveUnavailable, match=r"BadDigest|InvalidDigest"):
            store.archive.put(KEY, RAW, DIGEST)
    finally:
        client.meta.events.unregister("before-sign.s3.PutObject", damage)
    assert store.names() == []


# Files


@pytest.mark.parametrize("name", ["a b", "100%25", "a#b", "a?b", "bü", "a%20b"])
def test_the_directory_is_the_one_that_the_url_names(place, name):
    archive = open_archive(f"file://{place}/{name}")
    archive.prepare()
    archive.put(KEY, RAW, DIGEST)
    assert (place / name / KEY).read_bytes() == RAW


def test_what_a_killed_process_left_half_written_is_cleaned_after_a_day(place):
    store = Files(place)
    store.archive.put(KEY, RAW, DIGEST)
    for name, age in (("old", 86500), ("new", 80000)):
        (store.root / "tmp" / name).write_bytes(RAW)
        os.utime(store.root / "tmp" / name, (time.time() - age, time.time() - age))
    store.archive.clean()
    assert store.names() == [KEY, "tmp/new"]


def test_nobody_else_can_read_the_files(place):
    store = Files(place)
    store.archive.put(KEY, RAW, DIGEST, {"org": "acme"})
    modes = {path.is_dir(): path.stat().st_mode & 0o7777 for path in [store.root, *store.root.rglob("*")]}
    assert modes == {True: 0o700, False: 0o600}


@pytest.mark.parametrize("options", ["size=64k", "size=1m,nr_inodes=4"])
def test_a_full_disk_is_unavailable_and_leaves_nothing(place, options):
    store = Files(place)
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", store.root]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mount was refused")
    try:
        store.archive.prepare()
        big = RAW * 5000
        digest = hashlib.sha256(big).hexdigest()
        with pytest.raises(ArchiveUnavailable, match="No space left on device"):
            store.archive.put(raw_key(7, digest), big, digest)
        assert store.names() == []
    finally:
        subprocess.run(["umount", "--lazy", store.root], check=True)


def test_a_directory_that_is_a_file_is_unavailable(place):
    store = Files(place)
    store.lose()
    store.root.write_text("")
    refused(store)


class _Guard:
    """Notes whom each call is about, and what came of it."""

    def __init__(self):
        self.calls = []

    @contextmanager
    def __call__(self, orgs, kind):
        try:
            yield
        except ArchiveUnavailable as error:
            self.calls.append((orgs, kind, error.is_unreached))
            raise


class _Client:
    """Raises what the SDK does."""

    def __init__(self, error):
        self._error = error

    def __getattr__(self, _operation):
        def call(**_arguments):
            raise self._error

        return call


@pytest.mark.parametrize(
    ("error", "is_unreached"),
    [(ConnectTimeoutError(endpoint_url="x"), True), (ReadTimeoutError(endpoint_url="x"), False)],
)
def test_the_breaker_hears_whose_object_a_call_was_about_and_whether_a_store_was_there(error, is_unreached):
    guard = _Guard()
    archive = S3Archive(_Client(error), "bucket", "mail", guard=guard)
    for call in (
        lambda: archive.put("org/7/documents/a", b"", "", {}),
        lambda: archive.read("org/8/raw/a.eml", ""),
        lambda: list(archive.iterate()),
    ):
        with pytest.raises(ArchiveUnavailable):
            call()
    assert guard.calls == [
        ((7,), circuit_breaker.WRITE, is_unreached),
        ((8,), circuit_breaker.READ, is_unreached),
        (None, circuit_breaker.READ, is_unreached),
    ]
