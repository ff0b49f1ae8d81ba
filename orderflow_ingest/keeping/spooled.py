"""What lies in this host's spool for too long, and what was set aside there, of an organisation or of all."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ..addresses import ForeignDomain
from ..assembly import Parts
from ..envelope import BadEnvelope, Envelope, decode
from ..spool import EntryDamaged, last_line
from .findings import Finding, Trouble


@dataclass(frozen=True)
class Spooled:
    """A spool entry or a dead letter: its name, and what was read of it; no envelope if it could not be read."""

    name: str
    slug: str
    envelope: Envelope | None
    raw: bytes


def left_in_spool(slug: str | None, overdue: timedelta, parts: Parts) -> Iterator[Finding]:
    """Tell the entries that are older than they should be, and the dead letters."""
    before = datetime.now(UTC) - overdue
    for name in parts.spool.entries():
        since = written_at(name)
        if since is None or since < before:
            entry = read_entry(name, parts, is_dead=False)
            if entry is not None and slug in (None, entry.slug):
                says = f"since {since:%Y-%m-%d %H:%M:%SZ}; see orderflow-replay spool" if since else "of a foreign name"
                yield Finding(Trouble.SPOOLED, entry.slug, name, says)
    for name, why in parts.spool.dead():
        entry = read_entry(name, parts, is_dead=True)
        if entry is not None and slug in (None, entry.slug):
            yield Finding(Trouble.DEAD, entry.slug, name, f"{last_line(why)}; see orderflow-replay dead")


def read_entry(name: str, parts: Parts, is_dead: bool) -> Spooled | None:
    """Read an entry or a dead letter; None if it is gone. One that cannot be read has no organisation."""
    try:
        header, raw = parts.spool.read(name, is_dead)
        envelope = decode(header)
    except FileNotFoundError:
        return None
    except (EntryDamaged, BadEnvelope):
        return Spooled(name, "", None, b"")
    try:
        slug = parts.settings.addresses.slug(envelope.recipient)
    except ForeignDomain:
        slug = None
    return Spooled(name, slug or "", envelope, raw)


def written_at(name: str) -> datetime | None:
    """Tell when an entry was written, which its name says; None if it is no name of ours."""
    nanoseconds = name.partition(".")[0]
    if not (nanoseconds.isdigit() and len(nanoseconds) == 20):
        return None
    return datetime.fromtimestamp(int(nanoseconds) / 1e9, UTC)
