"""Connections to PostgreSQL, Redis and S3 are encrypted and verified as their URLs say; what cannot be is refused.

The servers are real; their certificates are for 127.0.0.1, and signed by the lab's own authority.
"""

import re
import shutil
import subprocess
from urllib.parse import quote

import boto3
import pytest

from orderflow_ingest.storage.archive import ArchiveUnavailable, open_archive
from orderflow_ingest.storage.database import NO_TENANT, DatabaseUnavailable, Records
from orderflow_ingest.storage.queue import Queue, QueueUnavailable
from tests.support.lab import smtp
from tests.support.lab.certificates import Authority
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import scratch
from tests.support.lab.redis import Redis
from tests.support.mails import order
from tests.support.servers import BUCKET

ROLE = "tls_owner"
NOT_TRUSTED = "its certificate is not signed by an authority that we trust"
OTHER_HOST = "its certificate is for another host name"


@pytest.fixture(scope="module")
def place():
    with scratch() as directory:
        yield directory


@pytest.fixture(scope="module")
def stranger(place):
    """An authority that has signed nothing here."""
    return Authority(place / "stranger")


@pytest.fixture(scope="module")
def secure_postgres(place, authority):
    with Postgres(place / "postgres", fsync=False, authority=authority) as server:
        server.create_owned_database("orders", ROLE)
        yield server


@pytest.fixture(scope="module")
def secure_redis(place, authority):
    with Redis(place / "redis", authority) as server:
        yield server


@pytest.fixture
def credentials(ceph, monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for name, value in (("ACCESS_KEY_ID", ceph.access_key), ("SECRET_ACCESS_KEY", ceph.secret_key)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", ceph.region)


def url(server, root, host="127.0.0.1", mode="verify-full"):
    plain = server.url("orders", ROLE).replace("127.0.0.1", host)
    return f"{plain}?sslmode={mode}&sslrootcert={quote(str(root))}"


def test_the_rows_and_the_queue_are_reached_by_tls(secure_postgres, authority):
    found = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    records = Records(url(secure_postgres, authority.file))
    with records.database.read(NO_TENANT) as connection:
        assert connection.exec_driver_sql(found).scalar() is True
    records.database.close()
    queue = Queue(url(secure_postgres, authority.file))
    queue.create_tables()
    assert queue.huey.storage.sql(found, results=True) == [(True,)] and queue.depth() == 0
    queue.huey.storage.close()


@pytest.mark.parametrize(
    ("host", "root", "why"),
    [
        ("127.0.0.1", "stranger", NOT_TRUSTED),
        ("localhost", "authority", OTHER_HOST),
        ("127.0.0.1", "missing", "the file of sslrootcert cannot be read"),
    ],
    ids=["wrong authority", "wrong host name", "no file"],
)
def test_a_postgresql_that_cannot_be_verified_is_refused(request, secure_postgres, place, host, root, why):
    file = place / "missing.pem" if root == "missing" else request.getfixturevalue(root).file
    target = url(secure_postgres, file, host)
    for ask, error in (
        (lambda: Records(target).organizations.all(), DatabaseUnavailable),
        (lambda: Queue(target).depth(), QueueUnavailable),
    ):
        with pytest.raises(error) as refused:
            ask()
        assert str(refused.value).endswith(why)
        assert Postgres.password(ROLE) not in str(refused.value) and str(place) not in str(refused.value)


def test_a_postgresql_without_tls_is_refused_where_tls_is_demanded(postgres, authority):
    target = f"postgresql+psycopg://postgres@127.0.0.1:{postgres.port}/postgres?sslmode=verify-full"
    with pytest.raises(DatabaseUnavailable, match="does not offer TLS"):
        Records(f"{target}&sslrootcert={authority.file}").organizations.all()


def test_redis_is_reached_by_tls_and_verified(secure_redis, authority, stranger):
    assert Queue(f"{secure_redis.url()}?ssl_ca_certs={authority.file}").depth() == 0
    with pytest.raises(QueueUnavailable, match=NOT_TRUSTED):
        Queue(f"{secure_redis.url()}?ssl_ca_certs={stranger.file}").depth()
    elsewhere = secure_redis.url().replace("127.0.0.1", "localhost")
    with pytest.raises(QueueUnavailable, match=OTHER_HOST):
        Queue(f"{elsewhere}?ssl_ca_certs={authority.file}").depth()
    with pytest.raises(QueueUnavailable):
        Queue(secure_redis.url().replace("rediss:", "redis:")).depth()


@pytest.mark.parametrize(
    ("host", "root", "why"),
    [
        ("127.0.0.1", "stranger", NOT_TRUSTED),
        ("localhost", "authority", OTHER_HOST),
        ("127.0.0.1", "missing", "the file of AWS_CA_BUNDLE cannot be read"),
        ("127.0.0.1", "", NOT_TRUSTED),
    ],
    ids=["wrong authority", "wrong host name", "no file", "the system's authorities"],
)
def test_an_s3_store_that_cannot_be_verified_is_refused(request, ceph, credentials, monkeypatch, host, root, why):
    file = request.getfixturevalue(root).file if root not in ("missing", "") else "/missing.pem"
    if root:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
    archive = open_archive(f"s3://{BUCKET}", ceph.tls_endpoint.replace("127.0.0.1", host))
    with pytest.raises(ArchiveUnavailable) as refused:
        archive.read("org/1/raw/x.eml", "0" * 64)
    assert str(refused.value).endswith(why)


def test_an_order_goes_through_a_deployment_whose_backends_are_all_behind_tls(
    secure_postgres, secure_redis, ceph, authority, stranger, place
):
    """The settings file alone says so; Postfix's map verifies the database too."""
    settings = {
        "DATABASE_URL": url(secure_postgres, authority.file).replace("+psycopg", ""),
        "QUEUE_URL": f"{secure_redis.url()}?ssl_ca_certs={authority.file}",
        "ARCHIVE_URL": f"s3://{ceph.create_bucket('tls')}/mail",
        "S3_ENDPOINT_URL": ceph.tls_endpoint,
        "AWS_CA_BUNDLE": str(authority.file),
        "AWS_ACCESS_KEY_ID": ceph.access_key,
        "AWS_SECRET_ACCESS_KEY": ceph.secret_key,
        "AWS_DEFAULT_REGION": ceph.region,
    }
    deployment = Deployment(place / "deployment", settings)
    deployment.set_up("acme")
    with deployment:
        to = f"orders+acme@{DOMAIN}"
        assert smtp.send(deployment.postfix.smtp_port, "a@b.example", [to], order(5)).accepted
        (message,) = deployment.wait_finished(1)
        assert message["status"] == "PARSED"

        def lookup():
            table = f"pgsql:{deployment.postfix.config_directory}/orderflow_recipients.cf"
            command = ["postmap", "-c", deployment.postfix.config_directory, "-q", to, table]
            return subprocess.run(command, capture_output=True, text=True)

        assert lookup().stdout.strip() == "acme"
        deployment.write_settings({**settings, "DATABASE_URL": url(secure_postgres, stranger.file)})
        deployment.configure_postfix()
        assert lookup().returncode == 1 and "certificate verify failed" in lookup().stderr


def test_what_root_looks_at_as_another_user_is_looked_for_where_that_one_may_look(secure_postgres, authority, place):
    """libpq looks for certificates below $HOME, which is root's; and Postfix's map has a file of its own to read."""
    settings = {"DATABASE_URL": url(secure_postgres, authority.file).replace("+psycopg", "")}
    deployment = Deployment(place / "by-root", settings)
    deployment.set_up("globex")
    home, closed = place / "home", place / "closed"
    for directory in (home, closed):
        directory.mkdir(mode=0o700)
    deployment.user, deployment.environment = "root", {**deployment.environment, "HOME": str(home)}
    assert "globex" in deployment.admin("org", "list")
    shutil.copy(authority.file, closed)
    deployment.write_settings({**settings, "MAP_DATABASE_URL": url(secure_postgres, closed / authority.file.name)})
    deployment.configure_postfix()
    options = ("--postfix-config", str(deployment.postfix.config_directory))
    told = deployment.run("orderflow-admin", "check", *options, check=False).stdout
    assert re.search(r"schema +ok", told) and f"{closed} is closed to postfix: chmod o+x {closed}" in told
