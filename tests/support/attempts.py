"""Files of attempts, and the processes that wrote them."""

from pathlib import Path

from orderflow_ingest.storage import attempt_files


def files(place: Path) -> list[Path]:
    """List what attempts have left, all but the directory's own name."""
    return [path for path in (place / "in_hand").iterdir() if path.name != "identity"]


def is_known_gone(directory: Path, worker: str) -> bool:
    return attempt_files.is_gone(directory, worker) or list(attempt_files.lost_attempts(directory)) != []
