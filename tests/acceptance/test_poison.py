"""Mail with a part that takes the worker with it, by a real consumer: it is PARSED, that part whole, the others opened.

Poison is planted into the worker by a sitecustomize: reading a part that holds one of these words does what hostile
input has done in libraries that are written in C. Nothing of Python runs meanwhile, no handler of a signal and no
thread.
"""

import base64
import io
import json
import zipfile
from pathlib import Path

import pytest

from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import wait_until
from tests.support.mails import PDF, mail

ACME = f"orders+acme@{DOMAIN}"
SITECUSTOMIZE = """
import collections, ctypes, itertools, os
from orderflow_ingest.parsing.documents import walk

def stop_for_ever():
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

def took_place():
    try:
        return os.open("STATE/held", os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return None

POISON = {
    b"POISON SPINS": lambda: collections.deque(itertools.repeat(0), maxlen=0),
    b"POISON STOPS": stop_for_ever,
    b"POISON HOLDS ONCE": lambda: stop_for_ever() if took_place() else None,
    b"POISON SWELLS": lambda: bytearray(1 << 40),
    b"POISON KILLS": lambda: os.kill(os.getpid(), 9),
    b"POISON ABORTS": os.abort,
}
detect = walk.detect_type

def detect_type(data):
    for word, act in POISON.items():
        if word in data and not data.startswith(b"PK"):
            act()
    return detect(data)

walk.detect_type = detect_type
"""


def attached(name: str, content: bytes) -> bytes:
    head = f'--b\nContent-Type: application/octet-stream\nContent-Disposition: attachment; filename="{name}"\n'
    return head.encode() + b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(content) + b"\n"


def poisoned(number: int, word: str, in_archive: bool) -> bytes:
    """Write an order of three PDF files, a text and a ZIP; the poison is a file of the mail or one in the ZIP."""
    file, poison = io.BytesIO(), f"POISON {word}".encode()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.pdf", PDF + b"a")
        if in_archive:
            archive.writestr("poison.dat", poison)
        archive.writestr("b.pdf", PDF + b"b")
    parts = [b"--b\nContent-Type: text/plain\n\n12 widgets\n", attached("first.pdf", PDF + b"first")]
    parts += [] if in_archive else [attached("poison.dat", poison)]
    parts += [attached("orders.zip", file.getvalue()), attached("last.pdf", PDF + b"last"), b"--b--\n"]
    return mail(number, b"".join(parts), Content_Type='multipart/mixed; boundary="b"')


@pytest.fixture
def deployment(place):
    def set_up(**settings: str) -> Deployment:
        deployment = Deployment(place / "deployment", settings)
        (place / "sitecustomize.py").write_text(SITECUSTOMIZE.replace("STATE", str(deployment.state)))
        deployment.set_up("acme")
        deployment.worker.env = {**deployment.worker.env, "PYTHONPATH": str(place)}
        return deployment

    return set_up


def documents(deployment: Deployment, message_id: str) -> dict[str, tuple[str, list[str]]]:
    """Return the documents of a message: state and defects by file name."""
    shown = json.loads(deployment.admin("show", message_id, "--json"))
    return {one["filename"] or "text": (one["handover"], one["defects"]) for one in shown["documents"]}


FINE = ("DONE", [])


@pytest.mark.parametrize("word", ["SPINS", "SWELLS", "KILLS", "ABORTS"])
def test_a_poisoned_part_is_delivered_whole_at_the_second_attempt_long_before_the_lease_is_over(deployment, word):
    deployment = deployment(ORDERFLOW_LEASE="600", ORDERFLOW_PART_TIME="1")
    with deployment.worker, deployment.new_sweeper():
        for number, in_archive in enumerate((False, True)):
            deployment.deliver(ACME, poisoned(number, word, in_archive))
        rows = deployment.wait_finished(2, timeout=120)
    assert [(row["status"], row["attempts"]) for row in rows] == [("PARSED", 2)] * 2
    for row in rows:
        found = documents(deployment, row["id"])
        poison = found.pop("poison.dat")
        assert poison == ("DONE", ["not opened: an attempt failed at it"])
        assert found == {name: FINE for name in ("text", "first.pdf", "a.pdf", "b.pdf", "last.pdf")}
    said = Path(deployment.directory, "worker.log").read_text()
    assert "12 widgets" not in said
    if word == "SPINS":
        assert 'sitecustomize.py", line' in said and "Current thread" in said, "the log says where it was"


def test_a_part_that_stops_without_using_any_time_is_ended_at_the_time_limit(deployment):
    deployment = deployment(ORDERFLOW_LEASE="10", ORDERFLOW_PART_TIME="1")
    with deployment.worker, deployment.new_sweeper():
        deployment.deliver(ACME, poisoned(1, "STOPS", in_archive=True))
        (row,) = deployment.wait_finished(1, timeout=120)
    assert (row["status"], row["attempts"]) == ("PARSED", 2)
    assert documents(deployment, row["id"])["poison.dat"] == ("DONE", ["not opened: an attempt failed at it"])
    assert "Timeout (0:00:09)!" in Path(deployment.directory, "worker.log").read_text()


def test_where_nothing_is_known_of_the_lost_attempts_the_third_opens_nothing_and_loses_nothing(deployment):
    """As on another host: what was in hand cannot be written here, so that the leases have to end."""
    deployment = deployment(ORDERFLOW_LEASE="3")
    (deployment.state / "in_hand").write_text("")
    with deployment.worker, deployment.new_sweeper():
        deployment.deliver(ACME, poisoned(1, "KILLS", in_archive=False))
        (row,) = deployment.wait_finished(1, timeout=120)
    assert (row["status"], row["attempts"]) == ("PARSED", 3)
    found = documents(deployment, row["id"])
    assert set(found) == {"text", "first.pdf", "poison.dat", "orders.zip", "last.pdf"}
    assert {defects[-1] for _, defects in found.values()} == {"not opened: earlier attempts failed"}


def test_what_a_killed_worker_had_in_hand_is_noted_by_the_next_one_of_its_host(deployment):
    """A consumer is killed with all its processes, and another is started: the lease is not waited for."""
    deployment = deployment(ORDERFLOW_LEASE="600", ORDERFLOW_PART_TIME="100")
    with deployment.worker as worker, deployment.new_sweeper():
        deployment.deliver(ACME, poisoned(1, "STOPS", in_archive=False))
        in_hand = deployment.state / "in_hand"
        assert wait_until(lambda: any(b" /3\n" in path.read_bytes() for path in in_hand.glob("[0-9]*")), 60)
        worker.kill()
        worker.start()
        (row,) = deployment.wait_finished(1, timeout=120)
    assert (row["status"], row["attempts"]) == ("PARSED", 2)
    events = json.loads(deployment.admin("show", row["id"], "--json"))["events"]
    (noted,) = [one["details"] for one in events if one["kind"] == "ATTEMPT_FAILED"]
    assert (noted["error"], noted["parts"], noted["attempt"]) == ("AttemptLost", ["3"], 1)


def test_what_a_power_cut_left_in_hand_is_freed_by_the_next_start_of_its_host(deployment):
    """All its processes are gone, and so are the files that were not synced; nobody sweeps but the worker itself."""
    deployment = deployment(ORDERFLOW_LEASE="600", ORDERFLOW_PART_TIME="100")
    with deployment.worker as worker:
        deployment.deliver(ACME, poisoned(1, "HOLDS ONCE", in_archive=False))
        assert wait_until((deployment.state / "held").exists, 60)
        worker.kill()
        for path in (deployment.state / "in_hand").glob("[0-9]*"):
            path.unlink()
        worker.start()
        (row,) = deployment.wait_finished(1, timeout=120)
    assert (row["status"], row["attempts"]) == ("PARSED", 2)
    assert documents(deployment, row["id"])["poison.dat"] == ("DONE", [])


def test_a_handler_that_cannot_run_is_told_at_the_start_and_by_check(deployment):
    deployment = deployment(ORDERFLOW_DOCUMENT_HANDLER="asyncio:sleep")
    with deployment.worker:

        def is_told() -> bool:
            records = [one for one in deployment.log_records() if one.get("action") == "worker"]
            return any("asyncio:sleep cannot be used: it is an async function" in str(one) for one in records)

        assert wait_until(is_told, 60)
    said = deployment.run("orderflow-admin", "check", "--no-postfix", check=False).stdout
    assert "ORDERFLOW_DOCUMENT_HANDLER asyncio:sleep cannot be used: it is an async function" in said
