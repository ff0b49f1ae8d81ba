"""Content is kept where the empty line between a header and it is missing, or holds blanks."""

import base64
import binascii
from collections.abc import Iterator

import pytest

from orderflow_ingest.parsing.documents import PartKind, read_parts
from orderflow_ingest.parsing.mime.tree import walk
from tests.support.mails import multipart
from tests.support.mutations import seeds

PDF = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
MISSING = "empty line after the header missing"
CONTENTS: dict[str, tuple[bytes, bytes]] = {
    "a PDF": (b"application/pdf; name=o.pdf", PDF),
    "a CSV": (b"text/csv; name=o.csv", b"sku;qty\nA1;5\nA2;7\n"),
    "a CSV in two blocks": (b"text/csv; name=o.csv", b"sku;qty\nA1;5\n\nA2;7\n"),
    "a CSV with colons": (b"application/octet-stream; name=o.csv", b"sku: A1; qty: 5\nsku: A2; qty: 7\n"),
    "an XML": (b"application/xml; name=o.xml", b'<?xml version="1.0"?>\n<o xmlns:a="b">\n  <l>5</l>\n</o>\n'),
    "an EDIFACT": (b"application/edifact; name=o.edi", b"UNB+UNOC:3+A:14+B:14+200101:1200+1'\nUNH+1+ORDERS:D:96A'\n"),
    "a JSON": (b"application/json; name=o.json", b'{\n "order": 4711,\n "lines": []\n}\n'),
    "a PNG": (b"image/png; name=o.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8),
    "a large file": (b"application/octet-stream; name=o.bin", bytes(range(256)) * 400),
    "lines like fields": (b"text/plain; name=o.txt", b"Order: 4711\nQuantity: 5\nPlace: Kiel\n"),
    "a web address": (b"text/plain; name=o.txt", b"http://shop.example/order\nsee there\n"),
}
ENCODINGS = {
    b"base64": base64.encodebytes,
    b"quoted-printable": lambda content: binascii.b2a_qp(content, istext=content.isascii()),
    b"8bit": lambda content: content,
}
DAMAGES = {
    "dropped": lambda raw, at, size: raw[:at] + raw[at + size :],
    "a blank": lambda raw, at, _: raw[:at] + b" " + raw[at:],
    "blanks and tabs": lambda raw, at, _: raw[:at] + b"\t \t" + raw[at:],
}


def separators(raw: bytes) -> Iterator[tuple[int, int]]:
    """Return where the empty lines between a part's header and its content stand, and how long each line end is."""
    for entity in walk(raw):
        if entity.source is raw and entity.parent and entity.kind == "leaf":
            size = 2 if raw[entity.start - 2 : entity.start] == b"\r\n" else 1
            at = entity.start - size
            if raw[at:].startswith((b"\r", b"\n")) and raw[at - 1 : at] in (b"\r", b"\n"):
                yield at, size


def documents(raw: bytes) -> list[bytes]:
    return [part.data.strip() for part in read_parts(raw) if part.is_document and part.kind is PartKind.ATTACHMENT]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("encoding", ENCODINGS, ids=bytes.decode)
@pytest.mark.parametrize(("kind", "content"), CONTENTS.values(), ids=CONTENTS)
def test_a_document_is_not_taken_for_its_header(kind: bytes, content: bytes, encoding: bytes, damage) -> None:
    fields = b"Content-Type: %s\r\nContent-Transfer-Encoding: %s\r\nContent-Disposition: attachment\r\n" % (
        kind,
        encoding,
    )
    for last in (b"", b"Content-Disposition: attachment;\r\n filename=x\r\n", b"X-Attachment-Id: 5\r\n"):
        part = fields + last + b"\r\n" + ENCODINGS[encoding](content)
        for rest in ((), (b"Content-Type: text/plain\r\n\r\nRegards\r\n",)):
            raw = multipart(b"Content-Type: text/plain\r\n\r\nsee below\r\n", part, *rest)
            at, size = list(separators(raw))[1]
            (found,) = (part for part in read_parts(damage(raw, at, size)) if part.disposition == "attachment")
            assert found.data.strip(b"\r\n") == content.strip(b"\r\n")
            assert MISSING in found.defects


def test_no_document_of_the_seeds_is_lost_with_one_empty_line() -> None:
    tried = lost = 0
    for raw in seeds():
        whole = documents(raw)
        for at, size in separators(raw):
            for damage in DAMAGES.values():
                tried += 1
                damaged = damage(raw, at, size)
                lost += any(one not in documents(damaged) for one in whole if one)
                empty = [part for part in read_parts(damaged) if part.is_document and not part.data]
                assert all("no content" in part.defects for part in empty)
    assert tried > 100 and lost * 50 <= tried, (lost, tried)


TEXT = b"PO 4711: 100 x bolts M8\nship to Kiel\n\nRegards\n"
TEXTS = {
    "prose": TEXT,
    "one line": b"100 x bolts M8, please\n",
    "a greeting with a comma": b"Hello,\n\n100 x bolts M8\n",
    "an indented list": b"  100 x bolts M8\n  50 x nuts M8\n\nRegards\n",
    "a list like fields": b"Order: 4711\nQuantity: 100\n",
}


# An indented line right behind a field is its fold.
SEPARATED = {
    f"{name} after {separator!r}": (text, separator)
    for name, text in TEXTS.items()
    for separator in (b"", b" \n", b"\t \n")
    if separator or not text.startswith(b" ")
}


@pytest.mark.parametrize(("text", "separator"), SEPARATED.values(), ids=SEPARATED)
def test_an_order_in_the_text_is_not_taken_for_the_header(text: bytes, separator: bytes) -> None:
    (part,) = read_parts(b"From: a@b.example\nSubject: PO\nContent-Type: text/plain\n" + separator + text)
    assert (part.reason, part.data, part.defects) == ("text body", text, (MISSING,))
    mixed = b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n"
    _, part = read_parts(mixed + separator + text + b"\n--b--\n")
    assert (part.reason, part.data, part.defects) == ("text body", text, (MISSING,))


@pytest.mark.parametrize(
    "text",
    [
        b"Order-No: 4711\nItem-Qty: 12\n\nRegards\n",
        b"Order-No: 4711\nItem-Qty: 12\n",
        b"To: Works 2\nDate: 3 May\nSubject: 12 bolts\n",
        b"   4711    12\n   4712     7\n",
    ],
)
def test_lines_of_an_order_in_a_part_are_no_fields_of_it(text: bytes) -> None:
    mixed = b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain; charset=utf-8\n"
    _, part = read_parts(mixed + text + b"\n--b--\n")
    assert (part.reason, part.data, part.defects) == ("text body", text, (MISSING,))


def test_an_odd_line_that_begins_as_a_field_stays_out_of_the_text() -> None:
    (part,) = read_parts(b'From: a@b.example\nContent-Type: text/plain\nX-Script/a("): TEST\n value\n\n5 bolts\n')
    assert (part.data, part.defects) == (b"5 bolts\n", ("odd line in the header",))


STAYS_HEADER = {
    "an odd line before a field": b"Content-Type: application/pdf\nodd line\nContent-Transfer-Encoding: base64\n",
    "three odd lines": b"Content-Type: application/pdf\na b\nc d\ne f\nContent-Transfer-Encoding: base64\n",
    "a field of no header": b"Content-Type: application/pdf\nOdd: 1\nContent-Transfer-Encoding: base64\n",
    "blanks before the last field": b"Content-Type: application/pdf;\n \n name=o\nContent-Transfer-Encoding: base64\n",
    "a fold of blanks": b"Content-Transfer-Encoding:\n \n base64\nContent-Type:\n\t\n application/pdf\n",
    "an odd last line": b"Content-Type: application/pdf\nContent-Transfer-Encoding: base64\nno colon here\n",
    "a foreign last field": b"Content-Type: application/pdf\nContent-Transfer-Encoding: base64\nOdd: 1\n",
    "a field of the sender's own": b"Content-Type: application/pdf\nContent-Transfer-Encoding: base64\nOrder-No: 1\n",
    "blanks before the empty line": b"Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n \t\n",
}


@pytest.mark.parametrize("header", STAYS_HEADER.values(), ids=STAYS_HEADER)
def test_a_header_that_goes_on_after_an_odd_line_is_read_to_its_end(header: bytes) -> None:
    raw = multipart(b"Content-Type: text/plain\n\nsee below", header + b"\n" + base64.encodebytes(PDF))
    assert documents(raw) == [PDF.strip()]
    (found,) = (part for part in read_parts(raw) if part.is_document and part.kind is PartKind.ATTACHMENT)
    assert (found.declared_type, MISSING in found.defects) == ("application/pdf", False)


@pytest.mark.parametrize("separator", [b"", b" \n", b"\n"], ids=["none", "a blank", "an empty line"])
def test_an_attached_message_keeps_its_header(separator: bytes) -> None:
    inner = (
        b"Received: x\nFrom: a@b.example\nSubject: x\nMIME-Version: 1.0\nContent-Type: text/csv; name=o.csv\n\na;b\n"
    )
    raw = multipart(b"Content-Type: message/rfc822\nContent-Disposition: attachment\n" + separator + inner)
    assert documents(raw) == [b"a;b"]


def test_a_document_of_no_bytes_says_so() -> None:
    raw = multipart(b"Content-Type: application/pdf; name=o.pdf\nContent-Transfer-Encoding: base64\n\n")
    (found,) = (part for part in read_parts(raw) if part.is_document)
    assert (found.size, "no content" in found.defects) == (0, True)


MESSAGE = b"From: a@b.example\nTo: c@d.example\nSubject: order\n"


def test_lines_like_fields_are_the_text_of_a_message_that_has_no_other() -> None:
    for kind in (b"", b"Content-Type: text/plain\n"):
        (found,) = read_parts(MESSAGE + kind + b"Item: 4711\nQuantity: 12\n")
        assert (found.data, found.is_document) == (b"Item: 4711\nQuantity: 12\n", True)
        assert found.defects == ("empty line after the header missing",)


@pytest.mark.parametrize("kind", [b"", b"Content-Type: text/plain; charset=utf-8\n"])
def test_lines_like_fields_above_the_text_of_a_message_are_reported(kind: bytes) -> None:
    (found,) = read_parts(MESSAGE + kind + b"Item: 4711\nQuantity: 12\n\nRegards\n")
    assert (found.data, found.defects) == (b"Regards\n", ("text may stand in the header",))


@pytest.mark.parametrize("after", [b"X-Mailer: erp\n", b"Message-ID: <1@b>\n", b"Content-Language: de\n"])
def test_a_field_of_any_name_is_one_where_the_header_goes_on(after: bytes) -> None:
    (found,) = read_parts(MESSAGE + b"Offer: 4711\n" + after + b"\nRegards\n")
    assert (found.data, found.defects) == (b"Regards\n", ())
