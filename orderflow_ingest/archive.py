"""The archive: raw messages and documents as objects, in files or behind the S3 API, chosen by URL.

    file:///directory      the same keys as files, written by tmp + sync + rename
    s3://bucket/prefix     any S3-compatible store, by boto3

Keys are as in `keys`: a content's SHA-256 in one tenant's prefix, so that a second put writes the same object. put()
returns when the object is durable. read() verifies the digest. A raw object carries its envelope as metadata, so that
the rows can be rebuilt from the archive alone.

Metadata comes back as it was given, whatever is in it. With files it lies in KEY.meta beside the object. S3 takes 2 KB
of it, and some stores 256 characters for a value: what is longer lies in KEY.meta too, put before the object, which
says so in its own metadata; it goes before the object does. A listing tells no KEY.meta.

Small objects that several threads put at the same time go into files together, with one sync for a directory:
see `grouping`. An attempt at S3 has the time that `limits` gives it; there are two.
"""

import hashlib
import itertools
import json
import os
import stat
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, unquote, urlsplit

from . import limits, s3_answers, trust
from .breaker import Guard
from .durable import sync_directory, write_all
from .grouping import Grouped
from .keys import document_key, raw_key

_META = ".meta"
_VALUE_LIMIT = 250
_METADATA_LIMIT = 1900
_BESIDE = "beside"  # the one name in the metadata of an S3 object whose metadata lies beside it
_SMALL = 1 << 20


__all__ = [
    "Archive",
    "ArchiveUnavailable",
    "Description",
    "Fetched",
    "FileArchive",
    "Listed",
    "ObjectDamaged",
    "ObjectMissing",
    "S3Archive",
    "document_key",
    "open_archive",
    "raw_key",
]


class ArchiveUnavailable(Exception):
    """The archive is away, slow, refusing, full, or there is no such bucket."""


class ObjectMissing(Exception):
    """There is no object of this key."""


class ObjectDamaged(Exception):
    """The object's content is not what was put: its digest differs."""


@dataclass(frozen=True)
class Listed:
    """An object in a listing: its key, its size in bytes, and when it was last put."""

    key: str
    size: int
    put_at: datetime


@dataclass(frozen=True)
class Description:
    """What the archive knows of an object without reading it."""

    size: int
    metadata: dict[str, str]


@dataclass(frozen=True)
class Fetched:
    """An object's content, which nobody has verified, and its metadata."""

    data: bytes
    metadata: dict[str, str]


class Archive(Protocol):
    """What either archive does. All raise ArchiveUnavailable."""

    def put(self, key: str, data: bytes, digest: str, metadata: Mapping[str, str] | None = None) -> None:
        """Store an object durably; the same object again is the same object."""

    def read(self, key: str, digest: str) -> bytes:
        """Read an object and verify it. Raises ObjectMissing, ObjectDamaged."""

    def fetch(self, key: str) -> Fetched:
        """Read an object and its metadata; whether it is whole is the caller's to see.

        Raises ObjectMissing, and ObjectDamaged for metadata that does not read.
        """

    def delete(self, key: str) -> None:
        """Remove an object and its metadata; one that is not there is removed."""

    def describe(self, key: str) -> Description:
        """Tell an object's size and the metadata it was put with. Raises ObjectMissing."""

    def iterate(self, prefix: str = "", after: str = "") -> Iterator[Listed]:
        """List the objects whose keys begin so, in the order of their keys' bytes, beyond a key; page by page.

        Nothing is held in memory but a page. What comes or goes meanwhile may be told or not.
        """

    def keeps_versions(self) -> bool | None:
        """Tell whether what is deleted can still be had, as an older version; None if that is not told to us."""

    def prepare(self) -> None:
        """Create what put() needs; safe to repeat."""

    def clean(self, older_than: float = 86400.0) -> None:
        """Delete what killed processes left half written, if it is older than so many seconds."""


def open_archive(
    url: str,
    endpoint_url: str | None = None,
    encryption: str = "",
    times: limits.Times | None = None,
    guard: Guard = nullcontext,
) -> Archive:
    """Open the archive at `url`; boto3 is imported only for s3:, and `guard` stands around each use of it.

    `encryption` is as in ORDERFLOW_S3_ENCRYPTION.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FileArchive(Path(url.removeprefix("file://")))
    client = _s3_client(endpoint_url, times or limits.within())
    return S3Archive(client, parts.netloc, parts.path.strip("/"), encryption, guard)


class FileArchive:
    """Objects as files below one directory; metadata as JSON in KEY.meta beside the object.

    tmp/ holds what is being written; it lies on the same file system, for the rename.
    """

    def __init__(self, root: Path):
        self._root = root
        self._put_grouped = Grouped(self._put_all, shared=())
        self._number = itertools.count(time.time_ns())  # a process id comes again

    def prepare(self) -> None:
        (self._root / "tmp").mkdir(mode=0o700, parents=True, exist_ok=True)

    def clean(self, older_than: float = 86400.0) -> None:
        try:
            for path in (self._root / "tmp").iterdir():
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            return  # another process cleans too, or there is nothing yet
        except OSError as error:
            raise _unavailable(error) from error

    def put(self, key: str, data: bytes, digest: str, metadata: Mapping[str, str] | None = None) -> None:
        """Store an object durably; small ones of several threads together, with one sync for their directory."""
        one = _Object(self._root / key, data, metadata)
        if len(data) <= _SMALL:
            self._put_grouped(one)
        else:
            self._put_all([one])

    def _put_all(self, objects: "list[_Object]") -> list[bool]:
        try:
            for path, data, metadata in objects:
                self._make_directory(path.parent)
                if metadata:
                    self._write(_meta_of(path), json.dumps(dict(metadata)).encode())
                if not _holds(path, data):
                    self._write(path, data)
            for directory in {path.parent for path, _, _ in objects}:
                sync_directory(directory)
        except OSError as error:
            raise _unavailable(error) from error
        return [True] * len(objects)

    def read(self, key: str, digest: str) -> bytes:
        with self._reading(key):
            return _verified((self._root / key).read_bytes(), key, digest)

    def fetch(self, key: str) -> Fetched:
        with self._reading(key):
            return Fetched((self._root / key).read_bytes(), self._metadata(key))

    def describe(self, key: str) -> Description:
        with self._reading(key):
            about = (self._root / key).stat()
            if not stat.S_ISREG(about.st_mode):
                raise ObjectMissing(key)
            return Description(about.st_size, self._metadata(key))

    def _metadata(self, key: str) -> dict[str, str]:
        try:
            return _read_metadata(_meta_of(self._root / key).read_bytes(), key)
        except FileNotFoundError:
            return {}

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if not self._root.is_dir():
                raise _unavailable(error) from error
            raise ObjectMissing(key) from None
        except OSError as error:
            raise _unavailable(error) from error

    def iterate(self, prefix: str = "", after: str = "") -> Iterator[Listed]:
        """List objects. A directory is read at a time: its names are held in memory, and no others."""
        if not self._root.is_dir():
            raise ArchiveUnavailable("archive files: the directory is not there")
        yield from self._below(self._root, "", prefix, after)

    def _below(self, directory: Path, base: str, prefix: str, after: str) -> Iterator[Listed]:
        try:
            # A directory stands where its name with the slash does: that is the order of S3.
            found = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(directory))
        except FileNotFoundError:
            return  # it went meanwhile
        except OSError as error:
            raise _unavailable(error) from error
        for name in found:
            key = base + name
            if base == "" and name == "tmp/":
                continue
            if name.endswith("/"):
                if (key.startswith(prefix) or prefix.startswith(key)) and key + "\U0010ffff" > after:
                    yield from self._below(directory / name, key, prefix, after)
            elif key.startswith(prefix) and key > after and not name.endswith(_META):
                with suppress(FileNotFoundError):
                    about = (directory / name).stat()
                    yield Listed(key, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def delete(self, key: str) -> None:
        path = self._root / key
        try:
            self._root.stat()
            # In this order: metadata without an object is told by no listing.
            _meta_of(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _unavailable(error) from error

    def keeps_versions(self) -> bool | None:
        return False

    def _write(self, path: Path, data: bytes) -> None:
        temporary = self._root / "tmp" / f"{path.name}.{os.getpid()}.{next(self._number)}"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb", buffering=0) as file:
                write_all(file.fileno(), data)
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                temporary.unlink()
            raise

    def _make_directory(self, path: Path) -> None:
        """Create a directory and make its names durable up to the root, which prepare() has made."""
        if path == self._root or path.is_dir():
            return
        self._make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)


class _Object(NamedTuple):
    path: Path
    data: bytes
    metadata: Mapping[str, str] | None


@dataclass(frozen=True)
class StoreSaid:
    """What a store's answer to a listing tells: its clock, if it says, and why it refuses to list; "" if not."""

    clock: datetime | None
    refusal: str


class S3Archive:
    """Objects in one bucket, below a prefix, encrypted by the store as it is told, or as the bucket is set to."""

    def __init__(self, client: Any, bucket: str, prefix: str, encryption: str = "", guard: Guard = nullcontext):
        self._client = client
        self._guard = guard
        self._encryption = _encryption(encryption)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def prepare(self) -> None:
        """Nothing: a bucket and its rules are made by who owns the account."""

    def clean(self, older_than: float = 86400.0) -> None:
        """Nothing: a put that is cut short leaves no object."""

    def put(self, key: str, data: bytes, digest: str, metadata: Mapping[str, str] | None = None) -> None:
        """Store an object, encrypted if so demanded. Both checksums are sent: stores differ in what they verify."""
        quoted = {name: quote(value, safe="@+.:/") for name, value in (metadata or {}).items()}
        if _is_too_long(quoted):
            beside = json.dumps(dict(metadata or {})).encode()
            self._put(key + _META, beside, hashlib.sha256(beside).hexdigest(), {})
            quoted = {_BESIDE: "yes"}
        self._put(key, data, digest, quoted)

    def _put(self, key: str, data: bytes, digest: str, quoted: dict[str, str]) -> None:
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        answer = self._call(
            "put_object",
            key,
            Body=data,
            ContentMD5=b64encode(md5).decode(),
            ChecksumSHA256=b64encode(bytes.fromhex(digest)).decode(),
            Metadata=quoted,
            **self._encryption,
        )
        if not answer.get("ETag"):
            raise ArchiveUnavailable("S3: put_object was answered by something that is no store")
        # A store may pass over a kind of encryption that it does not know, and keep the object in the clear.
        demanded = self._encryption.get("ServerSideEncryption")
        if demanded and answer.get("ServerSideEncryption") != demanded:
            raise ArchiveUnavailable("S3: the store did not encrypt the object as ORDERFLOW_S3_ENCRYPTION says")

    def read(self, key: str, digest: str) -> bytes:
        return _verified(self._get(key)[0], key, digest)

    def fetch(self, key: str) -> Fetched:
        data, answer = self._get(key)
        return Fetched(data, self._metadata(key, answer))

    def _get(self, key: str) -> tuple[bytes, Any]:
        answer = self._call("get_object", key)
        with self._translated("get_object", key):
            return answer["Body"].read(), answer

    def delete(self, key: str) -> None:
        if key.endswith(".eml"):  # nothing else has metadata; it goes first, since no listing tells it
            self._call("delete_object", key + _META)
        self._call("delete_object", key)

    def keeps_versions(self) -> bool | None:
        try:
            with self._translated("get_bucket_versioning", ""):
                answer = self._client.get_bucket_versioning(Bucket=self._bucket)
        except ArchiveUnavailable:  # our role need not be allowed to ask
            return None
        return "Status" in answer

    def describe(self, key: str) -> Description:
        try:
            answer = self._call("head_object", key)
        except ObjectMissing:
            with self._translated("head_bucket", ""):  # without a body both answers look the same
                self._client.head_bucket(Bucket=self._bucket)
            raise
        return Description(answer["ContentLength"], self._metadata(key, answer))

    def _metadata(self, key: str, answer: Any) -> dict[str, str]:
        own = {name: unquote(value) for name, value in answer.get("Metadata", {}).items()}
        if _BESIDE not in own:
            return own
        try:
            return _read_metadata(self._get(key + _META)[0], key)
        except ObjectMissing as error:
            raise ObjectDamaged(key + _META) from error

    def iterate(self, prefix: str = "", after: str = "") -> Iterator[Listed]:
        asked = {"Prefix": self._prefix + prefix, "StartAfter": self._prefix + after if after else ""}
        while True:
            with self._translated("list_objects_v2", ""):
                page = self._client.list_objects_v2(Bucket=self._bucket, **{n: v for n, v in asked.items() if v})
            for one in page.get("Contents", ()):
                if one["Key"].endswith(_META):
                    continue
                yield Listed(one["Key"].removeprefix(self._prefix), one["Size"], one["LastModified"])
            if not page.get("IsTruncated"):
                return
            asked = {"Prefix": asked["Prefix"], "ContinuationToken": page["NextContinuationToken"]}

    def look(self) -> StoreSaid:
        """Ask the store for a list of one name; whatever it answers tells its clock. Raises ArchiveUnavailable."""
        from botocore.exceptions import ClientError

        answer: Mapping[str, Any] = {}
        refusal = ""
        try:
            with self._translated("list_objects_v2", ""):
                answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        except ArchiveUnavailable as error:
            if not isinstance(error.__cause__, ClientError):
                raise
            answer, refusal = error.__cause__.response, str(error)
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        return StoreSaid(_http_date(date), refusal)

    def _call(self, operation: str, key: str, **arguments: Any) -> Any:
        with self._translated(operation, key):
            return getattr(self._client, operation)(Bucket=self._bucket, Key=self._prefix + key, **arguments)

    @contextmanager
    def _translated(self, operation: str, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        with self._guard():
            try:
                yield
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                # The answer to a HEAD has no body to tell more.
                if code == "NoSuchKey" or (operation, code) == ("head_object", "404"):
                    raise ObjectMissing(key) from error
                raise ArchiveUnavailable(f"S3: {s3_answers.answered(operation, error.response)}") from error
            except (BotoCoreError, ResponseParserError) as error:
                why = trust.refused(error)
                said = f"{type(error).__name__}{why}" if why else s3_answers.failed(error)
                raise ArchiveUnavailable(f"S3: {said}") from error


def _s3_client(endpoint_url: str | None, times: limits.Times) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        signature_version="s3v4",
        connect_timeout=times.connect,
        read_timeout=times.read,
        max_pool_connections=limits.S3_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": limits.S3_ATTEMPTS},
        s3={"addressing_style": "path"} if endpoint_url else None,
    )
    try:
        return boto3.client("s3", endpoint_url=endpoint_url, config=config)
    except (ValueError, BotoCoreError) as error:
        raise ArchiveUnavailable(f"S3: {s3_answers.failed(error)}") from error


def _encryption(setting: str) -> dict[str, str]:
    """Give the arguments of put_object for AES256, aws:kms and aws:kms:KEY; none for an empty setting."""
    if not setting.startswith("aws:kms"):
        return {"ServerSideEncryption": setting} if setting else {}
    key = setting.removeprefix("aws:kms").removeprefix(":")
    return {"ServerSideEncryption": "aws:kms", **({"SSEKMSKeyId": key} if key else {})}


def _http_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def _verified(data: bytes, key: str, digest: str) -> bytes:
    if hashlib.sha256(data).hexdigest() != digest:
        raise ObjectDamaged(key)
    return data


def _meta_of(path: Path) -> Path:
    return path.with_name(path.name + _META)


def _read_metadata(data: bytes, key: str) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(data).items()}
    except (ValueError, AttributeError) as error:
        raise ObjectDamaged(key + _META) from error


def _is_too_long(quoted: dict[str, str]) -> bool:
    """Tell whether S3 might not take this metadata."""
    lengths = [len(value) for value in quoted.values()]
    return max(lengths, default=0) > _VALUE_LIMIT or sum(lengths) + sum(map(len, quoted)) > _METADATA_LIMIT


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _unavailable(error: OSError) -> ArchiveUnavailable:
    return ArchiveUnavailable(f"archive files: {os.strerror(error.errno or 0)}")
