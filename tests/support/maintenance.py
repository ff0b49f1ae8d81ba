"""Deployments with mail in every state, for the tests of reconcile, retention and erasure."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.object_keys import raw_key
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import Status
from orderflow_ingest.maintenance.erasure import ErasureRequest, ErasureResult, erase
from orderflow_ingest.maintenance.reconcile.findings import DigestCheck, ReconcileOptions
from orderflow_ingest.maintenance.reconcile.reconciler import reconcile_organization
from orderflow_ingest.maintenance.retention import RetentionRule, apply_retention
from orderflow_ingest.pipeline import extract as extraction
from orderflow_ingest.pipeline import hand_over
from orderflow_ingest.pipeline.deliver import Delivery
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.database import ALL_TENANTS, Document, Filter, InboundMessage, Organization
from orderflow_ingest.storage.database.tables import document, held_mail, inbound_message, message_event, skipped_part
from orderflow_ingest.storage.envelope_header import encode_envelope

from .mails import mail, order

ME = "me@here"
TOLD = ReconcileOptions(ME, object_age=timedelta(0), digests=DigestCheck.ALL)
MENDED = replace(TOLD, fix=True)
SENDER = "buyer@shop.example"


def deliver(app: App, raw: bytes, slug: str = "acme", sender: str = SENDER, at: datetime | None = None) -> Delivery:
    """Deliver a mail and return how it ended."""
    envelope = Envelope(f"orders+{slug}@orderflow.example.com", at or datetime.now(UTC), sender=sender)
    return deliver_from_memory(envelope, raw, app)


def work(app: App) -> None:
    """Extract and hand over all that is to be, as a worker would."""
    for row in app.records.messages.select(Filter(statuses=(Status.RECEIVED, Status.STORED)), 100):
        extraction.extract(row.org_id, row.id, app)
        for one in app.records.documents.of_message(row.org_id, row.id):
            hand_over.hand_over(row.org_id, one.id, app)


def delivered(
    app: App, raw: bytes, slug: str = "acme", sender: str = SENDER, at: datetime | None = None
) -> InboundMessage:
    """Deliver a mail, do all the work and return its row."""
    ended = deliver(app, raw, slug, sender, at)
    assert ended.outcome is Outcome.DELIVERED
    assert ended.message_id
    work(app)
    return row(app, ended.message_id)


def row(app: App, id: UUID) -> InboundMessage:
    return app.records.messages.select(Filter(ids=(id,)), 1)[0]


def documents(app: App, message: InboundMessage) -> list[Document]:
    return app.records.documents.of_message(message.org_id, message.id)


def org(app: App, slug: str = "acme") -> Organization:
    return next(one for one in app.records.organizations.all() if one.slug == slug)


def found(app: App, scope: ReconcileOptions = TOLD, slug: str = "acme") -> list[tuple[Any, Any]]:
    """Return what reconcile finds in an organization: kind and what was done."""
    return [(one.kind, one.fixed) for one in reconcile_organization(org(app, slug), scope, app)]


def objects(app: App) -> set[str]:
    return {listed.key for listed in app.archive.iterate("org/")}


def count(app: App, table: sa.Table, org_id: int = 1) -> int:
    with app.records.database.read(ALL_TENANTS) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table).where(table.c.org_id == org_id)) or 0


def change(app: App, table: sa.Table, **values: Any) -> None:
    """Change all rows behind our programs' back."""
    with app.records.database.write(ALL_TENANTS) as connection:
        connection.execute(table.update().values(**values))


def put_orphan(app: App, raw: bytes, slug: str = "acme", *, is_held: bool = False, **metadata: str) -> str:
    digest = hashlib.sha256(raw).hexdigest()
    key = raw_key(org(app, slug).id, digest, is_held=is_held)
    app.archive.put(key, raw, digest, metadata)
    return key


def _reader(raw: bytes) -> Callable[[int], bytes]:
    coming = iter((raw, b""))
    return lambda _: next(coming)


# Retention

OLD = datetime.now(UTC) - timedelta(days=400)
YEAR = RetentionRule(365, 365)


def keep(
    app: App, rule: RetentionRule = YEAR, slug: str = "acme", *, dry_run: bool = False
) -> dict[str, tuple[int, int]]:
    """Apply a rule and return, for each kind of object, how many went and how many stayed."""
    return {
        one.area.value: (one.objects, one.kept)
        for one in apply_retention(org(app, slug), rule, app, ME, dry_run=dry_run)
    }


# Erasure


def erased(app: App, slug: str = "acme", **of: Any) -> ErasureResult:
    return erase(ErasureRequest(org(app, slug), **of), app, ME, dry_run=False)


def populated(app: App) -> None:
    """Fill two organizations with the same bytes, from two senders, with all that a mail can leave."""
    for slug in ("acme", "beta"):
        delivered(app, order(1), slug)
        deliver(app, order(1) + b"other content\n", slug)
        delivered(app, mail(2, From="Else <else@shop.example>"), slug, sender="else@shop.example")
        deliver(app, order(3), slug)
    for sender in (SENDER, "else@shop.example"):
        raw = mail(9, From=sender)
        for slug in ("acme", "beta"):
            envelope = Envelope(f"orders+{slug}@orderflow.example.com", datetime.now(UTC), sender=sender)
            app.spool.write(encode_envelope(envelope), _reader(raw), 1 << 20).release()
            dead = app.spool.write(encode_envelope(envelope), _reader(raw), 1 << 20)
            app.spool.move_to_dead(dead, f"{slug}{sender}", "it broke")


def everything_of(app: App, org_id: int) -> tuple[list[int], set[str]]:
    """Return all that an organization has of an organization: the number of its rows in each table, its objects."""
    tables = (inbound_message, document, skipped_part, held_mail, message_event)
    rows = [count(app, table, org_id) for table in tables]
    return rows, {key for key in objects(app) if key.startswith(f"org/{org_id}/")}


def spooled(app: App) -> tuple[int, int]:
    names = [*app.spool.entries(), *(name for name, _ in app.spool.dead())]
    return len(names), len(os.listdir(app.settings.spool_dir / "dead"))
