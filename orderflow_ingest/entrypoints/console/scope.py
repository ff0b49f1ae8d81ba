"""The organizations that a user may see: every query of a page goes through here, and names the ones it covers.

An organization that a user may not see looks like one that does not exist: both are NOT FOUND. Of several organizations
each is queried by itself, so that each query uses an index that begins with org_id, and the results are merged.
"""

import heapq
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from uuid import UUID

from flask import abort, g

from orderflow_ingest.app import App
from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.storage.database import (
    Cursor,
    Filter,
    HeldMail,
    InboundMessage,
    Numbers,
    Organization,
    OrgCount,
    TimeBucket,
)


@dataclass(frozen=True)
class StatusCounts:
    """How much is unfinished, failed or held now, and how many messages were PARSED since a time."""

    by_status: dict[Status, int]
    documents: dict[HandOver, int]
    held: int
    oldest: datetime | None


class Scope:
    """The organizations that a query covers: all (None stands for them), the user's, or one of those."""

    def __init__(self, app: App, slug: str | None = None):
        self._records = app.records
        self.slug = slug
        if slug is None and g.user.slugs is None:
            self.org_ids: tuple[int | None, ...] = (None,)
            return
        slugs = g.user.slugs if slug is None else {slug}
        found = [self._records.organizations.find(one) for one in sorted(slugs) if g.user.sees(one)]
        self.org_ids = tuple(org.id for org in found if org)
        if slug is not None and not self.org_ids:
            abort(404)

    @property
    def is_unrestricted(self) -> bool:
        """Return whether the scope is the whole deployment."""
        return self.org_ids == (None,)

    def slug_of(self, org_id: int) -> str:
        """Return the slug of an organization."""
        return self._records.organizations.slug(org_id)

    def messages(self, chosen: Filter, limit: int, after: Cursor | None = None) -> list[InboundMessage]:
        """Select messages, the newest first."""
        select = self._records.messages.select
        pages = [select(replace(chosen, org_id=org_id), limit, after) for org_id in self.org_ids]
        merged = heapq.merge(*pages, key=lambda message: (message.received_at, message.id), reverse=True)
        return list(islice(merged, limit))

    def held(self, limit: int) -> list[HeldMail]:
        """List held mail, the oldest first."""
        found = [self._records.held_mail.open(org_id, limit=limit) for org_id in self.org_ids]
        return list(islice(heapq.merge(*found, key=lambda mail: mail.received_at), limit))

    def status_counts(self, since: datetime) -> StatusCounts:
        """Count messages, documents and held mail by state."""
        records = self._records
        statuses = [records.messages.count_by_status(since, org_id) for org_id in self.org_ids]
        documents = [records.documents.count_undone(org_id) for org_id in self.org_ids]
        oldest = [records.messages.oldest_unfinished(org_id) for org_id in self.org_ids]
        return StatusCounts(
            {status: sum(one[status] for one in statuses) for status in Status},
            {state: sum(one[state] for one in documents) for state in (HandOver.PENDING, HandOver.FAILED)},
            sum(records.held_mail.count_open(org_id) for org_id in self.org_ids),
            min((at for at in oldest if at), default=None),
        )

    def time_buckets(self, since: datetime, until: datetime, step: int) -> list[TimeBucket]:
        """Count messages by intervals of time."""
        series = [self._records.statistics.over(since, until, step, org_id) for org_id in self.org_ids]
        return [_add_buckets(buckets) for buckets in zip(*series, strict=True)]

    def org_counts(self, since: datetime, until: datetime, limit: int) -> list[OrgCount]:
        """Count by organization, those with the most messages first."""
        by_organization = self._records.statistics.by_organization
        found = [counts for org_id in self.org_ids for counts in by_organization(since, until, org_id, limit)]
        return sorted(found, key=lambda counts: -counts.numbers.received)[:limit]


def organizations(app: App) -> list[Organization]:
    """List the organizations that the user may know of."""
    return [org for org in app.records.organizations.all() if g.user.sees(org.slug)]


def get_organization_or_404(app: App, slug: str) -> Organization:
    """Return an organization. NOT FOUND if the user may not know of it."""
    org = app.records.organizations.find(slug) if g.user.sees(slug) else None
    return org if org else abort(404)


def get_message_or_404(app: App, slug: str, id: UUID) -> InboundMessage:
    """Return a message of an organization. NOT FOUND if there is none, or the user may not know of it."""
    found = app.records.messages.get(get_organization_or_404(app, slug).id, id)
    return found if found else abort(404)


def get_held_mail_or_404(app: App, slug: str, id: UUID) -> HeldMail:
    """Return a held mail. NOT FOUND if there is none, it is decided, or the user may not know of it."""
    found = app.records.held_mail.open(get_organization_or_404(app, slug).id, (id,))
    return found[0] if found else abort(404)


def require_all_organizations() -> None:
    """Answer NOT FOUND unless the user sees every organization."""
    if g.user.slugs is not None:
        abort(404)


def require_write() -> None:
    """Answer FORBIDDEN unless the user may change something."""
    if not g.user.may_change:
        abort(403)


def actor() -> str:
    """Return the user's name for the audit trail."""
    return f"{g.user.name} (console)"


def _add_buckets(buckets: tuple[TimeBucket, ...]) -> TimeBucket:
    numbers = [bucket.numbers for bucket in buckets]
    together = Numbers(*(sum(getattr(one, name) for one in numbers) for name in ("parsed", "failed", "unfinished")))
    return TimeBucket(
        buckets[0].begin, together, tuple(map(sum, zip(*(bucket.took for bucket in buckets), strict=True)))
    )
