"""The organisations of an archive: each from its own object, or, where an earlier version wrote none, from its mail.

An organisation that has no object has its slug from the metadata of its first mail; its name, its settings and whether
it was disabled are lost, which is told.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from orderflow_ingest.domain.object_keys import read_org_id
from orderflow_ingest.pipeline.archive_manifest import read_organization, slug_by_mail
from orderflow_ingest.storage.archive import Archive, ObjectDamaged
from orderflow_ingest.storage.database import OrganizationRecord


@dataclass(frozen=True)
class Found:
    """An organisation's place in the archive, who it is, and what is lost or wrong about it."""

    org_id: int | None
    org: OrganizationRecord | None
    why: str = ""


def find_organizations(archive: Archive) -> Iterator[Found]:
    """Go through the organisations of an archive; what stands below org/ and is none comes without an id."""
    after = ""
    while one := next(archive.iterate("org/", after), None):
        place = one.key.split("/")[1]
        after = f"org/{place}0" if one.key.startswith(f"org/{place}/") else one.key
        org_id = read_org_id(one.key)
        yield Found(None, None, f"{one.key} is of no organisation") if org_id is None else _found(org_id, archive)


def _found(org_id: int, archive: Archive) -> Found:
    why = "has no object of its own: its name, settings and whether it was disabled are lost"
    try:
        org = read_organization(org_id, archive)
        if org is not None:
            return Found(org_id, org)
    except ObjectDamaged:
        why = "has a damaged object of its own: its name, settings and whether it was disabled are lost"
    slug = slug_by_mail(org_id, archive)
    if slug is None:
        return Found(org_id, None, "has neither an object of its own nor a mail that names it")
    return Found(org_id, OrganizationRecord(org_id, slug, slug, True), why)
