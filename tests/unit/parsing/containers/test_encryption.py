"""A document that is encrypted goes to the handler all the same, with the defect `encrypted`."""

import struct

import pytest

from orderflow_ingest.parsing.containers import UnpackBudget
from orderflow_ingest.parsing.containers.encryption import is_encrypted
from orderflow_ingest.parsing.documents import Part, Reason, read_parts
from orderflow_ingest.parsing.mime.sniff import detect_type
from tests.support.attached import attached
from tests.support.containers_made import compound, flagged, rar_5, zipped
from tests.support.mails import multipart as mail

ENCRYPT = b"/Encrypt 5 0 R"
FIRST = b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n"


def table(entries: bytes, body: bytes = FIRST, extra: bytes = b"") -> bytes:
    """Return a PDF with a cross-reference table, and a trailer of these entries."""
    xref = b"xref\n0 1\n0000000000 65535 f \n"
    return (
        body
        + xref
        + b"trailer\n<< /Size 6 /Root 1 0 R "
        + entries
        + b">>\n"
        + extra
        + (b"startxref\n%d\n%%%%EOF\n" % len(body))
    )


def stream(entries: bytes, body: bytes = FIRST) -> bytes:
    """Return a PDF with a cross-reference stream of these entries."""
    dictionary = b"9 0 obj\n<< /Type /XRef /Size 6 /W [1 2 1] " + entries + b" /Length 9 >>\nstream\n"
    return body + dictionary + b"/Encrypt " + b"\nendstream\nendobj\nstartxref\n%d\n%%%%EOF" % len(body)


def test_an_encrypted_pdf_is_marked_and_given() -> None:
    pdf = table(ENCRYPT)
    (part,) = (part for part in read_parts(mail(attached("order.pdf", pdf, "application/pdf"))) if part.is_document)
    assert (part.data, part.defects, part.content_type) == (pdf, ("encrypted",), "application/pdf")


def embedding(inner: bytes) -> bytes:
    return FIRST + b"2 0 obj <</Length %d>>\nstream\n" % len(inner) + inner + b"\nendstream endobj\n"


@pytest.mark.parametrize(
    ("data", "encrypted"),
    [
        (table(ENCRYPT), True),
        (table(b"/Encrypt\r\n<< /Filter /Standard /V 4 >>"), True),
        (table(b"/#45ncrypt 5 0 R"), True),
        (stream(ENCRYPT), True),
        (b"\r\n garbage " + table(ENCRYPT), True),
        (table(ENCRYPT) + b"\0" * 2000, True),
        (table(ENCRYPT).replace(b"startxref\n", b"startxref\n9"), True),
        (stream(ENCRYPT).replace(b"startxref\n", b"startxref\n9"), True),
        (table(b"", table(ENCRYPT)), False),
        (table(b""), False),
        (stream(b""), False),
        (table(b"/Encrypt null"), False),
        (table(b"/EncryptMetadata 5 0 R"), False),
        (table(b"", embedding(table(ENCRYPT))), False),
        (stream(b"", embedding(table(ENCRYPT))), False),
        (FIRST + b"(How to write /Encrypt 5 0 R)", False),
        (FIRST + b"trailer", False),
        (FIRST + b"startxref\n9999999999\n", False),
    ],
    ids=str,
)
def test_a_pdf_is_encrypted_if_its_last_trailer_says_so(data: bytes, encrypted: bool) -> None:
    assert is_encrypted(data, "application/pdf", UnpackBudget()) is encrypted


def record(kind: int, data: bytes) -> bytes:
    return struct.pack("<HH", kind, len(data)) + data


WORD = struct.pack("<HHHHHH", 0xA5EC, 193, 0, 0, 0, 0x1200)
LOCKED_WORD = struct.pack("<HHHHHH", 0xA5EC, 193, 0, 0, 0, 0x1300)
BOF = record(0x0809, bytes(16))
EXCEL = BOF + record(0x0042, b"\xb0\x04")
LOCKED_EXCEL = BOF + record(0x0086, b"") + record(0x002F, bytes(6))
PACKAGE = compound({"EncryptionInfo": bytes(5000), "EncryptedPackage": bytes(9000)})
NAMES_IN_TEXT = "EncryptedPackage\0EncryptedSummary\0".encode("utf-16-le") * 200
MANIFEST = "META-INF/manifest.xml"
ODS = b"application/vnd.oasis.opendocument.spreadsheet"


def opendocument(manifest: bytes) -> bytes:
    return zipped(("mimetype", ODS), (MANIFEST, manifest), ("content.xml", b"<x/>"), method=0)


@pytest.mark.parametrize(
    ("name", "data", "encrypted"),
    [
        ("order.xlsx", PACKAGE, True),
        ("order.docx", compound({"EncryptionInfo": bytes(100), "EncryptedPackage": bytes(100)}), True),
        ("order.ppt", compound({"PowerPoint Document": bytes(5000), "EncryptedSummary": bytes(5000)}), True),
        ("order.doc", compound({"WordDocument": LOCKED_WORD + bytes(5000)}), True),
        ("order.xls", compound({"Workbook": LOCKED_EXCEL + bytes(5000)}), True),
        ("order.xls", compound({"Book": LOCKED_EXCEL + bytes(5000)}), True),
        ("order.ods", opendocument(b"<manifest:encryption-data/>"), True),
        ("order.xlsx", zipped(("[Content_Types].xml", b""), ("xl/a", b""))[:6] + b"\1" + bytes(99), True),
        ("order.doc", compound({"WordDocument": WORD + NAMES_IN_TEXT}), False),
        ("order.xls", compound({"Workbook": EXCEL + bytes(5000)}), False),
        ("order.xls", compound({"Workbook": b"\x2f\0\0\0" + bytes(5000)}), False),
        ("order.ods", opendocument(b"<manifest/>"), False),
        ("order.ods", opendocument(b"<manifest:encryption-data/>")[:-30], False),
        ("order.xlsx", zipped(("[Content_Types].xml", b""), ("xl/a", b"encryption-data")), False),
        ("order.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", False),
        ("order.txt", b"encrypted", False),
        ("order.txt", b"", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_office_document_is_encrypted_if_its_format_says_so(name: str, data: bytes, encrypted: bool) -> None:
    assert is_encrypted(data, detect_type(data), UnpackBudget()) is encrypted


def test_an_encrypted_office_document_is_given_with_the_defect() -> None:
    (part,) = (part for part in read_parts(mail(attached("order.xlsx", PACKAGE))) if part.is_document)
    assert (part.data, part.defects, part.reason) == (PACKAGE, ("encrypted",), Reason.NAMED)


def test_encrypted_documents_in_archives_are_marked_as_well() -> None:
    found = {part.filename: part for part in read_parts(mail(attached("o.zip", zipped(("a.pdf", table(ENCRYPT))))))}
    assert "encrypted" in found["a.pdf"].defects


@pytest.mark.parametrize(
    ("name", "data", "defect"),
    [
        ("orders.zip", flagged(zipped(("order.pdf", b"%PDF-")), 1), "not opened: encrypted"),
        ("orders.rar", rar_5((4, b"\0\0\x0f" + bytes(16), b"", b"")), "not opened: encrypted"),
        ("orders.rar", rar_5((1, b"\0", b"", b"")), "archive not opened"),
    ],
    ids=["zip", "rar", "rar that is not"],
)
def test_an_archive_that_stays_whole_is_given_with_the_reason(name: str, data: bytes, defect: str) -> None:
    parts: list[Part] = [part for part in read_parts(mail(attached(name, data))) if part.is_document]
    assert [(part.data, part.reason, part.defects) for part in parts] == [(data, Reason.NOT_OPENED, (defect,))]
    assert parts[0].content_type == ("application/zip" if name.endswith("zip") else "application/vnd.rar")
