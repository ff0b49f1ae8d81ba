"""The example handlers do what they say, with a real web service where they need one."""

import logging
import sys
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from orderflow_ingest import TryLater
from orderflow_ingest.pipeline.handler import load_handler
from orderflow_ingest.testing import order_document

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.fixture(autouse=True)
def importable(monkeypatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


class Service(BaseHTTPRequestHandler):
    """A web service that gives the answers of a list, and keeps what it gets."""

    answers: list[tuple[int, dict[str, str]]]
    got: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        self.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        status, headers = self.answers.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def service(monkeypatch) -> Iterator[type[Service]]:
    handler = type("Own", (Service,), {"answers": [], "got": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("ORDERFLOW_HANDLER_URL", f"http://127.0.0.1:{server.server_port}/orders")
        yield handler
        server.shutdown()


@pytest.mark.parametrize("name", NAMES)
def test_each_example_can_be_loaded_and_stands_in_the_table(name):
    load_handler(f"{name}:receive")
    assert f"| `{name}.py` |" in (EXAMPLES / "README.md").read_text()


def test_a_document_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        load_handler("log_orders:receive")(order_document())
        load_handler("log_orders:receive")(order_document(org="canary"))
    assert [record.message for record in caplog.records] == ["Order document received."]


def test_a_document_is_saved_once_however_often_it_comes(tmp_path, monkeypatch):
    monkeypatch.setenv("ORDERFLOW_HANDLER_FOLDER", str(tmp_path))
    for _ in range(2):
        load_handler("save_orders:receive")(order_document(b"%PDF-1.7\n", filename="order.pdf"))
    (saved,) = (tmp_path / "acme").iterdir()
    assert saved.name.endswith("-order.pdf") and saved.read_bytes() == b"%PDF-1.7\n"


def test_a_document_is_sent_with_its_id_and_a_busy_service_gets_it_later(service):
    receive, order = load_handler("post_orders:receive"), order_document(b"%PDF-1.7\n", filename="Stück 1.pdf")
    service.answers += [(503, {"Retry-After": "90"}), (201, {}), (400, {})]
    with pytest.raises(TryLater) as later:
        receive(order)
    assert later.value.after == timedelta(seconds=90) and str(later.value) == "the service answers 503"
    receive(order)
    with pytest.raises(Exception, match="400"):
        receive(order)
    headers, data = service.got[1]
    assert (headers["Idempotency-Key"], headers["Content-Type"]) == (str(order.document.id), "application/pdf")
    assert headers["X-Filename"] == "St%C3%BCck%201.pdf" and data == b"%PDF-1.7\n"


def test_a_service_that_is_away_gets_it_later(monkeypatch):
    monkeypatch.setenv("ORDERFLOW_HANDLER_URL", "http://127.0.0.1:1/orders")
    with pytest.raises(TryLater, match="cannot be reached"):
        load_handler("post_orders:receive")(order_document())


def test_asyncio_code_runs_to_its_end():
    load_handler("async_orders:receive")(order_document())
