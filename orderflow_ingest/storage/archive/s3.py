"""The archive behind the S3 API."""

import hashlib
import json
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from orderflow_ingest.domain.object_keys import read_org_id
from orderflow_ingest.storage.resilience import error_hints, timeouts
from orderflow_ingest.storage.resilience.circuit_breaker import READ, WRITE, Guard, unguarded

from . import s3_errors
from .interface import (
    META,
    ArchiveUnavailable,
    Description,
    Fetched,
    Listed,
    ObjectDamaged,
    ObjectMissing,
    read_metadata,
    verify_digest,
)
from .metadata import BESIDE, ReadHeaders, read_headers, write_headers

_WRITES = ("put_object", "delete_object")
_VALUE_LIMIT = 250
_METADATA_LIMIT = 1900


@dataclass(frozen=True)
class StoreStatus:
    """What a store's answer to a listing says: its clock, if it says, and why it refuses to list, or "" if not."""

    clock: datetime | None
    refusal: str


class S3Archive:
    """Objects in one bucket, below a prefix, encrypted by the store as requested, or as the bucket is set to.

    `checksum` is what a put sends for the store to verify, as ORDERFLOW_S3_CHECKSUM says.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        encryption: str = "",
        guard: Guard = unguarded,
        checksum: str = "sha256",
    ):
        self._client = client
        self._checksum = checksum
        self._guard = guard
        self._encryption = _encryption(encryption)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def prepare(self) -> None:
        """Nothing: a bucket and its rules are made by who owns the account."""

    def clean(self, older_than: float = 86400.0) -> None:
        """Nothing: a put that is cut short leaves no object."""

    def put(self, key: str, data: bytes, digest: str, metadata: Mapping[str, str] | None = None) -> None:
        """Store an object, encrypted if so demanded, with the checksums of the setting."""
        quoted = write_headers(metadata or {})
        if _is_too_long(quoted):
            beside = json.dumps(dict(metadata or {})).encode()
            self._put(key + META, beside, hashlib.sha256(beside).hexdigest(), {})
            quoted = {BESIDE: "yes"}
        self._put(key, data, digest, quoted)

    def _put(self, key: str, data: bytes, digest: str, quoted: dict[str, str]) -> None:
        answer = self._call(
            "put_object",
            key,
            Body=data,
            Metadata=quoted,
            **_checksums(self._checksum, data, digest),
            **self._encryption,
        )
        _require_store("put_object", answer, "ETag")
        # A store may pass over a kind of encryption that it does not know, and keep the object in the clear.
        demanded, key_id = (self._encryption.get(name) for name in ("ServerSideEncryption", "SSEKMSKeyId"))
        if (demanded and answer.get("ServerSideEncryption") != demanded) or not _is_of(key_id, answer):
            raise ArchiveUnavailable("S3: the store did not encrypt the object as ORDERFLOW_S3_ENCRYPTION says")

    def read(self, key: str, digest: str) -> bytes:
        return verify_digest(self._get(key)[0], key, digest)

    def fetch(self, key: str) -> Fetched:
        data, answer = self._get(key)
        return Fetched(data, *self._metadata(key, answer))

    def _get(self, key: str) -> tuple[bytes, Any]:
        answer = self._call("get_object", key)
        _require_store("get_object", answer, "ETag")
        with self._translated("get_object", key):
            return answer["Body"].read(), answer

    def delete(self, key: str) -> None:
        if key.endswith(".eml"):  # nothing else has metadata; it goes first, since no listing shows it
            self._call("delete_object", key + META)
        self._call("delete_object", key)

    def delete_version(self, key: str) -> bool:
        """Remove the newest version of an object for good. Return whether nothing of it is kept.

        A bucket that keeps versions may allow it to others alone, or to nobody. Raise ArchiveUnavailable.
        """
        try:
            version = self._call("head_object", key).get("VersionId")
            if version:
                self._call("delete_object", key, VersionId=version)
            else:
                self._call("delete_object", key)
        except ObjectMissing:
            return True
        except ArchiveUnavailable as error:
            if error.answer is None:
                raise
            self._call("delete_object", key)
            return False
        return True

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
        _require_store("head_object", answer, "ETag")
        return Description(answer["ContentLength"], *self._metadata(key, answer))

    def _metadata(self, key: str, answer: Any) -> ReadHeaders:
        own = read_headers(answer.get("Metadata", {}))
        if BESIDE not in own.metadata:
            return own
        try:
            return ReadHeaders(read_metadata(self._get(key + META)[0], key))
        except ObjectMissing as error:
            raise ObjectDamaged(key + META) from error

    def iterate(self, prefix: str = "", after: str = "") -> Iterator[Listed]:
        asked = {"Prefix": self._prefix + prefix, "StartAfter": self._prefix + after if after else ""}
        while True:
            with self._translated("list_objects_v2", ""):
                page = self._client.list_objects_v2(Bucket=self._bucket, **{n: v for n, v in asked.items() if v})
            _require_store("list_objects_v2", page, "IsTruncated")
            for one in page.get("Contents", ()):
                if one["Key"].endswith(META):
                    continue
                yield Listed(one["Key"].removeprefix(self._prefix), one["Size"], one["LastModified"])
            if not page.get("IsTruncated"):
                return
            asked = {"Prefix": asked["Prefix"], "ContinuationToken": page["NextContinuationToken"]}

    def probe_listing(self) -> StoreStatus:
        """Ask the store for a list of one name. Any answer holds its clock. Raise ArchiveUnavailable."""
        answer: Mapping[str, Any] = {}
        refusal = ""
        try:
            with self._translated("list_objects_v2", ""):
                answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        except ArchiveUnavailable as error:
            if error.answer is None:
                raise
            answer, refusal = error.answer, str(error)
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        return StoreStatus(_http_date(date), refusal)

    def _call(self, operation: str, key: str, **arguments: Any) -> Any:
        with self._translated(operation, key):
            return getattr(self._client, operation)(Bucket=self._bucket, Key=self._prefix + key, **arguments)

    @contextmanager
    def _translated(self, operation: str, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        with self._guard(_about(key), WRITE if operation in _WRITES else READ):
            try:
                yield
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                # The answer to a HEAD has no body with more.
                if code == "NoSuchKey" or (operation, code) == ("head_object", "404"):
                    raise ObjectMissing(key) from error
                failure = ArchiveUnavailable(
                    f"S3: {s3_errors.explain_s3_answer(operation, error.response)}", error.response
                )
                failure.is_answer = s3_errors.is_about_one_object(error.response)
                raise failure from None  # its text is whatever answered there
            except (BotoCoreError, ResponseParserError) as error:
                why = error_hints.explain_tls_error(error)
                said = f"{type(error).__name__}{why}" if why else s3_errors.explain_s3_error(error)
                failure = ArchiveUnavailable(f"S3: {said}")
                failure.is_unreached = type(error).__name__ in s3_errors.UNREACHED
                raise failure from None


def s3_client(endpoint_url: str | None, times: timeouts.Timeouts, addressing: str = "") -> Any:
    """Make the SDK's client. Addressing is path, virtual, or "" for path at an endpoint and the SDK's choice at AWS."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        signature_version="s3v4",
        connect_timeout=times.connect,
        read_timeout=times.read,
        max_pool_connections=timeouts.S3_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": timeouts.S3_ATTEMPTS},
        s3={"addressing_style": addressing or ("path" if endpoint_url else "auto")},
        # Left to itself it adds a CRC-32 to each put that has no checksum, over TLS as a trailer, which stores refuse.
        request_checksum_calculation="when_required",
        # What is read is held against its digest by us, who report a damaged object apart from an unavailable store.
        response_checksum_validation="when_required",
    )
    try:
        return boto3.client("s3", endpoint_url=endpoint_url, config=config)
    except (ValueError, BotoCoreError) as error:
        raise ArchiveUnavailable(f"S3: {s3_errors.explain_s3_error(error)}") from error


def _checksums(kind: str, data: bytes, digest: str) -> dict[str, str]:
    """Return the arguments of put_object for a kind of checksum. MD5 goes with it, since some stores know no other."""
    if kind == "none":
        return {}
    found = {"ContentMD5": hashlib.md5(data, usedforsecurity=False).digest()}
    if kind == "sha256":
        found["ChecksumSHA256"] = bytes.fromhex(digest)
    if kind == "crc32":
        found["ChecksumCRC32"] = zlib.crc32(data).to_bytes(4, "big")
    return {name: b64encode(value).decode() for name, value in found.items()}


def _require_store(operation: str, answer: Mapping[str, Any], name: str) -> None:
    """Raise ArchiveUnavailable for a 200 that lacks what every store says: some login page's, or a proxy's."""
    if answer.get(name) in (None, ""):
        raise ArchiveUnavailable(f"S3: {operation} was answered by something that is no store")


def _encryption(setting: str) -> dict[str, str]:
    """Return the arguments of put_object for AES256, aws:kms and aws:kms:KEY. None for an empty setting."""
    if not setting.startswith("aws:kms"):
        return {"ServerSideEncryption": setting} if setting else {}
    key = setting.removeprefix("aws:kms").removeprefix(":")
    return {"ServerSideEncryption": "aws:kms", **({"SSEKMSKeyId": key} if key else {})}


def _is_of(key_id: str | None, answer: Any) -> bool:
    """Return whether an answer names the KMS key that was asked for, as far as one can see: it never names an alias."""
    if key_id is None or "alias/" in key_id:
        return True
    return str(answer.get("SSEKMSKeyId", "")).rpartition("/")[2] == key_id.rpartition("/")[2]


def _http_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def _is_too_long(quoted: dict[str, str]) -> bool:
    """Return whether S3 might not take this metadata."""
    lengths = [len(value) for value in quoted.values()]
    return max(lengths, default=0) > _VALUE_LIMIT or sum(lengths) + sum(map(len, quoted)) > _METADATA_LIMIT


def _about(key: str) -> tuple[int] | None:
    """Return whose object this is, for the breaker, or None for no organization's."""
    org = read_org_id(key)
    return None if org is None else (org,)
