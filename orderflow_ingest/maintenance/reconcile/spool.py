"""Findings in the spool of this host: entries that are too old, and dead letters.

A spool entry is no trouble by itself: the drain of the worker delivers it. It is a finding when it is older than
`overdue`. A dead letter always is one. The spool belongs to the host, so a run for one organization filters by the
slug of the recipient.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from orderflow_ingest.app import App
from orderflow_ingest.domain.addresses import ForeignDomainError
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.storage.envelope_header import EnvelopeError, decode_envelope
from orderflow_ingest.storage.spool import EntryDamagedError, last_line

from .findings import Finding, FindingKind


@dataclass(frozen=True)
class SpooledMail:
    """A spool entry or a dead letter: its name, and what was read of it. No envelope if it could not be read."""

    name: str
    slug: str
    envelope: Envelope | None
    raw: bytes


def spool_findings(slug: str | None, overdue: timedelta, app: App) -> Iterator[Finding]:
    """Yield the entries that are too old, and the dead letters."""
    before = datetime.now(UTC) - overdue
    for name in app.spool.entries():
        since = written_at(name)
        if since is None or since < before:
            entry = read_entry(name, app, is_dead=False)
            if entry is not None and slug in (None, entry.slug):
                says = f"since {since:%Y-%m-%d %H:%M:%SZ}; see orderflow-replay spool" if since else "of a foreign name"
                yield Finding(FindingKind.SPOOLED, entry.slug, name, says)
    for name, why in app.spool.dead():
        entry = read_entry(name, app, is_dead=True)
        if entry is not None and slug in (None, entry.slug):
            yield Finding(FindingKind.DEAD, entry.slug, name, f"{last_line(why)}; see orderflow-admin dead")


def read_entry(name: str, app: App, *, is_dead: bool) -> SpooledMail | None:
    """Read an entry or a dead letter, or None if it is gone. One that cannot be read has no organization."""
    try:
        header, raw = app.spool.read(name, is_dead=is_dead)
        envelope = decode_envelope(header)
    except FileNotFoundError:
        return None
    except (EntryDamagedError, EnvelopeError):
        return SpooledMail(name, "", None, b"")
    try:
        slug = app.settings.addresses.slug(envelope.recipient)
    except ForeignDomainError:
        slug = None
    return SpooledMail(name, slug or "", envelope, raw)


def written_at(name: str) -> datetime | None:
    """Return when an entry was written, by its name, or None if the name is not ours."""
    nanoseconds = name.partition(".")[0]
    if not (nanoseconds.isdigit() and len(nanoseconds) == 20):
        return None
    return datetime.fromtimestamp(int(nanoseconds) / 1e9, UTC)
