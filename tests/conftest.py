"""The lab's real servers, each started once and only where a test asks for it, and a directory per test."""

import logging
import signal

import pytest

from tests.lab.certificates import Authority
from tests.lab.deployment import Deployment
from tests.lab.postgres import Postgres
from tests.lab.process import scratch
from tests.lab.redis import Redis
from tests.lab.s3 import CephS3

pytest_plugins = ["tests.died", "tests.drawn"]
BUCKET = "orders"
# Who starts the tests in the background may have them ignore Ctrl-C, and all that they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What takes minutes begins first, so that the last process to end is not alone with it.
LONG = (
    *(
        "faults",
        "end_to_end",
        "keeping",
        "replay",
        "service",
        "lab",
        "operator",
        "hostile_names",
        "kill_points",
        "ways",
    ),
    *("rebuild", "mime_limits", "check_ways", "secrets", "memory", "tenants", "monitoring"),
)


def pytest_collection_modifyitems(items):
    names = [f"test_{name}.py" for name in LONG]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else len(names))


@pytest.fixture(autouse=True)
def no_alarm_is_left():
    """An alarm that a test leaves behind ends this process, and all tests after it, minutes later."""
    yield
    assert signal.alarm(0) == 0, "the test has left an alarm behind"


@pytest.fixture(autouse=True)
def logger_is_as_before():
    """Give the next test the package's logger as it was: a program that runs in a test sets it up for itself."""
    logger = logging.getLogger("orderflow_ingest")
    handlers, level, propagate, raises = [*logger.handlers], logger.level, logger.propagate, logging.raiseExceptions
    yield
    for handler in logger.handlers:
        if handler not in handlers:
            handler.close()
    logger.handlers[:], logger.propagate, logging.raiseExceptions = handlers, propagate, raises
    logger.setLevel(level)


@pytest.fixture(scope="session")
def postgres():
    with scratch() as directory, Postgres(directory / "postgres", fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def authority():
    """Give the authority that has signed the certificates of the lab's servers."""
    with scratch() as directory:
        yield Authority(directory / "authority")


@pytest.fixture(scope="session")
def ceph(authority):
    """Give an endpoint, with and without TLS, with one bucket, BUCKET."""
    certificate = authority.issue("s3", "IP:127.0.0.1")
    with scratch() as directory, CephS3(directory / "ceph", certificate=certificate) as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def redis():
    with scratch() as directory, Redis(directory / "redis") as server:
        yield server


@pytest.fixture
def place():
    with scratch() as directory:
        yield directory


@pytest.fixture(scope="module")
def template():
    """The state directory of a deployment with one organization."""
    with scratch() as place:
        deployment = Deployment(place)
        deployment.admin("init")
        deployment.admin("org", "add", "acme")
        yield deployment.state
