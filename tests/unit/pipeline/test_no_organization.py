"""A database without any organization is another one than was meant, or is being set up: mail waits, none bounces."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints.admin.org_test import dry_run_delivery
from orderflow_ingest.pipeline.admission import check_recipient
from orderflow_ingest.pipeline.receive import deliver_from_memory, drain
from orderflow_ingest.storage.database.connection import NO_TENANT
from orderflow_ingest.storage.database.tables import organization
from orderflow_ingest.storage.envelope_header import encode_envelope
from tests.support.fakes import embedded
from tests.support.lab.process import DOMAIN
from tests.support.mails import mail

ACME, NOBODY = f"orders+acme@{DOMAIN}", f"orders@{DOMAIN}"


def emptied(place, **settings):
    app = embedded(place, ORDERFLOW_DOMAIN=DOMAIN, **settings)
    with app.records.database.write(NO_TENANT) as connection:
        connection.execute(sa.delete(organization))
    return app


def envelope(recipient=ACME):
    return Envelope(recipient=recipient, received_at=datetime.now(UTC), sender="buyer@shop.example")


@pytest.mark.parametrize("mode", ["defer", "accept"])
def test_mail_is_deferred_by_whichever_way_until_there_is_an_organization(place, mode):
    app = emptied(place, ORDERFLOW_SPOOL_MODE=mode)
    ended = deliver_from_memory(envelope(), mail(), app)
    assert ended.outcome is Outcome.MISCONFIGURED and ended.reason.endswith("orderflow.db: no organization is in it")
    assert check_recipient(ACME, app) is Outcome.MISCONFIGURED
    assert dict(dry_run_delivery(ACME, None, None, None, app))["recipient"].startswith(
        "no organization is in database "
    )
    assert app.spool.entries() == []
    app.records.organizations.add("beta", "Beta")
    assert deliver_from_memory(envelope(), mail(), app).outcome is check_recipient(ACME, app) is Outcome.UNKNOWN_ORG
    app.records.organizations.set_active("beta", is_active=False)
    assert deliver_from_memory(envelope(), mail(), app).outcome is Outcome.UNKNOWN_ORG


def test_what_lies_in_the_spool_stays_there(place):
    app = emptied(place)
    blocks = iter((mail(), b""))
    app.spool.write(encode_envelope(envelope()), lambda _: next(blocks), limit=1 << 20).release()
    assert [delivery.outcome for _, delivery in drain(app)] == [Outcome.MISCONFIGURED]
    app.records.organizations.add("acme", "Acme")
    assert [delivery.outcome for _, delivery in drain(app)] == [Outcome.DELIVERED]


def test_what_names_no_organization_whatever_the_table_has_bounces(place):
    assert deliver_from_memory(envelope(NOBODY), mail(), emptied(place)).outcome is Outcome.UNKNOWN_ORG


def test_only_a_slug_that_is_not_found_makes_more_than_one_question(place):
    app, asked = embedded(place, ORDERFLOW_DOMAIN=DOMAIN), []
    sa.event.listen(app.records.database.engine, "before_cursor_execute", lambda *all: asked.append(all[2]))
    check_recipient(ACME, app)
    found = len(asked)
    asked.clear()
    check_recipient(f"orders+nope@{DOMAIN}", app)
    assert len(asked) == found + 2, "is the table filled? and then, is it there now?"


def test_postfix_keeps_the_recipients_that_it_knows(place):
    app, file = embedded(place), place / "recipients.db"
    app.records.organizations.publish(file)
    with app.records.database.write(NO_TENANT) as connection:
        connection.execute(sa.delete(organization))
    app.records.organizations.publish(file)
    assert not app.records.organizations.keep_published(file)
    assert app.records.organizations.published(file) == {"acme", "beta"}
    app.records.organizations.add("late", "Late")
    assert app.records.organizations.keep_published(file)
    assert app.records.organizations.published(file) == {"late"}


def test_an_organization_that_comes_while_it_is_looked_for_is_found(place, monkeypatch):
    app = emptied(place)
    organizations = app.records.organizations

    def has_none():
        organizations.add("acme", "Acme")
        return False

    monkeypatch.setattr(organizations, "has_none", has_none)
    assert check_recipient(ACME, app) is None
