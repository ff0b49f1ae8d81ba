"""Names of former versions that stand in master.cf, in the settings and in handlers go on working."""

import subprocess
from email.message import EmailMessage
from pathlib import Path

import pytest

import orderflow_ingest
from orderflow_ingest.domain.outcomes import Outcome
from tests.support.checking import deployed, findings
from tests.support.lab.deployment import DOMAIN, ENVIRONMENT, PROGRAMS

FORMER = "import sys; sys.path.insert(0, {!r}); from orderflow_ingest.deliver_cli import main; main()"
HANDLER = """
from orderflow_ingest.handover import OrderDocument
from orderflow_ingest.status import PartKind

def receive(order: OrderDocument) -> None:
    assert order.document.kind is not PartKind.BODY
"""
LOAD = "import sys; from orderflow_ingest.pipeline.hand_over import load_handler; print(load_handler(sys.argv[1]))"


def python(*arguments: str, **more) -> subprocess.CompletedProcess[str]:
    """Run the Python that the package is installed for, from a directory that has no checkout."""
    return subprocess.run([PROGRAMS / "python3", *arguments], capture_output=True, text=True, timeout=60, **more)


@pytest.fixture(scope="module")
def packages() -> str:
    """Return the directory that the package is installed in."""
    found = python("-c", "import orderflow_ingest as package; print(package.__path__[0])", cwd="/")
    return str(Path(found.stdout.strip()).parent)


def test_master_cf_of_the_version_before_delivers(template, place, packages):
    deployment = deployed(template, place, "pipe")
    deployment.admin("org", "add", "former")
    mail = EmailMessage()
    mail["From"], mail["Message-ID"] = "buyer@shop.example", "<1@shop.example>"
    mail.set_content("Please send ten bolts.")
    code, settings = FORMER.format(packages), str(deployment.settings_file)
    recipient = f"orders+former@{DOMAIN}"
    ended = python(
        *("-I", "-S", "-c", code, "--settings", settings, "--sender", "b@shop.example", "--", recipient),
        input=mail.as_string(), cwd="/", env=ENVIRONMENT, **deployment.credentials(),
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, Outcome.DELIVERED.line.decode(), "")


def test_the_former_module_loads_itself_and_the_program_alone(packages):
    def loaded(module: str) -> set[str]:
        code = f"import sys; sys.path.insert(0, {packages!r}); import orderflow_ingest.{module}; print(*sys.modules)"
        return set(python("-I", "-S", "-c", code, cwd="/").stdout.split())

    assert loaded("deliver_cli") - loaded("entrypoints.pipe") == {"orderflow_ingest.deliver_cli"}


@pytest.mark.parametrize("target", ["orderflow_ingest.handover:log_document", "shop:receive"])
def test_a_handler_of_the_version_before_is_loaded(target, tmp_path):
    (tmp_path / "shop.py").write_text(HANDLER)
    ended = python("-c", LOAD, target, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert target.partition(":")[2] in ended.stdout


def test_a_module_of_this_version_is_never_taken_from_the_former_names():
    package = Path(orderflow_ingest.__path__[0])
    former = {path.stem for path in (package / "entrypoints" / "former_names").glob("*.py")} - {"__init__"}
    assert former
    assert not former & {path.stem for path in package.iterdir()}


def test_check_warns_of_the_former_name_in_master_cf(template, place):
    deployment = deployed(template, place, "pipe")
    deployment.configure_postfix()
    file = deployment.postfix.config_directory / "master.cf"
    file.write_text(file.read_text().replace("orderflow_ingest.entrypoints.pipe", "orderflow_ingest.deliver_cli"))
    level, said = findings(deployment)["postfix"]
    assert level == "warning"
    assert "orderflow_ingest.deliver_cli" in said
