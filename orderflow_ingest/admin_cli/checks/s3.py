"""Whether the archive takes, gives and takes back an object, each tried for itself, and the store's clock.

What an error of S3 means is in `archive.s3_answers`; here it is said which rights are missing, all in one go. The probe
lies below `probe/`, for which the policies of `orderflow-admin roles s3` give every role its rights.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator

from ...archive import ArchiveUnavailable, ObjectDamaged, ObjectMissing, S3Archive
from ...assembly import Parts
from ...settings import BadSettings, read_file
from .findings import Said, compare_clocks
from .spool import check_room

_LISTING = "a missing object is taken for an outage, and the worker tries it for ever"


def check_archive(parts: Parts) -> Iterator[Said]:
    """Use the archive as deliveries and the worker do."""
    findings = [*_used(parts), *check_room(parts)]
    if isinstance(parts.archive, S3Archive) and not any(" cannot be used: " in text for _, text in findings):
        findings += _store(parts, parts.archive)
    worst = [said for said in findings if said[0] != "OK"]
    yield from findings if worst else [("OK", f"{parts.settings.archive_url}: put, read and delete work"), *findings]


def _used(parts: Parts) -> Iterator[Said]:
    data = os.urandom(16)
    digest = hashlib.sha256(data).hexdigest()
    key = f"probe/{digest}"
    url, refused = parts.settings.archive_url, set[str]()
    steps: list[tuple[str, Callable[[], object]]] = [
        ("stored", lambda: parts.archive.put(key, data, digest)),
        ("read", lambda: parts.archive.read(key, digest)),
        ("deleted", lambda: parts.archive.delete(key)),
    ]
    for what, step in steps:
        try:
            step()
        except ArchiveUnavailable as error:
            if not isinstance(parts.archive, S3Archive) or " lack " not in str(error):  # it would fail alike
                yield "TROUBLE", f"{url} cannot be used: {error}"
                return
            refused.add(what)
            yield "TROUBLE", f"{url}: nothing can be {what}: {error}"
        except (ObjectMissing, ObjectDamaged) as error:
            if "stored" not in refused:
                told = type(error).__name__
                yield "TROUBLE", f"{url}: what was stored is not read back ({told}): is it one and the same store?"


def _store(parts: Parts, archive: S3Archive) -> Iterator[Said]:
    before = time.time()
    said = archive.look()
    if said.clock is not None:
        # Date has whole seconds, cut off.
        yield from compare_clocks("the S3 store's", said.clock.timestamp() + 0.5, (before + time.time()) / 2)
    if said.refusal:
        level = "OK" if _worker_has_own_keys(parts) else "WARNING"
        yield level, f"{said.refusal}; the worker and orderflow-replay need it: without it {_LISTING}"


def _worker_has_own_keys(parts: Parts) -> bool:
    """Tell whether the worker's unit reads other credentials over these; such a file may be root's alone."""
    if parts.settings.file is None:
        return False
    file = parts.settings.file.parent / "worker.env"
    try:
        return "AWS_ACCESS_KEY_ID" in read_file(str(file))
    except BadSettings:
        return file.exists()
