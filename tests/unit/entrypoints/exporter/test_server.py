"""The HTTP server of the exporter: its address, and more clients than it answers at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orderflow_ingest.config import SettingsError, load
from orderflow_ingest.entrypoints.exporter import main as exporter_main
from orderflow_ingest.entrypoints.exporter.server import Exporter
from tests.support.lab.process import free_port
from tests.support.monitoring import asked


def test_what_more_clients_ask_than_are_answered_at_a_time_is_refused_and_the_others_answered():
    began, go_on = threading.Semaphore(0), threading.Event()

    class SlowPage:
        def collect(self):
            began.release()
            assert go_on.wait(60)
            return []

    port = free_port()
    slow = Exporter(f"127.0.0.1:{port}", SlowPage())
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    request = b"GET /metrics HTTP/1.0\r\n\r\n"
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(asked, port, request) for _ in range(8)]
        for _ in answers:
            assert began.acquire(timeout=60)
        assert asked(port, request).startswith(b"HTTP/1.0 503 ")
        go_on.set()
        assert all(b" 200 OK" in answer.result()[:20] for answer in answers)
    assert b" 200 OK" in asked(port, request)[:20]
    slow.shutdown()
    slow.server_close()


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
