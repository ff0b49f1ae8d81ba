"""Whether the warm delivery service answers, and is the one that these settings mean.

Of several instances on the same sockets the kernel chooses the one that answers. The findings name it, and how many
there are.

Without it the pipe delivers all the same, at more cost. The other two ways put mail off.
"""

import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orderflow_ingest import __version__
from orderflow_ingest.config import Settings
from orderflow_ingest.entrypoints.admin.postfix.render import PIPE
from orderflow_ingest.entrypoints.health_client import PIPE_SOCKET, ServiceNotRespondingError, read_health

from .findings import CheckResult

_START = "systemctl enable --now orderflow-service.socket orderflow-service@1"
_RESTART = "systemctl restart 'orderflow-service@*'"


def check_service(settings: Settings, way: str | None) -> Iterator[CheckResult]:
    """Look at the sockets and ask the service. `way` is the one that Postfix is set to, None if not known."""
    try:
        health = read_health(settings.socket_dir)
    except ServiceNotRespondingError as error:
        yield "TROUBLE", f"{settings.socket_dir}: {error}"
        return
    if health is None:
        yield _nobody(settings, way)
        return
    findings = [*_owners(settings, health), *_is_ours(settings, health)] or [("OK", _figures(health))]
    for level, text in findings:
        yield level, f"{_named(health)}: {text}"


def count_services() -> int:
    """Return how many instances of the service run on this host."""
    return sum(_is_service(path) for path in Path("/proc").glob("[0-9]*/cmdline"))


def _is_service(path: Path) -> bool:
    try:
        words = path.read_bytes().split(b"\0")
    except OSError:  # ended meanwhile, or not to be seen
        return False
    return any(word.endswith(b"/orderflow-service") for word in words[:3])


def _named(health: dict[str, Any]) -> str:
    """Name the instance that has answered."""
    name = health.get("unit") or f"process {health.get('pid')}"
    count = count_services()
    return f"{name}, one of {count} instances on this host" if count > 1 else str(name)


def _nobody(settings: Settings, way: str | None) -> CheckResult:
    if way is None:
        return "OK", f"none listens in {settings.socket_dir}; a host that takes no mail needs none"
    if way == PIPE:
        return "WARNING", f"none listens in {settings.socket_dir}: each delivery costs 0.3 s of CPU: {_START}"
    return "TROUBLE", f"none listens in {settings.socket_dir}, so no mail is delivered: {_START}"


def _owners(settings: Settings, health: dict[str, Any]) -> Iterator[CheckResult]:
    directory = settings.socket_dir.stat()
    if stat.S_IMODE(directory.st_mode) & 0o022:
        yield "TROUBLE", f"others may put sockets into {settings.socket_dir}: chmod 755 {settings.socket_dir}"
    if not settings.spool_dir.is_dir():
        return
    owner = pwd.getpwuid(settings.spool_dir.stat().st_uid).pw_name
    if health.get("user") != owner:
        yield "TROUBLE", f"runs as {health.get('user')}, and the spool is {owner}'s: set User= in orderflow-service"
    if (settings.socket_dir / PIPE_SOCKET).owner() != owner:
        yield (
            "TROUBLE",
            f"{settings.socket_dir / PIPE_SOCKET} is not {owner}'s: set SocketUser= in orderflow-service.socket",
        )


def _is_ours(settings: Settings, health: dict[str, Any]) -> Iterator[CheckResult]:
    if health.get("spool") != str(settings.spool_dir):
        yield "TROUBLE", f"has other settings, its spool is {health.get('spool')}: {_RESTART}"
    if health.get("version") != __version__:
        yield "WARNING", f"is version {health.get('version')}, and this program {__version__}: {_RESTART}"
    if health.get("overdue", 0) >= _workers(health) > 0:
        yield (
            "TROUBLE",
            f"every worker is held by a delivery that hangs past its deadline; see its log, then {_RESTART}",
        )
    if health.get("draining"):
        yield "WARNING", "is ending and takes no more mail"


def _workers(health: dict[str, Any]) -> int:
    return int(health.get("workers", health.get("places", 0)))  # a service of an older version calls them places


def _figures(health: dict[str, Any]) -> str:
    busy = f"{health.get('busy')} of {_workers(health)} workers busy"
    megabytes = int(health.get("in_flight", 0)) >> 20
    return (
        f"version {health.get('version')} answers: {busy}, {megabytes} MiB in flight, "
        f"{health.get('deliveries')} deliveries since {str(health.get('started_at'))[:16]}"
    )
