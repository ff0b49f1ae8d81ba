"""A database without any organization is another one than was meant, or is being set up: mail waits, none bounces."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints.admin.org_test import dry_run_delivery
from orderflow_ingest.pipeline.admission import check_recipient
from orderflow_ingest.pipeline.receive import deliver_from_memory, drain
from orderflow_ingest.storage.database import DatabaseUnavailable, Records
from orderflow_ingest.storage.database.connection import NO_TENANT
from orderflow_ingest.storage.database.tables import organization
from orderflow_ingest.storage.envelope_header import encode_envelope
from tests.lab.deployment import DOMAIN, Deployment
from tests.lab.process import scratch, wait_until

from .fakes import embedded
from .mails import mail
from .test_recipients import row, say, status

ACME, NOBODY = f"orders+acme@{DOMAIN}", f"orders@{DOMAIN}"


def emptied(place, **settings):
    parts = embedded(place, ORDERFLOW_DOMAIN=DOMAIN, **settings)
    with parts.records.database.write(NO_TENANT) as connection:
        connection.execute(sa.delete(organization))
    return parts


def envelope(recipient=ACME):
    return Envelope(recipient=recipient, received_at=datetime.now(UTC), sender="buyer@shop.example")


@pytest.mark.parametrize("mode", ["defer", "accept"])
def test_mail_is_deferred_by_whichever_way_until_there_is_an_organization(place, mode):
    parts = emptied(place, ORDERFLOW_SPOOL_MODE=mode)
    ended = deliver_from_memory(envelope(), mail(), parts)
    assert ended.outcome is Outcome.MISCONFIGURED and ended.reason.endswith("orderflow.db: no organization is in it")
    assert check_recipient(ACME, parts) is Outcome.MISCONFIGURED
    assert dict(dry_run_delivery(ACME, None, None, None, parts))["recipient"].startswith(
        "no organization is in database "
    )
    assert parts.spool.entries() == []
    parts.records.organizations.add("beta", "Beta")
    assert deliver_from_memory(envelope(), mail(), parts).outcome is check_recipient(ACME, parts) is Outcome.UNKNOWN_ORG
    parts.records.organizations.set_active("beta", is_active=False)
    assert deliver_from_memory(envelope(), mail(), parts).outcome is Outcome.UNKNOWN_ORG


def test_what_lies_in_the_spool_stays_there(place):
    parts = emptied(place)
    blocks = iter((mail(), b""))
    parts.spool.write(encode_envelope(envelope()), lambda _: next(blocks), limit=1 << 20).release()
    assert [delivery.outcome for _, delivery in drain(parts)] == [Outcome.MISCONFIGURED]
    parts.records.organizations.add("acme", "Acme")
    assert [delivery.outcome for _, delivery in drain(parts)] == [Outcome.DELIVERED]


def test_what_names_no_organization_whatever_the_table_has_bounces(place):
    assert deliver_from_memory(envelope(NOBODY), mail(), emptied(place)).outcome is Outcome.UNKNOWN_ORG


def test_only_a_slug_that_is_not_found_makes_more_than_one_question(place):
    parts, asked = embedded(place, ORDERFLOW_DOMAIN=DOMAIN), []
    sa.event.listen(parts.records.database.engine, "before_cursor_execute", lambda *all: asked.append(all[2]))
    check_recipient(ACME, parts)
    found = len(asked)
    asked.clear()
    check_recipient(f"orders+nope@{DOMAIN}", parts)
    assert len(asked) == found + 2, "is the table filled? and then, is it there now?"


def test_postfix_keeps_the_recipients_that_it_knows(place):
    parts, file = embedded(place), place / "recipients.db"
    parts.records.organizations.publish(file)
    with parts.records.database.write(NO_TENANT) as connection:
        connection.execute(sa.delete(organization))
    parts.records.organizations.publish(file)
    assert not parts.records.organizations.keep_published(file)
    assert parts.records.organizations.published(file) == {"acme", "beta"}
    parts.records.organizations.add("late", "Late")
    assert parts.records.organizations.keep_published(file)
    assert parts.records.organizations.published(file) == {"late"}


@pytest.mark.parametrize("way", ["pipe", "lmtp", "before-queue"])
def test_behind_postfix_mail_waits_and_then_comes(way):
    with scratch() as place:
        deployment = Deployment(place, way=way, service=True, overrides="minimal_backoff_time = 1s\n")
        deployment.set_up("acme")
        with deployment:
            with closing(sqlite3.connect(deployment.state / "orderflow.db", timeout=30)) as database, database:
                database.execute("DELETE FROM organization")
            deployment.admin("init")  # keeps what Postfix knows
            checked = deployment.run("orderflow-admin", "check", "--no-postfix", check=False).stdout
            assert "orderflow.db has none, so all mail waits" in checked

            def waits() -> bool:
                """Tell whether the service no longer remembers the organization of a second ago."""
                rcpt, reply = say(deployment, f"<{ACME}>", "waits")
                return status(deployment, reply or rcpt) in ("451", "deferred")

            assert wait_until(waits, 60)
            deployment.admin("org", "add", "acme")
            if way == "before-queue":
                assert wait_until(lambda: say(deployment, f"<{ACME}>", "waits")[1].startswith("250"), 60)
            deployment.postfix.flush()
            assert wait_until(lambda: row(deployment, "waits") is not None, 60)


def test_of_a_standby_only_yes_counts_since_it_may_not_know_a_new_organization_yet(place, postgres):
    url = postgres.create_database("standby")
    parts = embedded(place / "primary", ORDERFLOW_DOMAIN=DOMAIN, DATABASE_URL=url)
    with parts.records.database.write(NO_TENANT) as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'"
        )
    assert check_recipient(f"orders+new@{DOMAIN}", parts) is Outcome.UNKNOWN_ORG
    primary, standby = parts.records, Records(f"{url}?options=-csearch_path%3Dpublic%2Cpg_catalog")
    parts = replace(parts, records=standby)
    assert check_recipient(ACME, parts) is None and standby.organizations.active_slugs({"acme"}) == {"acme"}
    assert check_recipient(f"orders+new@{DOMAIN}", parts) is Outcome.BACKEND_DOWN
    with pytest.raises(DatabaseUnavailable, match="a standby answers"):
        standby.organizations.active_slugs({"acme", "new"})
    for records in (primary, standby):
        records.database.close()


def test_an_organization_that_comes_while_it_is_looked_for_is_found(place, monkeypatch):
    parts = emptied(place)
    organizations = parts.records.organizations

    def has_none():
        organizations.add("acme", "Acme")
        return False

    monkeypatch.setattr(organizations, "has_none", has_none)
    assert check_recipient(ACME, parts) is None
