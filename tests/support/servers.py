"""A pytest plugin: real servers as fixtures, each started once and only where a test asks for it.

A server's module is imported when the server is started, so that tests without servers do not pay for it.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .lab.process import scratch

if TYPE_CHECKING:
    from .lab.certificates import Authority
    from .lab.deployment import Deployment
    from .lab.postgres import Postgres
    from .lab.redis import Redis
    from .lab.s3 import CephS3

BUCKET = "orders"
SERVERS = {"postgres", "authority", "ceph", "redis", "template", "quiet"}


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """Fail a unit test that asks for a server, by name or at run time."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "")
    if fixturedef.argname in SERVERS and test.startswith("tests/unit/"):
        pytest.fail(f"{test} is a unit test and asks for {fixturedef.argname}", pytrace=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """Return a PostgreSQL that does not sync."""
    from .lab.postgres import Postgres

    with scratch() as directory, Postgres(directory / "postgres", fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def authority() -> Iterator["Authority"]:
    """Return the authority that has signed the certificates of the servers."""
    from .lab.certificates import Authority

    with scratch() as directory:
        yield Authority(directory / "authority")


@pytest.fixture(scope="session")
def ceph(authority: "Authority") -> Iterator["CephS3"]:
    """Return an S3 endpoint, with and without TLS, with one bucket, BUCKET."""
    from .lab.s3 import CephS3

    certificate = authority.issue("s3", "IP:127.0.0.1")
    with scratch() as directory, CephS3(directory / "ceph", certificate=certificate) as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator["Redis"]:
    """Return a Redis."""
    from .lab.redis import Redis

    with scratch() as directory, Redis(directory / "redis") as server:
        yield server


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """Return the state directory of a deployment with one organization."""
    from .lab.deployment import Deployment

    with scratch() as place:
        deployment = Deployment(place)
        deployment.admin("init")
        deployment.admin("org", "add", "acme")
        yield deployment.state


@pytest.fixture
def quiet(template: Path, place: Path) -> "Deployment":
    """Return a deployment whose worker does not run: a copy of the template."""
    from .lab.deployment import Deployment

    subprocess.run(["cp", "-a", f"{template}/.", place / "state"], check=True)
    return Deployment(place)
