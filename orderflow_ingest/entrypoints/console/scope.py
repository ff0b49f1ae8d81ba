"""What a user may know: every question of a page to the rows goes by here, and names the organisations it is about.

An organisation that is not his is to a user as one that is not there: both are NOT FOUND. Of several organisations each
is asked by itself, so that each question goes by an index that begins with org_id, and the answers are put together.
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
class Standing:
    """What is unfinished, failed or held now; of PARSED messages those of a time."""

    by_status: dict[Status, int]
    documents: dict[HandOver, int]
    held: int
    oldest: datetime | None


class Scope:
    """The organisations that one question is about: all (None stands for them), the user's, or one of those."""

    def __init__(self, parts: App, slug: str | None = None):
        self._records = parts.records
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
    def is_everything(self) -> bool:
        """Tell whether the question is about the whole deployment."""
        return self.org_ids == (None,)

    def slug_of(self, org_id: int) -> str:
        """Give the slug of an organisation."""
        return self._records.organizations.slug(org_id)

    def messages(self, chosen: Filter, limit: int, after: Cursor | None = None) -> list[InboundMessage]:
        """Select messages, the newest first."""
        select = self._records.messages.select
        pages = [select(replace(chosen, org_id=org_id), limit, after) for org_id in self.org_ids]
        merged = heapq.merge(*pages, key=lambda message: (message.received_at, message.id), reverse=True)
        return list(islice(merged, limit))

    def held(self, limit: int) -> list[HeldMail]:
        """List what is held, the oldest first."""
        found = [self._records.held_mail.open(org_id, limit=limit) for org_id in self.org_ids]
        return list(islice(heapq.merge(*found, key=lambda mail: mail.received_at), limit))

    def standing(self, since: datetime) -> Standing:
        """Count what needs looking after."""
        records = self._records
        statuses = [records.messages.count_by_status(since, org_id) for org_id in self.org_ids]
        documents = [records.documents.count_undone(org_id) for org_id in self.org_ids]
        oldest = [records.messages.oldest_unfinished(org_id) for org_id in self.org_ids]
        return Standing(
            {status: sum(one[status] for one in statuses) for status in Status},
            {state: sum(one[state] for one in documents) for state in (HandOver.PENDING, HandOver.FAILED)},
            sum(records.held_mail.count_open(org_id) for org_id in self.org_ids),
            min((at for at in oldest if at), default=None),
        )

    def slots(self, since: datetime, until: datetime, step: int) -> list[TimeBucket]:
        """Count in slots of time."""
        series = [self._records.statistics.over(since, until, step, org_id) for org_id in self.org_ids]
        return [_sum(slots) for slots in zip(*series, strict=True)]

    def shares(self, since: datetime, until: datetime, limit: int) -> list[OrgCount]:
        """Count by organisation, those with the most messages first."""
        by_organization = self._records.statistics.by_organization
        found = [share for org_id in self.org_ids for share in by_organization(since, until, org_id, limit)]
        return sorted(found, key=lambda share: -share.numbers.received)[:limit]


def organizations(parts: App) -> list[Organization]:
    """List the organisations that the user may know of."""
    return [org for org in parts.records.organizations.all() if g.user.sees(org.slug)]


def the_organization(parts: App, slug: str) -> Organization:
    """Give an organisation; NOT FOUND if the user may not know of it."""
    org = parts.records.organizations.find(slug) if g.user.sees(slug) else None
    return org if org else abort(404)


def get_message_or_404(parts: App, slug: str, id: UUID) -> InboundMessage:
    """Give a message of an organisation; NOT FOUND if there is none, or the user may not know of it."""
    found = parts.records.messages.get(the_organization(parts, slug).id, id)
    return found if found else abort(404)


def the_held(parts: App, slug: str, id: UUID) -> HeldMail:
    """Give a mail that is held; NOT FOUND if there is none, it is decided, or the user may not know of it."""
    found = parts.records.held_mail.open(the_organization(parts, slug).id, (id,))
    return found[0] if found else abort(404)


def need_everything() -> None:
    """Go on for who sees every organisation alone; what this is asked for is NOT FOUND to others."""
    if g.user.slugs is not None:
        abort(404)


def require_write() -> None:
    """Go on for who may change something alone."""
    if not g.user.may_change:
        abort(403)


def actor() -> str:
    """Name the user for the trace of what he does."""
    return f"{g.user.name} (console)"


def _sum(slots: tuple[TimeBucket, ...]) -> TimeBucket:
    numbers = [slot.numbers for slot in slots]
    together = Numbers(*(sum(getattr(one, name) for one in numbers) for name in ("parsed", "failed", "unfinished")))
    return TimeBucket(slots[0].begin, together, tuple(map(sum, zip(*(slot.took for slot in slots), strict=True))))
