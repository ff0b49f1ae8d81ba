"""An HTTP server of the test that answers as an S3 store would."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import boto3
import pytest

from orderflow_ingest.domain.object_keys import raw_key
from orderflow_ingest.storage.archive import S3Archive, open_archive
from orderflow_ingest.storage.archive.s3 import s3_client
from orderflow_ingest.storage.resilience import timeouts
from tests.support.servers import BUCKET

from .lab.s3 import CephS3

RAW = b"Subject: order 17\r\n\r\nten of them\r\n\0\xff"
DIGEST = hashlib.sha256(RAW).hexdigest()
KEY = raw_key(7, DIGEST)


@contextmanager
def client_of(ceph: CephS3) -> Iterator[Any]:
    """Yield the program's own client of a real store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        patch.setenv("AWS_ACCESS_KEY_ID", ceph.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", ceph.secret_key)
        patch.setenv("AWS_DEFAULT_REGION", ceph.region)
        yield s3_client(ceph.endpoint, timeouts.scaled_to())


class Files:
    """An archive of files, and what can happen to it behind our back."""

    def __init__(self, place: Path):
        self.root = place / "archive"
        self.archive = open_archive(f"file://{self.root}")
        self.archive.prepare()

    def change(self, key: str, data: bytes) -> None:
        (self.root / key).write_bytes(data)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def metadata(self, key: str) -> Any:
        return json.loads((self.root / (key + ".meta")).read_bytes())

    def lose(self) -> None:
        shutil.rmtree(self.root)


class Objects:
    """An archive below a prefix of its own in the real store."""

    def __init__(self, place: Path, client: Any):
        self.client = client
        self.prefix = f"some/{place.name}"
        self.archive = S3Archive(client, BUCKET, self.prefix)
        self.archive.prepare()

    def change(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{key}", Body=data)

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=self.prefix + "/").get("Contents", [])
        return sorted(item["Key"].removeprefix(self.prefix + "/") for item in found)

    def metadata(self, key: str) -> Any:
        return self.archive.describe(key).metadata

    def lose(self) -> None:
        self.archive = S3Archive(self.client, "no-such-bucket", "")


class Answers:
    """A server that gives one answer to every request, and notes them; `cut` ends bodies early."""

    def __init__(self, status: int, body: bytes = b"", cut: int = 0, headers: dict[str, str] | None = None):
        requests = self.requests = list[tuple[str, str, Any]]()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                requests.append((self.command, self.path, self.headers))
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body) + cut))
                self.end_headers()
                self.wfile.write(body if self.command != "HEAD" else b"")
                self.close_connection = cut > 0

            do_GET = do_PUT = do_DELETE = do_HEAD = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
