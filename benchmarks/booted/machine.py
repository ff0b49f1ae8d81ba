"""A Debian on a disk of its own, with the README's installation, booted by its own systemd in systemd-nspawn.

The disk is an image with ext4, made from DIR/root for each run, and DIR/root is made by mmdebstrap at the first one.
The machine has a network of its own. A power cut kills every process at once, then has ext4 forget what was not synced
(EXT4_IOC_SHUTDOWN without a flush of its journal); the next boot replays the journal, as after a real one. What a disk
loses that lies about its flushes is not tried.
"""

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sysconfig
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
PACKAGES = "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,postfix,postfix-pgsql,postgresql,python3-venv"
NO_START = (
    "mkdir -p $1/usr/sbin; printf '#!/bin/sh\\nexit 101\\n' > $1/usr/sbin/policy-rc.d; chmod +x $1/usr/sbin/policy-rc.d"
)
NAMESPACES = ("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")
ENVIRONMENT = ("HOME=/root", "LANG=C.UTF-8", "PATH=/opt/orderflow/bin:/usr/sbin:/usr/bin:/sbin:/bin")
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, struct.pack("I", 2)  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
DISK_SIZE = 4 << 30
INSTALL = """
set -e
install -m 644 /root/orderflow/systemd/orderflow.sysusers.conf /usr/lib/sysusers.d/orderflow.conf
install -m 644 /root/orderflow/systemd/orderflow.tmpfiles.conf /usr/lib/tmpfiles.d/orderflow.conf
systemd-sysusers orderflow.conf; systemd-tmpfiles --create orderflow.conf
cd /
runuser -u postgres -- psql -qc "CREATE ROLE orderflow LOGIN PASSWORD 'secret'"
runuser -u postgres -- createdb -O orderflow -E UTF8 -l C.UTF-8 -T template0 orderflow
install -m 640 -g orderflow /dev/null /etc/orderflow/ingest.env
printf '%s\\n' ORDERFLOW_DOMAIN=orders.example.com ORDERFLOW_RELAY=127.0.0.1:10026 "DATABASE_URL=$1" \\
    > /etc/orderflow/ingest.env
cp /etc/postfix/main.cf /root/main.cf; cp /etc/postfix/master.cf /root/master.cf
runuser -u orderflow -- orderflow-admin init
runuser -u orderflow -- orderflow-admin org add acme
cp /root/orderflow/systemd/orderflow-*.service /root/orderflow/systemd/orderflow-*.socket /etc/systemd/system/
systemctl daemon-reload
systemctl enable --now orderflow-service.socket orderflow-service@1 orderflow-service@2 orderflow-worker
systemctl enable --now orderflow-metrics
sync
"""
WAY = """
cp /root/main.cf /etc/postfix/main.cf; cp /root/master.cf /etc/postfix/master.cf
orderflow-admin postfix main --way {0} >> /etc/postfix/main.cf
[ {0} != before-queue ] || sed -i '/^smtp  *inet/d' /etc/postfix/master.cf
orderflow-admin postfix master --way {0} >> /etc/postfix/master.cf
systemctl restart postfix@-
sync
"""
UP = "postgresql@15-main postfix@-"
ALL_UP = f"{UP} orderflow-service@1 orderflow-service@2 orderflow-worker"
URL = "postgresql://orderflow:secret@{}/orderflow{}"


class Machine:
    """A Debian in a directory: make() once, boot(), run(), and end() or cut()."""

    def __init__(self, directory: Path):
        self.template, self.image, self.root = directory / "root", directory / "disk.raw", directory / "disk"
        self.log = directory / "boot.log"
        self.init = 0
        self._nspawn: subprocess.Popen | None = None

    def make(self) -> None:
        """Make the Debian where it is not there yet, put this environment's programs into it, and make its disk."""
        if not self.template.exists():
            command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={PACKAGES}"]
            subprocess.run([*command, f"--setup-hook={NO_START}", "bookworm", str(self.template)], check=True)
        programs = self.template / "opt/orderflow"
        shutil.rmtree(programs, ignore_errors=True)
        subprocess.run(
            ["chroot", self.template, "python3", "-m", "venv", "--without-pip", "/opt/orderflow"], check=True
        )
        (own,) = programs.glob("lib/python3*/site-packages")
        not_run = shutil.ignore_patterns("__pycache__", "mypy*", "ruff*", "playwright*")
        shutil.copytree(sysconfig.get_path("purelib"), own, dirs_exist_ok=True, ignore=not_run)
        for program in Path(sysconfig.get_path("scripts")).glob("*"):
            if program.name.startswith("orderflow-") or program.name == "huey_consumer":
                lines = program.read_text().splitlines(keepends=True)
                (programs / "bin" / program.name).write_text("#!/opt/orderflow/bin/python3\n" + "".join(lines[1:]))
                (programs / "bin" / program.name).chmod(0o755)
        shutil.copytree(ROOT / "systemd", self.template / "root/orderflow/systemd", dirs_exist_ok=True)
        self.image.unlink(missing_ok=True)
        self.root.mkdir(exist_ok=True)
        subprocess.run(["mkfs.ext4", "-q", "-d", self.template, self.image, f"{DISK_SIZE >> 10}k"], check=True)

    @contextmanager
    def booted(self):
        """Boot it for a block, and install."""
        self.boot(UP)
        try:
            self.run(INSTALL, URL.format("127.0.0.1", ""))
            yield
        finally:
            self.end()

    def boot(self, units: str = ALL_UP) -> float:
        """Boot it, and return after how many seconds these units were there."""
        began = time.monotonic()
        subprocess.run(["mount", "-o", "loop", self.image, self.root], check=True)
        options = ("--register=no", "--keep-unit", "--private-network", "--console=pipe", "--link-journal=no")
        environment = os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_LOCK": "0"}
        command = ["systemd-nspawn", "-D", str(self.root), "-b", *options, "--resolv-conf=off", "--timezone=off"]
        with self.log.open("ab") as log:
            self._nspawn = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not self._is_up(units):
            time.sleep(0.2)
        return time.monotonic() - began

    def end(self) -> None:
        """Shut it down."""
        if self.init:
            os.kill(self.init, signal.SIGRTMIN + 4)  # systemd(1): power off
        self._is_over()

    def cut(self) -> None:
        """Cut its power: nothing that was not synced is on the disk afterwards."""
        disk = os.open(self.root, os.O_RDONLY)
        try:
            os.kill(self.init, signal.SIGKILL)
            while _runs(self.init):  # it ends after all others of its namespace: none sees its disk go away
                time.sleep(0.001)
            fcntl.ioctl(disk, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(disk)
        self._is_over()

    def run(self, script: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a shell script in it."""
        return subprocess.run(
            [*self._inside(), "bash", "-c", script, "script", *arguments],
            check=check,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def start(self, *command: str, output: IO, of_the_host: bool = False) -> subprocess.Popen:
        """Start a program in it; or a program of the host in its network alone, which outlives it."""
        before = ["nsenter", "-t", str(self.init), "-n"] if of_the_host else self._inside()
        return subprocess.Popen([*before, *command], stdin=subprocess.DEVNULL, stdout=output)

    def sql(self, statement: str, port: int = 5432) -> list[list[str]]:
        """Return what a statement gives, as the superuser of its database."""
        asked = f"cd /; runuser -u postgres -- psql -XAqt -F '|' -p {port} -d orderflow -c \"$1\""
        return [line.split("|") for line in self.run(asked, statement).stdout.splitlines()]

    def pid(self, unit: str) -> int:
        """Return the main process of a unit, as it is numbered inside."""
        return int(self.run(f"systemctl show -p MainPID --value {unit}").stdout)

    def _inside(self) -> list[str]:
        return ["nsenter", "-t", str(self.init), *NAMESPACES, "env", "-i", *ENVIRONMENT]

    def _is_up(self, units: str) -> bool:
        """Return whether the machine serves; nspawn has another child first, for a moment."""
        assert self._nspawn is not None and self._nspawn.poll() is None, f"it has not booted: see {self.log}"
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        self.init = int(children[0]) if children else 0
        return bool(self.init) and self.run(f"systemctl is-active {units}", check=False).stdout.split() == [
            "active"
        ] * len(units.split())

    def _is_over(self) -> None:
        """Wait until it has ended, and take its disk out."""
        assert self._nspawn is not None
        self._nspawn.wait(120)
        self.init = 0
        subprocess.run(["umount", self.root], check=True)
        held = subprocess.run(["losetup", "-nj", self.image], check=True, stdout=subprocess.PIPE).stdout
        assert not held, f"another mount namespace holds the disk: {held.decode()}"


def _runs(pid: int) -> bool:
    """Return whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
