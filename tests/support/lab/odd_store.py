"""A small store that speaks as much of the S3 API as the archive does, and is as odd as real ones and their proxies.

Guarantees: objects are kept in memory, a listing has all keys on one page, signatures are not looked at. `names` and
`values` change the metadata that it gives back; `refuse` is asked before each request and may answer in its place;
`is_virtual` takes a bucket in the host name alone. `requests` notes what came.
"""

import hashlib
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PREFIX = "x-amz-meta-"
_LINGER, _MOST_LEFT = 10.0, 64 << 20  # seconds without a byte, bytes


class Request(NamedTuple):
    """What a client asks: bucket and key as they were addressed, and the length of the body."""

    method: str
    bucket: str
    key: str
    headers: Message
    length: int


class Reply(NamedTuple):
    """An answer in place of the store's; with `hangs_up` the connection is closed after it."""

    status: int
    body: bytes = b""
    content_type: str = "application/xml"
    hangs_up: bool = False


Refuse = Callable[[Request], Reply | None]


def error(status: int, code: str, message: str = "") -> Reply:
    """Return an error as S3 tells it."""
    return Reply(status, f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode())


def page(status: int, is_xml: bool = False) -> Reply:
    """Return the page of a proxy, nginx's unless it is well-formed XML, with a secret in it."""
    end = "" if is_xml else "<hr>"
    text = f"<html><head><title>{status}</title></head><body>{end}<p>secret-of-the-page {'x' * 9000}</p></body></html>"
    return Reply(status, text.encode(), "text/html")


class OddStore:
    """The store, listening on loopback inside `with`."""

    def __init__(
        self,
        names: Callable[[str], str | None] = lambda name: name,
        values: Callable[[str], str | None] = lambda value: value,
        refuse: Refuse = lambda request: None,
        is_virtual: bool = False,
    ) -> None:
        self.names, self.values, self.refuse, self.is_virtual = names, values, refuse, is_virtual
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.requests: list[Request] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_expect_100(self) -> bool:
                if (reply := store.refuse(self._request())) is not None:
                    store.requests.append(self._request())
                    self._send(reply, {"Connection": "close"})
                    self._linger()
                    return False
                return super().handle_expect_100()

            def answer(self) -> None:
                request = self._request()
                body = self.rfile.read(request.length)
                store.requests.append(request)
                reply = store.refuse(request)
                if reply is None and store.is_virtual and not self._is_virtual():
                    reply = error(403, "SecondLevelDomainForbidden", "Please use virtual hosted style")
                if reply is not None:
                    self._send(reply)
                elif request.method == "PUT":
                    store.objects[request.key] = (body, store.metadata(request.headers))
                    self._send(Reply(200), {"ETag": _etag(body)})
                elif request.method == "DELETE":
                    store.objects.pop(request.key, None)
                    self._send(Reply(204))
                elif "list-type" in parse_qs(urlsplit(self.path).query):
                    self._send(Reply(200, store.listing(request.bucket, parse_qs(urlsplit(self.path).query))))
                elif request.key in store.objects or not request.key:
                    content, told = store.objects.get(request.key, (b"", {}))
                    headers = {"ETag": _etag(content), "Last-Modified": formatdate(usegmt=True)}
                    self._send(Reply(200, content, "binary/octet-stream"), headers | told)
                else:
                    self._send(error(404, "NoSuchKey"))

            do_GET = do_PUT = do_DELETE = do_HEAD = answer

            def _is_virtual(self) -> bool:
                return self.headers["Host"].partition(":")[0].count(".") == 2

            def _request(self) -> Request:
                place = unquote(urlsplit(self.path).path).removeprefix("/")
                if self._is_virtual():
                    bucket, key = self.headers["Host"].partition(".")[0], place
                else:
                    bucket, _, key = place.partition("/")
                return Request(self.command, bucket, key, self.headers, int(self.headers.get("Content-Length") or 0))

            def _send(self, reply: Reply, headers: Mapping[str, str] | None = None) -> None:
                self.send_response(reply.status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("Content-Type", reply.content_type)
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body if self.command != "HEAD" else b"")
                self.close_connection = self.close_connection or reply.hangs_up

            def _linger(self) -> None:
                """Read what the client still sends: a socket closed before that is reset, and the answer is lost."""
                left = _MOST_LEFT
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_WR)
                    self.connection.settimeout(_LINGER)
                    while left > 0 and (data := self.rfile.read1(65536)):
                        left -= len(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def metadata(self, headers: Message) -> dict[str, str]:
        """Return the headers that tell an object's metadata, as this store tells it."""
        told = {}
        for name, value in headers.items():
            if name.lower().startswith(PREFIX):
                changed = (self.names(name.lower()), self.values(value))
                if changed[0] is not None and changed[1] is not None:
                    told[changed[0]] = changed[1]
        return told

    def listing(self, bucket: str, query: Mapping[str, list[str]]) -> bytes:
        """Return the list of the objects."""
        prefix, after = query.get("prefix", [""])[0], query.get("start-after", [""])[0]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{now}</LastModified><Size>{len(body)}</Size></Contents>"
            for key, (body, _) in sorted(self.objects.items())
            if key.startswith(prefix) and key > after
        )
        head = f"<Name>{bucket}</Name><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{head}{found}</ListBucketResult>".encode()


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
