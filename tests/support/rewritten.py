"""Mails that a gateway has written in another way."""

import base64
import quopri
from datetime import UTC, datetime

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import read_mail
from orderflow_ingest.domain.mail_comparison import find_difference
from orderflow_ingest.pipeline.deliver import Delivery
from orderflow_ingest.pipeline.receive import deliver_from_memory

ACME = "orders+acme@orderflow.example.com"
TEXT = "Bestellung über 12 Stück à 3 €, größtenteils\n" + "eine sehr lange Zeile " * 9 + "\n\n=20 Ende \n"
HEAD = """From: Einkauf <buyer@shop.example>
To: orders+acme@orderflow.example.com
Subject: Order 1
Date: Fri, 20 Nov 2026 10:00:00 +0000
Message-ID: <order-1@shop.example>
"""
PDF = b"%PDF-1.4\r\n12 widgets\n\r\r\n\xff"
CSV = "Artikel;Stück\nW-1;12\n".encode("latin-1")


def written(
    text: str = TEXT,
    charset: str = "utf-8",
    encoding: str = "8bit",
    label: str | None = None,
    head: str = HEAD,
    more: str = "",
) -> bytes:
    """Write a mail of one text in a charset and a transfer encoding."""
    label = charset if label is None else label
    kind = f"Content-Type: text/plain; charset={label}\n" if label else ""
    lines = f"MIME-Version: 1.0\n{kind}Content-Transfer-Encoding: {encoding}\n{more}"
    return (head + lines).encode() + b"\n" + encoded(text.encode(charset), encoding)


def encoded(data: bytes, encoding: str) -> bytes:
    if encoding == "quoted-printable":
        return quopri.encodestring(data)
    return base64.encodebytes(data) if encoding == "base64" else data


def mixed(
    pdf: bytes = PDF,
    csv: bytes = CSV,
    text: str = TEXT,
    encodings: tuple[str, str, str] = ("8bit", "base64", "8bit"),
    boundary: str = "b",
    name: str = "o.csv",
    kind: str = "text/csv",
) -> bytes:
    """Write a mail of a text, a PDF and a CSV file."""
    of_text, of_pdf, of_csv = encodings
    plain = "Content-Type: text/plain; charset=utf-8"
    parts = [
        (f"{plain}\nContent-Transfer-Encoding: {of_text}", encoded(text.encode(), of_text)),
        (f"Content-Type: application/pdf; name=o.pdf\nContent-Transfer-Encoding: {of_pdf}", encoded(pdf, of_pdf)),
        (
            f'Content-Type: {kind}\nContent-Disposition: attachment; filename="{name}"\n'
            f"Content-Transfer-Encoding: {of_csv}",
            encoded(csv, of_csv),
        ),
    ]
    raw = f"{HEAD}MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary={boundary}\n\n".encode()
    for head, data in parts:
        raw += f"--{boundary}\n{head}\n\n".encode() + data + b"\n"
    return raw + f"--{boundary}--\n".encode()


def attached(subject: str, encoding: str = "8bit") -> bytes:
    """Write a mail that forwards another one."""
    inner = written(head=HEAD.replace("Order 1", subject))
    head = f"{HEAD}MIME-Version: 1.0\nContent-Type: message/rfc822\nContent-Transfer-Encoding: {encoding}\n\n"
    return head.encode() + encoded(inner, encoding)


def difference(first: bytes, second: bytes) -> str:
    one, other = read_mail(first), read_mail(second)
    assert one and other
    found = {find_difference(one, other), find_difference(other, one)}
    assert len(found) == 1, "whichever is the first"
    return found.pop()


UMLAUTS = TEXT.replace("€", "E")


def post(app: App, raw: bytes) -> Delivery:
    return deliver_from_memory(Envelope(ACME, datetime.now(UTC), "buyer@shop.example", queue_id="4X"), raw, app)


def renumbered(raw: bytes) -> bytes:
    return raw.replace(b"order-1@", b"order-2@")
