"""Postfix's own queue, see postqueue(1): what it holds back, and what became of a mail that has not come to a row."""

import json
import os
import shutil
import subprocess
from typing import Any

from orderflow_ingest.entrypoints.cli.run_as import ENVIRONMENT

_PATH = os.environ.get("PATH", "") + ":/usr/sbin"


def deferred_mail(postfix_config: str | None) -> int | None:
    """Count the mails in Postfix's deferred queue, or None where it cannot be asked, or there is no Postfix."""
    queue = _queue(postfix_config)
    return None if queue is None else sum(1 for one in queue if one.get("queue_name") == "deferred")


def waiting_because(queue_id: str, postfix_config: str | None) -> str:
    """Return where the mail of this queue id is, and what to look at, as far as this user and host may know."""
    if not queue_id:
        return "the mail system did not say where it queued the mail; see its log, and orderflow-admin check"
    queue = _queue(postfix_config)
    look = f"grep {queue_id} in the mail system's log"
    if queue is None:
        return f"{look}, and see postqueue -p there"
    mail = next((one for one in queue if one.get("queue_id") == queue_id), None)
    if mail is None:
        return f"Postfix has it no more, and has bounced it or delivered it elsewhere: {look}; orderflow-admin check"
    reasons = [str(to["delay_reason"]) for to in mail.get("recipients", []) if to.get("delay_reason")]
    if reasons:
        return f"Postfix has deferred it ({reasons[0][:300]}); see postqueue -p, orderflow-admin check"
    return f"Postfix has it in its {mail.get('queue_name', '')} queue, not delivered yet; see postqueue -p"


def _queue(postfix_config: str | None) -> list[dict[str, Any]] | None:
    """List Postfix's queue, or None where it cannot be asked: another host's, or not for this user."""
    postqueue = shutil.which("postqueue", path=_PATH)
    if postqueue is None:
        return None
    options = ["-c", postfix_config] if postfix_config else []
    # Whoever we are at the moment: an instance other than the system's answers root alone.
    as_root: dict[str, Any] = {"user": 0, "group": 0} if os.getuid() == 0 else {}
    try:
        ended = subprocess.run(
            [postqueue, *options, "-j"], capture_output=True, text=True, check=True, timeout=20, env=ENVIRONMENT,
            **as_root,
        )  # fmt: skip
        return [json.loads(line) for line in ended.stdout.splitlines()]
    except (subprocess.SubprocessError, OSError, ValueError):
        return None
