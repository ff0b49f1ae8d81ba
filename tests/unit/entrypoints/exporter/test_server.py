"""The exporter over HTTP: its address, its one page, and a page that cannot be made."""

import pytest

from orderflow_ingest.config import SettingsError, load
from orderflow_ingest.entrypoints.exporter import main as exporter_main
from orderflow_ingest.entrypoints.exporter.server import metrics_app


def answered(page, method="GET", path="/metrics"):
    """Return the status and the body of a request."""
    said = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path}
    body = b"".join(metrics_app(page)(environ, lambda status, headers: said.append(status)))
    return said[-1], body


class Empty:
    """A page without metrics."""

    def collect(self):
        return []


class Broken:
    """A page that cannot be made; its error quotes a secret."""

    def collect(self):
        raise ValueError("secret")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", "200 OK"),
        ("HEAD", "/metrics", "200 OK"),
        ("POST", "/metrics", "405 Method Not Allowed"),
        ("GET", "/", "404 Not Found"),
        ("GET", "/metrics/", "404 Not Found"),
    ],
)
def test_metrics_are_at_one_path_and_can_only_be_read(method, path, status):
    assert answered(Empty(), method, path)[0] == status


def test_a_page_that_cannot_be_made_is_an_error_whose_place_stands_in_the_log(caplog):
    status, body = answered(Broken())
    assert status == "500 Internal Server Error" and b"secret" not in body
    assert "ValueError at " in str(caplog.records[-1].reason) and "secret" not in caplog.text


@pytest.mark.parametrize(
    ("address", "is_own"),
    [
        ("127.0.0.1:1", True), ("127.9.9.9:1", True), ("localhost:1", True), ("[::1]:1", True), ("unix:/run/x", True),
        ("0.0.0.0:1", False), ("[::]:1", False), ("10.0.0.1:1", False), ("mail.example.com:1", False),
        ("localhost.example.com:1", False),
    ],
)  # fmt: skip
def test_what_only_this_host_can_reach_is_known(address, is_own):
    assert exporter_main._is_local(address) is is_own


@pytest.mark.parametrize("value", ["9464", "localhost", "unix:run/x.sock", "host:0", "host:99999", "a b:9464"])
def test_a_wrong_address_is_refused_with_the_settings(value):
    with pytest.raises(SettingsError, match="ORDERFLOW_METRICS must be of the form host:port or unix:/path"):
        load(None, {"ORDERFLOW_METRICS": value})
