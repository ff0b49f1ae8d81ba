"""orderflow-replay import as a program."""

import json
import subprocess

import pytest

from tests.support.lab.deployment import Deployment
from tests.support.mails import order


@pytest.fixture
def files(place):
    """Return a directory for mail."""
    directory = place / "mail"
    directory.mkdir()
    return directory


# The program


@pytest.fixture
def quiet(template, place):
    """A deployment whose worker does not run: a copy of the template."""
    subprocess.run(["cp", "-a", f"{template}/.", place / "state"], check=True)
    return Deployment(place)


def test_the_program_imports_tells_what_failed_and_ends_with_1_until_all_is_in(quiet, files):
    files.parent.chmod(0o755)
    files.chmod(0o755)
    (files / "1.eml").write_bytes(order(1))
    (files / "\x1b[31mevil\n.eml").write_bytes(b"")
    (files / "2.eml").write_bytes(order(2))
    dry = quiet.run("orderflow-replay", "import", str(files), "--org", "acme", "--dry-run", "--json", check=False)
    assert sorted(json.loads(line)["outcome"] for line in dry.stdout.splitlines()) == ["failed", "imported", "imported"]
    assert quiet.messages() == [] and dry.returncode == 1
    ended = quiet.run("orderflow-replay", "import", str(files), "--org", "acme", "--yes", "--json", check=False)
    assert ended.returncode == 1 and "not one header field" in ended.stderr and "\x1b" not in ended.stderr
    told = {row["name"]: row["count"] for row in map(json.loads, ended.stdout.splitlines())}
    assert told == {"imported": 2, "failed": 1}
    assert {row["subject"] for row in quiet.messages()} == {"Order 1", "Order 2"}
    (files / "\x1b[31mevil\n.eml").unlink()
    assert "there already  2" in quiet.replay("import", str(files), "--org", "acme", "--yes")


def test_nothing_is_imported_for_an_organization_that_takes_no_mail(quiet, files):
    (files / "1.eml").write_bytes(order(1))
    quiet.admin("org", "disable", "acme")
    for slug, said in (("acme", "is disabled"), ("none", "no organization")):
        ended = quiet.run("orderflow-replay", "import", str(files), "--org", slug, check=False)
        assert ended.returncode == 1 and said in ended.stderr
    assert quiet.messages() == []
