"""The mails that readers are measured with: purchase orders of every size, as they lie in the archive, with LF.

    small               a text of two kilobytes and the same as HTML
    pdf 50 KB           a text and a PDF of 50 KB, as most orders come
    pdf 1 MB, 5, 25     the same, the whole mail as large as that
    csv 25 MB           a quoted-printable CSV
    xml 25 MB           an XML in UTF-8, 8bit
    1000 parts          a thousand CSV files of a few lines

The same bytes in every run.
"""

import base64
import quopri
import random
from collections.abc import Callable

_MB = 1_000_000
_HEAD = b"""\
Return-Path: <purchasing@buyer.example>
Received: from mx.buyer.example (mx.buyer.example [192.0.2.7])
\tby mail.orderflow.example (Postfix) with ESMTPS id 4F3A12C
\tfor <orders+acme@orderflow.example>; Fri, 20 Nov 2026 10:00:01 +0000 (UTC)
From: =?utf-8?Q?Eink=C3=A4ufer?= <purchasing@buyer.example>
To: orders+acme@orderflow.example
Subject: Purchase order 4711: 12 widgets, 40 sprockets
Date: Fri, 20 Nov 2026 10:00:00 +0000
Message-ID: <4711@buyer.example>
MIME-Version: 1.0
"""
_LINE = "Position {0}: 12 widgets, part number {0:06}, at 3,50 EUR each, Gr\u00f6\u00dfe M\n"
_ROW = "{0:06};widget \u2116 {0};12;3,50;EUR;Stra\u00dfe 7, 12345 Ort\n"


def _encoded(content: bytes) -> bytes:
    return base64.encodebytes(content)


def _mixed(*parts: bytes, kind: bytes = b"mixed") -> bytes:
    body = b"".join(b"--=_part_4711\n%s\n" % part for part in parts)
    return _HEAD + b'Content-Type: multipart/%s; boundary="=_part_4711"\n\n%s--=_part_4711--\n' % (kind, body)


def _lines(line: str, size: int) -> bytes:
    """Return as many numbered lines as make so many bytes."""
    count = size // len(line.format(0).encode())
    return "".join(line.format(number) for number in range(count)).encode()


_TEXT = b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nPlease find our order attached.\n"


def small() -> bytes:
    """Write a mail without a file."""
    text = _lines(_LINE, 2000)
    html = b"<html><body>" + text.replace(b"\n", b"<br>\n") + b"</body></html>\n"
    head = b"Content-Type: text/%s; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
    parts = (head % kind + quopri.encodestring(content) for kind, content in ((b"plain", text), (b"html", html)))
    return _mixed(*parts, kind=b"alternative")


def pdf(size: int) -> bytes:
    """Write a mail of about this size with a PDF, whose content is as random as a compressed one's."""
    content = b"%PDF-1.7\n" + random.Random(size).randbytes(size * 57 // 77)
    head = b'Content-Type: application/pdf; name="order 4711.pdf"\nContent-Transfer-Encoding: base64\n'
    named = b"Content-Disposition: attachment; filename*=utf-8''Bestellung%204711.pdf\n\n"
    return _mixed(_TEXT, head + named + _encoded(content))


def csv(size: int) -> bytes:
    """Write a mail of about this size with a quoted-printable CSV."""
    rows = quopri.encodestring(_lines(_ROW, _MB // 10))
    head = b"Content-Type: text/csv; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n"
    named = b'Content-Disposition: attachment; filename="order.csv"\n\n'
    return _mixed(_TEXT, head + named + rows * (size // len(rows)))


def xml(size: int) -> bytes:
    """Write a mail of about this size with an XML in UTF-8."""
    rows = _lines("  <item n='{0:06}'>widget, Gr\u00f6\u00dfe M</item>\n", size)
    head = b"Content-Type: application/xml; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
    named = b'Content-Disposition: attachment; filename="order.xml"\n\n'
    return _mixed(_TEXT, head + named + b"<?xml version='1.0'?>\n<order>\n" + rows + b"</order>\n")


def many(count: int) -> bytes:
    """Write a mail with so many files."""
    head = b'Content-Type: text/csv; name="order-%d.csv"\nContent-Transfer-Encoding: base64\n\n'
    return _mixed(_TEXT, *(head % number + _encoded(_lines(_ROW, 300)) for number in range(count)))


MAILS: dict[str, Callable[[], bytes]] = {
    "small": small,
    "pdf 50 KB": lambda: pdf(68_000),
    "pdf 1 MB": lambda: pdf(_MB),
    "pdf 5 MB": lambda: pdf(5 * _MB),
    "pdf 25 MB": lambda: pdf(25 * _MB),
    "csv 25 MB": lambda: csv(25 * _MB),
    "xml 25 MB": lambda: xml(25 * _MB),
    "1000 parts": lambda: many(1000),
}
