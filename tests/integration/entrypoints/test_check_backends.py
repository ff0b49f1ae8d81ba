"""What `orderflow-admin check` finds in S3, PostgreSQL, the workers, the disk and the clocks, and the line to change.

Asked of the modules, in this process: each finding is a level and a text. The servers are real where something is
said of them; where a store is needed that is set up wrongly in a way that ours cannot be, it is a small one that
answers with the codes of AWS.
"""

import json
import os
import pwd
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import boto3
import psycopg
import pytest

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import Status
from orderflow_ingest.entrypoints.admin import roles
from orderflow_ingest.entrypoints.admin.checks import check_all, snapshots
from orderflow_ingest.entrypoints.admin.checks import database as database_check
from orderflow_ingest.entrypoints.admin.checks import spool as spool_check
from orderflow_ingest.entrypoints.admin.checks.database import check_database, check_schema
from orderflow_ingest.entrypoints.admin.checks.findings import Level, compare_clocks
from orderflow_ingest.entrypoints.admin.checks.s3 import check_archive
from orderflow_ingest.entrypoints.admin.checks.snapshots import check_snapshots
from orderflow_ingest.entrypoints.admin.checks.worker import check_worker
from orderflow_ingest.entrypoints.cli import run_as
from orderflow_ingest.observability import presence
from orderflow_ingest.pipeline import extract
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.archive import s3_errors
from orderflow_ingest.storage.database import DatabaseUnavailable, Records, schema
from orderflow_ingest.storage.database import server_info as server
from orderflow_ingest.storage.queue import QueueUnavailable
from orderflow_ingest.storage.resilience import timeouts
from tests.support.lab.process import Process, free_port, scratch, wait_until
from tests.support.mails import order
from tests.support.s3_answers import Answers

SECRET = "not-for-any-log"
RIGHTS = ("PutObject", "GetObject", "DeleteObject", "ListBucket")


@pytest.fixture
def app(place):
    """Return the App of a deployment with these settings, in `place`; SQLite and files where they name nothing else."""

    def opened(**settings: str):
        file = place / "ingest.env"
        values = {"ORDERFLOW_STATE_DIR": str(place / "state"), **settings}
        file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        file.chmod(0o640)
        (place / "state").mkdir(exist_ok=True)
        app = open_app(load(str(file), {}), create=True, guarded=False)
        app.spool.prepare()
        app.archive.prepare()
        return app

    return opened


@pytest.fixture
def made(app):
    """Return the App of an embedded deployment that init has made."""
    opened = app()
    schema.upgrade(opened.records.database)
    opened.queue.create_tables()
    return opened


def worst(findings) -> str:
    """Return all findings as one text, those that are trouble or a warning marked."""
    return "\n".join(f"{level}: {text}" for level, text in findings)


# S3


@pytest.fixture
def credentials(ceph, monkeypatch):
    """Return the settings of the real store, whose keys are in the environment."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(timeouts, "S3_ATTEMPTS", 1)
    set_keys(monkeypatch, ceph.access_key, ceph.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", ceph.region)
    return {"ARCHIVE_URL": "s3://orders/mail", "S3_ENDPOINT_URL": ceph.endpoint}


def set_keys(monkeypatch, key, secret):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


def test_a_store_that_is_set_up_well_is_found_so(app, credentials):
    assert worst(check_archive(app(**credentials))) == "OK: s3://orders/mail: put, read and delete work"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("bucket", "put_object was answered with NoSuchBucket: there is no such bucket: make it, or set ARCHIVE_URL"),
        ("key", "InvalidAccessKeyId: the store does not know AWS_ACCESS_KEY_ID: set it"),
        ("secret", "SignatureDoesNotMatch: AWS_SECRET_ACCESS_KEY is not the secret of AWS_ACCESS_KEY_ID"),
        ("nobody", "EndpointConnectionError: nobody answers there: look at S3_ENDPOINT_URL"),
        ("other protocol", "look at S3_ENDPOINT_URL|hangs up|another protocol|no S3 store"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_once_with_the_setting_to_change(
    app, credentials, ceph, redis, monkeypatch, fault, said
):
    if fault == "bucket":
        credentials["ARCHIVE_URL"] = "s3://no-such-bucket"
    if fault in ("key", "secret"):
        set_keys(monkeypatch, "NOSUCHKEY" if fault == "key" else ceph.access_key, SECRET)
    if fault == "nobody":
        credentials["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{free_port()}"
    if fault == "other protocol":
        credentials["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{redis.port}"
    ((level, text),) = check_archive(app(**credentials))
    assert level == "TROUBLE" and any(one in text for one in said.split("|")), text
    assert SECRET not in text


@pytest.fixture(scope="module")
def bound(ceph):
    """A bucket, and a user of the store who may do in it what its policy says."""
    bucket, user = ceph.create_bucket(f"bound-{uuid4().hex}"), f"user{uuid4().hex}"
    ceph.create_user(user, f"KEY{user.upper()[:17]}", SECRET)

    def allow_all_but(missing: str) -> str:
        """Deny one right and allow the others: who has put an object may read it unless that is denied."""
        statements = [
            {"Effect": effect, "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
             "Action": [f"s3:{right}" for right in RIGHTS if (right == missing) == (effect == "Deny")],
             "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}
            for effect in ("Allow", "Deny")
        ]  # fmt: skip
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        ceph.client().put_bucket_policy(Bucket=bucket, Policy=policy)
        return bucket

    return SimpleNamespace(allow_all_but=allow_all_but, key=f"KEY{user.upper()[:17]}")


@pytest.mark.parametrize("missing", RIGHTS)
def test_each_right_that_is_missing_is_named_for_itself(app, credentials, bound, monkeypatch, missing):
    bucket = bound.allow_all_but(missing)
    set_keys(monkeypatch, bound.key, SECRET)
    findings = list(check_archive(app(**credentials | {"ARCHIVE_URL": f"s3://{bucket}"})))
    named = {right for right in RIGHTS if f"lack s3:{right} there" in worst(findings)}
    assert named == {missing}, findings
    assert findings[0][0] == ("WARNING" if missing == "ListBucket" else "TROUBLE")
    assert "orderflow-admin roles s3" in findings[0][1]


def test_who_delivers_need_not_list_where_the_worker_has_keys_of_its_own(app, credentials, bound, place, monkeypatch):
    bucket = bound.allow_all_but("ListBucket")
    set_keys(monkeypatch, bound.key, SECRET)
    (place / "worker.env").write_text(f"AWS_ACCESS_KEY_ID=OTHER\nAWS_SECRET_ACCESS_KEY={SECRET}\n")
    findings = list(check_archive(app(**credentials | {"ARCHIVE_URL": f"s3://{bucket}"})))
    assert {level for level, _ in findings} == {"OK"}


def test_a_clock_that_s3_refuses_is_told_as_such_and_one_that_is_off_before_it_does(app, credentials, ceph):
    """boto3's clock is libfaketime's in a process of its own; the store's is the real one."""
    app(**credentials)
    for shift, level, said in (
        ("+1200s", "TROUBLE", "RequestTimeTooSkewed: this host's clock and the store's are 15 minutes apart"),
        ("-400s", "TROUBLE", "s behind the S3 store's: on the one that is wrong, timedatectl set-ntp true"),
        ("+30s", "WARNING", "s ahead of the S3 store's"),
    ):
        program = (
            "import sys; from orderflow_ingest.entrypoints.admin.checks.s3 import check_archive;"
            "from orderflow_ingest.app import open_app; from orderflow_ingest.config import load;"
            "print(list(check_archive(open_app(load(sys.argv[1]), guarded=False))))"
        )
        # Monotonic time is real: the SDK's timeouts are none of this.
        faked = ["faketime", "-m", "-f", shift, os.sys.executable, "-c", program, load_file(app, credentials)]
        env = {**os.environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        ended = subprocess.run(faked, env=env, capture_output=True, text=True, timeout=120)
        assert f"('{level}'" in ended.stdout and said in ended.stdout, ended.stdout + ended.stderr


def load_file(app, settings) -> str:
    return str(app(**settings).settings.file)


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (301, "<Error><Code>PermanentRedirect</Code></Error>", {"x-amz-bucket-region": "eu-west-3"},
         "the bucket is in another region: set AWS_DEFAULT_REGION = eu-west-3"),
        (400, "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-north-1</Region></Error>", {},
         "set AWS_DEFAULT_REGION = eu-north-1"),
        (400, "<Error><Code>IllegalLocationConstraintException</Code></Error>", {}, "another region"),
        (405, "<html>no", {}, "S3_ENDPOINT_URL"),
        (404, "<html>nginx", {}, "S3_ENDPOINT_URL"),
        (400, "<Error><Code>KMS.NotFoundException</Code></Error>", {}, "set ORDERFLOW_S3_ENCRYPTION"),
        (403, "<Error><Code>ExpiredToken</Code></Error>", {}, "AWS_SESSION_TOKEN has expired"),
        (507, "<Error><Code>QuotaExceeded</Code></Error>", {}, "the bucket is full"),
        (503, "<Error><Code>SlowDown</Code></Error>", {}, "the store is overloaded or failing"),
        (200, "", {}, "something that is no store"),
    ],
)  # fmt: skip
def test_what_a_store_answers_is_explained(app, credentials, status, body, headers, said):
    with Answers(status, body.encode(), headers=headers) as server:
        text = worst(check_archive(app(**credentials | {"S3_ENDPOINT_URL": server.endpoint})))
    assert text.startswith("TROUBLE: ") and said in text


def test_missing_credentials_are_told_by_the_settings_that_lack(app, credentials, monkeypatch, place):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(place))
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in worst(check_archive(app(**credentials)))


@pytest.mark.parametrize(
    ("part", "settings", "region", "said"),
    [
        ("archive", {"ARCHIVE_URL": "s3://orders"}, "no region!", "AWS_DEFAULT_REGION is no region's name"),
        ("queue", {"QUEUE_URL": "redis://127.0.0.1/0?nonsense=1"}, "", "QUEUE_URL has an option that the Redis client"),
    ],
)
def test_what_cannot_even_be_opened_is_a_finding_and_not_the_end(app, monkeypatch, part, settings, region, said):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_DEFAULT_REGION", region or "eu-central-1")
    file = app().settings.file
    file.write_text(file.read_text() + "".join(f"{name}={value}\n" for name, value in settings.items()))
    found = {one.part: one for one in check_all(load(str(file), {}), None, with_postfix=False)}
    assert found[part].level is Level.TROUBLE and said in found[part].text
    assert "service" in found


def test_a_region_that_a_stranger_says_is_not_passed_on():
    answer = {"Error": {"Code": "PermanentRedirect", "Region": "\x1b[2J"}}
    said = "the bucket is in another region: set AWS_DEFAULT_REGION = that of the bucket"
    assert s3_errors.explain_s3_answer("put_object", answer).endswith(said)


# Clocks


@pytest.mark.parametrize(
    ("off", "said"),
    [(0, []), (4.9, []), (-4.9, []), (6, ["WARNING"]), (-299, ["WARNING"]), (301, ["TROUBLE"]), (-4000, ["TROUBLE"])],
)
def test_clocks_that_are_seconds_apart_are_a_warning_and_minutes_trouble(off, said):
    found = list(compare_clocks("the server's", 1e9 + off, 1e9))
    assert [level for level, _ in found] == said
    assert all(("behind" if off > 0 else "ahead of") in text and "set-ntp true" in text for _, text in found)


# PostgreSQL


@pytest.fixture(scope="module")
def owned(postgres):
    """A database with our tables, its owner, and its URL."""
    name, owner = f"checked_{uuid4().hex}", f"owner_{uuid4().hex}"
    url = postgres.create_owned_database(name, owner)
    records = Records(url)
    schema.upgrade(records.database)
    records.database.close()
    return SimpleNamespace(name=name, owner=owner, url=url)


@pytest.fixture
def altered(postgres):
    """Run statements as a superuser, and others at the end."""
    undo = []

    def alter(statement: str, back: str) -> None:
        execute(postgres, statement)
        undo.append(back)

    yield alter
    for statement in undo:
        execute(postgres, statement)


def execute(postgres, statement, name="postgres"):
    with psycopg.connect(postgres.conninfo(name), autocommit=True) as connection:
        connection.execute(statement)


DURABLE = ["postgresql.conf: set fsync = on (a crash of its machine loses orders that were acknowledged)"]


def asked(app, url, check=check_database):
    opened = app(DATABASE_URL=url)
    found = list(check(opened))
    opened.records.database.close()
    assert not any("pass-of" in text for _, text in found)
    return found


def test_a_database_that_is_set_up_well_is_found_so_but_that_the_labs_does_not_sync(app, owned):
    assert [text for _, text in asked(app, owned.url)] == DURABLE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url, owned: url.replace("pass-of", "passed-by"), "the server refuses the password in DATABASE_URL"),
        (lambda url, owned: url.replace(owned.name, "nowhere"), "the server has no such database: createdb -E UTF8"),
        (lambda url, owned: f"postgresql://of:x@127.0.0.1:{free_port()}/of", "no PostgreSQL listens there"),
        (lambda url, owned: url.replace("127.0.0.1", "no-such-host.invalid"), "its host name is not known"),
        (lambda url, owned: url + "?sslmode=require", "it does not offer TLS"),
    ],
    ids=["password", "database", "nobody", "host", "TLS"],
)
def test_a_database_that_cannot_be_reached_is_explained(app, owned, change, said):
    ((level, text),) = asked(app, change(owned.url, owned))
    assert level == "TROUBLE" and said in text


@pytest.mark.parametrize(
    ("statement", "back", "said"),
    [
        ("ALTER ROLE {0.owner} SET search_path = pg_catalog", "ALTER ROLE {0.owner} RESET search_path",
         "the tables are in the schema public, where the role {0.owner} does not look: ALTER ROLE {0.owner} SET s"),
        ("ALTER ROLE {0.owner} SET default_transaction_read_only = on",
         "ALTER ROLE {0.owner} RESET default_transaction_read_only", "it is a standby, or read-only: name the primary"),
        ("ALTER ROLE {0.owner} SET synchronous_commit = off", "ALTER ROLE {0.owner} RESET synchronous_commit",
         "ALTER ROLE {0.owner} SET synchronous_commit = on"),
        ("ALTER ROLE {0.owner} CONNECTION LIMIT 7", "ALTER ROLE {0.owner} CONNECTION LIMIT -1",
         "ALTER ROLE {0.owner} CONNECTION LIMIT -1 (it is 7, and the programs of this host alone can take"),
        ("ALTER DATABASE {0.name} CONNECTION LIMIT 7", "ALTER DATABASE {0.name} CONNECTION LIMIT -1",
         "ALTER DATABASE {0.name} CONNECTION LIMIT -1"),
        ("ALTER ROLE {0.owner} NOLOGIN", "ALTER ROLE {0.owner} LOGIN", "the role is a group: ALTER ROLE"),
    ],
    ids=["search_path", "read-only", "commit", "role's limit", "database's limit", "login"],
)  # fmt: skip
def test_what_a_role_or_database_is_set_to_is_told_with_the_statement_to_run(
    app, owned, altered, statement, back, said
):
    altered(statement.format(owned), back.format(owned))
    assert said.format(owned) in worst(asked(app, owned.url))


@pytest.fixture
def waits_for(postgres):
    """Have each commit wait for these standbys, until the test's end."""

    def set_to(names):
        execute(postgres, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        execute(postgres, "SELECT pg_reload_conf()")
        shown = psycopg.connect(postgres.conninfo("postgres"), autocommit=True)
        with shown:
            assert wait_until(lambda: shown.execute("SHOW synchronous_standby_names").fetchone() == (names,), 60)

    yield set_to
    set_to("")


def test_a_commit_that_waits_for_a_standby_that_does_not_follow_is_told(app, postgres, owned, place, waits_for):
    waits_for('ANY 1 ("site-b", site_c)')
    said = 'TROUBLE: each commit waits for 1 of synchronous_standby_names = ANY 1 ("site-b", site_c), and 0 of them'
    assert said in worst(asked(app, owned.url))
    shutil.chown(place, "postgres")
    source = postgres.conninfo("postgres")
    with Process(
        ["pg_receivewal", "-d", f"{source} application_name=Site-B", "-D", place], place / "log", user="postgres"
    ):
        assert wait_until(lambda: "each commit waits" not in worst(asked(app, owned.url)), 60)
        waits_for("2 (*, other)")
        assert "each commit waits for 2 of synchronous_standby_names = 2 (*, other), and 1 of" in worst(
            asked(app, owned.url)
        )
        waits_for("*")
        assert [text for _, text in asked(app, owned.url)] == DURABLE


@pytest.mark.parametrize("value", ["local", "off"])
def test_a_role_that_waits_for_no_standby_is_told_what_a_failover_loses(app, owned, altered, waits_for, value):
    altered(
        f"ALTER ROLE {owned.owner} SET synchronous_commit = {value}",
        f"ALTER ROLE {owned.owner} RESET synchronous_commit",
    )
    waits_for("*")
    said = f"synchronous_commit = {value} for {owned.owner}: what was acknowledged last is lost at a failover"
    assert said in worst(asked(app, owned.url))


@pytest.mark.parametrize(
    ("listed", "wanted", "names"),
    [
        ("a", 1, {"a"}),
        (" a, B ", 1, {"a", "b"}),
        ("*", 1, {"*"}),
        ("2 (a, b,c)", 2, {"a", "b", "c"}),
        ("first 2(a,b)", 2, {"a", "b"}),
        ('ANY 10 ("a ""b"", c", any)', 10, {'a "b", c', "any"}),
    ],
)
def test_a_list_of_standbys_is_read_as_postgresql_reads_it(listed, wanted, names):
    assert database_check._read_standbys(listed) == (wanted, names)


def test_rights_that_are_missing_are_listed_and_named_by_the_role(app, postgres, owned):
    role = f"bare_{uuid4().hex}"
    postgres.create_role(role)
    execute(postgres, f'GRANT SELECT ON organization TO "{role}"', owned.name)
    text = worst(asked(app, postgres.url(owned.name, role)))
    assert f"the role {role} lacks SELECT on inbound_message, INSERT on inbound_message" in text
    assert f"orderflow-admin roles postgresql, and GRANT orderflow_deliver TO {role}" in text
    assert "SELECT on organization" not in text


def test_a_database_without_tables_and_one_of_another_encoding_are_told_before_init(app, postgres):
    name = f"empty_{uuid4().hex}"
    url = postgres.create_database(name)
    assert f"the database {name} has no tables of ours: run orderflow-admin init" in worst(asked(app, url))
    assert "there are no tables: run orderflow-admin init" in worst(asked(app, url, check_schema))
    execute(postgres, f"CREATE DATABASE latin_{name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    text = worst(asked(app, url.replace(name, f"latin_{name}")))
    assert "its encoding is LATIN1" in text and "createdb -E UTF8" in text
    execute(postgres, f"CREATE DATABASE c_{name} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    ascii_alone = "its locale knows the letters of ASCII alone"
    assert ascii_alone in worst(asked(app, url.replace(name, f"c_{name}")))
    assert ascii_alone not in worst(asked(app, url))


def test_too_few_connections_are_told_with_the_number_to_set(app, postgres, owned, place):
    """Asked of numbers, since a server's limit holds until it is started again."""
    opened = app(DATABASE_URL=owned.url)
    says = server.ask(opened.records.database)
    assert list(database_check._connections(opened, says)) == []
    counted = r"this host's programs can take \d+ of its \d+ connections, those of other hosts come on top"
    assert re.search(counted, database_check._share(opened, says))
    ((level, text),) = database_check._connections(opened, replace(says, max_connections=20))
    assert level == "WARNING" and text.startswith("postgresql.conf: set max_connections = ")
    ((level, text),) = database_check._connections(opened, replace(says, taken=says.max_connections - says.reserved))
    assert level == "TROUBLE" and "raise max_connections" in text


def test_the_schema_of_an_older_version_is_told_with_what_to_run(made):
    with made.records.database.write(0) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        connection.exec_driver_sql("ALTER TABLE organization RENAME COLUMN name TO label")
    assert "version 0001, needed is" in worst(check_schema(made)) and "init" in worst(check_schema(made))
    text = worst(check_database(made))
    assert "a column is missing, the schema is of another version: run orderflow-admin init" in text


def test_init_by_a_role_that_may_not_is_told_what_to_do(postgres, app):
    name, role = f"strange_{uuid4().hex}", f"stranger_{uuid4().hex}"
    postgres.create_database(name)
    postgres.create_role(role)
    opened = app(DATABASE_URL=postgres.url(name, role))
    with pytest.raises(DatabaseUnavailable, match="has no right to do this; see orderflow-admin roles"):
        schema.upgrade(opened.records.database)
    with pytest.raises(QueueUnavailable, match="has no right to do this; see orderflow-admin roles"):
        opened.queue.create_tables()


@contextmanager
def pooled(postgres, place, logins, ignored="options,extra_float_digits"):
    """Run a pgbouncer in front of PostgreSQL that pools by transaction, for these users and passwords; its port."""
    port = free_port()
    (place / "users.txt").write_text("".join(f'"{user}" "{password}"\n' for user, password in logins.items()))
    (place / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = plain\nauth_file = {place}/users.txt\npool_mode = transaction\n"
        f"unix_socket_dir =\nignore_startup_parameters = {ignored}\n"
    )
    log = place / "pgbouncer.log"
    server = Process(
        ["pgbouncer", place / "pgbouncer.ini"], log, user="postgres",
        ready=lambda: log.exists() and "process up" in log.read_text(),
    )  # fmt: skip
    with server:
        yield port


@pytest.fixture
def pooler(postgres, owned, place):
    """The URL of the database by a pooler."""
    with pooled(postgres, place, {owned.owner: postgres.password(owned.owner)}) as port:
        yield owned.url.replace(f":{postgres.port}/", f":{port}/")


def test_several_hosts_want_the_one_that_takes_writes(app, owned, postgres):
    place = f"127.0.0.1:{postgres.port}"
    url = owned.url.replace(place, f"{place},127.0.0.1:{free_port()}")
    told = {
        name for _, text in asked(app, url) for name in ("DATABASE_URL", "QUEUE_URL") if f"{name} names sev" in text
    }
    assert told == {"DATABASE_URL", "QUEUE_URL"}
    assert [text for _, text in asked(app, f"{url}?target_session_attrs=read-write")] == DURABLE


def test_a_pooler_that_refuses_our_parameters_is_told_what_to_set(app, postgres, owned, place):
    with pooled(postgres, place, {owned.owner: postgres.password(owned.owner)}, "extra_float_digits") as port:
        ((level, text),) = asked(app, owned.url.replace(f":{postgres.port}/", f":{port}/"))
    assert level == "TROUBLE" and text.endswith("ignore_startup_parameters = extra_float_digits,options")


def test_behind_a_pooler_check_names_the_statements_that_set_the_bounds(app, pooler, owned, postgres):
    (text,) = (text for _, text in asked(app, pooler) if "ALTER ROLE" in text)
    login = f"ALTER ROLE {owned.owner} IN DATABASE {owned.name} SET"
    for wanted in ("statement_timeout = '15000'", "lock_timeout = '5000'"):
        assert f"{login} {wanted};" in text
    for statement in text.partition(" (")[0].split("; "):
        execute(postgres, statement)
    set_by_role = "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = %s::regrole"
    with psycopg.connect(postgres.conninfo("postgres")) as connection:
        found = {row[0] for row in connection.execute(set_by_role, (owned.owner,))}
    assert {"statement_timeout=15000", "lock_timeout=5000", "idle_in_transaction_session_timeout=60000"} <= found
    with pytest.raises(DatabaseUnavailable, match="behind a pooler: name the server itself, for init alone"):
        schema.upgrade(Records(pooler).database)


def test_mail_is_delivered_and_extracted_through_a_pooler_by_the_roles_of_the_script(app, owned, postgres, place):
    """The script's bounds hold there: check has nothing to say of them."""
    opened = app(DATABASE_URL=owned.url)
    opened.queue.create_tables()
    opened.records.organizations.add("acme", "Acme")
    opened.records.database.close()
    opened.queue.huey.storage.close()
    names = {group: f"{group}_{owned.name}" for group in ("deliver", "worker")}
    script = roles.postgresql(opened.settings, "public")
    postgres.run_script(owned.name, script)
    for group, name in names.items():
        postgres.create_role(name, f"orderflow_{group}")
    postgres.run_script(owned.name, script)
    with pooled(postgres, place, {name: postgres.password(name) for name in names.values()}) as port:
        urls = {group: postgres.url(owned.name, name) for group, name in names.items()}
        deliver, worker = (
            app(DATABASE_URL=url.replace(f":{postgres.port}/", f":{port}/"), QUEUE_URL=url) for url in urls.values()
        )
        assert [text for _, text in check_database(deliver) if "ALTER ROLE" in text or "lacks" in text] == []
        envelope = Envelope("orders+acme@orderflow.example.com", datetime.now(UTC), "a@b.example")
        for number in range(3):
            delivery = deliver_from_memory(envelope, order(number), deliver)
            assert delivery.outcome is Outcome.DELIVERED
            extract.extract(1, delivery.message_id, worker)
            assert worker.records.messages.get(1, delivery.message_id).status is Status.PARSED
        for used in (deliver, worker):
            used.records.database.close()
            used.queue.huey.storage.close()


def test_a_transaction_pooler_before_the_queue_is_found_and_none_where_there_is_none(app, pooler, owned):
    for url, is_heard in ((pooler, False), (owned.url, True)):
        queue = app(QUEUE_URL=url).queue
        assert queue.notify_works() is is_heard
        queue.huey.storage.close()


def test_who_holds_an_old_snapshot_of_the_queue_is_told_with_the_remedy(app, postgres, monkeypatch):
    name = f"held_{uuid4().hex}"
    queue = app(QUEUE_URL=postgres.create_database(name))
    queue.queue.create_tables()
    monkeypatch.setattr(snapshots, "_OLD", 0.0)
    assert list(check_snapshots(queue)) == []
    with psycopg.connect(postgres.conninfo("postgres")) as elsewhere:
        elsewhere.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        elsewhere.execute("SELECT 1")
        assert list(check_snapshots(queue)) == [], "it holds the tables of its own database alone"
    with psycopg.connect(postgres.conninfo(name)) as dump:
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT 1")
        ((level, text),) = check_snapshots(queue)
        process = dump.info.backend_pid
    assert level == "WARNING" and text.startswith("a session (role ") and f"process {process}) holds a snapshot" in text
    assert "set QUEUE_URL to a database of its own" in text
    monkeypatch.setattr(snapshots, "_MANY", 0)
    assert "0 tasks that were taken stay in the table huey_task: somebody" in worst(check_snapshots(queue))
    queue.queue.huey.storage.close()


# Workers


def test_no_worker_one_that_sweeps_and_one_that_does_not_are_told_apart(made, monkeypatch):
    directory = made.settings.workers_dir
    text = worst(check_worker(made))
    assert text.startswith("TROUBLE: no worker runs, none has ever swept") and "enable --now orderflow-worker" in text
    presence.record_sweep(directory)
    assert worst(check_worker(made)).startswith("WARNING: the worker of this host swept 0 s ago and has ended; if none")
    (directory / presence.SWEPT).unlink()
    presence.announce(directory)
    assert presence.workers(directory) == [os.getpid()]
    assert "1 worker processes run here and none has swept yet: is the database away" in worst(check_worker(made))
    with attempt_files.attempt(made.settings.attempts_dir, attempt_files.MESSAGE, 1, uuid4(), "host:1/a"):
        text = worst(check_worker(made))
    assert (
        text.startswith("WARNING: all 1 worker processes here have a mail or a document in hand")
        and "restart" not in text
    )
    made.queue.record_sweep("elsewhere 0", time.time() - 600)
    assert "none has swept for 10 min" in worst(check_worker(made))
    made.queue.record_sweep("elsewhere 0", time.time())
    assert "the worker of elsewhere is version 0" in worst(check_worker(made))
    presence.record_sweep(directory)
    made.queue.record_sweep("elsewhere 0", time.time() + 600)
    assert "the clock of elsewhere, whose worker swept, is 10 min ahead" in worst(check_worker(made))
    made.queue.record_sweep("elsewhere 0", 0)
    ((level, text),) = check_worker(made)
    assert level == "OK" and "1 worker processes here" in text


def test_that_how_late_work_is_cannot_be_asked_is_told_and_what_is_left_besides(made, monkeypatch):
    presence.record_sweep(made.settings.workers_dir)
    presence.announce(made.settings.workers_dir)

    def lag(_now):
        raise DatabaseUnavailable("database: a node is away")

    monkeypatch.setattr(made.records.messages, "lag", lag)
    text = worst(check_worker(made))
    assert text.startswith(
        "WARNING: how late work is cannot be asked, so ORDERFLOW_MAX_LAG stops no mail meanwhile: data"
    )


def test_a_killed_worker_is_gone_and_what_it_leaves_is_removed_by_the_next(place):
    program = f"import time; from pathlib import Path; from orderflow_ingest.observability import presence; " \
              f"presence.announce(Path({str(place)!r})); print(flush=True); time.sleep(60)"  # fmt: skip
    with subprocess.Popen([os.sys.executable, "-c", program], stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        assert presence.workers(place) == [worker.pid]
        worker.kill()
        worker.wait()
    assert presence.workers(place) == [] and (place / str(worker.pid)).exists()
    os.utime(place / str(worker.pid), (0, 0))
    presence.announce(place)
    assert [path.name for path in place.glob("[0-9]*")] == [str(os.getpid())]


@pytest.mark.parametrize("storage", ["sqlite", "postgresql", "redis"])
def test_every_storage_keeps_who_swept_last(request, app, storage, postgres, redis):
    url = {"sqlite": "", "postgresql": postgres.create_database(f"swept_{uuid4().hex}"), "redis": redis.url(5)}[storage]
    queue = app(**({"QUEUE_URL": url} if url else {})).queue
    queue.create_tables()
    if storage == "redis":
        queue.huey.storage.conn.flushdb()
    assert queue.last_sweep() is None
    for at in (12.5, 13.5):
        queue.record_sweep("host 1.0", at)
        assert queue.last_sweep() == ("host 1.0", at)
    assert queue.depth() == 0
    if storage != "redis":
        queue.huey.storage.close()


# The disk, and who may enter where


def test_a_disk_that_is_full_nearly_full_or_out_of_inodes_is_told(place, monkeypatch):
    usage = SimpleNamespace(total=1 << 40, free=10 << 20)
    about = SimpleNamespace(f_files=1000000, f_favail=1 << 20)
    monkeypatch.setattr(spool_check.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(spool_check.os, "statvfs", lambda _: about)
    assert "10 MiB left: make room" in worst(spool_check._room(place, 1 << 20))
    usage.free = 150 << 20
    assert worst(spool_check._room(place, 1 << 20)).startswith("WARNING")
    usage.free, about.f_favail = 1 << 39, 5
    assert "5 inodes left" in worst(spool_check._room(place, 1 << 20))


def test_an_entry_that_nobody_drains_is_told(made):
    blocks = iter((b"x", b""))
    entry = made.spool.write(b"recipient: probe", lambda _: next(blocks), limit=100)
    entry.release()
    (name,) = made.spool.entries()
    assert worst(spool_check.check_spool(made)).startswith("OK")
    os.utime(made.settings.spool_dir / "new" / name, (time.time() - 3600, time.time() - 3600))
    assert "one for 60 min: does orderflow-worker or orderflow-drain.timer run" in worst(spool_check.check_spool(made))


def test_the_directory_that_is_closed_is_named_even_behind_a_link():
    nobody = pwd.getpwnam("nobody")
    with scratch() as place:
        (place / "open" / "closed" / "deep").mkdir(parents=True)
        (place / "open" / "closed").chmod(0o700)
        (place / "link").symlink_to(place / "open" / "closed" / "deep")
        closed = f"{place}/open/closed is closed to nobody: chmod o+x {place}/open/closed"
        assert run_as.explain_denied(place / "open" / "closed" / "deep" / "file", nobody) == closed
        assert run_as.explain_denied(place / "link" / "file", nobody) == closed
        assert run_as.explain_denied(place / "open" / "file", nobody) == ""
        assert os.geteuid() == 0


def test_a_file_system_from_which_nothing_runs_is_found(monkeypatch):
    assert not run_as.is_noexec(Path("/usr/bin/env"))
    monkeypatch.setattr(run_as.os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC | os.ST_NODEV))
    assert run_as.is_noexec(Path("/usr/bin/env"))


def test_a_handler_that_reads_its_own_keys_when_it_is_imported_is_loaded_as_the_worker_does(place, monkeypatch):
    (place / "handler_of_the_test.py").write_text(
        "import os\nURL = os.environ['ORDERFLOW_HANDLER_URL'], os.environ['ORDERFLOW_HANDLER_KEY']\n"
        "def take(order):\n    return None\n"
    )
    monkeypatch.syspath_prepend(str(place))
    for name in ("ORDERFLOW_HANDLER_URL", "ORDERFLOW_HANDLER_KEY"):
        monkeypatch.setenv(name, "taken back at the end")
        monkeypatch.delenv(name)
    values = {"ORDERFLOW_STATE_DIR": str(place), "ORDERFLOW_DOCUMENT_HANDLER": "handler_of_the_test:take"}
    file = place / "ingest.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in values.items()) + "ORDERFLOW_HANDLER_URL=x\n")
    (place / "worker.env").write_text(f"ORDERFLOW_HANDLER_KEY={SECRET}\n")
    monkeypatch.setenv("ORDERFLOW_SETTINGS", str(file))
    found = list(check_all(load(), None, with_postfix=False))
    assert [one.level for one in found if one.part == "document handler"] == [Level.OK]
    assert not any(SECRET in one.text for one in found)
