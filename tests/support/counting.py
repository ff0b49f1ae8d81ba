"""Counts, read from the metric files."""

import fcntl
from pathlib import Path
from typing import IO, Any

from orderflow_ingest.observability import metrics

DELIVERED = ("orderflow_deliveries_total acme DELIVERED", 1)


def count(times: int = 1) -> None:
    for _ in range(times):
        metrics.count(metrics.DELIVERIES, "acme", "DELIVERED")


def counted(directory: Path) -> float:
    return metrics.read_counts(directory).get(DELIVERED, [0.0])[0]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def is_free(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
