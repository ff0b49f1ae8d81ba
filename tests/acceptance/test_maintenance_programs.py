"""reconcile, retention and erase as an operator runs them: embedded, and on PostgreSQL and Ceph by role."""

import json
import os
import pty
import subprocess
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import boto3
import pytest
from click.testing import CliRunner

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.entrypoints.admin.main import cli
from orderflow_ingest.pipeline import extract, hand_over
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.database import Filter
from tests.support.fakes import embedded
from tests.support.lab.deployment import DOMAIN, ENVIRONMENT, PROGRAMS, Deployment
from tests.support.lab.process import scratch
from tests.support.mails import order
from tests.support.servers import BUCKET
from tests.support.tenants import Tenants

OLD = datetime.now(UTC) - timedelta(days=400)


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


class Embedded:
    """A deployment on SQLite and files, and its operator's program in this process."""

    def __init__(self, place):
        self.app = embedded(place)
        open_app(self.app.settings, create=True).queue.create_tables()
        self._env = {"ORDERFLOW_STATE_DIR": str(place), "ORDERFLOW_SETTINGS": "/dev/null", "ORDERFLOW_DEADLINE": "1"}

    def run(self, *arguments):
        return CliRunner().invoke(cli, arguments, env=self._env)

    def admin(self, *arguments):
        """Run a command that must end well; return its rows."""
        ended = self.run(*arguments, "--json")
        assert ended.exit_code == 0, ended.output
        return rows(ended.stdout)

    def worked(self, raw, slug="acme", at=None):
        return worked(self.app, raw, slug, at)


@pytest.fixture
def here(place):
    found = Embedded(place)
    yield found
    found.app.records.database.close()


def worked(app, raw, slug="acme", at=None, sender="buyer@shop.example"):
    """Deliver a mail and do all the work, in this process."""
    envelope = Envelope(f"orders+{slug}@{DOMAIN}", at or datetime.now(UTC), sender=sender)
    id = deliver_from_memory(envelope, raw, app).message_id
    org_id = next(org.id for org in app.records.organizations.all() if org.slug == slug)
    extract.extract(org_id, id, app)
    for document in app.records.documents.of_message(org_id, id):
        hand_over.hand_over(org_id, document.id, app)
    return app.records.messages.get(org_id, id)


def test_reconcile_tells_mends_and_says_by_its_status_whether_anything_is_left(here):
    message = here.worked(order(1))
    well = here.run("reconcile")
    assert (well.exit_code, well.stdout.split()) == (0, ["NAME", "FOUND", "FIXED", "all", "findings", "0", "0"])
    lost = here.app.records.documents.of_message(1, message.id)[0]
    here.app.archive.delete(lost.object_key)
    told = here.run("reconcile", "--org", "acme", "--json")
    assert told.exit_code == 1
    finding, kind, total = rows(told.stdout)
    assert (finding["finding"], finding["target"], finding["fixed"]) == (
        "document missing",
        f"document {lost.id}",
        None,
    )
    assert (kind["name"], kind["found"], total["found"], total["fixed"]) == ("document missing", 1, 1, 0)
    assert f"document missing  acme  document {lost.id}" in here.run("reconcile").stdout
    assert here.admin("reconcile", "--fix", "--yes")[-1] == {
        "name": "all findings",
        "what": "all findings",
        "found": 1,
        "fixed": 1,
    }
    assert here.app.records.messages.get(1, message.id).status.value == "RECEIVED"


def test_a_reconcile_that_was_broken_off_goes_on_behind_the_last_organization(here):
    for org_id in (1, 2):
        here.app.archive.put(f"org/{org_id}/raw/x", b"x", "0" * 64)
    first = here.run("reconcile", "--json")
    assert [one["org"] for one in rows(first.stdout) if "target" in one] == ["acme", "beta"]
    run = first.stderr.split()[1]
    again = here.run("reconcile", "--resume", run)
    assert again.exit_code == 1 and "has come to its end" in again.stderr
    here.app.archive.delete("org/2/raw/x")

    def resumed(failed):
        here.app.records.runs.advance(UUID(run), "acme", 0, 0, failed, datetime.now(UTC))
        with here.app.records.database.write(1) as connection:
            connection.exec_driver_sql("UPDATE operator_run SET ended_at = NULL")
        return here.run("reconcile", "--resume", run, "--json")

    well, ill = resumed(0), resumed(1)
    assert [one["target"] for one in rows(well.stdout + ill.stdout) if "target" in one] == []
    assert well.exit_code == 0 and rows(well.stdout)[-1] == {
        "name": "all findings",
        "what": "all findings",
        "found": 0,
        "fixed": 0,
    }
    assert ill.exit_code == 1 and rows(ill.stdout)[-1] == {
        "name": "all findings",
        "what": "all findings",
        "found": 1,
        "fixed": 0,
    }


def test_retention_takes_the_days_of_each_organization_and_deletes_only_with_yes(here):
    old, other = here.worked(order(1), at=OLD), here.worked(order(1), "beta", at=OLD)
    app = here.app
    assert "for ever" in here.run("retention").stderr
    with app.records.database.write(1) as connection:
        connection.exec_driver_sql("UPDATE organization SET settings = '{\"keep_raw_days\": 30}' WHERE slug = 'acme'")
    asked = here.run("retention", "--json")
    assert asked.exit_code == 1 and "Delete these objects?" in asked.stderr and "--yes answers" in asked.stderr
    (row,) = here.admin("retention", "--dry-run")
    assert rows(asked.stdout) == [row]
    assert (row["org"], row["kind"], row["objects"], row["bytes"], row["rows"]) == ("acme", "raw", 1, old.size, 1)
    assert app.archive.read(old.raw_key, old.digest)
    assert here.admin("retention", "--yes") == [row]
    assert app.records.messages.get(1, old.id).erased_at and not app.records.messages.get(2, other.id).erased_at
    done = here.admin("retention", "--org", "beta", "--raw-days", "30", "--document-days", "500", "--dry-run")
    assert [(one["kind"], one["objects"], one["kept"]) for one in done] == [("raw", 1, 0), ("documents", 0, 2)]
    (run,) = app.records.runs.latest()
    assert (run.command, run.done, run.ended_at is None) == ("retention", 1, False)


def test_an_organization_must_be_disabled_for_a_delivery_s_time_before_it_is_erased(here):
    here.worked(order(1))
    ended = here.run("erase", "--org", "acme", "--yes")
    assert ended.exit_code == 1 and "first orderflow-admin org disable acme" in ended.stderr
    here.run("org", "disable", "acme")
    ended = here.run("erase", "--org", "acme", "--yes")
    assert ended.exit_code == 1 and "a delivery may be at work still" in ended.stderr
    with here.app.records.database.write(1) as connection:
        connection.exec_driver_sql("UPDATE organization SET updated_at = '2026-01-01 00:00:00.000000'")
    assert here.run("erase", "--org", "acme", "--yes").exit_code == 0
    assert here.app.archive.objects() == []


def test_erase_deletes_nothing_unless_it_is_told_to_and_leaves_a_run_without_a_name(here):
    message = here.worked(order(1))
    told = here.run("erase", "--org", "acme", "--sender", "Buyer@shop.example", "--json")
    assert told.exit_code == 1 and "Type acme to erase it" in told.stderr and "--yes answers" in told.stderr
    assert {one["name"]: one["count"] for one in rows(told.stdout)}["messages"] == 1
    assert here.app.records.messages.get(1, message.id) and here.app.records.runs.latest() == []
    done = here.admin("erase", "--org", "acme", "--sender", "Buyer@shop.example", "--yes")
    assert {one["name"]: one["count"] for one in done}["messages"] == 1
    assert here.app.records.messages.select(Filter(), 9) == []
    (run,) = here.app.records.runs.latest()
    assert run.ended_at and run.position["raw_objects"] == 1
    assert "buyer" not in str(run).lower()


def test_what_a_worker_has_in_hand_is_told_by_the_status(here):
    here.worked(order(1))
    new = deliver_from_memory(Envelope(f"orders+acme@{DOMAIN}", datetime.now(UTC)), order(2), here.app)
    here.app.records.messages.claim(1, new.message_id, "w", datetime.now(UTC), timedelta(hours=1))
    ended = here.run("erase", "--org", "acme", "--sender", "buyer@shop.example", "--yes")
    assert ended.exit_code == 1 and "1 are left, in the hands of a worker or a delivery" in ended.stderr
    assert here.app.records.runs.latest()[0].ended_at is None


@pytest.mark.parametrize(("typed", "erased"), [("acme", True), ("beta", False)])
def test_on_a_terminal_the_slug_has_to_be_typed(here, typed, erased):
    message = here.worked(order(1))
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [PROGRAMS / "orderflow-admin", "erase", "--org", "acme", "--message", str(message.id)],
        env={**ENVIRONMENT, "ORDERFLOW_STATE_DIR": str(here.app.settings.state_dir)},
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    os.write(ours, f"{typed}\n".encode())
    _, said = program.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert program.returncode == (not erased), said
    assert "This cannot be undone" in said
    assert (here.app.records.messages.get(1, message.id) is None) is erased


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("reconcile", "--orphan-documents"), "Error: --orphan-documents goes with --fix"),
        (("reconcile", "--org", "nope"), "Error: no organization is named nope"),
        (("reconcile", "--resume", str(uuid4())), "Error: no run of reconcile has this id"),
        (("retention", "--org", "nope"), "Error: no organization is named nope"),
        (("erase", "--org", "acme", "--sender", "@shop.example"), "Error: --sender is a whole address, and goes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(here, arguments, said):
    ended = here.run(*arguments)
    assert ended.exit_code in (1, 2)
    assert ended.stderr.strip().splitlines()[-1].startswith(said)


@pytest.fixture
def production(postgres, ceph, monkeypatch):
    """A deployment on PostgreSQL and Ceph, whose programs have roles: acme and bolt with the same old and new mail."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with scratch() as place:
        deployment = Deployment(place)
        tenants = Tenants(postgres)
        tenants.set_up(deployment)
        aws = {"AWS_ACCESS_KEY_ID": ceph.access_key, "AWS_SECRET_ACCESS_KEY": ceph.secret_key}
        aws |= {"AWS_DEFAULT_REGION": ceph.region}
        for name, value in aws.items():
            monkeypatch.setenv(name, value)
        archive = {"ARCHIVE_URL": f"s3://{BUCKET}/{place.name}", "S3_ENDPOINT_URL": ceph.endpoint, **aws}
        deployment.write_settings({"DATABASE_URL": tenants.url("worker"), "ORDERFLOW_DEADLINE": "1", **archive})
        deployment.environment["DATABASE_URL"] = tenants.url("operator")
        yield deployment, tenants


def test_operators_keep_and_erase_on_postgresql_and_s3_by_their_role(production, ceph):
    deployment, tenants = production

    def reconciled(*options):
        ended = deployment.run("orderflow-admin", "reconcile", "--digests", "all", "--json", *options, check=False)
        assert ended.returncode in (0, 1), ended.stderr
        return {one["name"]: (one["found"], one["fixed"]) for one in rows(ended.stdout) if "name" in one}

    app = open_app(load(None, {"ORDERFLOW_SETTINGS": str(deployment.settings_file)}))
    for slug in ("acme", "bolt"):
        old = worked(app, order(1), slug, at=OLD)
        new = worked(app, order(1).replace(b"order-1@", b"again@"), slug)
        other = worked(app, order(2).replace(b"buyer@", b"else@"), slug, sender="else@shop.example")
    assert reconciled() == {"all findings": (0, 0)}
    app.archive.delete(app.records.documents.of_message(new.org_id, new.id)[0].object_key)
    assert reconciled("--fix", "--yes") == {"document missing": (2, 2), "all findings": (2, 2)}
    for message in (old, new):
        extract.extract(message.org_id, message.id, app)
    assert reconciled() == {"all findings": (0, 0)}

    done = rows(
        deployment.admin("retention", "--org", "bolt", "--raw-days", "30", "--document-days", "30", "--yes", "--json")
    )
    assert [(one["objects"], one["kept"]) for one in done] == [(1, 2), (0, 4)], "the new mail has the same documents"
    assert reconciled() == {"all findings": (0, 0)}
    told = {one.key for one in app.archive.iterate(f"org/{new.org_id}/raw/")}
    assert told == {new.raw_key, other.raw_key}

    acme = {one.key for one in app.archive.iterate("org/1/")}
    done = rows(deployment.admin("erase", "--org", "bolt", "--sender", "buyer@shop.example", "--yes", "--json"))
    counts = {one["name"]: one["count"] for one in done}
    assert (counts["messages"], counts["raw objects"], counts["document objects"]) == (2, 1, 2)
    assert [m.id for m in app.records.messages.select(Filter(org_id=2), 9)] == [other.id]
    deployment.admin("org", "disable", "bolt")
    with tenants.connect("owner") as connection:
        connection.execute("ALTER TABLE organization DISABLE TRIGGER organization_touch")
        connection.execute("UPDATE organization SET updated_at = now() - interval '1 hour'")
    client = ceph.client()
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    try:
        said = deployment.run("orderflow-admin", "erase", "--org", "bolt", "--yes").stderr
    finally:
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})
    assert "the bucket keeps versions" in said
    assert list(app.archive.iterate("org/2/")) == []
    for table in ("inbound_message", "document", "skipped_part", "held_mail", "message_event"):
        with tenants.connect("owner") as connection:
            assert connection.execute(f"SELECT count(*) FROM {table} WHERE org_id = 2").fetchone() == (0,), table
    assert {one.key for one in app.archive.iterate("org/1/")} == acme
    assert reconciled() == {"all findings": (0, 0)}
    app.records.database.close()
