"""Deliveries, and a rebuild of the rows from the archive."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.maintenance.rebuild.organizations import find_organizations
from orderflow_ingest.maintenance.rebuild.parse_object import RebuildOptions
from orderflow_ingest.maintenance.rebuild.rebuilder import RebuildProgress, rebuild_organizations
from orderflow_ingest.pipeline import deliver as delivery
from orderflow_ingest.pipeline.deliver import Origin

from .lab.process import DOMAIN

AT = datetime(2026, 3, 14, 15, 9, 26, 535897, UTC)


def deliver(app: App, raw: bytes, org: str = "acme", way: Origin = delivery.BY_SMTP, **envelope: Any) -> Outcome:
    told: dict[str, Any] = {
        "sender": "buyer@shop.example",
        "queue_id": "4XYZ",
        "client_address": "192.0.2.7",
        "received_at": AT,
    }
    return delivery.deliver(Envelope(f"Orders+{org}@{DOMAIN}", **(told | envelope)), raw, app, way).outcome


def build(
    app: App, dry_run: bool = False, at: datetime = AT + timedelta(days=99), processes: int = 0, **choice: Any
) -> RebuildProgress:
    """Rebuild everything, as the program does, but in this process."""
    orgs = [found.org for found in find_organizations(app.archive) if found.org]
    if not dry_run:
        for org in orgs:
            app.records.rebuild_writes.add_organization(org)
    tally = RebuildProgress()
    for _ in rebuild_organizations(
        orgs, RebuildOptions(at, "jo@desk", **choice), app, processes, tally, dry_run=dry_run
    ):
        pass
    return tally


def told(text: str) -> dict[str, int]:
    return {row["name"]: row["count"] for row in map(json.loads, text.splitlines())}
