"""Whether Postfix runs, and has room for mail: what no setting tells."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from orderflow_ingest.entrypoints.cli.run_as import ENVIRONMENT

from .findings import Said
from .postconf import Postconf


def check_daemon(asked: Postconf) -> Iterator[Said]:
    """Ask Postfix for its state, as far as this user may, and look at the room in its queue."""
    queue = Path(asked.value("queue_directory"))
    if not queue.is_dir():
        yield "TROUBLE", f"Postfix's queue {queue} is not there: postfix check"
        return
    findings = [*_runs(asked), *_room(asked, queue)]
    yield from findings or [("OK", f"Postfix runs, {shutil.disk_usage(queue).free >> 20} MiB left for its queue")]


def _runs(asked: Postconf) -> Iterator[Said]:
    if os.geteuid():  # postfix(1) answers root alone
        return
    postfix = str(Path(asked.program).with_name("postfix"))
    command = [postfix, "-c", asked.place, "status"]
    ended = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=ENVIRONMENT)
    if ended.returncode:
        start = "systemctl enable --now postfix" if asked.place == "/etc/postfix" else f"postfix -c {asked.place} start"
        yield "TROUBLE", f"Postfix does not run: {start}; postfix check says what is wrong"


def _room(asked: Postconf, queue: Path) -> Iterator[Said]:
    """Compare the room with what smtpd(8) demands: less than 1.5 times the size limit, and it takes no mail."""
    free, limit = shutil.disk_usage(queue).free, int(asked.value("message_size_limit"))
    needed = max(int(asked.value("queue_minfree")), int(1.5 * limit))
    if free < needed:
        yield "TROUBLE", f"{queue} has {free >> 20} MiB left, so Postfix answers 452 to all mail: make room"
    elif free < 10 * needed:
        yield "WARNING", f"{queue} has {free >> 20} MiB left: make room, Postfix takes no mail below {needed >> 20}"
