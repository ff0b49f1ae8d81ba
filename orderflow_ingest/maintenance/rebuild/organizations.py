"""The organizations of an archive: each from its own object, or from its mail where an earlier version wrote none.

An organization without an object takes its slug from the metadata of its first mail. Its name, its settings and
whether it was disabled are lost, and `why` says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from orderflow_ingest.domain.object_keys import read_org_id
from orderflow_ingest.pipeline.archive_manifest import read_organization, slug_by_mail
from orderflow_ingest.storage.archive import Archive, ObjectDamaged
from orderflow_ingest.storage.database import OrganizationRecord


@dataclass(frozen=True)
class FoundOrganization:
    """An organization's place in the archive, who it is, and what is lost or wrong about it."""

    org_id: int | None
    org: OrganizationRecord | None
    why: str = ""


def find_organizations(archive: Archive) -> Iterator[FoundOrganization]:
    """Yield the organizations of an archive. An object below org/ that belongs to none comes without an id."""
    after = ""
    while one := next(archive.iterate("org/", after), None):
        place = one.key.split("/")[1]
        after = f"org/{place}0" if one.key.startswith(f"org/{place}/") else one.key
        org_id = read_org_id(one.key)
        yield (
            FoundOrganization(None, None, f"{one.key} is of no organization")
            if org_id is None
            else _found(org_id, archive)
        )


def _found(org_id: int, archive: Archive) -> FoundOrganization:
    why = "has no object of its own: its name, settings and whether it was disabled are lost"
    try:
        org = read_organization(org_id, archive)
        if org is not None:
            return FoundOrganization(org_id, org)
    except ObjectDamaged:
        why = "has a damaged object of its own: its name, settings and whether it was disabled are lost"
    slug = slug_by_mail(org_id, archive)
    if slug is None:
        return FoundOrganization(org_id, None, "has neither an object of its own nor a mail that names it")
    return FoundOrganization(org_id, OrganizationRecord(org_id, slug, slug, is_active=True), why)
