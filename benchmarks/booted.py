"""The installation under a real systemd: instances restarted and stopped under load, by each way.

    sudo script/benchmark booted --directory DIR [--ways pipe lmtp before-queue] [--restarts N] [--suspend]

A Debian lies in DIR/root, made by mmdebstrap at the first run, and is booted by systemd-nspawn with a network of its
own. The programs are this environment's, so its Python has to be that Debian's. What the README says is done
there: user, tables, units, Postfix. Then mail is sent at a steady rate while instances of the service are restarted in
turn, and with --suspend one is stopped by SIGSTOP until the watchdog kills it.

Each way prints what clients were told, what is recorded, what waits in Postfix's queue, and how often an event loop was
seen in accept(2). The status is 1 if an accepted mail has no row, or a loop sat in accept(2). Bounds of memory are not
in force where the host has no cgroup v2 controllers to give.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,postfix,postfix-pgsql,postgresql,python3-venv"
NO_START = (
    "mkdir -p $1/usr/sbin; printf '#!/bin/sh\\nexit 101\\n' > $1/usr/sbin/policy-rc.d; chmod +x $1/usr/sbin/policy-rc.d"
)
NAMESPACES = ("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")
ENVIRONMENT = ("HOME=/root", "LANG=C.UTF-8", "PATH=/opt/orderflow/bin:/usr/sbin:/usr/bin:/sbin:/bin")
INSTALL = """
set -e
install -m 644 /root/orderflow/systemd/orderflow.sysusers.conf /usr/lib/sysusers.d/orderflow.conf
install -m 644 /root/orderflow/systemd/orderflow.tmpfiles.conf /usr/lib/tmpfiles.d/orderflow.conf
systemd-sysusers orderflow.conf; systemd-tmpfiles --create orderflow.conf
cd /
if ! [ -s /etc/orderflow/ingest.env ]; then
    runuser -u postgres -- psql -qc "CREATE ROLE orderflow LOGIN PASSWORD 'secret'"
    runuser -u postgres -- createdb -O orderflow -E UTF8 -l C.UTF-8 -T template0 orderflow
    install -m 640 -g orderflow /dev/null /etc/orderflow/ingest.env
    printf '%s\\n' ORDERFLOW_DOMAIN=orders.example.com ORDERFLOW_RELAY=127.0.0.1:10026 \\
        DATABASE_URL=postgresql://orderflow:secret@127.0.0.1/orderflow > /etc/orderflow/ingest.env
    cp /etc/postfix/main.cf /root/main.cf; cp /etc/postfix/master.cf /root/master.cf
fi
runuser -u orderflow -- orderflow-admin init
runuser -u orderflow -- orderflow-admin org add acme || true
cp /root/orderflow/systemd/orderflow-*.service /root/orderflow/systemd/orderflow-*.socket /etc/systemd/system/
systemctl daemon-reload
orderflow-admin postfix map > /etc/postfix/orderflow_recipients.cf
install -m 600 -o postfix /dev/null /var/lib/postfix/orderflow_recipients.pgpass
orderflow-admin postfix passfile > /var/lib/postfix/orderflow_recipients.pgpass
systemctl restart orderflow-service.socket orderflow-service@1 orderflow-service@2 orderflow-worker
"""
WAY = """
cp /root/main.cf /etc/postfix/main.cf; cp /root/master.cf /etc/postfix/master.cf
orderflow-admin postfix main --way {0} >> /etc/postfix/main.cf
[ {0} != before-queue ] || sed -i '/^smtp  *inet/d' /etc/postfix/master.cf
orderflow-admin postfix master --way {0} >> /etc/postfix/master.cf
systemctl restart postfix@- orderflow-service@1 orderflow-service@2
"""
LOAD = r"""
import json, smtplib, sys, threading, time
tag, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
began, told, lock, number = time.monotonic(), [], threading.Lock(), iter(range(10**9))
def work():
    client = None
    while True:
        with lock:
            n = next(number)
        if n / rate > seconds:
            return
        time.sleep(max(0, began + n / rate - time.monotonic()))
        start = time.monotonic()
        try:
            client = client or smtplib.SMTP("127.0.0.1", 25, "load.example", 60)
            client.sendmail("a@load.example", ["orders+acme@orders.example.com"],
                            f"From: a@load.example\nSubject: {n}\nMessage-ID: <{tag}-{n}@load.example>\n\norder {n}\n")
            answer = "250"
        except (OSError, smtplib.SMTPException) as error:
            answer, client = str(getattr(error, "smtp_code", type(error).__name__)), None
            if hasattr(error, "recipients"):
                answer = str(next(iter(error.recipients.values()))[0])
        told.append([answer, time.monotonic() - start])
threads = [threading.Thread(target=work) for _ in range(8)]
[one.start() for one in threads]; [one.join() for one in threads]
print(json.dumps(told))
"""


class Machine:
    """A Debian in a directory, booted by its own systemd."""

    def __init__(self, directory: Path):
        self.root, self.log = directory / "root", directory / "boot.log"
        self.init = 0

    def make(self) -> None:
        """Make the Debian where it is not there yet, and put this environment's programs into it."""
        if not self.root.exists():
            command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={PACKAGES}"]
            subprocess.run([*command, f"--setup-hook={NO_START}", "bookworm", str(self.root)], check=True)
        programs = self.root / "opt/orderflow"
        shutil.rmtree(programs, ignore_errors=True)
        subprocess.run(["chroot", self.root, "python3", "-m", "venv", "--without-pip", "/opt/orderflow"], check=True)
        (own,) = programs.glob("lib/python3*/site-packages")
        not_run = shutil.ignore_patterns("__pycache__", "mypy*", "ruff*", "playwright*")
        shutil.copytree(sysconfig.get_path("purelib"), own, dirs_exist_ok=True, ignore=not_run)
        for program in Path(sysconfig.get_path("scripts")).glob("*"):
            if program.name.startswith("orderflow-") or program.name == "huey_consumer":
                lines = program.read_text().splitlines(keepends=True)
                (programs / "bin" / program.name).write_text("#!/opt/orderflow/bin/python3\n" + "".join(lines[1:]))
                (programs / "bin" / program.name).chmod(0o755)
        shutil.copytree(ROOT / "systemd", self.root / "root/orderflow/systemd", dirs_exist_ok=True)

    @contextmanager
    def booted(self):
        """Boot it for a block."""
        options = ("--register=no", "--keep-unit", "--private-network", "--console=pipe", "--link-journal=no")
        environment = os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_LOCK": "0"}
        with self.log.open("wb") as log:
            command = ["systemd-nspawn", "-D", str(self.root), "-b", *options, "--resolv-conf=off", "--timezone=off"]
            nspawn = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
            while not self._is_up(children.read_text().split()):
                time.sleep(0.5)
            yield
        finally:
            if self.init:
                os.kill(self.init, signal.SIGRTMIN + 4)  # systemd(1): power off
            nspawn.wait(120)

    def _is_up(self, children: list[str]) -> bool:
        """Tell whether the machine serves; nspawn has another child first, for a moment."""
        self.init = int(children[0]) if children else 0
        units = "systemctl is-active -q postgresql@15-main postfix@-"
        return bool(self.init) and self.run(units, check=False).returncode == 0

    def run(self, script: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a shell script in it."""
        inside = ["nsenter", "-t", str(self.init), *NAMESPACES, "env", "-i", *ENVIRONMENT]
        command = [*inside, "bash", "-c", script, "script", *arguments]
        return subprocess.run(
            command,
            check=check,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if check else subprocess.DEVNULL,
        )

    def pid(self, unit: str) -> int:
        return int(self.run(f"systemctl show -p MainPID --value {unit}").stdout)


class Watch(threading.Thread):
    """Looks ten times a second what the event loops of a machine wait in, by /proc/PID/stack."""

    def __init__(self, machine: Machine, is_over: threading.Event):
        super().__init__(daemon=True)
        self.looks: Counter[str] = Counter()
        self._namespace, self._is_over = os.readlink(f"/proc/{machine.init}/ns/pid"), is_over

    def run(self) -> None:
        while not self._is_over.wait(0.1):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    is_its = os.readlink(process / "ns/pid") == self._namespace
                    if is_its and b"/orderflow-service\0" in (process / "cmdline").read_bytes():
                        self.looks["accept" if "accept" in (process / "stack").read_text() else "else"] += 1
                except OSError:  # it has ended meanwhile
                    continue


def measure(machine: Machine, way: str, restarts: int, rate: float, suspend: bool) -> bool:
    """Send mail by a way while the service is restarted; print what came of it, and return whether all was well."""
    machine.run(WAY.format(way))
    tag, over = f"{way}-{time.time_ns()}", threading.Event()
    seconds = 5 * restarts + 5 + 45 * suspend
    watch, told = Watch(machine, over), list[list]()
    sending = threading.Thread(
        target=lambda: told.extend(
            json.loads(machine.run('python3 -c "$@"', LOAD, tag, str(rate), str(seconds)).stdout)
        )
    )
    watch.start()
    sending.start()
    for number in range(restarts):
        time.sleep(5)
        machine.run(f"systemctl restart orderflow-service@{1 + number % 2}")
    if suspend:
        os.kill(_outside(machine, machine.pid("orderflow-service@1")), signal.SIGSTOP)
    sending.join()
    over.set()
    query = f"SELECT count(*) FROM inbound_message WHERE source_message_id LIKE '%{tag}-%'"
    recorded = int(machine.run(f'cd /; runuser -u postgres -- psql -At -d orderflow -c "{query}"').stdout)
    waiting = machine.run("postqueue -j").stdout.count("queue_name")
    answers, slowest = Counter(answer for answer, _ in told), max(second for _, second in told)
    print(
        f"{way}: {dict(answers)}, {recorded} recorded, {waiting} in the queue, slowest {slowest:.1f} s, "
        f"looks {dict(watch.looks)}"
    )
    return recorded + waiting >= answers["250"] and not watch.looks["accept"]


def _outside(machine: Machine, pid: int) -> int:
    """Return the process id on this host of one in the machine."""
    for status in Path("/proc").glob("[0-9]*/status"):
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        ids = lines["NSpid"].split()
        if (
            len(ids) > 1
            and int(ids[-1]) == pid
            and os.path.samefile(status.parent / "ns/pid", f"/proc/{machine.init}/ns/pid")
        ):
            return int(ids[0])
    raise LookupError(pid)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="booted", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="where the Debian lies, or is made")
    parser.add_argument("--ways", nargs="+", default=["pipe", "lmtp", "before-queue"])
    parser.add_argument("--restarts", type=int, default=6)
    parser.add_argument("--rate", type=float, default=6, help="mails a second")
    parser.add_argument("--suspend", action="store_true", help="stop an instance by SIGSTOP at the end")
    chosen = parser.parse_args()
    machine = Machine(chosen.directory.resolve())
    machine.make()
    with machine.booted():
        machine.run(INSTALL)
        good = [measure(machine, way, chosen.restarts, chosen.rate, chosen.suspend) for way in chosen.ways]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
