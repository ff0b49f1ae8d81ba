"""An S3 endpoint of our own that really checks signatures: Ceph's radosgw with one monitor and one store.

Guarantees: memstore keeps objects in memory and is empty after each start. bluestore writes to `directory`
and keeps every acknowledged object through kill(). Both start in a second or two, and refuse a wrong secret
and a wrong Content-MD5; neither looks at x-amz-checksum headers or takes uploads with a trailing checksum.
With a `certificate` and its key it listens with TLS too. It encrypts by aws:kms with `kms_key`, and says so; the
AES256 that a client asks for it passes over, and says nothing.
"""

import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Literal

import boto3
from botocore.config import Config

from .process import LabError, Process, Server, free_port, listening, run, wait_until

_CONF = """\
[global]
fsid = {fsid}
mon host = [v1:127.0.0.1:{mon_port}]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
keyring = {directory}/keyring
run dir = {directory}
admin socket =
pid file =
log file = {directory}/$name.log
# One placement copy on one host, without the manager daemon that would otherwise size the pools.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
rgw rados pool pg num min = 8
mon allow pool size one = true
mon max pg per osd = 1000
[mon]
mon data = {directory}/mon
mon data avail crit = 0
mon data avail warn = 0
# Each change of the cluster map waits for these; the defaults cost seconds at start.
paxos propose interval = 0.02
paxos min wait = 0.01
[osd]
osd data = {directory}/osd
osd objectstore = {store}
osd class update on start = false
# The store would place itself while it boots, and races with its own creation.
osd crush update on start = false
memstore device bytes = 2147483648
bluestore block size = 4294967296
bluestore block db create = false
bluestore block wal create = false
osd memory target = 939524096
# Each closing of the device waits for this; there are a dozen of them before the store serves.
bdev aio poll ms = 10
[client.rgw]
# How soon it notices that the store came back on another port.
objecter tick interval = 0.25
# Without tcp_nodelay each answer waits 40 ms for the delayed acknowledgement.
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1{tls}
# Server-side encryption with keys that the gateway holds itself, over plain HTTP too.
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = {kms_key}=bGFiLWtleS1mb3ItbG9vcGJhY2stb25seS0zMi1ieXQ=
rgw run sync thread = false
rgw thread pool size = 64
"""


class CephS3(Server):
    """An endpoint with one user and its files in `directory`; runs as whoever calls."""

    region = "us-east-1"
    access_key = "LABACCESSKEY00000001"
    secret_key = "lab-secret-for-loopback-only"

    kms_key = "lab-key"

    def __init__(
        self,
        directory: Path,
        store: Literal["memstore", "bluestore"] = "memstore",
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.directory, self.store = Path(directory).absolute(), store
        self._certificate, self._tls_port = certificate, free_port()
        self.tls_endpoint = f"https://127.0.0.1:{self._tls_port}"
        self.port, self._mon_port = free_port(), free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._fsid, self._osd_id = str(uuid.uuid4()), str(uuid.uuid4())
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("CEPH_")}
        self._mon = self._daemon("mon", "ceph-mon", "-i", "a", port=self._mon_port)
        self._osd = self._daemon("osd", "ceph-osd", "-i", "0")
        self._gateway = self._daemon("rgw", "radosgw", "-n", "client.rgw", port=self.port)

    def start(self) -> None:
        """Start the three daemons; make the cluster and its user first where there is none."""
        if self.store == "memstore":
            shutil.rmtree(self.directory, ignore_errors=True)  # a monitor that remembers objects its store forgot
        fresh = not (self.directory / "osd").exists()
        if fresh:
            self._create_monitor()
        self._mon.start()
        if fresh:
            self._create_store()
        self._osd.start()
        if fresh:
            self.create_user("lab", self.access_key, self.secret_key)
        self._gateway.start()

    def stop(self) -> None:
        """End the daemons, the gateway first."""
        for daemon in (self._gateway, self._osd, self._mon):
            daemon.stop()

    def kill(self) -> None:
        """Kill the daemons without warning."""
        for daemon in (self._gateway, self._osd, self._mon):
            daemon.kill()

    @property
    def is_running(self) -> bool:
        """Return whether none of the daemons has ended."""
        return all(daemon.running for daemon in (self._gateway, self._osd, self._mon))

    def suspend_user(self, is_suspended: bool = True) -> None:
        """Refuse the user's credentials, or take them again."""
        self._run("radosgw-admin", "-n", "client.rgw", "user", "suspend" if is_suspended else "enable", "--uid", "lab")

    def client(self, **changes: Any) -> Any:
        """Return a boto3 client that tries once and soon gives up; `changes` go to boto3."""
        options = {
            "endpoint_url": self.endpoint,
            "region_name": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "config": Config(
                signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1},
                connect_timeout=5, read_timeout=30, max_pool_connections=50,
            ),
        }  # fmt: skip
        return boto3.session.Session().client("s3", **options | changes)

    def create_bucket(self, name: str) -> str:
        """Create a bucket, again if need be, and return its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def _daemon(self, name: str, *command: str, port: int | None = None) -> Process:
        return Process(
            [command[0], "-c", self.directory / "ceph.conf", *command[1:], "-f"],
            self.directory / f"{name}.out",
            env=self._env,
            ready=lambda: port is None or listening(port),
        )

    def _run(self, program: str, *arguments: str | Path) -> None:
        run([program, "-c", self.directory / "ceph.conf", *arguments], env=self._env)

    def _ask_monitor(self, *arguments: str) -> None:
        """Run a command that can be run twice, again if need be: a new monitor refuses some for a moment (EPERM)."""
        errors: list[LabError] = []

        def done() -> bool:
            try:
                self._run("ceph", *arguments)
            except LabError as error:
                errors.append(error)
                return False
            return True

        if not wait_until(done, 60, interval=1):
            raise errors[-1]

    def _create_monitor(self) -> None:
        (self.directory / "mon").mkdir(parents=True)
        (self.directory / "ceph.conf").write_text(
            _CONF.format(
                fsid=self._fsid,
                mon_port=self._mon_port,
                port=self.port,
                directory=self.directory,
                store=self.store,
                tls=self._tls(),
                kms_key=self.kms_key,
            )
        )
        keyring, monmap = self.directory / "keyring", self.directory / "monmap"
        run(
            [
                "ceph-authtool",
                "--create-keyring",
                keyring,
                "--gen-key",
                "-n",
                "mon.",
                "--cap",
                "mon",
                "allow *",
            ]
        )
        address = f"[v1:127.0.0.1:{self._mon_port}]"
        run(["monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, monmap])
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)

    def _tls(self) -> str:
        if self._certificate is None:
            return ""
        certificate, key = self._certificate
        return f" ssl_endpoint=127.0.0.1:{self._tls_port} ssl_certificate={certificate} ssl_private_key={key}"

    def _create_store(self) -> None:
        self._ask_monitor("osd", "new", self._osd_id)
        self._ask_monitor("osd", "crush", "add", "osd.0", "1.0", "host=lab", "root=default")
        (self.directory / "osd").mkdir()
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", self._osd_id)

    def create_user(self, name: str, access_key: str, secret_key: str) -> None:
        """Create a user; as `arn:aws:iam:::user/NAME` a bucket's policy names him."""
        self._run(
            "radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", name, "--display-name", name,
            "--access-key", access_key, "--secret", secret_key,
        )  # fmt: skip
