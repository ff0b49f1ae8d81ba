"""The instruments: one load through Postfix, the cost of one process, the peak of another.

Durable, for every way that leads through Postfix's queue, is the moment when its log says `status=sent`: the
program has said by then that row and object are on disk, and Postfix has understood. That is later than the
row's commit, never earlier, and it is the same mark for the ceiling, which has no rows. (The log's own times
are whole seconds, `created_at` is the begin of a transaction or whole seconds too.) So the log is read as it
grows, every 2 ms, and a line's time is that of its reading; the queue id in the reply to DATA tells
which message it is. Before the queue the reply to DATA itself is the moment.

What pipe(8) starts is gone before it can be asked what it took. So the very command of master.cf is run once more
per message, from an interpreter so small that its size does not show in its children's, and wait4(2) tells.
"""

import math
import os
import pwd
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.sender import SENDER, Load, Mail, Report, message_id, read_report, recipient, sender_command
from benchmarks.harness.stage import CEILING, Way, complaints
from tests.support.lab.deployment import ENVIRONMENT, Deployment
from tests.support.lab.family import family
from tests.support.lab.postfix import Postfix
from tests.support.lab.process import Process, run

_PATIENCE = 60.0  # seconds without a message that becomes durable
_SENDER_ENVIRONMENT = {**ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[2])}
_TICK = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """Something was lost, doubled, refused or put off: there is no figure."""

    def __init__(self, complaints: Sequence[str]) -> None:
        super().__init__("; ".join(complaints))


@dataclass(frozen=True)
class Course:
    """How a load went: when each message was durable, by its number; what Postfix logged; the machine's CPU seconds."""

    load: Load
    report: Report
    durable: dict[int, float]
    log: str
    busy: float

    @property
    def rate(self) -> float:
        """Return the messages per second, from the first connection to the last message durable."""
        return len(self.durable) / (max(self.durable.values()) - self.report.began)

    @property
    def delays(self) -> list[float]:
        """Return the seconds from the end of DATA to durable, in order of size."""
        messages = self.report.messages
        return sorted(max(0.0, when - messages[number].data_end) for number, when in self.durable.items())

    def refusals(self) -> list[str]:
        """Return what was not accepted, or accepted and never durable."""
        refused = [m.text for m in self.report.messages if not m.accepted]
        lost = self.load.count - len(refused) - len(self.durable)
        found = [f"{len(refused)} messages were refused, the first with: {refused[0]}"] if refused else []
        return found + ([f"{lost} messages were accepted and not delivered"] if lost else [])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent of the values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def course(postfix: Postfix, load: Load, queued: bool) -> Course:
    """Send a load and wait until every message is durable; `queued` tells whether it goes through Postfix's queue."""
    busy, text, times, rest, last, wanted = _busy(), [], {}, b"", time.monotonic(), None
    # In a process of its own: what takes times here must not wait for what sends there.
    sender = Process(sender_command(load), postfix.directory / f"{load.run}.report", env=_SENDER_ENVIRONMENT)
    with (postfix.directory / "maillog").open("rb", buffering=0) as log, sender:
        log.seek(0, os.SEEK_END)
        while wanted is None or (queued and not wanted <= times.keys() and time.monotonic() - last < _PATIENCE):
            if wanted is None and not sender.running:
                report = read_report(sender.log.read_text())
                ids = {m.number: m.text.rpartition(" ")[2] for m in report.messages if m.accepted}
                wanted = set(ids.values())
            if data := log.read(1 << 20):
                text.append(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in (line for line in lines if b" status=sent " in line):
                    last = times[line.partition(b"]: ")[2].partition(b":")[0].decode()] = time.monotonic()
            time.sleep(0.002)
    durable = {m.number: m.answered for m in report.messages if m.accepted}
    if queued:
        durable = {number: times[queue_id] for number, queue_id in ids.items() if queue_id in times}
    return Course(load, report, durable, b"".join(text).decode(errors="replace"), _busy() - busy)


def checked(way: Way, load: Load, may_wait: bool = False) -> Course:
    """Put a load through, and hold that nothing was lost, doubled, refused or put off. Raises BenchmarkError."""
    stack, before = way.stack, way.stack.tasks()
    done = course(way.postfix, load, queued=way.name != "before-queue")
    found = done.refusals()
    if way.name != CEILING:
        found += complaints(
            [message_id(load.run, number) for number in range(load.count)],
            stack.rows(load.run),
            stack.raw_objects(),
            least_size=int(0.95 * load.size),
            tasks=stack.tasks() - before,
            spooled=stack.spooled(),
            log=done.log,
            may_wait=may_wait,
        )
    if found:
        raise BenchmarkError([f"{stack.name}, {way.name}, {load.size} bytes: {text}" for text in found])
    return done


def _busy() -> float:
    """Return the CPU seconds that all processes of the machine have taken."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:8])
    return (user + nice + system + irq + softirq) / _TICK


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process, its descendants, and those of them that have ended."""
    total = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / _TICK


def rss(pid: int, peak: bool = False) -> int:
    """Return the bytes of memory that a process's descendants hold, or the most each held since forget_peak()."""
    name = "VmHWM" if peak else "VmRSS"
    held = (re.search(rf"^{name}:\s+(\d+) kB", _status(member), re.MULTILINE)[1] for member in _instances(pid))
    return 1024 * sum(map(int, held))


def forget_peak(pid: int) -> None:
    """Begin a new measurement of the descendants' peaks."""
    for member in _instances(pid):
        Path(f"/proc/{member}/clear_refs").write_text("5")


def _instances(pid: int) -> list[int]:
    return [member for member in family(pid) if member != pid]


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@dataclass(frozen=True)
class Cost:
    """What one run of the pipe's program took: CPU seconds on average, bytes of memory at the most."""

    cpu: float
    memory: int


_SPAWNER = """
import os, sys
most, uid, gid, settings, *argv = eval(sys.stdin.read())
messages, at_work = sorted(os.scandir('.'), key=lambda entry: entry.name), 0
while messages or at_work:
    if not messages or at_work == most:
        _, status, usage = os.wait4(-1, 0)
        at_work -= 1
        print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, flush=True)
        continue
    at_work += 1
    message = messages.pop()
    if os.fork() == 0:
        os.dup2(os.open(message.name, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.setgroups([]), os.setgid(gid), os.setuid(uid), os.chdir('/')
        recipient = message.name.partition('.')[2]
        os.execve(argv[0], [a.replace('${recipient}', recipient) for a in argv], settings)
"""


def client_cost(deployment: Deployment, load: Load, may_wait: bool = False) -> Cost:
    """Run the pipe's program for each message of a load, and tell what one took; `may_wait` accepts a put off."""
    with tempfile.TemporaryDirectory() as place:
        mail, user = Mail(load.run, load.size), pwd.getpwnam(deployment.user)
        for number in range(load.count):
            Path(place, f"{number}.{recipient(number)}").write_bytes(mail.raw(number))
        order = [load.sessions, user.pw_uid, user.pw_gid, ENVIRONMENT, *client_command(deployment.postfix)]
        command = [sys.executable, "-I", "-S", "-c", _SPAWNER]
        ended = subprocess.run(command, cwd=place, input=repr(order), stdout=subprocess.PIPE, text=True, check=True)
    runs = [tuple(map(float, line.split())) for line in ended.stdout.splitlines()]
    if failed := [status for status, _, _ in runs if status not in (0, 75 if may_wait else 0)]:
        raise BenchmarkError([f"{len(failed)} of {load.count} runs of the pipe's program ended with {failed[0]:g}"])
    return Cost(statistics.fmean(cpu for _, cpu, _ in runs), int(max(memory for _, _, memory in runs)))


def client_command(postfix: Postfix) -> list[str]:
    """Read the command of the pipe out of master.cf; what stands in braces is one argument of it."""
    text = run(["postconf", "-c", postfix.config_directory, "-M", "orderflow/unix"]).partition("argv=")[2]
    words = re.findall(r"(?<!\S)\{((?:[^{}]|\{[^{}]*\})*)\}(?!\S)|(\S+)", text)
    values = {"sender": SENDER, "queue_id": "BENCHMARK", "client_address": "127.0.0.1", "original_recipient": ""}

    def expanded(word: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda macro: values.get(macro[1], macro[0]), word).replace("$$", "$")

    return [expanded(braced.strip() or plain) for braced, plain in words]
