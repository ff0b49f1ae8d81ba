"""The machine and the versions that figures belong to, and the import cost of what Postfix starts."""

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.lab.deployment import ENVIRONMENT

_ROOT = Path(__file__).parents[2]


def facts() -> dict[str, Any]:
    """Name the machine, the versions, the commit and the date."""
    cpus = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    changed = _say("git", "-C", str(_ROOT), "status", "--porcelain", "--untracked-files=no")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _say("git", "-C", str(_ROOT), "rev-parse", "HEAD") + (" with changes" if changed else ""),
        "CPU": cpus[0] if cpus else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory GB": round(int(memory[1]) / 1e6) if memory else None,
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "Postfix": _say("postconf", "-dh", "mail_version"),
        "PostgreSQL": _say(*map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))[-1:]), "--version"),
        "Ceph": _say("ceph", "--version").partition(" (")[0],
        "fsync ms": round(1000 * fsync_cost(), 3),
    }


def fsync_cost() -> float:
    """Return the median seconds of a write of 4 KB with fsync, where the deployments lie."""
    times = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def import_cost() -> dict[str, Any]:
    """Import what the pipe's program imports before it knows whether there is a service; the best of five runs."""
    code = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from orderflow_ingest.entrypoints.pipe import main"
    runs = []
    for _ in range(5):
        command = [sys.executable, "-I", "-S", "-X", "importtime", "-c", code]
        said = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stderr
        lines = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", said, re.MULTILINE)
        runs.append((sum(int(own) for own, _ in lines), [name for _, name in lines]))
    microseconds, modules = min(runs)
    ours = modules.index("orderflow_ingest") if "orderflow_ingest" in modules else 0
    return {"ms": microseconds / 1000, "modules": len(modules), "beyond the interpreter's own": modules[ours:]}


def _say(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not there"
