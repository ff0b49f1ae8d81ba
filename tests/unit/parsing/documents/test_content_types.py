"""What a part is: by its content, its name and its sender; what its content contradicts is reported."""

import pytest

from orderflow_ingest.parsing.documents.content_types import content_type, contradictions

PDF, ZIP, OLE = "application/pdf", "application/zip", "application/x-ole-storage"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EXE = "application/vnd.microsoft.portable-executable"
STREAM = "application/octet-stream"


@pytest.mark.parametrize(
    ("declared", "detected", "filename", "kind"),
    [
        ("text/plain", None, "order.csv", "text/csv"),
        (STREAM, None, "order.csv", "text/csv"),
        ("application/vnd.ms-excel", None, "order.csv", "text/csv"),
        ("text/comma-separated-values", None, None, "text/csv"),
        (STREAM, None, "order.txt", "text/plain"),
        ("text/csv", None, "order.txt", "text/csv"),
        ("application/edifact", None, "order.txt", "application/edifact"),
        (STREAM, PDF, "order", PDF),
        ("text/plain", PDF, "order.txt", PDF),
        (STREAM, ZIP, "order.xlsx", XLSX),
        (STREAM, OLE, "order.xls", "application/vnd.ms-excel"),
        (XLSX, ZIP, None, XLSX),
        (STREAM, XLSX, "order.zip", XLSX),
        (PDF, EXE, "order.pdf", EXE),
        (STREAM, "application/xml", "order.xml", "application/xml"),
        ("application/vnd.orders+xml", "application/xml", "order.dat", "application/vnd.orders+xml"),
        (STREAM, None, "order", STREAM),
        ("image/jpg", "image/jpeg", "scan.jpg", "image/jpeg"),
        (PDF, None, "order.pdf", PDF),
        (STREAM, "application/x-rar-compressed", "o.rar", "application/vnd.rar"),
        ("application/x-tgz", None, None, "application/gzip"),
        (STREAM, None, "orders.7z", "application/x-7z-compressed"),
    ],
)
def test_content_then_name_then_declared_type_tell_what_a_part_is(declared, detected, filename, kind):
    assert content_type(declared, detected, filename) == kind


NAME, TYPE = "content is not what its name says", "content is not of the declared type"


@pytest.mark.parametrize(
    ("declared", "detected", "filename", "told"),
    [
        (PDF, PDF, "order.pdf", ()),
        (STREAM, PDF, "order.pdf", ()),
        (STREAM, EXE, "setup.exe", ()),
        (PDF, EXE, "order.pdf", (NAME, TYPE)),
        (STREAM, EXE, "order.pdf", (NAME,)),
        (STREAM, EXE, "order.csv", (NAME,)),
        ("text/plain", EXE, "order", (TYPE,)),
        (PDF, None, "order.pdf", (NAME, TYPE)),
        (STREAM, None, "order.csv", ()),
        (XLSX, ZIP, "order.xlsx", ()),
        ("application/vnd.ms-excel", OLE, "order.xls", ()),
        ("application/vnd.ms-excel", XLSX, "order.xlsx", ()),
        (XLSX, OLE, "locked.xlsx", ()),
        ("application/vnd.ms-excel", None, "order.csv", (TYPE,)),
        ("application/vnd.ms-excel", "text/html", "order.xls", (NAME, TYPE)),
        ("application/x-zip-compressed", ZIP, "orders.zip", ()),
        ("text/xml", "application/xml", "order.xml", ()),
        ("image/jpeg", "image/png", "scan.jpg", (NAME, TYPE)),
        ("application/x-of-the-sender", PDF, "order.of", ()),
    ],
)
def test_a_claim_that_the_content_contradicts_is_told(declared, detected, filename, told):
    assert contradictions(declared, detected, filename) == told
