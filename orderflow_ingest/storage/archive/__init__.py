"""The archive: raw messages and documents as objects, in files or behind the S3 API, chosen by URL.

    file:///directory      the same keys as files, written by tmp + sync + rename
    s3://bucket/prefix     any S3-compatible store, by boto3

Keys are as in `object_keys`: a content's SHA-256 in one tenant's prefix, so that a second put writes the same object.
put() returns when the object is durable. read() verifies the digest. What a row names is read by read_object() alone,
which reads nothing of another tenant's whatever stands in the row. A raw object carries its envelope as metadata, so
that the rows can be rebuilt from the archive alone.

Metadata comes back as it was given, whatever is in it, its names in lower case: `metadata` reads what stores and
proxies make of it. With files it lies in KEY.meta beside the object. S3 takes 2 KB of it, and some stores 256
characters for a value: what is longer lies in KEY.meta too, put before the object, which says so in its own metadata.
It goes before the object does. A listing shows no KEY.meta.

Small objects that several threads put at the same time go into files together, with one sync for a directory:
see `group_commit`. An attempt at S3 has the time that `timeouts` gives it. There are two.
"""

from pathlib import Path
from urllib.parse import urlsplit

from orderflow_ingest.domain.object_keys import is_own
from orderflow_ingest.storage.resilience import timeouts
from orderflow_ingest.storage.resilience.circuit_breaker import Guard, unguarded

from .files import FileArchive
from .interface import Archive, ArchiveUnavailable, Description, Fetched, Listed, ObjectDamaged, ObjectMissing
from .s3 import S3Archive, s3_client

__all__ = [
    "Archive",
    "ArchiveUnavailable",
    "Description",
    "Fetched",
    "FileArchive",
    "ForeignObject",
    "Listed",
    "ObjectDamaged",
    "ObjectMissing",
    "S3Archive",
    "has_object",
    "has_whole_object",
    "object_exists",
    "open_archive",
    "read_object",
    "require_own_key",
]


def open_archive(
    url: str,
    endpoint_url: str | None = None,
    encryption: str = "",
    times: timeouts.Timeouts | None = None,
    guard: Guard = unguarded,
    checksum: str = "sha256",
    addressing: str = "",
) -> Archive:
    """Open the archive at `url`. Boto3 is imported only for s3:, and `guard` stands around each use of it.

    `encryption`, `checksum` and `addressing` are as in ORDERFLOW_S3_ENCRYPTION and its kin.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FileArchive(Path(url.removeprefix("file://")))
    client = s3_client(endpoint_url, times or timeouts.scaled_to(), addressing)
    return S3Archive(client, parts.netloc, parts.path.strip("/"), encryption, guard, checksum)


class ForeignObject(ObjectDamaged):
    """A row names an object that is not its organization's. Neither the key nor the object is in the text."""


def require_own_key(org_id: int, key: str) -> None:
    """Raise ForeignObject unless the key is one of this organization's."""
    if not is_own(org_id, key):
        raise ForeignObject("the row names an object that is not its organization's")


def read_object(org_id: int, key: str, digest: str, archive: Archive) -> bytes:
    """Return the object that a row of this organization names, verified. Raise ForeignObject before it is read."""
    require_own_key(org_id, key)
    return archive.read(key, digest)


def has_object(org_id: int, key: str, archive: Archive) -> bool:
    """Return whether the object that a row of this organization names is there, and the organization's."""
    return is_own(org_id, key) and object_exists(key, archive)


def has_whole_object(org_id: int, key: str, digest: str, archive: Archive) -> bool:
    """Return whether the object that a row of this organization names is there as it was put. Read it for that."""
    try:
        read_object(org_id, key, digest, archive)
    except (ObjectMissing, ObjectDamaged):
        return False
    return True


def object_exists(key: str, archive: Archive) -> bool:
    """Return whether there is an object of this key."""
    try:
        archive.describe(key)
    except ObjectMissing:
        return False
    except ObjectDamaged:  # of its metadata: the object is there
        return True
    return True
