"""systemd/: the units are right by systemd's own word, and closed."""

import re
import subprocess
from pathlib import Path

import pytest

from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.health_client import SOCKETS
from orderflow_ingest.entrypoints.service.socketmap import MAX_CONNECTIONS
from tests.support.lab.deployment import PROGRAMS

UNITS = sorted(
    path
    for path in (Path(__file__).parents[2] / "systemd").iterdir()
    if path.suffix in (".service", ".socket", ".timer")
)
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]


@pytest.fixture
def installed(place) -> Path:
    """Copy the units with the programs' directory of these tests."""
    for unit in UNITS:
        (place / unit.name).write_text(unit.read_text().replace("/opt/orderflow/bin", str(PROGRAMS)))
    return place


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit_without_a_word(installed, unit):
    command = ["systemd-analyze", "verify", "--man=no", installed / unit.name]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_the_exposure_is_small(installed, unit):
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", installed / unit.name]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", said)[1]) <= 2.0


def test_the_worker_is_stopped_the_way_that_lets_it_finish(installed):
    """SIGTERM, systemd's default, interrupts Huey's tasks."""
    text = (installed / "orderflow-worker.service").read_text()
    assert "\nKillSignal=SIGINT\n" in text
    assert "\nRestart=always\n" in text


def test_the_service_sees_who_connects_and_has_the_time_to_finish(installed):
    """In a user namespace, PrivateUsers=yes, every peer would be 65534."""
    text = (installed / "orderflow-service@.service").read_text()
    assert "\nPrivateUsers=no\n" in text
    deadline = load(None, {}).deadline
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1]) > deadline
    assert int(re.search(r"^WatchdogSec=(\d+)$", text, re.MULTILINE)[1]) < deadline


def test_the_recipient_map_cannot_take_every_file_of_the_service(installed):
    unit = (installed / "orderflow-service@.service").read_text()
    assert int(re.search(r"^LimitNOFILE=(\d+)$", unit, re.MULTILINE)[1]) >= 4 * MAX_CONNECTIONS


def test_the_sockets_are_those_of_the_service_and_postfix_may_open_them(installed):
    text = (installed / "orderflow-service.socket").read_text()
    assert set(re.findall(r"^ListenStream=/run/orderflow/(\S+)$", text, re.MULTILINE)) == set(SOCKETS)
    assert "\nSocketGroup=postfix\n" in text
    assert "\nSocketMode=0660\n" in text


def test_sysusers_makes_the_user_and_tmpfiles_its_directories(place):
    folder = UNITS[0].parent
    root = place / "root"
    (root / "etc").mkdir(parents=True)
    for program, file in (
        ("systemd-sysusers", "orderflow.sysusers.conf"),
        ("systemd-tmpfiles", "orderflow.tmpfiles.conf"),
    ):
        create = ["--create"] if program == "systemd-tmpfiles" else []
        command = [program, f"--root={root}", *create, "-"]
        ended = subprocess.run(command, input=(folder / file).read_text(), capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    assert re.search(r"^orderflow:", (root / "etc" / "passwd").read_text(), re.MULTILINE)
    assert oct((root / "var" / "lib" / "orderflow").stat().st_mode)[-4:] == "0711"
    assert oct((root / "run" / "orderflow").stat().st_mode)[-4:] == "0755"
    assert oct((root / "etc" / "orderflow").stat().st_mode)[-4:] == "0750"
