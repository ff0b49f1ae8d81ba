"""What RCPT TO answers, and what becomes of the mail."""

import re
import socket
import sqlite3
from contextlib import closing

import sqlalchemy as sa

from .lab.deployment import Deployment
from .lab.process import wait_until

# A client that is nobody's: permit_mynetworks would let it send anywhere.
STRANGER = "mynetworks = 192.0.2.0/24\n"
SLUGS = ("acme", "beta", "kiss")
POSTMASTER = "(postmaster)"


def say(deployment: Deployment, form: str, subject: str) -> tuple[str, str]:
    """Send a mail, its RCPT line word for word; return the replies to RCPT and, if it came to that, to the content."""
    address = ("127.0.0.1", deployment.postfix.smtp_port)
    with socket.create_connection(address, timeout=60) as client, client.makefile("rb") as answers:

        def step(line: str) -> str:
            client.sendall(line.encode() + b"\r\n")
            return answer()

        def answer() -> str:
            while True:
                line = answers.readline().decode()
                if line[3:4] != "-":
                    return line.strip()

        answer()
        step("EHLO client.example")
        step("MAIL FROM:<buyer@shop.example>" + ("" if form.isascii() else " SMTPUTF8"))
        rcpt = step(f"RCPT TO:{form}")
        if not rcpt.startswith("250"):
            return rcpt, ""
        assert step("DATA").startswith("354")
        return rcpt, step(
            f"From: <buyer@shop.example>\r\nSubject: {subject}\r\nMessage-ID: <{subject}@x>\r\n\r\nhi\r\n."
        )


def row(deployment: Deployment, subject: str) -> tuple[str, str] | None:
    """Return the slug and the recipient of a message's row."""
    url = next((line for line in deployment.settings_file.read_text().split() if line.startswith("DATABASE_URL=")), "")
    query = (
        "SELECT slug, envelope_recipient FROM inbound_message JOIN organization ON organization.id = org_id"
        f" WHERE subject = '{subject}'"
    )
    if url:
        engine = sa.create_engine(url.removeprefix("DATABASE_URL="), poolclass=sa.NullPool)
        with engine.connect() as connection:
            found = connection.execute(sa.text(query)).one_or_none()
            return (found[0], found[1]) if found else None
    with closing(sqlite3.connect(f"file:{deployment.state}/orderflow.db?mode=ro", uri=True)) as database:
        found = database.execute(query).fetchone()
        return (found[0], found[1]) if found else None


def status(deployment: Deployment, reply: str) -> str:
    """Return how Postfix's first attempt at a queued mail ended; that of the reply where nothing was queued."""
    queued = re.search(r"queued as (\w+)", reply)
    if queued is None:
        return reply[:3]
    ended = re.compile(rf" {queued[1]}: to=<.*?status=(\w+)")
    assert wait_until(lambda: ended.search(deployment.postfix.log()) is not None, 60)
    found = ended.search(deployment.postfix.log())
    assert found
    return found[1]
