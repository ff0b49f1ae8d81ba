"""Whether Postfix runs, and has room for mail: what no setting tells."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from orderflow_ingest.entrypoints.cli.run_as import ENVIRONMENT

from .findings import CheckResult
from .postconf import Postconf


def check_daemon(postconf: Postconf) -> Iterator[CheckResult]:
    """Ask Postfix for its state, as far as this user may, and look at the room in its queue."""
    queue = Path(postconf.value("queue_directory"))
    if not queue.is_dir():
        yield "TROUBLE", f"Postfix's queue {queue} is not there: postfix check"
        return
    findings = [*_runs(postconf), *_room(postconf, queue)]
    yield from findings or [("OK", f"Postfix runs, {shutil.disk_usage(queue).free >> 20} MiB left for its queue")]


def _runs(postconf: Postconf) -> Iterator[CheckResult]:
    if os.geteuid():  # postfix(1) answers root alone
        return
    postfix = str(Path(postconf.program).with_name("postfix"))
    command = [postfix, "-c", postconf.config_directory, "status"]
    ended = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=ENVIRONMENT)
    if ended.returncode:
        start = (
            "systemctl enable --now postfix"
            if postconf.config_directory == "/etc/postfix"
            else f"postfix -c {postconf.config_directory} start"
        )
        yield "TROUBLE", f"Postfix does not run: {start}; postfix check says what is wrong"


def _room(postconf: Postconf, queue: Path) -> Iterator[CheckResult]:
    """Compare the room with what smtpd(8) demands: less than 1.5 times the size limit, and it takes no mail."""
    free, limit = shutil.disk_usage(queue).free, int(postconf.value("message_size_limit"))
    needed = max(int(postconf.value("queue_minfree")), int(1.5 * limit))
    if free < needed:
        yield "TROUBLE", f"{queue} has {free >> 20} MiB left, so Postfix answers 452 to all mail: make room"
    elif free < 10 * needed:
        yield "WARNING", f"{queue} has {free >> 20} MiB left: make room, Postfix takes no mail below {needed >> 20}"
