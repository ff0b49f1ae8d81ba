"""The canary's result as a textfile of Prometheus's node_exporter, put in place in one go.

See the exposition format of Prometheus, version 0.0.4, and --collector.textfile.directory of node_exporter, which
reads *.prom while we write: so it is a temporary file of another ending, renamed. All users may read it.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from orderflow_ingest.storage.replace_file import replace_file

from .flight import Step


def write_textfile(file: Path, steps: Iterable[Step], total: float, *, is_success: bool) -> None:
    """Write what a run has found. Raise OSError."""
    replace_file(file, _metrics(steps, total, is_success=is_success).encode(), 0o644)


def _metrics(steps: Iterable[Step], total: float, *, is_success: bool) -> str:
    seconds = [f'orderflow_canary_seconds{{step="{name}"}} {value:.3f}' for name, value in _durations(steps, total)]
    lines = [
        "# HELP orderflow_canary_success Whether the last canary came through: 1 or 0.",
        "# TYPE orderflow_canary_success gauge",
        f"orderflow_canary_success {int(is_success)}",
        "# HELP orderflow_canary_seconds Seconds of each step of the last canary that came, and in all.",
        "# TYPE orderflow_canary_seconds gauge",
        *seconds,
        "# HELP orderflow_canary_last_run_timestamp_seconds When the last canary ended, come through or not.",
        "# TYPE orderflow_canary_last_run_timestamp_seconds gauge",
        f"orderflow_canary_last_run_timestamp_seconds {time.time():.0f}",
    ]
    return "\n".join(lines) + "\n"


def _durations(steps: Iterable[Step], total: float) -> Iterable[tuple[str, float]]:
    yield from ((step.name, step.seconds) for step in steps)
    yield "total", total
