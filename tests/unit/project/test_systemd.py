"""The units in systemd/: all closed alike, bounded, and started again."""

import re
from pathlib import Path

import pytest

from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.service.cost import FIELD_FACTOR, HEADER_READ
from orderflow_ingest.entrypoints.service.systemd import unit_of

UNITS = sorted(
    path
    for path in (Path(__file__).parents[3] / "systemd").iterdir()
    if path.suffix in (".service", ".socket", ".timer")
)
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
# What a unit runs, when and with how much; all else in [Service] is what it may not do.
OF_ITS_OWN = {
    *("Type", "Sockets", "NonBlocking", "NotifyAccess", "WatchdogSec", "Environment", "EnvironmentFile", "ExecStart"),
    *("Restart", "RestartSec", "TimeoutStartSec", "TimeoutStopSec", "KillSignal", "KillMode"),
    *(
        "Nice",
        "IOSchedulingClass",
        "MemoryMax",
        "MemoryHigh",
        "OOMPolicy",
        "TasksMax",
        "LimitNOFILE",
        "RuntimeDirectory",
        "RuntimeDirectoryMode",
    ),
}
EXCEPTIONS = {
    ("orderflow-service@.service", "PrivateUsers"): "it has to see who connects",
    ("orderflow-canary.service", "ReadWritePaths"): "--textfile is written for node_exporter",
    ("orderflow-console.service", "ReadWritePaths"): "its unix socket may lie beside the service's",
}


def closed(unit: Path) -> dict[str, list[str]]:
    """Return what a service may not do: the values of each directive, in order."""
    text, found = unit.read_text().partition("[Service]")[2].partition("[Install]")[0], {}
    for name, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        if name not in OF_ITS_OWN:
            found.setdefault(name, []).append(value)
    return found


def test_all_services_are_closed_alike_but_for_the_exceptions():
    usual = closed(UNITS[0].parent / "orderflow-worker.service")
    differ = {
        (unit.name, name)
        for unit in SERVICES
        for name in usual.keys() | closed(unit).keys()
        if closed(unit).get(name) != usual.get(name)
    }
    assert differ == set(EXCEPTIONS)


def bytes_of(unit: str, name: str) -> int:
    text = (UNITS[0].parent / unit).read_text()
    number, factor = re.search(rf"^{name}=(\d+)([MG])$", text, re.MULTILINE).groups()
    return int(number) << {"M": 20, "G": 30}[factor]


def test_every_service_has_a_bound_of_memory_that_follows_from_the_settings():
    settings, megabyte = load(None, {}), 1 << 20
    alone = settings.max_message_size + FIELD_FACTOR * HEADER_READ
    service = 256 * megabyte + 2 * (settings.max_in_flight + alone)
    assert bytes_of("orderflow-service@.service", "MemoryMax") >= service
    assert settings.max_in_flight + alone < bytes_of("orderflow-service@.service", "MemoryHigh") < service
    worker = (UNITS[0].parent / "orderflow-worker.service").read_text()
    workers = int(re.search(r"--workers (\d+)", worker)[1])
    assert bytes_of("orderflow-worker.service", "MemoryMax") == workers * settings.task_memory + 512 * megabyte
    assert "\nOOMPolicy=continue\n" in worker
    assert bytes_of("orderflow-drain.service", "MemoryMax") >= 256 * megabyte + 2 * alone
    assert all(bytes_of(unit.name, "MemoryMax") for unit in SERVICES)


# Threads and processes at the most: the service's places, loop, relay and executor; the consumer with its workers;
# eight requests of the console at a time; the parts that the metrics measure at a time. All others have a handful.
TASKS = {
    "orderflow-service@.service": load(None, {}).concurrency + 13,
    "orderflow-worker.service": 10,
    "orderflow-console.service": 16,
    "orderflow-metrics.service": 16,
}


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_every_service_has_a_bound_of_tasks_with_room_for_twice_its_own(unit):
    assert int(value(unit, "TasksMax")) >= 2 * TASKS.get(unit.name, 8)


def value(unit: Path, name: str) -> str | None:
    """Return the value of a directive that stands in a unit at most once."""
    values = re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)
    assert len(values) <= 1, (unit.name, name)
    return values[0] if values else None


def test_every_unit_that_gets_a_socket_says_that_it_does_not_block():
    """Without it systemd clears O_NONBLOCK at each start, for all processes that have the socket."""
    sockets = [unit for unit in UNITS if unit.suffix == ".socket"]
    started = {re.sub(r"@.*\.", "@.", value(unit, "Service") or f"{unit.stem}.service") for unit in sockets}
    getting = {unit.name for unit in SERVICES if unit.name in started or value(unit, "Sockets")}
    assert sockets and getting == {"orderflow-service@.service"}
    for unit in SERVICES:
        assert value(unit, "NonBlocking") == ("yes" if unit.name in getting else None), unit.name


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_program_that_serves_is_started_again_for_ever_and_a_run_has_an_end(unit):
    kept = ("Restart", "RestartSec", "StartLimitIntervalSec", "TimeoutStartSec", "TimeoutStopSec", "WantedBy")
    restart, pause, limit, start, stop, wanted = (value(unit, name) for name in kept)
    if value(unit, "Type") == "oneshot":
        assert (restart, wanted) == (None, None) and start
        assert value(unit.with_suffix(".timer"), "WantedBy") == "timers.target"
    else:
        assert (restart, limit, wanted) == ("always", "0", "multi-user.target") and pause and stop


@pytest.mark.parametrize(
    ("groups", "unit"),
    [
        ("0::/system.slice/system-orderflow\\x2dservice.slice/orderflow-service@1.service\n", "orderflow-service@1"),
        ("9:cpu:/\n1:name=systemd:/system.slice/orderflow-service@2.service\n0::/\n", "orderflow-service@2"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/run-1.scope\n", ""),
        ("0::/\n", ""),
    ],
)
def test_an_instance_knows_its_unit_by_its_control_group(groups, unit):
    assert unit_of(groups) == unit
