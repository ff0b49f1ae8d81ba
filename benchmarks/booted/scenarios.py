"""What is done to the installation while mail is sent by one way, and what has to be true of it afterwards.

    instances    one instance of the service after the other is restarted
    units        every unit is restarted, the socket and Postfix too; then the worker is killed
    suspended    an instance is stopped by SIGSTOP, until the watchdog kills it
    postgresql   the database is restarted, kept away for 20 seconds, and restarted together with the service
    power        the power is cut with work in hand, and the machine boots again
    failover     the primary is killed, and its standby is promoted 8 seconds later
    hanging      the same, with a primary that is stopped by SIGSTOP: its connections stay, and answer nothing

Always: what was accepted has one row, whose objects are whole; no client heard 5xx; no event loop sat in accept(2); a
known organization was never refused at RCPT TO, an unknown one never accepted; and all is parsed and handed over
within PATIENCE, which is less than a lease. Where no backend was away, Postfix put nothing off.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import evidence
from .machine import URL, Machine
from .sender import KNOWN

PATIENCE = 240.0
SENDER = str(Path(__file__).with_name("sender.py"))
UNITS = (
    "orderflow-service@1", "orderflow-service@2", "orderflow-service@*", "orderflow-service.socket",
    "orderflow-worker", "orderflow-metrics", "postfix@-",
)  # fmt: skip
FAILED_OVER = 8.0
CONTROL = """
import os, sys, time
os.makedirs(sys.argv[1])
place = os.open(sys.argv[1], os.O_RDONLY)
for number in range(10**6):
    for kind in ("plain", "synced"):
        with open(f"{sys.argv[1]}/{kind}{number}", "wb") as file:
            file.write(b"x" * 20000)
            file.flush()
            kind == "plain" or os.fsync(file.fileno()) or os.fsync(place)
        print(kind, number, flush=True)
    time.sleep(0.05)
"""
STANDBY = """
set -e
systemctl stop postgresql@15-$2 || true
[ -d /etc/postgresql/15/$2 ] || pg_createcluster 15 $2 -p $4 > /dev/null
rm -rf /var/lib/postgresql/15/$2; cd /
runuser -u postgres -- pg_basebackup -D /var/lib/postgresql/15/$2 -R -c fast -h /var/run/postgresql -p $3
systemctl start postgresql@15-$2
runuser -u postgres -- psql -qc "ALTER SYSTEM SET synchronous_standby_names = '*'" -c "SELECT pg_reload_conf()" -p $3
until runuser -u postgres -- psql -Atc "SELECT sync_state FROM pg_stat_replication" -p $3 | grep -q sync; do
    sleep .2
done
"""


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


class Trial:
    """One scenario by one way: the machine, the load, and what was found."""

    def __init__(self, machine: Machine, way: str, name: str, rate: float, notes: Path):
        self.machine, self.way, self.name, self.rate = machine, way, name, rate
        self.tag = f"{name}-{way}-{time.time_ns() // 10**6}"
        self.mails, self.asked = notes / f"{self.tag}.mails", notes / f"{self.tag}.recipients"
        self.notes = notes
        self.port = 5432
        self.away = 0.0
        self.statistics: dict[str, Any] = {}
        self.wrong: list[str] = []

    def run(self, act: Callable[["Trial"], None], seconds: float, again: bool) -> dict[str, Any]:
        """Send for so long while something is done; return the figures, and what is wrong among them."""
        machine, over, since = self.machine, threading.Event(), time.time()
        watch = Watch(machine, over)
        with self.mails.open("wb") as mails, self.asked.open("wb") as asked:
            programs = [
                machine.start(*_sender(what, self.tag, rate, seconds), output=file, of_the_host=True)
                for what, rate, file in (("mails", self.rate, mails), ("recipients", 4.0, asked))
            ]
            watch.start()
            act(self)
            for program in programs:
                program.wait()
        over.set()
        answers = evidence.Answers(evidence.lines(self.mails))
        if again:
            self._send_again(answers)
        quiet = evidence.wait_until_quiet(machine, self.tag, PATIENCE, self.port)
        asked_of = evidence.lines(self.asked)
        self.statistics = {
            "scenario": self.name, "way": self.way, "sent": len(answers.told), "answers": dict(answers.kinds),
            "p50": answers.seconds(50), "p99": answers.seconds(99), "slowest": answers.seconds(100),
            "longest run without 250": answers.longest_run(), "away": self.away,
            "RCPT": {
                who: dict(Counter(one["answer"] for one in asked_of if (one["recipient"] == KNOWN) == is_known))
                for who, is_known in (("known", True), ("unknown", False))
            },
            "put off by Postfix": self._put_off(since), "quiet after": quiet, "looks": dict(watch.looks),
        } | self.statistics  # fmt: skip
        self._judge(answers, asked_of)
        return self.statistics | {"wrong": self.wrong}

    def _judge(self, answers: evidence.Answers, asked: list[dict[str, Any]]) -> None:
        every = evidence.Answers(answers.told + evidence.lines(self.mails.with_suffix(".again")))
        sent = {one["number"] for one in every.told}
        self.wrong += evidence.complaints(self.machine, self.tag, every.accepted, sent, self.port)
        self.wrong += evidence.wrong_answers(asked)
        self.wrong += [f"{n} clients heard {code}" for code, n in every.kinds.items() if code.startswith("5")]
        if self.statistics["looks"].get("accept"):
            self.wrong.append("an event loop sat in accept(2)")
        if self.statistics["quiet after"] is None:
            self.wrong.append(f"not finished after {PATIENCE:g} s")
        if self.statistics["put off by Postfix"] and not self.away:
            self.wrong.append("Postfix put mail off, though no backend was away")

    def _send_again(self, answers: evidence.Answers) -> None:
        """Send again what was not accepted, as senders' queues do."""
        left = sorted({one["number"] for one in answers.told} - answers.accepted)
        with self.mails.with_suffix(".again").open("wb") as file:
            command = _sender("mails", self.tag, 20, 0, *left)
            if left:
                self.machine.start(*command, output=file, of_the_host=True).wait()

    def _put_off(self, since: float) -> int:
        """Return how often Postfix has put off a delivery."""
        asked = f"journalctl -q --since @{int(since)} -o cat | grep -c status=deferred"
        return int(self.machine.run(asked, check=False).stdout or 0)


def instances(trial: Trial) -> None:
    for number in range(6):
        time.sleep(5)
        trial.machine.run(f"systemctl restart orderflow-service@{1 + number % 2}")


def units(trial: Trial) -> None:
    for unit in UNITS:
        time.sleep(4)
        trial.machine.run(f"systemctl restart '{unit}'")
    time.sleep(4)
    trial.machine.run("systemctl kill -s KILL orderflow-worker")


def suspended(trial: Trial) -> None:
    time.sleep(4)
    stopped = trial.machine.pid("orderflow-service@1")
    began = time.monotonic()
    trial.machine.run(f"kill -STOP {stopped}")
    while trial.machine.pid("orderflow-service@1") in (0, stopped):
        time.sleep(0.2)
    trial.statistics["replaced after"] = time.monotonic() - began


def postgresql(trial: Trial) -> None:
    server = "postgresql@15-main"
    for how, pause in (("restart", 0), ("stop", 20), ("stop", 8)):
        time.sleep(6)
        began = time.monotonic()
        trial.machine.run(f"systemctl {how} {server}")
        if pause == 8:  # a service that starts without its database knows nobody
            trial.machine.run("systemctl restart 'orderflow-service@*'")
        time.sleep(pause)
        trial.machine.run(f"systemctl start {server}")
        trial.away = max(trial.away, time.monotonic() - began)


def power(trial: Trial) -> None:
    machine, files = trial.machine, trial.notes / f"{trial.tag}.control"
    place = f"/var/lib/{trial.tag}"
    with files.open("wb") as noted:
        control = machine.start("python3", "-c", CONTROL, place, output=noted)
        time.sleep(15)
        unfinished = machine.sql(evidence.UNFINISHED.format(trial.tag))[0][0]
        began = time.monotonic()
        machine.cut()
        control.wait()
    took = machine.boot()
    trial.away = time.monotonic() - began
    lost = Counter[str]()
    for kind, number in (line.split() for line in files.read_text().splitlines()):
        file = machine.root / place[1:] / f"{kind}{number}"
        lost[kind] += not (file.exists() and file.stat().st_size == 20000 and file.read_bytes() == b"x" * 20000)
    trial.statistics |= {"in hand": int(unfinished), "booted in": took, "lost": dict(lost)}
    if not lost["plain"] or lost["synced"]:
        trial.wrong.append(f"the cut itself: it lost {lost['plain']} plain and {lost['synced']} synced files")


def failover(trial: Trial) -> None:
    _fail_over(trial, "KILL")


def hanging(trial: Trial) -> None:
    _fail_over(trial, "STOP")


def _fail_over(trial: Trial, how: str) -> None:
    """Make a standby, end the primary, promote the standby; afterwards the machine is as it was, with one server."""
    machine = trial.machine
    time.sleep(6)
    began = time.time()
    machine.run(f"systemctl kill -s {how} postgresql@15-main")
    time.sleep(FAILED_OVER)
    machine.run("pg_ctlcluster 15 second promote")
    trial.away, trial.port = time.time() - began, 5433
    if how == "STOP":
        time.sleep(20)
        machine.run("systemctl kill -s KILL postgresql@15-main")  # fenced, late


def with_standby(machine: Machine) -> None:
    """Return the machine a standby of its database, and the programs the URL of both."""
    machine.run(STANDBY, "main", "second", "5432", "5433")
    both = URL.format("127.0.0.1:5432,127.0.0.1:5433", "?target_session_attrs=read-write")
    _use(machine, both)


def without_standby(machine: Machine) -> None:
    """Make the first server the primary again, of what the second has, and take the second away."""
    machine.run("systemctl kill -s KILL postgresql@15-main; systemctl stop postgresql@15-main", check=False)
    machine.run("systemctl reset-failed postgresql@15-main", check=False)
    machine.run(STANDBY, "second", "main", "5433", "5432")
    machine.run("systemctl stop postgresql@15-second; pg_ctlcluster 15 main promote")
    machine.sql("ALTER SYSTEM RESET synchronous_standby_names")
    machine.sql("SELECT pg_reload_conf()")
    _use(machine, URL.format("127.0.0.1", ""))


def _use(machine: Machine, url: str) -> None:
    change = 'sed -i "s#^DATABASE_URL=.*#DATABASE_URL=$1#" /etc/orderflow/ingest.env'
    machine.run(f"{change}; systemctl restart 'orderflow-service@*' orderflow-worker orderflow-metrics", url)


def _sender(what: str, tag: str, rate: float, seconds: float, *numbers: int) -> list[str]:
    return ["/usr/bin/python3", SENDER, what, tag, str(rate), str(seconds), *map(str, numbers)]


def one(machine: Machine, way: str, name: str, rate: float, notes: Path) -> dict[str, Any]:
    """Do a scenario by a way, which is set already, and return its figures."""
    act, seconds = SCENARIOS[name]
    has_standby = act in (failover, hanging)
    if has_standby:
        with_standby(machine)
    try:
        return Trial(machine, way, name, rate, notes).run(act, seconds, again=True)
    finally:
        if has_standby:
            without_standby(machine)


SCENARIOS: dict[str, tuple[Callable[[Trial], None], float]] = {
    "instances": (instances, 40),
    "units": (units, 55),
    "suspended": (suspended, 50),
    "postgresql": (postgresql, 75),
    "power": (power, 40),
    "failover": (failover, 45),
    "hanging": (hanging, 60),
}
