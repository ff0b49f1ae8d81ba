"""Small real classes that stand in for a part of a deployment in tests of one function."""

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.config import load
from orderflow_ingest.storage.archive import ArchiveUnavailable, FileArchive
from orderflow_ingest.storage.database import Records, schema
from orderflow_ingest.storage.queue import Queue, QueueUnavailable
from orderflow_ingest.storage.resilience.cached_measurement import CachedMeasurement
from orderflow_ingest.storage.spool import Spool

from .lab.process import scratch


class ListQueue(Queue):
    """A queue that keeps the tasks that are enqueued."""

    def __init__(self) -> None:
        self.extractions: list[tuple[int, UUID]] = []
        self.hand_overs: list[tuple[int, UUID]] = []
        self.waiting = 0
        self.is_away = False
        self.calls = 0
        self.recent_depth = CachedMeasurement(self.depth, 0, 0, errors=(QueueUnavailable,))

    def enqueue_extraction(self, org_id: int, message_id: UUID, is_live: bool = True) -> None:
        self._answer()
        self.extractions.append((org_id, message_id))

    def enqueue_hand_over(self, org_id: int, document_id: UUID, is_live: bool = True) -> None:
        self._answer()
        self.hand_overs.append((org_id, document_id))

    def waiting_rows(self) -> set[tuple[int, UUID]]:
        self._answer()
        return {*self.extractions, *self.hand_overs}

    def depth(self) -> int:
        self._answer()
        return self.waiting

    def _answer(self) -> None:
        self.calls += 1
        if self.is_away:
            raise QueueUnavailable("queue: away")


class FaultyArchive(FileArchive):
    """An archive of files that raises `fault` where it is set, for every key or those that hold `only`."""

    fault: BaseException | None = None
    only = ""

    def put(self, key: str, data: bytes, digest: str, metadata: Mapping[str, str] | None = None) -> None:
        if self.fault and self.only in key:
            raise self.fault
        super().put(key, data, digest, metadata)

    def read(self, key: str, digest: str) -> bytes:
        if isinstance(self.fault, ArchiveUnavailable):
            raise self.fault
        return super().read(key, digest)

    def objects(self) -> list[str]:
        """List the objects' keys."""
        files = [path for path in (self._root / "org").rglob("*") if path.is_file() and path.suffix != ".meta"]
        return sorted(str(path.relative_to(self._root)) for path in files)


@cache
def _two_organizations() -> bytes:
    """Return an SQLite file with tables and two organizations; to make one takes thirty times as long as to copy it."""
    with scratch() as directory:
        records = Records(f"sqlite:///{directory}/made.db", create=True)
        _add_two_organizations(records)
        records.database.close()
        assert [file.name for file in directory.iterdir()] == ["made.db"], "all is in the one file"
        return (directory / "made.db").read_bytes()


def _add_two_organizations(records: Records) -> None:
    schema.upgrade(records.database)
    for slug in ("acme", "beta"):
        records.organizations.add(slug, slug.title())


def embedded(directory: Path, **settings: str) -> App:
    """Set up a deployment with the organizations acme and beta; its queue is a ListQueue."""
    quick = {"ORDERFLOW_RETRY_DELAY": "0.1", "ORDERFLOW_LEASE": "0.2", "ORDERFLOW_SWEEP_AFTER": "0.1"}
    quick["ORDERFLOW_HANDOVER_RETRY"] = "5"  # four attempts
    chosen = load(
        environ={"ORDERFLOW_STATE_DIR": str(directory), "ORDERFLOW_SETTINGS": "/dev/null", **quick, **settings}
    )
    longest = timedelta(seconds=chosen.longest_delay)
    records = Records(chosen.database_url, create=True, longest_delay=longest)
    if records.database.is_sqlite:
        file = Path(chosen.database_url.removeprefix("sqlite:///"))
        assert not file.exists()
        file.write_bytes(_two_organizations())
    else:
        _add_two_organizations(records)
    app = App(chosen, Spool(chosen.spool_dir), FaultyArchive(directory / "archive"), records, ListQueue())
    app.spool.prepare()
    app.archive.prepare()
    return app
