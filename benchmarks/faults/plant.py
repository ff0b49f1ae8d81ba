"""The production stack that a campaign breaks: what it consists of, and the handles at which faults take hold.

    Postfix ─► orderflow-deliver ─► two services ─┬─► wire ─► PostgreSQL      (data on a file system of its own)
        │                                         ├─► wire ─► S3, bluestore
        └─► wire ─► PostgreSQL: recipients        └─► wire ─► Redis, with --queue redis
                               two workers, each with processes ─► the same wires

The programs are a copy of the installed ones, so that a broken deploy can be played; the units are kept by `units`, the
spool and PostgreSQL's data lie on small file systems where mounting is allowed. Time limits are shorter than
in production, so that a campaign ends: a delivery has 10 s, a worker's lease lasts 30 s, Postfix tries again after a
second or two. All of it lies in one directory and is gone at the end.
"""

import compileall
import ctypes
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from botocore.exceptions import ClientError

from tests.support.lab.deployment import ENVIRONMENT, MAIL_USER, PROGRAMS, Deployment
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import LabError, free_port, run, wait_until
from tests.support.lab.redis import Redis
from tests.support.lab.s3 import CephS3
from tests.support.lab.wire import Wire

from .load import ORGANIZATIONS, Identity, content_digest
from .maillog import Maillog
from .reconcile import DocumentRow, Evidence, Handed, Held, Object, Row, SetAside
from .units import Unit, Units

WAYS = ("pipe", "lmtp", "before-queue")
QUEUES = ("postgresql", "redis")
BUCKET, PREFIX, DATABASE = "orders", "mail", "orders"
# The programs' role is bound by row-level security; only the operator's commands run as the owner.
OWNER, ROLE, MAP_ROLE = "owner", "programs", "recipients"
SPOOL_SIZE, SPOOL_INODES, DATABASE_SIZE = "16m", 4000, "1536m"
_HERE = Path(__file__).parent
_SETTINGS = {
    "ORDERFLOW_DEADLINE": "10",
    "ORDERFLOW_LEASE": "30",
    "ORDERFLOW_SWEEP_AFTER": "5",
    "ORDERFLOW_RETRY_DELAY": "0.5",
    "ORDERFLOW_DOCUMENT_HANDLER": "received:receive",
}
# A process of Postfix that has found the database away asks it again after a minute; here it is soon another process.
_POSTFIX = """
enable_long_queue_ids = yes
minimal_backoff_time = 1s
maximal_backoff_time = 2s
ipc_idle = 1s
ipc_ttl = 3s
"""
_PROXYMAP = "proxymap unix - - n - - proxymap\n    -o max_use=20\n    -o max_idle=2s\n"
_CLONE_NEWNS, _MS_REC_PRIVATE = 0x20000, 0x4000 | (1 << 18)


@dataclass(frozen=True)
class State:
    """How far the messages of a run are."""

    messages: int
    unfinished: int
    spooled: int
    queued: int

    @property
    def is_quiet(self) -> bool:
        return not (self.unfinished or self.spooled or self.queued)


def own_mounts() -> bool:
    """Take this process and what it starts into a mount namespace of its own, so that no mount outlives it."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None) == 0


class Plant:
    """The stack in `place`, running inside the block of `open_plant`."""

    def __init__(self, place: Path, way: str, queue: str, minute: float, may_mount: bool) -> None:
        self.place, self.way, self.queue, self.may_mount = place, way, queue, may_mount
        self.postgres = Postgres(place / "database" / "postgres")
        self.s3 = CephS3(place / "s3", store="bluestore")
        self.redis = Redis(place / "redis")
        self.wires: dict[str, Wire] = {}
        self.environment: dict[str, str] = {}
        self.settings: dict[str, str] = {}
        self.received = place / "received" / "calls"
        self.deploy = place / "deploy"
        self._minute = minute

    def start(self, running: ExitStack) -> None:
        """Start all parts; `running` ends them."""
        (self.place / "database").mkdir()
        if self.may_mount:
            self._mount(running, self.place / "database", f"size={DATABASE_SIZE}")
        running.enter_context(self.postgres)
        self._prepare_database()
        running.enter_context(self.s3)
        self.s3.create_bucket(BUCKET)
        behind = {"database": self.postgres.port, "archive": self.s3.port, "recipients": self.postgres.port}
        if self.queue == "redis":
            running.enter_context(self.redis)
            behind["queue"] = self.redis.port
        for name, port in behind.items():
            (self.place / f"wire-{name}").mkdir()
            self.wires[name] = running.enter_context(Wire(self.place / f"wire-{name}", port))
        self._install()
        self.settings = self._first_settings()
        self.deployment = Deployment(
            self.place / "deployment", self.settings, way=self.way, programs=self.deploy / "bin", overrides=_POSTFIX
        )
        if self.may_mount:
            spool = self.deployment.state / "spool"
            spool.mkdir()
            self._mount(running, spool, f"size={SPOOL_SIZE},nr_inodes={SPOOL_INODES},mode=0700,uid={self._uid}")
        self.deployment.environment["DATABASE_URL"] = self._url(OWNER)
        self.deployment.admin("init")
        self.postgres.run_script(DATABASE, self.deployment.admin("roles", "postgresql"))
        self.postgres.create_role(ROLE, "orderflow_worker")
        self.postgres.create_role(MAP_ROLE, "orderflow_map")
        for slug in ORGANIZATIONS:
            self.deployment.admin("org", "add", slug)
        self.configure_postfix()
        self.units = Units(
            self.place / "units", self.deployment.sockets, self.deployment.user, MAIL_USER, self._units(),
            self._unit_environment,
        )  # fmt: skip
        running.enter_context(self.units)
        running.enter_context(self.deployment.postfix)
        self.maillog = Maillog(self.deployment.postfix.directory / "maillog")
        if not wait_until(self.deployment.is_serving, 30):
            raise LabError(f"the service does not serve:\n{self.tail()}")

    @property
    def port(self) -> int:
        """Return Postfix's SMTP port."""
        return self.deployment.postfix.smtp_port

    @property
    def spool(self) -> Path:
        """Return the spool's directory."""
        return self.deployment.state / "spool"

    @property
    def _uid(self) -> int:
        return int(run(["id", "-u", "nobody"]))

    def tail(self) -> str:
        """Return the last lines of the units."""
        return "\n".join(self.units.log.read_text(errors="replace").splitlines()[-20:])

    def change_settings(self, **changes: str) -> None:
        """Write other settings, those named changed, and restart all units."""
        self.deployment.write_settings(self.settings | changes)
        self.restart()

    def restart(self) -> None:
        """Restart all units, and wait until they run."""
        self.units.restart()
        wait_until(lambda: self.units.are_running() and self.deployment.is_serving(), 15, interval=0.2)

    def configure_postfix(self) -> None:
        """Write Postfix's configuration, with a wire of its own to the recipients."""
        deployment = self.deployment
        deployment.configure_postfix(_PROXYMAP)
        directory = deployment.postfix.config_directory
        recipients = directory / "orderflow_recipients.cf"
        ports = self.wires["database"].port, self.wires["recipients"].port
        recipients.write_text(recipients.read_text().replace(f":{ports[0]}", f":{ports[1]}"))

    @contextmanager
    def before_delivery(self, code: str) -> Iterator[None]:
        """Have pipe(8) run Python before the program."""
        master = self.deployment.postfix.config_directory / "master.cf"
        text, importing = master.read_text(), "from orderflow_ingest.entrypoints.pipe import main"
        master.write_text(text.replace(importing, f"{code} {importing}"))
        self.deployment.postfix.reload()
        try:
            yield
        finally:
            master.write_text(text)
            self.deployment.postfix.reload()

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask PostgreSQL itself, as its superuser."""
        with self._superuser() as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def _superuser(self) -> psycopg.Connection[Any]:
        """Connect, again while the few connections that a superuser has are in use, or the server starts."""
        until = time.monotonic() + 10
        while True:
            try:
                return psycopg.connect(self.postgres.conninfo(DATABASE), autocommit=True, connect_timeout=10)
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.25)

    def state(self, run: str) -> State:
        """Return how far the messages of a run are."""
        ours = f"<{run}.%"
        ((messages, unfinished, documents),) = self.sql(
            """SELECT count(*), count(*) FILTER (WHERE m.status IN ('RECEIVED', 'STORED')),
                      (SELECT count(*) FROM document d WHERE d.handover = 'PENDING')
               FROM inbound_message m WHERE m.source_message_id LIKE %s""",
            ours,
        )
        return State(messages, unfinished + documents, self._count("new"), self._queued())

    def _queued(self) -> int:
        """Count the messages in Postfix's queue, without asking Postfix, which may be away.

        A file without the owner's execute bit was never whole, since its writer was killed: Postfix took no mail by it.
        """
        queue = self.deployment.postfix.directory / "queue"
        states = (os.walk(queue / state) for state in ("maildrop", "incoming", "active", "deferred"))
        files = (Path(where) / name for state in states for where, _, names in state for name in names)
        return sum(_is_whole(file) for file in files)

    def _count(self, state: str) -> int:
        with suppress(FileNotFoundError):
            return len(os.listdir(self.spool / state))
        return 0

    def evidence(self, prefix: str) -> Evidence:
        """Gather all that is there of the Message-IDs that begin so; each object is read and its digest computed."""
        ours = f"<{prefix}%"
        rows = self.sql(
            """SELECT o.slug, m.source_message_id, 'org/' || o.id || '/', m.id, m.status, m.digest, m.raw_key,
                      coalesce(m.error_json::text, '')
               FROM inbound_message m JOIN organization o ON o.id = m.org_id WHERE m.source_message_id LIKE %s""",
            ours,
        )
        documents = self.sql(
            """SELECT d.inbound_message_id, d.id, d.part_path, d.digest, d.object_key, d.handover,
                      coalesce(d.error_json::text, '')
               FROM document d JOIN inbound_message m ON m.org_id = d.org_id AND m.id = d.inbound_message_id
               WHERE m.source_message_id LIKE %s""",
            ours,
        )
        held = self.sql(
            """SELECT c.inbound_message_id, c.digest, c.raw_key FROM held_mail c
               JOIN inbound_message m ON m.org_id = c.org_id AND m.id = c.inbound_message_id
               WHERE m.source_message_id LIKE %s""",
            ours,
        )
        found = [Row(Identity(org, message_id), *rest) for org, message_id, *rest in rows]
        parts, held_rows = [DocumentRow(*one) for one in documents], [Held(*one) for one in held]
        keys = {one.raw_key for one in (*found, *held_rows)} | {part.object_key for part in parts}
        ids = {row.id for row in found}
        calls = [call for call in self._calls() if call.message in ids]
        return Evidence(found, parts, held_rows, self._objects(keys), list(self._dead()), calls)

    def _objects(self, keys: set[str]) -> dict[str, Object]:
        client = self.s3.client()

        def read(key: str) -> tuple[str, Object | None]:
            try:
                data = client.get_object(Bucket=BUCKET, Key=f"{PREFIX}/{key}")["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchKey":
                    raise
                return key, None
            return key, Object(hashlib.sha256(data).hexdigest(), content_digest(data) if "/raw/" in key else "")

        with ThreadPoolExecutor(8) as pool:
            return {key: found for key, found in pool.map(read, sorted(keys)) if found is not None}

    def _calls(self) -> Iterator[Handed]:
        for line in self.received.read_text().splitlines():
            document, message, path, digest, org = line.split()
            yield Handed(UUID(document), UUID(message), path, digest, org)

    def _dead(self) -> Iterator[SetAside]:
        for path in (self.spool / "dead").glob("*"):
            if path.suffix == ".why":
                continue
            text = path.read_bytes()
            message_id = re.search(rb"^Message-ID: (<.*>)$", text, re.MULTILINE)
            org = re.search(rb"^recipient: \w+\+(\w+)@", text, re.MULTILINE | re.IGNORECASE)
            if message_id and org:
                why = path.with_name(path.name + ".why")
                identity = Identity(org[1].decode(), message_id[1].decode())
                yield SetAside(path.name, identity, content_digest(text), why.exists() and bool(why.read_text()))

    def revive(self) -> None:
        """Start what systemd would have started again: servers that died of a fault."""
        for server in (self.postgres, self.s3):
            if not server.is_running:
                server.kill()
                server.start()

    def _mount(self, running: ExitStack, path: Path, options: str) -> None:
        run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path])
        running.callback(lambda: subprocess.run(["umount", "-l", path], check=False))
        if "mode" not in options:
            path.chmod(0o755)

    def _prepare_database(self) -> None:
        with psycopg.connect(self.postgres.conninfo("postgres"), autocommit=True) as connection:
            # Few files for the log, so that the disk is not full of them.
            for statement in (
                "ALTER SYSTEM SET max_wal_size = '96MB'", "ALTER SYSTEM SET min_wal_size = '32MB'",
                "SELECT pg_reload_conf()",
            ):  # fmt: skip
                connection.execute(statement)
        self.postgres.create_owned_database(DATABASE, OWNER)

    def _install(self) -> None:
        """Copy the installed package and its programs; all other packages are links to those installed."""
        real = Path(run([PROGRAMS / "python3", "-c", "import orderflow_ingest as o; print(o.__path__[0])"]).strip())
        run([PROGRAMS / "python3", "-m", "venv", "--without-pip", self.deploy])
        self.packages = next((self.deploy / "lib").glob("python3*")) / "site-packages"
        for path in real.parent.iterdir():
            if path != real:
                (self.packages / path.name).symlink_to(path)
        self.package = self.packages / real.name
        shutil.copytree(real, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(self.package, quiet=1)
        for name in ("orderflow-admin", "orderflow-replay", "orderflow-service", "huey_consumer"):
            text = (PROGRAMS / name).read_text().partition("\n")[2]
            (self.deploy / "bin" / name).write_text(f"#!{self.deploy}/bin/python3\n{text}")
            (self.deploy / "bin" / name).chmod(0o755)
        handlers = self.place / "handlers"
        handlers.mkdir()
        for name in ("received.py", "sweeper.py"):
            shutil.copy(_HERE / name, handlers)
        for name in ("steps", "sleep"):
            (self.place / name).mkdir()
            shutil.copy(_HERE / f"{name}.py", self.place / name / "sitecustomize.py")
        shutil.copy(_HERE / "steps.py", self.place / "steps")
        self.received.parent.mkdir()
        self.received.touch()
        self.received.chmod(0o666)

    def _first_settings(self) -> dict[str, str]:
        relay = {"ORDERFLOW_RELAY": f"127.0.0.1:{free_port()}"} if self.way == "before-queue" else {}
        queue = {"QUEUE_URL": f"redis://127.0.0.1:{self.wires['queue'].port}/0"} if self.queue == "redis" else {}
        return {
            **_SETTINGS, **relay, **queue,
            "DATABASE_URL": self._url(ROLE),
            "MAP_DATABASE_URL": self._url(MAP_ROLE),
            "ARCHIVE_URL": f"s3://{BUCKET}/{PREFIX}",
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{self.wires['archive'].port}",
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
            "AWS_DEFAULT_REGION": self.s3.region,
        }  # fmt: skip

    def _url(self, role: str) -> str:
        """Return the database's URL for a role, through the wire."""
        return self.postgres.url(DATABASE, role).replace(f":{self.postgres.port}/", f":{self.wires['database'].port}/")

    def _units(self) -> list[Unit]:
        worker = [self.deploy / "bin" / "huey_consumer", "orderflow_ingest.tasks.huey", "--worker-type", "process"]
        worker += ["--workers", "2", "--max-delay", "0.2", "--scheduler-interval", "1", "-c", "1", "--quiet"]
        units = [Unit(f"service-{n}", [self.deploy / "bin" / "orderflow-service"], is_service=True) for n in (1, 2)]
        units += [Unit(f"worker-{n}", worker, stop_signal=signal.SIGINT) for n in (1, 2)]
        if self._minute < 60:
            command = [self.deploy / "bin" / "python3", self.place / "handlers" / "sweeper.py", str(self._minute)]
            units.append(Unit("sweeper", command))
        return units

    def _unit_environment(self) -> Mapping[str, str]:
        paths = [str(self.place / "handlers"), *filter(None, [self.environment.get("PYTHONPATH")])]
        own = {"ORDERFLOW_SETTINGS": str(self.deployment.settings_file), "FAULT_RECEIVED": str(self.received)}
        return {**ENVIRONMENT, **own, **self.environment, "PYTHONPATH": ":".join(paths)}


def _is_whole(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IXUSR)
    except FileNotFoundError:  # delivered meanwhile
        return False


@contextmanager
def open_plant(place: Path, way: str, queue: str, minute: float, may_mount: bool) -> Iterator[Plant]:
    """Start the stack, and end it."""
    plant = Plant(place, way, queue, minute, may_mount)
    with ExitStack() as running:
        plant.start(running)
        yield plant
