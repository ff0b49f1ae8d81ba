"""The exporter's HTTP server: GET /metrics at a TCP address or a unix socket.

At most MAX_REQUESTS are answered at a time, the next gets 503. A connection waits for its request in a thread,
IDLE_TIMEOUT seconds for each next byte. Beyond MAX_CONNECTIONS the one that has waited longest is closed for a new one,
so that clients that send nothing cannot keep Prometheus out. `Page` keeps its measurements, so many requests cost as
much as one. There is no TLS and no login: a reverse proxy has them.
"""

import os
import socket
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.exposition import choose_encoder

from orderflow_ingest.entrypoints.unix_socket import remove_stale_socket
from orderflow_ingest.observability.logs import ERROR, error_location, event

from .page import Page

MAX_REQUESTS = 8
MAX_CONNECTIONS = 32
IDLE_TIMEOUT = 10.0  # seconds


class Exporter(ThreadingMixIn, HTTPServer):
    """Serves a page. Raises OSError, SocketInUseError."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, address: str, page: Page):
        self.page = page
        self.request_slots = threading.BoundedSemaphore(MAX_REQUESTS)
        self._lock = threading.Lock()
        self._waiting: dict[int, Any] = {}  # connections without a request, by id, the longest waiting first
        self._path = Path(address.removeprefix("unix:")) if address.startswith("unix:") else None
        if self._path:
            self.address_family = socket.AF_UNIX
            remove_stale_socket(self._path)
            super().__init__(os.fspath(self._path), _Handler)  # type: ignore[arg-type]
            return
        host, _, port = address.rpartition(":")
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        self.address_family = found[0][0]
        super().__init__(found[0][4][:2], _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """Bind; a unix socket is for this user and its group, a reverse proxy's say."""
        before = os.umask(0o117)
        try:
            TCPServer.server_bind(self)  # HTTPServer's own would wait for the DNS to tell this host's name
        finally:
            os.umask(before)
        self.server_name, self.server_port = "", 0

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait for a request in a thread; one connection that waits too is closed where there are too many."""
        with self._lock:
            if len(self._waiting) >= MAX_CONNECTIONS:
                with suppress(OSError):  # gone already; its thread ends in any case
                    self._waiting.pop(next(iter(self._waiting))).shutdown(socket.SHUT_RDWR)
            self._waiting[id(request)] = request
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self.stop_waiting(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, whatever becomes of it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.stop_waiting(request)

    def stop_waiting(self, request: Any) -> None:
        """Note that a connection waits no more; safe to repeat."""
        with self._lock:
            if self._waiting.get(id(request)) is request:
                del self._waiting[id(request)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what is not just a client that left."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            event("metrics", "A request was not answered.", ERROR, reason=error_location(error))


class _Handler(BaseHTTPRequestHandler):
    timeout = IDLE_TIMEOUT
    server: Exporter
    server_version, sys_version = "orderflow-metrics", ""
    error_message_format, error_content_type = "%(code)d %(message)s\n", "text/plain; charset=utf-8"

    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/metrics":
            self.send_error(404, "the metrics are at /metrics")
            return
        self.server.stop_waiting(self.connection)
        if not self.server.request_slots.acquire(blocking=False):
            self.send_error(503, "too many ask at a time")
            return
        try:
            self._answer()
        finally:
            self.server.request_slots.release()

    def _answer(self) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept") or "")
        try:
            text = encode(self.server.page)
        except Exception as error:
            event("metrics", "The page could not be made.", ERROR, reason=error_location(error))
            self.send_error(500, "the page could not be made; the log tells why")
            return
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self.send_response(405)
        self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse

    def log_message(self, format: str, *args: Any) -> None:
        """Log no request: there is one every few seconds."""
