"""orderflow-admin handler try: a handler in a minute, without a database, root or Postfix."""

import json
import os
import pwd
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

HANDLER = """
from orderflow_ingest import PartKind, TryLater

def receive(order):
    if order.document.kind is PartKind.BODY:
        raise TryLater("not yet", after=60)
    return order.read()

def refuse(order):
    raise KeyError(order.document.filename)
"""


@pytest.fixture
def folder(place: Path) -> Path:
    (place / "shop.py").write_text(HANDLER)
    mail = EmailMessage()
    mail["From"], mail["Subject"] = "buyer@shop.example", "Order 1"
    mail.set_content("12 widgets\n")
    mail.add_attachment(b"%PDF-1.7\n", maintype="application", subtype="pdf", filename="order.pdf")
    (place / "order.eml").write_bytes(mail.as_bytes())
    (place / "none.eml").write_bytes(b"\n")
    place.chmod(0o755)
    return place


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder as nobody, where that is possible, with nothing but that folder."""
    nobody = pwd.getpwnam("nobody")
    identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if not os.geteuid() else {}
    program = Path(sys.executable).with_name("orderflow-admin")
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    command = [program, "handler", "try", *arguments]
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=60, **identity)


def test_each_document_is_given_to_the_handler_and_each_end_is_shown(folder):
    ended = run(folder, "order.eml", "--handler", "shop:receive", "--json")
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended.stderr
    assert [row["outcome"] for row in rows] == ["LATER", "DONE"]
    assert rows[0]["detail"] == "not yet; after 0:01:00"
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"shop.py", "order.eml", "none.eml"}


def test_a_failure_is_shown_with_its_traceback_and_its_status(folder):
    ended = run(folder, "order.eml", "--handler", "shop:refuse")
    assert ended.returncode == 1
    assert ended.stderr.count("Traceback") == 2 and "shop.py" in ended.stderr
    assert ended.stdout.count("FAILED") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("order.eml", "--handler", "shop:none"), "Error: shop:none cannot be loaded: shop has no none"),
        (("order.eml", "--handler", "none:x"), "Error: none:x cannot be loaded: no module is named none"),
        (("none.eml", "--handler", "shop:receive"), "Error: none.eml: this is no mail: it has not one header field"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, arguments, said):
    ended = run(folder, *arguments)
    assert ended.returncode == 1 and ended.stderr.strip().splitlines()[-1] == said
