"""Whether the archive takes, gives and takes back an object, each tried for itself, and the store's clock.

What an error of S3 means is in `archive.s3_errors`. Here it is said which rights are missing, all in one go, and which
setting makes a store work that refuses ours. An S3 store is tried with short and long metadata, and with an object as
large as the largest mail, since a proxy before it may have a limit of its own.

The probe is the object PROBE: below `probe/`, for which the policies of `orderflow-admin roles s3` give every role its
rights, outside of all organizations. Its name is fixed, so that the next run overwrites and deletes what a killed one
left. Two runs at a time may meet there: what is not read back is tried again before it is reported. In a bucket with
versions the large one is deleted for good, and a finding says if that is not allowed.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

from orderflow_ingest.app import App
from orderflow_ingest.config import SettingsError, read_file
from orderflow_ingest.domain.outcomes import DeadlineReached
from orderflow_ingest.entrypoints.deadline import deadline
from orderflow_ingest.storage.archive import (
    Archive,
    ArchiveUnavailable,
    ObjectDamaged,
    ObjectMissing,
    S3Archive,
    open_archive,
)
from orderflow_ingest.storage.resilience import timeouts

from .findings import CheckResult, compare_clocks
from .spool import check_room

PROBE = "probe/check.eml"
_LISTING = "a missing object is taken for an outage, and the worker tries it for ever"
_TRIES = 3
_LONG = 3000
_BLOCK = 1 << 20
_CHECKSUMS = ("sha256", "crc32", "md5", "none")


def check_archive(app: App) -> Iterator[CheckResult]:
    """Use the archive as deliveries and the worker do."""
    findings = [*_used(app), *check_room(app)]
    if isinstance(app.archive, S3Archive) and not any(" cannot be used: " in text for _, text in findings):
        findings += _store(app, app.archive)
        if not any(level == "TROUBLE" for level, _ in findings):
            findings += _bounded(app, lambda: _metadata(app), "metadata")
            findings += _bounded(app, lambda: _largest(app), _named(app.settings.max_message_size))
    worst = [result for result in findings if result[0] != "OK"]
    yield from findings if worst else [("OK", f"{app.settings.archive_url}: put, read and delete work"), *findings]


def _used(app: App) -> Iterator[CheckResult]:
    """Try each right for itself."""
    url = app.settings.archive_url
    for number in range(_TRIES):
        try:
            yield from _used_once(app)
        except (ObjectMissing, ObjectDamaged) as error:
            if number == _TRIES - 1:
                error_name = type(error).__name__
                yield (
                    "TROUBLE",
                    f"{url}: what was stored is not read back ({error_name}): is it one and the same store?",
                )
                _delete(app.archive)
        else:
            return


def _used_once(app: App) -> list[CheckResult]:
    """Return what is wrong with each step. Raise ObjectMissing or ObjectDamaged where another object is read."""
    data = os.urandom(16)
    digest = hashlib.sha256(data).hexdigest()
    url, found = app.settings.archive_url, list[CheckResult]()
    steps: list[tuple[str, Callable[[], object]]] = [
        ("stored", lambda: app.archive.put(PROBE, data, digest)),
        ("read", lambda: app.archive.read(PROBE, digest)),
        ("deleted", lambda: app.archive.delete(PROBE)),
    ]
    for what, step in steps:
        try:
            step()
        except ArchiveUnavailable as error:
            if not isinstance(app.archive, S3Archive) or " lack " not in str(error):  # it would fail alike
                return [("TROUBLE", f"{url} cannot be used: {error}{_remedy(app, error)}")]
            found.append(("TROUBLE", f"{url}: nothing can be {what}: {error}"))
        except (ObjectMissing, ObjectDamaged):
            if not found:  # nothing was stored, else
                raise
    return found


def _remedy(app: App, error: ArchiveUnavailable) -> str:
    """Return which setting makes the store work, by trying, or "" if none does, or it does not answer at all."""
    settings = app.settings
    if error.answer is None and settings.s3_addressing != "virtual":
        return ""
    known = _CHECKSUMS.index(settings.s3_checksum) + 1
    tries = [("ORDERFLOW_S3_CHECKSUM", kind, settings.s3_addressing) for kind in _CHECKSUMS[known:]]
    other = "path" if settings.s3_addressing == "virtual" else "virtual"
    tries.append(("ORDERFLOW_S3_ADDRESSING", settings.s3_checksum, other))
    times = timeouts.scaled_to(settings.deadline)
    for key, checksum, addressing in tries:
        if error.answer is None and key != "ORDERFLOW_S3_ADDRESSING":
            continue
        with suppress(ArchiveUnavailable):
            archive = open_archive(
                settings.archive_url,
                settings.s3_endpoint_url,
                settings.s3_encryption,
                times,
                checksum=checksum,
                addressing=addressing,
            )
            archive.put(PROBE, b"", hashlib.sha256(b"").hexdigest())
            archive.delete(PROBE)
            return f"; tried, and it works: {key} = {addressing if key.endswith('ADDRESSING') else checksum}"
    return ""


def _metadata(app: App) -> Iterator[CheckResult]:
    """Try metadata, as short as a mail's mostly is, and longer than S3 takes."""
    url = app.settings.archive_url
    for length, what in ((20, "metadata"), (_LONG, "metadata of more than 2 KB")):
        metadata = {
            "sender": f"größe+100%=?{'x' * length}@probe.invalid",
            "original-recipient": "",
            "received-at": datetime.now(UTC).isoformat(),
            "id": os.urandom(16).hex(),
        }
        for number in range(_TRIES):
            _put(app.archive, b"", metadata)
            try:
                found = app.archive.describe(PROBE)
            except (ObjectMissing, ObjectDamaged):  # another run's, or of KEY.meta
                found = None
            if found is not None and found.metadata == metadata:
                break
            if number == _TRIES - 1:
                if found is None or not found.metadata:
                    yield (
                        "TROUBLE",
                        f"{url}: {what} is lost on its way: a rebuild would know no sender and no time; let the proxy "
                        "before the store pass x-amz-meta- headers both ways",
                    )
                else:
                    yield (
                        "TROUBLE",
                        f"{url}: {what} comes back changed, and cannot be read from it: a rebuild would know wrong "
                        "senders and times; let the proxy before the store pass x-amz-meta- headers as they are",
                    )
                _delete(app.archive)
                return
        _delete(app.archive)


def _largest(app: App) -> Iterator[CheckResult]:
    """Try an object of the size of the largest mail."""
    size, url = app.settings.max_message_size, app.settings.archive_url
    block = os.urandom(min(size, _BLOCK))
    data = (block * (size // len(block) + 1))[:size]
    digest, what = hashlib.sha256(data).hexdigest(), "stored"
    try:
        for number in range(_TRIES):
            app.archive.put(PROBE, data, digest)
            what = "read"
            try:
                app.archive.read(PROBE, digest)
                break
            except (ObjectMissing, ObjectDamaged) as error:
                if number == _TRIES - 1:
                    raise ArchiveUnavailable(f"it is not read back ({type(error).__name__})") from None
    except ArchiveUnavailable as error:
        yield (
            "TROUBLE",
            f"{url}: {_named(size)} cannot be {what}, and a small one can: {error}; mail of such a size would be "
            "deferred for days and bounce",
        )
    if not _delete_for_good(app.archive):
        yield (
            "WARNING",
            f"{url}: the bucket keeps versions, and each run of this check leaves one of {size} bytes: "
            "allow s3:DeleteObjectVersion below probe/ (orderflow-admin roles s3), or let a lifecycle rule delete "
            "old versions",
        )


def _named(size: int) -> str:
    return f"an object of {size} bytes (ORDERFLOW_MAX_MESSAGE_SIZE)"


def _bounded(app: App, look: Callable[[], Iterator[CheckResult]], what: str) -> list[CheckResult]:
    """Look for no longer than a delivery has time. Delete the probe then."""
    url, seconds = app.settings.archive_url, app.settings.deadline
    try:
        with deadline(seconds):
            return list(look())
    except DeadlineReached:
        _delete(app.archive)
        return [("TROUBLE", f"{url}: {what} took over {seconds:g} s, as long as a delivery has (ORDERFLOW_DEADLINE)")]
    except ArchiveUnavailable as error:
        _delete(app.archive)
        return [("TROUBLE", f"{url}: {what} cannot be tried: {error}")]


def _put(archive: Archive, data: bytes, metadata: dict[str, str]) -> None:
    archive.put(PROBE, data, hashlib.sha256(data).hexdigest(), metadata)


def _delete(archive: Archive) -> None:
    """Delete the probe. Where that fails now, the next run does it."""
    with suppress(ArchiveUnavailable):
        archive.delete(PROBE)


def _delete_for_good(archive: Archive) -> bool:
    """Delete the probe, and in a bucket with versions its last one. Return False if that is kept."""
    with suppress(ArchiveUnavailable):
        if isinstance(archive, S3Archive):
            return archive.delete_version(PROBE)
        archive.delete(PROBE)
    return True


def _store(app: App, archive: S3Archive) -> Iterator[CheckResult]:
    before = time.time()
    result = archive.probe_listing()
    if result.clock is not None:
        # Date has whole seconds, cut off.
        yield from compare_clocks("the S3 store's", result.clock.timestamp() + 0.5, (before + time.time()) / 2)
    if result.refusal:
        level = "OK" if _worker_has_own_keys(app) else "WARNING"
        yield level, f"{result.refusal}; the worker and orderflow-replay need it: without it {_LISTING}"


def _worker_has_own_keys(app: App) -> bool:
    """Return whether the worker's unit reads other credentials over these. Such a file may be root's alone."""
    if app.settings.file is None:
        return False
    file = app.settings.file.parent / "worker.env"
    try:
        return "AWS_ACCESS_KEY_ID" in read_file(str(file))
    except SettingsError:
        return file.exists()
