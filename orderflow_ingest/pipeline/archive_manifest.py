"""What the archive holds beside mail and documents, so that all rows can be rebuilt from it alone.

organization.json   an organization as its row says: written whenever the row has changed, and by `init` where it is
                    missing
*.decision.json     what an operator decided on a mail that is held

Both are small JSON objects, put whole. The same one again is the same object. What lies there is read with suspicion:
it may be of another version, or nobody's of ours.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from orderflow_ingest.domain.addresses import is_slug
from orderflow_ingest.domain.object_keys import decision_key, organization_key, raw_prefix, read_raw_key
from orderflow_ingest.parsing.mime.words import storable
from orderflow_ingest.storage.archive import Archive, ArchiveUnavailable, ObjectDamaged, ObjectMissing
from orderflow_ingest.storage.database import OrganizationMismatchError, OrganizationRecord, Records

_LIMIT = 1 << 20
_LOOKED_AT = 100


@dataclass(frozen=True)
class Decision:
    """What an operator decided on a held mail: resolution is ACCEPTED or DISCARDED.

    `identity` is the Message-ID under which it was accepted. Where that is not known, it is one that its content makes.
    """

    resolution: str
    actor: str
    why: str
    at: datetime
    identity: str = ""


def write_organization(org: OrganizationRecord, archive: Archive) -> None:
    """Put an organization's object. The same again is the same (by its id)."""
    _put(organization_key(org.id), asdict(org), archive)


def claim_organization(org: OrganizationRecord, archive: Archive) -> None:
    """Put the object of a new organization. Raise OrganizationMismatchError if the archive has another by this id."""
    try:
        known = read_organization(org.id, archive)
        slug = known.slug if known else slug_by_mail(org.id, archive)
    except ObjectDamaged:
        slug = slug_by_mail(org.id, archive)
    if slug not in (None, org.slug):
        raise OrganizationMismatchError(f"in the archive id {org.id} is {slug}'s")
    write_organization(org, archive)


def write_organizations(records: Records, archive: Archive) -> int:
    """Put the object of each organization that has none, or another one than its row says. Return their number."""
    written = 0
    for org in records.rebuild_writes.organization_records():
        try:
            is_there = read_organization(org.id, archive) == org
        except ObjectDamaged:
            is_there = False
        if not is_there:
            write_organization(org, archive)
            written += 1
    return written


def read_organization(org_id: int, archive: Archive) -> OrganizationRecord | None:
    """Read an organization's object, or None if there is none. Raise ObjectDamaged."""
    key = organization_key(org_id)
    found = _get(key, archive)
    if found is None:
        return None
    try:
        org = OrganizationRecord(
            id=org_id,
            slug=_text(found["slug"]),
            name=_text(found["name"]),
            is_active=found["is_active"] is True,
            settings=dict(found["settings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ObjectDamaged(key) from error
    if found.get("id") != org_id or not is_slug(org.slug):
        raise ObjectDamaged(key)
    return org


def slug_by_mail(org_id: int, archive: Archive) -> str | None:
    """Return an organization's slug by the metadata of its first mails, or None if none has it."""
    for one in islice(archive.iterate(raw_prefix(org_id)), _LOOKED_AT):
        try:
            slug = archive.describe(one.key).metadata.get("org", "")
        except (ObjectMissing, ObjectDamaged):
            continue
        if is_slug(slug):
            return slug
    return None


def write_decision(held: str, decision: Decision, archive: Archive) -> None:
    """Put the decision on the held mail of this key. A later one takes the place of an earlier one."""
    _put(decision_key(held), {**asdict(decision), "at": decision.at.isoformat()}, archive)


def read_decision(held: str, archive: Archive) -> Decision | None:
    """Read the decision on the held mail of this key, or None if nobody has decided. Raise ObjectDamaged."""
    key = decision_key(held)
    found = _get(key, archive)
    if found is None:
        return None
    try:
        at = datetime.fromisoformat(found["at"])
        texts = (_text(found["resolution"]), _text(found["actor"]), _text(found["why"]))
        decision = Decision(*texts, at, _text(found.get("identity", "")))
    except (KeyError, TypeError, ValueError) as error:
        raise ObjectDamaged(key) from error
    if decision.resolution not in ("ACCEPTED", "DISCARDED"):
        raise ObjectDamaged(key)
    return decision


def read_why_held(held: str, archive: Archive) -> str:
    """Return what a delivery found against the mail of this key, for who looks at it.

    Return "" of an earlier version's, and where the archive does not give it: its other answers tell why.
    """
    try:
        return storable(archive.describe(held).metadata.get("why", ""), 200)
    except (ArchiveUnavailable, ObjectMissing, ObjectDamaged):
        return ""


def delete(key: str, archive: Archive) -> None:
    """Delete an object, and before it, if it is held mail, the decision on it."""
    name = read_raw_key(key)
    if name and name.is_held:
        archive.delete(decision_key(key))
    archive.delete(key)


def _put(key: str, content: Mapping[str, Any], archive: Archive) -> None:
    data = json.dumps(content, sort_keys=True).encode()
    archive.put(key, data, hashlib.sha256(data).hexdigest())


def _get(key: str, archive: Archive) -> Mapping[str, Any] | None:
    try:
        data = archive.fetch(key).data
    except ObjectMissing:
        return None
    try:
        found = json.loads(data) if len(data) <= _LIMIT else None
    except ValueError as error:
        raise ObjectDamaged(key) from error
    if not isinstance(found, dict):
        raise ObjectDamaged(key)
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
