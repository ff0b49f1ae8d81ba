"""A private Postfix: configuration, queue, data and log below one directory, SMTP on a free loopback port.

Guarantees: the system's instance is neither read nor touched (every tool gets `-c` and an absolute directory,
see postfix(1)). No mail leaves the machine: what no transport of the fragments takes, bounces included, ends
in outbound(). A deferred mail is tried again after about a second. A killed instance starts again with its
queue. Only root can start it, because pipe(8) changes users; its commands must be within their reach.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .process import LabError, Process, Server, free_port, run, wait_until

_BASE = Path(__file__).parent
# What `postfix check` would otherwise add to main.cf itself, and so make it new, see configure().
_INSTALLATION = """
    command_directory daemon_directory html_directory mail_owner mailq_path manpage_directory meta_directory
    newaliases_path readme_directory sample_directory sendmail_path setgid_group shlib_directory
"""
_DELIVERY = re.compile(
    r"postfix/\S+\[\d+\]: (?P<queue_id>\w+): to=<(?P<recipient>.*?)>, (?:orig_to=<.*?>, )?"
    r"relay=(?P<relay>[^,]+), .*?dsn=(?P<dsn>[\d.]+), status=(?P<status>\w+) \((?P<text>.*?)\)?$",
    re.MULTILINE,
)
# Ends Postfix if this interpreter dies: master changes its credentials and so loses its death signal.
_LEASH = 'read -r _ || kill -TERM "$0"'


@dataclass(frozen=True)
class Delivery:
    """One attempt for one recipient, as the log tells it: status is sent, deferred or bounced."""

    queue_id: str
    recipient: str
    relay: str
    status: str
    dsn: str
    text: str


class Postfix(Server):
    """An instance in `directory`; configure() it before start(), or take the base configuration."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.smtp_port = Path(directory).absolute(), free_port()
        self.config_directory = self.directory / "etc"
        self._log = self.directory / "maillog"
        daemons = run(["postconf", "-dh", "daemon_directory"]).strip()
        self._installation = run(["postconf", "-dx", *_INSTALLATION.split()])
        self._master = Process(
            [f"{daemons}/master", "-c", self.config_directory, "-s"],
            self._log,
            ready=lambda: "daemon started" in self.log()[self._started_at :],
        )
        self._started_at = 0
        self._leash: subprocess.Popen[bytes] | None = None

    def configure(
        self,
        main: str = "",
        master: str = "",
        maps: Mapping[str, str] = MappingProxyType({}),
        overrides: str = "",
    ) -> None:
        """Write the configuration: the base, the main.cf and master.cf fragments, then main.cf `overrides`.

        A later value of a parameter and a later entry of a service win. The service `smtp inet` of a fragment
        is put on our port. `maps` are further files in the directory that main.cf calls $config_directory.
        """
        self.config_directory.mkdir(parents=True, exist_ok=True)
        own = {"lab": self.directory, "queue": self.directory / "queue", "data": self.directory / "data"}
        base = "".join(f"{name}_directory = {path}\n" for name, path in own.items()) + self._installation
        base += (_BASE / "main.cf").read_text()
        smtpd = f"127.0.0.1:{self.smtp_port} inet n - n - - smtpd\n"
        services = _services(smtpd + (_BASE / "master.cf").read_text())
        services |= _services(master, port=self.smtp_port)
        files = {
            **maps,
            "main.cf": "".join(_parameters("\n".join((base, main, overrides, ""))).values()),
            "master.cf": "".join(services.values()),
        }
        # Postfix programs wait until what they read is over a second old; a start runs seven of them.
        past = time.time() - 10
        for name, text in files.items():
            file = self.config_directory / name
            file.write_text(text)
            os.utime(file, (past, past))

    def keep_secret(self, file: Path, text: str) -> None:
        """Write a file of Postfix's, which nobody else may read."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(0o600)
        file.write_text(text)
        shutil.chown(file, "postfix")

    def start(self) -> None:
        """Start, with the queue that is there."""
        if not (self.config_directory / "main.cf").exists():
            self.configure()
        for name, owner in (("queue", "root"), ("data", "postfix"), ("outbound", "nobody")):
            (self.directory / name).mkdir(exist_ok=True)
            shutil.chown(self.directory / name, owner)
        self._postfix("check")
        self._started_at = len(self.log())
        self._master.start()
        self._leash = subprocess.Popen(
            ["sh", "-c", _LEASH, str(self._master.pid)], stdin=subprocess.PIPE, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def reload(self) -> None:
        """Take over a changed configuration."""
        before = len(self.log())
        self._postfix("reload")
        if not wait_until(lambda: "reload -- version" in self.log()[before:], 30):
            raise LabError(f"Postfix did not reload\n{self._master.tail()}")

    def stop(self) -> None:
        """Stop; commands of pipe(8) that are still running half a second later are killed."""
        self._unleash()
        self._master.stop()

    def kill(self) -> None:
        """Kill the master, its services and the commands they run."""
        self._unleash()
        self._master.kill()

    @property
    def pid(self) -> int:
        """Return the process id of the master."""
        return self._master.pid

    def log(self) -> str:
        """Read the whole log."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def wait_log(self, regex: str, timeout: float = 30) -> re.Match[str]:
        """Wait until a line of the log matches, and return the first match."""
        pattern = re.compile(regex, re.MULTILINE)
        wait_until(lambda: pattern.search(self.log()) is not None, timeout)
        if match := pattern.search(self.log()):
            return match
        raise LabError(f"nothing in the log matches {regex!r}; its end:\n{self._master.tail()}")

    def deliveries(self) -> list[Delivery]:
        """List every attempt in the log, oldest first."""
        return [Delivery(**match.groupdict()) for match in _DELIVERY.finditer(self.log())]

    def wait_delivery(self, recipient: str, status: str = "", timeout: float = 30) -> Delivery:
        """Wait for an attempt for a recipient, of this status if given, and return the latest."""
        found: list[Delivery] = []

        def seen() -> bool:
            found[:] = [d for d in self.deliveries() if d.recipient == recipient and status in ("", d.status)]
            return bool(found)

        if wait_until(seen, timeout):
            return found[-1]
        raise LabError(f"no attempt {status} for {recipient}; the end of the log:\n{self._master.tail()}")

    def outbound(self) -> list[bytes]:
        """List the messages that would have left this machine, oldest first."""
        paths = [path for path in (self.directory / "outbound").iterdir() if path.suffix != ".part"]
        return [path.read_bytes() for path in sorted(paths, key=os.path.getmtime)]

    def queue(self) -> list[dict[str, Any]]:
        """List the messages in the queue, as postqueue -j tells them."""
        return [json.loads(line) for line in run(["postqueue", "-c", self.config_directory, "-j"]).splitlines()]

    def flush(self) -> None:
        """Have every deferred message tried now."""
        run(["postqueue", "-c", self.config_directory, "-f"])

    def _postfix(self, verb: str) -> None:
        try:
            run(["postfix", "-c", self.config_directory, verb])
        except LabError as error:  # postfix(1) says what is wrong in the log only
            raise LabError(f"{error}\n{self._master.tail()}") from error

    def _unleash(self) -> None:
        if self._leash is not None:
            self._leash.kill()
            self._leash.communicate()
            self._leash = None


def _parameters(text: str) -> dict[str, str]:
    """Split main.cf by parameter, the last one of a name: Postfix warns of an earlier one at each start."""
    parameters: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace():
            name = line.partition("=")[0].strip()
            parameters[name] = ""
        parameters[name] += line if line.endswith("\n") else line + "\n"
    return parameters


def _services(text: str, port: int | None = None) -> dict[tuple[str, ...], str]:
    """Split master.cf into entries by service name and type; with `port`, `smtp inet` becomes that port."""
    entries: dict[tuple[str, ...], str] = {}
    key: tuple[str, ...] = ()
    for line in text.splitlines(keepends=True):
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace():
            if port:
                line = re.sub(r"^smtp(?=\s+inet\s)", f"127.0.0.1:{port}", line)
            key = tuple(line.split()[:2])
            entries[key] = ""
        entries[key] += line if line.endswith("\n") else line + "\n"
    return entries
