"""The answers that clients got, compared with rows, objects and Postfix's queue; read without the project's code."""

import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .machine import Machine
from .sender import KNOWN, mail

ARCHIVE, SPOOL = "var/lib/orderflow/archive", "var/lib/orderflow/spool/new"
MESSAGES = (
    "SELECT source_message_id, status, raw_key, digest, id FROM inbound_message WHERE source_message_id LIKE '%{}-%'"
)
DOCUMENTS = """SELECT d.inbound_message_id, d.object_key, d.digest, d.handover FROM document d JOIN inbound_message m
    ON (m.org_id, m.id) = (d.org_id, d.inbound_message_id)
    WHERE d.kind = 'ATTACHMENT' AND m.source_message_id LIKE '%{}-%'"""
UNFINISHED = """SELECT count(*) FROM inbound_message m WHERE source_message_id LIKE '%{0}-%' AND (status <> 'PARSED'
    OR EXISTS (SELECT 1 FROM document d WHERE (d.org_id, d.inbound_message_id) = (m.org_id, m.id)
        AND handover = 'PENDING'))"""


def lines(file: Path) -> list[dict[str, Any]]:
    """Return what a sender has noted; the last line may be half there."""
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


@dataclass
class Answers:
    """The answers that a sender got, in the order of time."""

    told: list[dict[str, Any]]

    @property
    def accepted(self) -> set[int]:
        return {one["number"] for one in self.told if one["answer"] == "250"}

    @property
    def kinds(self) -> Counter[str]:
        return Counter(one["answer"] for one in self.told)

    def seconds(self, percent: int) -> float:
        """Return how long so many percent of what was accepted took at the most."""
        took = sorted(one["ended"] - one["began"] for one in self.told if one["answer"] == "250")
        return took[min(len(took) - 1, len(took) * percent // 100)] if took else 0.0

    def longest_run(self) -> float:
        """Return the longest time in which every mail that was sent was put off, until one was accepted."""
        longest, first = 0.0, None
        for one in sorted(self.told, key=lambda one: one["ended"]):
            if one["answer"] != "250":
                first = one["began"] if first is None else first
            elif first is not None:
                longest, first = max(longest, one["ended"] - first), None
        return longest if first is None else max(longest, self.told[-1]["ended"] - first)


def wait_until_quiet(machine: Machine, tag: str, patience: float, port: int) -> float | None:
    """Return after how many seconds queue and spool are empty and all is parsed and handed over; None for never."""
    began = time.monotonic()
    while time.monotonic() - began < patience:
        waiting = machine.run("postqueue -j", check=False).stdout.count("queue_name")
        spooled = list((machine.root / SPOOL).iterdir())
        if not waiting and not spooled and machine.sql(UNFINISHED.format(tag), port) == [["0"]]:
            return time.monotonic() - began
        time.sleep(0.5)
    return None


def complaints(machine: Machine, tag: str, accepted: set[int], sent: set[int], port: int) -> list[str]:
    """Return what is lost, doubled, altered or unfinished of the mails of a sender."""
    rows: dict[str, list[list[str]]] = {}
    for row in machine.sql(MESSAGES.format(tag), port):
        rows.setdefault(row[0], []).append(row)
    documents: dict[str, list[list[str]]] = {}
    for document in machine.sql(DOCUMENTS.format(tag), port):
        documents.setdefault(document[0], []).append(document)
    found: Counter[str] = Counter()
    for number in sent:
        identity, raw, table = mail(tag, number)
        its = rows.pop(identity, None) or rows.pop(identity.strip("<>"), [])
        if not its:
            found["accepted and not recorded"] += number in accepted
            continue
        _, status, key, digest, id = its[0]
        whole = _object(machine, key)
        attached = documents.get(id, [])
        found["recorded twice"] += len(its) > 1
        found[f"left {status}"] += status != "PARSED"
        found["raw mail missing or altered"] += hashlib.sha256(whole).hexdigest() != digest or not _holds(whole, raw)
        if status == "PARSED":
            found["without its one document"] += [one[2] for one in attached] != [table]
            found["document missing or altered"] += any(
                hashlib.sha256(_object(machine, one[1])).hexdigest() != one[2] for one in attached
            )
            found["not handed over"] += any(one[3] != "DONE" for one in attached)
    found["of a mail that was not sent"] = len(rows)
    return [f"{number} {what}" for what, number in found.items() if number]


def wrong_answers(asked: list[dict[str, Any]]) -> list[str]:
    """Return what was said wrong about recipients: a known one refused, or an unknown one accepted."""
    found: Counter[str] = Counter()
    for one in asked:
        is_known = one["recipient"] == KNOWN
        if one["answer"].startswith("5" if is_known else "2"):
            found[f"{'a known' if is_known else 'an unknown'} organization was answered {one['answer']}"] += 1
    return [f"{number} times {what}" for what, number in found.items()]


def _object(machine: Machine, key: str) -> bytes:
    try:
        return (machine.root / ARCHIVE / key).read_bytes()
    except FileNotFoundError:
        return b""


def _holds(whole: bytes, raw: bytes) -> bool:
    """Return whether a mail is in what was stored behind trace headers; line ends may differ."""
    return raw.replace(b"\r\n", b"\n").strip() in whole.replace(b"\r\n", b"\n")
