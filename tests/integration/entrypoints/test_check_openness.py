"""`orderflow-admin check` names what is more open than it need be, and is content with what the README sets up."""

import json
import re
import shutil
import subprocess
from uuid import uuid4

import pytest

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.admin.checks.openness import _connections, check_openness
from tests.support.lab.deployment import Deployment
from tests.support.lab.process import scratch
from tests.support.tenants import Tenants


@pytest.fixture
def quiet(template, place):
    """A deployment whose worker does not run: a copy of the template."""
    deployment = Deployment(place / "deployment")
    subprocess.run(["cp", "-a", f"{template}/.", deployment.state], check=True)
    return deployment


def openness(deployment):
    """Return the findings, with their texts, and check that the status is as README says."""
    ended = deployment.run("orderflow-admin", "check", "--no-postfix", "--json", check=False)
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == any(row["finding"] == "TROUBLE" for row in rows)
    return [(row["finding"], row["detail"]) for row in rows if row["part"] == "openness"]


def test_what_init_made_is_not_too_open(quiet):
    assert openness(quiet) == [("ok", "nothing is more open than it need be")]


@pytest.fixture(scope="module")
def tenants(postgres, template):
    with scratch() as place:
        tenants = Tenants(postgres)
        tenants.set_up(Deployment(place))
        yield tenants


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("superuser", "its role is a superuser, so row-level security does not"),
        ("bypassing", "its role has BYPASSRLS"),
        ("owner", "its role owns the tables"),
        ("operator", "its role is a member of orderflow_operator"),
        ("deliver", None),
        ("worker", None),
    ],
)
def test_a_role_that_row_level_security_does_not_bind(quiet, tenants, postgres, group, said):
    url = tenants.url(group) if group in ("owner", "operator", "deliver", "worker") else None
    if group == "superuser":
        url = f"postgresql://postgres@127.0.0.1:{postgres.port}/{tenants.name}"
    if group == "bypassing":
        role = f"bypassing_{uuid4().hex}"
        postgres.create_role(role, "orderflow_deliver")
        postgres.run_script("postgres", f'ALTER ROLE "{role}" BYPASSRLS')
        url = postgres.url(tenants.name, role)
    quiet.write_settings({"DATABASE_URL": url})
    ((finding, says),) = openness(quiet)
    assert finding == "warning" and (said or "MAP_DATABASE_URL is DATABASE_URL") in says
    quiet.write_settings({"DATABASE_URL": url, "MAP_DATABASE_URL": tenants.url("map")})
    ((finding, says),) = openness(quiet)
    assert (finding == "warning" and said in says) if said else finding == "ok"


REMOTE = "postgresql://of:hidden@db.example:5433/of"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"MAP_DATABASE_URL": REMOTE}, ["MAP_DATABASE_URL goes to another host without verifying it"]),
        ({"MAP_DATABASE_URL": f"{REMOTE}?sslmode=require"}, ["MAP_DATABASE_URL goes to another host without"]),
        ({"MAP_DATABASE_URL": f"{REMOTE}?sslmode=verify-ca"}, ["MAP_DATABASE_URL goes to another host without"]),
        ({"MAP_DATABASE_URL": f"{REMOTE}?sslmode=verify-full"}, []),
        ({"MAP_DATABASE_URL": "postgresql://of@localhost/of?hostaddr=10.1.2.3"}, ["goes to another host without"]),
        ({"MAP_DATABASE_URL": "postgresql://of@localhost/of?host=db.example"}, ["goes to another host without"]),
        ({"MAP_DATABASE_URL": "postgresql://of@/of?host=/run/postgresql"}, []),
        ({"MAP_DATABASE_URL": "postgresql://of@/of?host=db.example"}, ["MAP_DATABASE_URL goes to another host"]),
        ({"MAP_DATABASE_URL": "postgresql://of@[::1]/of"}, []),
        (
            {"QUEUE_URL": "redis://:hidden@192.0.2.1:6379/0"},
            ["QUEUE_URL goes to another host in the clear: say rediss:"],
        ),
        ({"QUEUE_URL": "redis://:hidden@localhost:6379/0"}, []),
        ({"QUEUE_URL": "rediss://:hidden@192.0.2.1:6379/0"}, []),
        ({"QUEUE_URL": "rediss://192.0.2.1:6379/0?ssl_cert_reqs=none"}, ["QUEUE_URL goes to another host without"]),
        ({"QUEUE_URL": "rediss://192.0.2.1:6379/0?ssl_check_hostname=No"}, ["QUEUE_URL goes to another host without"]),
        ({"QUEUE_URL": "rediss://192.0.2.1:6379/0?ssl_check_hostname=yes"}, []),
        ({"ARCHIVE_URL": "s3://orders", "S3_ENDPOINT_URL": "http://192.0.2.1"}, ["S3_ENDPOINT_URL goes to another"]),
        ({"ARCHIVE_URL": "s3://orders", "S3_ENDPOINT_URL": "http://127.0.0.1:9"}, []),
        ({"ARCHIVE_URL": "s3://orders", "S3_ENDPOINT_URL": "https://192.0.2.1"}, []),
    ],
    ids=str,
)
def test_a_connection_to_another_host_that_nobody_verifies(quiet, settings, said):
    """Asked of the module: a whole check would wait for hosts that are not there."""
    quiet.write_settings({"AWS_DEFAULT_REGION": "eu-central-1", **settings})
    found = list(check_openness(open_app(load(str(quiet.settings_file), {}))))
    warnings = [text for level, text in found if level != "OK"]
    assert len(warnings) == len(said) and all(part in text for part, text in zip(said, warnings, strict=True))
    assert not any("hidden" in text for text in warnings)


def test_a_database_of_another_host_is_told_once_for_rows_queue_and_map(quiet):
    quiet.write_settings({"DATABASE_URL": REMOTE})
    ((level, text),) = _connections(load(str(quiet.settings_file), {}))
    assert level == "WARNING" and text.startswith("DATABASE_URL goes to another host")


def _open_worker_file(deployment):
    (deployment.directory / "worker.env").write_text("DATABASE_URL=postgresql://of:hidden@127.0.0.1/of\n")
    (deployment.directory / "worker.env").chmod(0o644)


@pytest.mark.parametrize(
    ("fault", "finding", "said"),
    [
        (_open_worker_file, "TROUBLE", "worker.env can hold passwords and is open to every user: chmod 600"),
        (lambda d: d.settings_file.chmod(0o660), "TROUBLE", "can be written by others than its owner: chmod 640"),
        (lambda d: d.directory.chmod(0o777), "TROUBLE", "any user can put another ingest.env into"),
        (lambda d: (d.state / "orderflow.db").chmod(0o644), "warning", "orderflow.db holds mail and is open"),
        (lambda d: (d.state / "archive").chmod(0o755), "warning", "archive holds mail and is open to every user"),
    ],
    ids=["worker.env", "writable settings", "writable directory", "database", "archive"],
)
def test_a_file_that_others_may_read_or_replace(quiet, fault, finding, said):
    fault(quiet)
    ((found, says),) = openness(quiet)
    assert found == finding and said in says and "hidden" not in says


def test_a_map_whose_password_all_can_read_and_one_whose_passfile_nobody_reads(quiet, tenants):
    quiet.write_settings({"DATABASE_URL": tenants.url("deliver"), "MAP_DATABASE_URL": tenants.url("map")})
    quiet.configure_postfix()
    table = quiet.postfix.config_directory / "orderflow_recipients.cf"
    passfile = quiet.passfile
    quiet.user = "root"

    def said():
        options = ("--postfix-config", str(quiet.postfix.config_directory), "--json")
        return quiet.run("orderflow-admin", "check", *options, check=False).stdout

    assert "password" not in said() and "passfile" not in said()
    passfile.chmod(0o640)
    assert f"{passfile} is open to others, so that libpq reads no password there: chmod 600" in said()
    passfile.chmod(0o600)
    shutil.chown(passfile, "nobody")
    assert f"{passfile} is not postfix's: chown postfix" in said()
    passfile.unlink()
    assert f"{passfile} is not there: install -m 600 -o postfix" in said()
    url = tenants.url("map").replace("+psycopg", "")
    table.write_text(re.sub("(?m)^hosts = .*", f"hosts = {url}", table.read_text()))
    table.chmod(0o644)
    told = said()
    assert f"{table} holds a password and is open to every user: chmod 640" in told
    assert f"{table}: hosts has a password, which Postfix logs" in told
    table.write_text(
        re.sub("(?m)^hosts = .*", "hosts = postgresql://h/d,\n  postgresql://i/d?sslpassword=x", table.read_text())
    )
    assert f"{table}: hosts has a password, which Postfix logs" in said()
