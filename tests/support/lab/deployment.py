"""OrderFlow ingest as an operator would set it up, in one directory: settings, programs, worker, Postfix.

The programs are those installed beside the running interpreter. They run as `user`, who owns the state
directory; Postfix gets the configuration that `orderflow-admin postfix` prints for these settings and the
`way`. RCPT TO is answered by what `map_by` names: the service, the default where one runs, or the database.
With `service` the warm delivery service runs too, from start() to stop(); with `instances` on sockets that
are opened for it, see `activation`. `environment` is what the operator's programs get beside the settings.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orderflow_ingest.entrypoints.health_client import ServiceNotRespondingError, read_health

from . import warm
from .postfix import Postfix
from .process import DOMAIN as DOMAIN
from .process import ENVIRONMENT as ENVIRONMENT
from .process import Process, Server, free_port, wait_until

PROGRAMS = Path(sys.executable).parent
ROOT = Path(__file__).parents[3]
MAIL_USER = "postfix"
_SWEEPER = """
import time
from orderflow_ingest import tasks
from orderflow_ingest.pipeline import retry
while True:
    retry.sweep(tasks.app)
    time.sleep(1)
"""
# A test has no time for the printed queue run.
OWN_POSTFIX = "mydestination = localhost\nlocal_transport = outbound:$lab_directory/outbound\nqueue_run_delay = 1s\n"


class Deployment(Server):
    """One deployment in `directory`; inside the block its worker and its Postfix run."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str] | None = None,
        *,
        way: str = "pipe",
        service: bool = False,
        instances: int = 0,
        user: str = "nobody",
        programs: Path = PROGRAMS,
        overrides: str = "",
        map_by: str = "",
    ) -> None:
        self.directory, self.user, self.programs, self.way = Path(directory), user, programs, way
        self.state, self.sockets = self.directory / "state", self.directory / "run"
        self.settings_file = self.directory / "ingest.env"
        self.environment: dict[str, str] = {}
        self.postfix = Postfix(self.directory / "postfix")
        self.worker = self.new_worker("worker")
        self.service = self._new_service() if not instances else self._new_instances(instances)
        self.has_service = service
        self.map_by = map_by or ("service" if service or instances else "database")
        self._overrides = overrides
        self._relay = f"127.0.0.1:{free_port()}" if way == "before-queue" else ""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        for own in (self.state, self.sockets):
            if not own.exists():
                own.mkdir(mode=0o755)
                shutil.chown(own, user, pwd.getpwnam(user).pw_gid)
        self.write_settings(settings or {})

    def write_settings(self, settings: Mapping[str, str]) -> None:
        """Write the settings file; the directories, the relay and quick retries are set already.

        What was away under the settings before is asked again.
        """
        for known in (self.state / "circuits").glob("*"):
            known.unlink()
        quick = {"ORDERFLOW_RETRY_DELAY": "0.2", "ORDERFLOW_SWEEP_AFTER": "2", "ORDERFLOW_LEASE": "5"}
        quick["ORDERFLOW_HANDOVER_RETRY"] = "8"  # four attempts
        places = {"ORDERFLOW_STATE_DIR": str(self.state), "ORDERFLOW_SOCKET_DIR": str(self.sockets)}
        values = {**places, "ORDERFLOW_MAIL_USER": MAIL_USER, "ORDERFLOW_RELAY": self._relay, **quick, **settings}
        self.settings_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        self.settings_file.chmod(0o640)
        shutil.chown(self.settings_file, "root", pwd.getpwnam(self.user).pw_gid)

    def set_up(self, *slugs: str) -> None:
        """Make tables, directories and these organizations, and write Postfix's configuration."""
        self.admin("init")
        for slug in slugs:
            self.admin("org", "add", slug)
        self.configure_postfix()

    def configure_postfix(self, master: str = "", overrides: str = "") -> None:
        """Write Postfix's configuration for the settings as they are now."""
        options = ("--way", self.way, "--user", self.user, "--passfile", str(self.passfile), "--map", self.map_by)
        parts = ("main", "master", "map", "passfile")
        main, service, table, password = (self.admin("postfix", part, *options) for part in parts)
        self.postfix.configure(
            main,
            service + master,
            {"orderflow_recipients.cf": table},
            OWN_POSTFIX + self._overrides + overrides,
        )
        self.postfix.keep_secret(self.passfile, password)

    @property
    def passfile(self) -> Path:
        """Return the file in which Postfix finds the map's password."""
        return self.postfix.directory / "data" / "orderflow_recipients.pgpass"

    def start(self) -> None:
        """Start the worker, the service if there is to be one, and Postfix."""
        self.worker.start()
        if self.has_service:
            self.service.start()
        self.postfix.start()

    def stop(self) -> None:
        """Stop Postfix, then the service and the worker."""
        self.postfix.stop()
        self.service.stop()
        self.worker.stop()

    def kill(self) -> None:
        """Kill all of them."""
        self.postfix.kill()
        self.service.kill()
        self.worker.kill()

    def new_worker(self, name: str) -> Process:
        """Return a further consumer process, started by its start()."""
        log = self.directory / f"{name}.log"
        command: list[str | Path] = [
            self.programs / "huey_consumer",
            "orderflow_ingest.tasks.huey",
            "-k",
            "process",
            "-w",
            "2",
            "-m",
            "0.2",
        ]
        return Process(
            [*command, "-s", "1", "-c", "1"],
            log,
            ready=lambda: log.exists() and "Huey consumer started" in log.read_text(),
            user=self.user,
            env={**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(self.settings_file)},
            stop_signal=signal.SIGINT,
        )

    def new_sweeper(self) -> Process:
        """Return a process that sweeps every second, where a test has no time for the worker's own minute."""
        return Process(
            [self.programs / "python3", "-c", _SWEEPER],
            self.directory / "sweeper.log",
            user=self.user,
            env={**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(self.settings_file)},
        )

    def _new_service(self) -> Process:
        return Process(
            [self.programs / "orderflow-service"],
            self.directory / "service.log",
            ready=self.is_serving,
            user=self.user,
            groups=[MAIL_USER],  # as the sockets' group; systemd's socket unit does it without
            env={**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(self.settings_file)},
        )

    def _new_instances(self, count: int) -> Process:
        """Return several instances of the service on sockets that are there before them, as systemd runs them."""
        module = "tests.support.lab.activation"
        program: list[str | Path] = [sys.executable, "-m", module, self.sockets, self.user, MAIL_USER, str(count)]
        return Process(
            [*program, self.programs / "orderflow-service"],
            self.directory / "service.log",
            ready=self.is_serving,
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), "ORDERFLOW_SETTINGS": str(self.settings_file)},
        )

    def is_serving(self) -> bool:
        """Return whether the service answers."""
        try:
            return read_health(self.sockets) is not None
        except ServiceNotRespondingError:
            return False

    def health(self) -> dict[str, Any]:
        """Return what the service says of itself."""
        health = read_health(self.sockets)
        assert health is not None, "nobody listens"
        return health

    def admin(self, *arguments: str) -> str:
        """Run orderflow-admin and return what it prints; raise on an exit status other than 0."""
        return self.run("orderflow-admin", *arguments).stdout

    def replay(self, *arguments: str) -> str:
        """Run orderflow-replay and return what it prints; raise on an exit status other than 0."""
        return self.run("orderflow-replay", *arguments).stdout

    def run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the operator's programs as the deployment's user."""
        env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(self.settings_file), **self.environment}
        if self.programs == PROGRAMS and program in warm.PROGRAMS:
            ended = warm.run(self.programs / program, arguments, env, self.credentials(), timeout=120)
        else:
            ended = subprocess.run(
                [self.programs / program, *arguments], cwd="/", env=env, text=True, timeout=120,
                stdin=subprocess.DEVNULL, capture_output=True, **self.credentials(),
            )  # fmt: skip
        if check and ended.returncode:
            raise AssertionError(f"{program} {' '.join(arguments)}: {ended.returncode}\n{ended.stdout}{ended.stderr}")
        return ended

    def deliver(
        self,
        recipient: str,
        raw: bytes,
        *options: str,
        env: Mapping[str, str] | None = None,
        socket: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run orderflow-deliver as pipe(8) would, without Postfix; with `socket`, by the service."""
        command = [
            self.programs / "orderflow-deliver",
            "--settings",
            self.settings_file,
            *(("--socket", self.sockets / "deliver.sock") if socket else ()),
            *options,
            "--",
            recipient,
        ]
        environment = {**ENVIRONMENT, **(env or {})}
        return subprocess.run(
            command, cwd="/", env=environment, input=raw, timeout=120, capture_output=True, **self.credentials()
        )

    def messages(self) -> list[dict[str, Any]]:
        """List the messages' rows, the newest first, as orderflow-replay shows them."""
        return [json.loads(line) for line in self.admin("list", "--limit", "100000", "--json").splitlines()]

    def documents(self, message_id: str) -> list[dict[str, Any]]:
        """List the documents of a message; skipped parts are left out."""
        rows = [json.loads(line) for line in self.admin("documents", message_id, "--json").splitlines()]
        return [row for row in rows if not row["state"].startswith("skipped")]

    def status(self) -> dict[str, Any]:
        """Return the numbers of orderflow-admin status."""
        found: dict[str, Any] = json.loads(self.admin("status", "--json"))
        return found

    def wait_finished(self, count: int, timeout: float = 60) -> list[dict[str, Any]]:
        """Wait until there are `count` messages and each is PARSED or FAILED and its documents are handed over."""
        found: dict[str, Any] = {}

        def finished() -> bool:
            found.update(self.status())
            done = found["messages_parsed_last_24_hours"] + found["messages_failed"]
            return done == count and not found["documents_pending"] and found["oldest_unfinished_message_at"] is None

        if not wait_until(finished, timeout, interval=0.6):
            raise AssertionError(f"not finished: {found}\n{self.worker.tail()}")
        return self.messages()

    def rows_of(self, subject: str) -> list[dict[str, Any]]:
        """List the messages' rows of a subject."""
        return [row for row in self.messages() if row["subject"] == subject]

    def wait_parsed(self, subject: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the messages of a subject are there and PARSED."""
        found: list[dict[str, Any]] = []

        def parsed() -> bool:
            found[:] = self.rows_of(subject)
            return len(found) == count and all(row["status"] == "PARSED" for row in found)

        if not wait_until(parsed, 60, interval=0.6):
            raise AssertionError(f"{found}\n{self.worker.tail()}\n{self.postfix.log()[-3000:]}")
        return found

    def log_records(self) -> list[dict[str, Any]]:
        """Read the log records of deliveries and workers."""
        logs = [self.state / "log" / "deliver.log", *self.directory.glob("*.log")]
        lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def credentials(self) -> dict[str, Any]:
        """Return the arguments of subprocess that make a program run as the deployment's user."""
        if os.geteuid():
            return {}
        return {
            "user": self.user,
            "group": pwd.getpwnam(self.user).pw_gid,
            "extra_groups": [],
            "umask": 0o022,
        }
