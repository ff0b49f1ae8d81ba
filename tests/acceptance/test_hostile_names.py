"""Names that an enemy chose stay data: never a path, a key, a line of a log, an escape on a terminal, or SQL."""

import fcntl
import json
import os
import pty
import re
import select
import sqlite3
import struct
import termios
import unicodedata
from base64 import b64encode

import pytest

from tests.support.lab import warm
from tests.support.lab.deployment import DOMAIN, ENVIRONMENT, Deployment
from tests.support.lab.process import scratch

WIDE = 2000  # columns: a table is cut into blocks on a terminal that is too narrow for it
MARK = "zzmark"  # in every name, so that its way can be followed
HOSTILE = (
    f'{MARK}\nFROM: evil {{"level": "INFO"}}\n',
    f"{MARK}\x1b[2J\x1b]0;owned\x07\x9b31m",
    f"{MARK}\u202egnp.exe\u2066\u200f\u2028\u2029\x85",
    f"{MARK}\0nul",
    f"../../../../etc/{MARK}",
    f"/etc/{MARK}",
    f"C:\\..\\{MARK}",
    f"{MARK}'; DROP TABLE inbound_message; --",
    f'{MARK}" \\" $(id) `id` ${{IFS}} %s %n {{0}}',
    f"org/2/raw/{MARK}.eml",
    f"{MARK}" + "é" * 300,
)


def word(text: str) -> bytes:
    """Write any text as an encoded word, which carries every character."""
    return b"=?utf-8?b?" + b64encode(text.encode()) + b"?="


def hostile_mail(number: int, name: str) -> bytes:
    encoded = word(name)
    parts = b"".join(
        b'--b\r\nContent-Type: application/pdf; name="' + encoded + b'"\r\n'
        b'Content-Disposition: attachment; filename="' + encoded + b'"\r\n\r\n%PDF-1.4 ' + str(n).encode() + b"\r\n"
        for n in range(2)
    )
    return (
        b"From: " + encoded + b" <" + MARK.encode() + b"'--@shop.example>\r\nSubject: " + encoded + b"\r\n"
        b"Message-ID: <" + encoded + str(number).encode() + b"@shop.example>\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + parts + b"--b--\r\n"
    )


def argument(name: str) -> bytes:
    """Return a name as an argument of a program: anything but NUL."""
    return name.replace("\0", "").encode()


@pytest.fixture(scope="module")
def deployment():
    """A deployment through which every hostile name has come as a subject, sender, file name and extension."""
    with scratch() as place:
        deployment = Deployment(place, {"ORDERFLOW_LOG": str(place / "state" / "log" / "all.log")})
        deployment.set_up("acme")
        with deployment.worker:
            for number, name in enumerate(HOSTILE):
                raw = hostile_mail(number, name)
                told = argument(name)
                options = (b"--sender", told, b"--queue-id", told, b"--client-address", told)
                ended = deployment.deliver(f"orders+acme@{DOMAIN}", raw, *options)
                assert ended.returncode == 0, ended.stdout
                unknown = deployment.deliver(b"orders+" + told + b"@" + DOMAIN.encode(), raw)
                assert unknown.returncode == 67 and MARK.encode() not in unknown.stdout + unknown.stderr
            deployment.wait_finished(len(HOSTILE))
        yield deployment


def test_every_message_was_parsed_with_both_documents(deployment):
    messages = deployment.messages()
    assert {message["status"] for message in messages} == {"PARSED"} and len(messages) == len(HOSTILE)
    assert all(len(deployment.documents(message["id"])) == 2 for message in messages)
    with sqlite3.connect(deployment.state / "orderflow.db") as database:
        subjects = {subject for (subject,) in database.execute("SELECT subject FROM inbound_message")}
    assert any("DROP TABLE" in subject for subject in subjects), "kept as data"


def test_a_log_record_is_one_line_without_a_control_character(deployment):
    text = (deployment.state / "log" / "all.log").read_bytes()
    lines = text.split(b"\n")
    assert lines.pop() == b"" and len(lines) >= 2 * len(HOSTILE)
    for line in lines:
        assert {"action", "level", "message"} <= json.loads(line).keys()
        assert re.fullmatch(rb"[\x20-\x7e]+", line), line


def test_no_path_and_no_key_holds_anything_of_a_name(deployment):
    paths = [str(path.relative_to(deployment.directory)) for path in deployment.directory.rglob("*")]
    assert not any(MARK in path for path in paths)
    objects = [
        path for path in paths if path.startswith("state/archive/org/") and os.path.isfile(deployment.directory / path)
    ]
    key = r"state/archive/org/1/(organization\.json|raw/[0-9a-f]{64}\.eml(\.meta)?|documents/[0-9a-f]{64})"
    assert len(objects) > 2 * len(HOSTILE) and all(re.fullmatch(key, path) for path in objects)
    with sqlite3.connect(deployment.state / "orderflow.db") as database:
        keys = database.execute("SELECT raw_key FROM inbound_message UNION SELECT object_key FROM document").fetchall()
    assert all(re.fullmatch(r"org/1/(raw/[0-9a-f]{64}\.eml|documents/[0-9a-f]{64})", key) for (key,) in keys)
    metadata = [json.loads(path.read_text()) for path in (deployment.state / "archive").rglob("*.meta")]
    assert any(MARK in values["sender"] for values in metadata), "told as values"


def test_file_names_are_safe_to_store_and_to_show(deployment):
    with sqlite3.connect(deployment.state / "orderflow.db") as database:
        names = [name for (name,) in database.execute("SELECT filename FROM document")]
    assert len(names) == 2 * len(HOSTILE)
    for name in names:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f/\\]", name) and name not in (".", "..") and len(name) <= 255
        assert not any(unicodedata.category(character) == "Cf" for character in name), name


def on_a_terminal(deployment: Deployment, program: str, *arguments: str) -> str:
    """Run a program with a wide terminal as its standard output and error, and return what it writes."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDE, 0, 0))
    env = {**ENVIRONMENT, "TERM": "xterm", "NO_COLOR": "1", "ORDERFLOW_SETTINGS": str(deployment.settings_file)}
    files = [os.ttyname(follower)] * 3
    child = warm.start(deployment.programs / program, arguments, env, deployment.credentials(), files)
    text = b""
    while leader in select.select([leader, child.sentinel], [], [])[0]:
        text += os.read(leader, 65536)
    os.close(follower)
    os.close(leader)
    child.join(60)
    assert child.exitcode == 0, text
    return text.decode()


def shown(text: str) -> None:
    """Hold a terminal's output to printable characters and line ends."""
    assert all(character.isprintable() or character in "\r\n" for character in text), ascii(text)


def test_a_terminal_is_shown_no_escape_and_a_row_is_one_line(deployment):
    listed = on_a_terminal(deployment, "orderflow-admin", "list")
    shown(listed)
    assert len(listed.splitlines()) == len(HOSTILE) + 1 and MARK in listed
    for message in deployment.messages():
        documents = on_a_terminal(deployment, "orderflow-admin", "documents", message["id"])
        shown(documents)
        assert len(documents.splitlines()) == 4, "heads, the multipart and two files"
    shown(on_a_terminal(deployment, "orderflow-replay", "message", "--org", "acme", "--dry-run"))
    shown(on_a_terminal(deployment, "orderflow-admin", "status"))


def test_json_for_machines_is_one_line_for_a_row(deployment):
    lines = deployment.admin("list", "--json").splitlines()
    assert len(lines) == len(HOSTILE) and all(re.fullmatch(r"[\x20-\x7e]+", line) for line in lines)
    assert any(row["subject"].startswith(f"{MARK}\x1b[2J") for row in map(json.loads, lines)), "whole, for machines"
