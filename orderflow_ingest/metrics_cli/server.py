"""The exporter: GET /metrics over HTTP, at a TCP address or a unix socket.

At most MOST clients are answered at a time, each in a thread, and each has IDLE seconds for its next byte; who comes
when all are busy hears 503. A page costs what it costs once: `Page` keeps what it has measured.
"""

import os
import socket
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.exposition import choose_encoder

from ..logs import ERROR, event, place
from .page import Page

MOST = 8
IDLE = 10.0  # seconds
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class AddressTaken(Exception):
    """Another program listens at this unix socket."""


class Exporter(ThreadingMixIn, HTTPServer):
    """Serves a page. Raises OSError, AddressTaken."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, address: str, page: Page):
        self.page = page
        self._free = threading.BoundedSemaphore(MOST)
        self._path = Path(address.removeprefix("unix:")) if address.startswith("unix:") else None
        if self._path:
            self.address_family = socket.AF_UNIX
            _remove_stale(self._path)
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
        """Answer in a thread, or say at once that there is none left."""
        if self._free.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread could be started
                self._free.release()
                raise
            return
        try:
            request.settimeout(0.1)
            request.sendall(_BUSY)
        except OSError:  # gone already: nobody is left to tell
            pass
        finally:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and be free for the next one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what is not just a client that left."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            event("metrics", "A request was not answered.", ERROR, reason=place(error))


class _Handler(BaseHTTPRequestHandler):
    timeout = IDLE
    server: Exporter
    server_version, sys_version = "orderflow-metrics", ""
    error_message_format, error_content_type = "%(code)d %(message)s\n", "text/plain; charset=utf-8"

    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/metrics":
            self.send_error(404, "the metrics are at /metrics")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept") or "")
        try:
            text = encode(self.server.page)
        except Exception as error:
            event("metrics", "The page could not be made.", ERROR, reason=place(error))
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


def _remove_stale(path: Path) -> None:
    """Remove the socket of an exporter that was killed. Raises AddressTaken if somebody listens."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if is_socket and probe.connect_ex(os.fspath(path)) == 0:
            raise AddressTaken("another program listens here")
    if is_socket:
        path.unlink()
