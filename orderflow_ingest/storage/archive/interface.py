"""What an archive is, whichever it is: its interface, what it gives, how it fails, and metadata as it lies beside."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from orderflow_ingest.domain.errors import BackendUnavailable, OrderflowError

META = ".meta"


class ArchiveUnavailable(BackendUnavailable):
    """The archive is away, slow, refusing, full, or there is no such bucket.

    `answer` is what a store has answered, as the SDK gives it. `is_answer`: it is about this object alone, so that the
    breaker need not open. `is_unreached`: nothing was there to be asked, whatever the object.
    """

    backend = "archive"
    is_answer = is_unreached = False

    def __init__(self, text: str, answer: Mapping[str, Any] | None = None):
        super().__init__(text)
        self.answer = answer


class ObjectMissing(OrderflowError):
    """There is no object of this key."""


class ObjectDamaged(OrderflowError):
    """The object's content is not what was put: its digest differs."""


@dataclass(frozen=True)
class Listed:
    """An object in a listing: its key, its size in bytes, and when it was last put."""

    key: str
    size: int
    put_at: datetime


@dataclass(frozen=True)
class Description:
    """What the archive knows of an object without reading it. Is_changed: of its metadata, by a store or a proxy."""

    size: int
    metadata: dict[str, str]
    is_changed: bool = False


@dataclass(frozen=True)
class Fetched:
    """An object's content, which nobody has verified, and its metadata. Is_changed: that, by a store or a proxy."""

    data: bytes
    metadata: dict[str, str]
    is_changed: bool = False


class Archive(Protocol):
    """What either archive does. All raise ArchiveUnavailable."""

    def put(self, key: str, data: bytes, digest: str, metadata: Mapping[str, str] | None = None) -> None:
        """Store an object durably. The same object again is the same object."""

    def read(self, key: str, digest: str) -> bytes:
        """Read an object and verify it. Raise ObjectMissing, ObjectDamaged."""

    def fetch(self, key: str) -> Fetched:
        """Read an object and its metadata. Whether it is whole is the caller's to see.

        Raise ObjectMissing, and ObjectDamaged for metadata that does not read.
        """

    def delete(self, key: str) -> None:
        """Remove an object and its metadata. One that is not there is removed."""

    def describe(self, key: str) -> Description:
        """Return an object's size and the metadata it was put with. Raise ObjectMissing."""

    def iterate(self, prefix: str = "", after: str = "") -> Iterator[Listed]:
        """List the objects whose keys begin so, in the order of their keys' bytes, beyond a key. Page by page.

        Nothing is held in memory but a page. An object that comes or goes meanwhile may be listed or not.
        """

    def keeps_versions(self) -> bool | None:
        """Return whether what is deleted can still be had, as an older version, or None if that is unknown."""

    def prepare(self) -> None:
        """Create what put() needs. Safe to repeat."""

    def clean(self, older_than: float = 86400.0) -> None:
        """Delete what killed processes left half written, if it is older than so many seconds."""


def verify_digest(data: bytes, key: str, digest: str) -> bytes:
    """Return the content back if its digest is right. Raise ObjectDamaged."""
    if hashlib.sha256(data).hexdigest() != digest:
        raise ObjectDamaged(key)
    return data


def read_metadata(data: bytes, key: str) -> dict[str, str]:
    """Read what lies in KEY.meta. Raise ObjectDamaged."""
    try:
        return {str(name).lower(): str(value) for name, value in json.loads(data).items()}
    except (ValueError, AttributeError) as error:
        raise ObjectDamaged(key + META) from error
