"""Archives and wrappings are known by their bytes, then by type and name; documents that are archives stay whole."""

import gzip
import subprocess
import sys
import zipfile
from importlib import import_module
from inspect import signature
from io import BytesIO

import pytest

from orderflow_ingest.parsing.containers import ContainerError
from orderflow_ingest.parsing.containers.kinds import _OPENERS, container_kind, open_container
from orderflow_ingest.parsing.mime.sniff import detect_type
from tests.support.containers_made import attachment, budget, compound, refusal, signed, storage, tnef, utf16

OCTETS = "application/octet-stream"


def zipped(*names: str, data: bytes = b"x") -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return buffer.getvalue()


def kind(data: bytes, filename: str = "", declared: str = OCTETS) -> str | None:
    return container_kind(declared, detect_type(data), filename, data)


XLSX = zipped("[Content_Types].xml", "xl/workbook.xml")
MESSAGE = compound(storage((0x1000, 0x1F, utf16("hi")), header=32))
BURIED = compound({**storage((0x1000, 0x1F, utf16("hi")), header=32), **{f"a{n}": bytes(4096) for n in range(60)}})
WORKBOOK = compound({"Workbook": bytes(5000)})
TNEF = tnef(attachment(title=b"o.pdf", data=b"x"))
GZIP = gzip.compress(b"a;b\n")


@pytest.mark.parametrize(
    ("data", "filename", "declared", "expected"),
    [
        (zipped("o.pdf"), "orders.zip", "application/zip", "zip"),
        (zipped("o.pdf"), "orders", OCTETS, "zip"),
        (zipped("o.pdf"), "orders.zip", "application/pdf", "zip"),
        (zipped("o.xlsx", data=XLSX), "orders.zip", "application/x-zip-compressed", "zip"),
        (zipped("project/META-INF/MANIFEST.MF", "doc.kmlx"), "project.zip", OCTETS, "zip"),
        (TNEF, "winmail.dat", "application/ms-tnef", "tnef"),
        (TNEF, "order.pdf", "application/pdf", "tnef"),
        (b"no such thing", "WINMAIL.DAT", OCTETS, "tnef"),
        (b"no such thing", "x", "application/vnd.ms-tnef", "tnef"),
        (GZIP, "o.csv.gz", "application/gzip", "gzip"),
        (GZIP, "orders.tgz", OCTETS, "gzip"),
        (MESSAGE, "", OCTETS, "outlook"),
        (MESSAGE, "order.msg", "application/vnd.ms-outlook", "outlook"),
        (BURIED, "order", OCTETS, "outlook"),
        (signed(b"x"), "smime.p7m", "application/pkcs7-mime", "smime"),
        (signed(b"x"), "smime.p7m", "application/x-pkcs7-mime", "smime"),
        (signed(b"x"), "order.pdf.p7m", OCTETS, "smime"),
        (b"Content-Type: multipart/signed\r\n\r\n", "smime.p7m", OCTETS, "message"),
        (b"Subject: x\nMIME-Version: 1.0\n\n", "", "application/pkcs7-mime", "message"),
        (b"--b\r\nContent-Type: text/plain\r\n\r\n", "", "multipart/signed", "message"),
        (b"Subject: x\n\nno MIME", "smime.p7m", OCTETS, "smime"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_container_is_told(data: bytes, filename: str, declared: str, expected: str) -> None:
    assert kind(data, filename, declared) == expected


@pytest.mark.parametrize(
    ("data", "filename", "declared"),
    [
        (XLSX, "o.zip", "application/zip"),
        (zipped("[Content_Types].xml", "word/document.xml"), "o.docx", OCTETS),
        (zipped("[Content_Types].xml", "visio/document.xml"), "", OCTETS),
        (zipped("[Content_Types].xml", "3D/3dmodel.model"), "", OCTETS),
        (zipped("[Content_Types].xml", "FixedDocSeq.fdseq"), "", OCTETS),
        (zipped("META-INF/MANIFEST.MF", "a.class"), "", OCTETS),
        (zipped("META-INF/MANIFEST.MF", "AndroidManifest.xml"), "", OCTETS),
        (zipped("doc.kml"), "", OCTETS),
        (zipped("Index/Document.iwa"), "", OCTETS),
        (zipped("mimetype", "x", data=b"application/vnd.oasis.opendocument.spreadsheet"), "", OCTETS),
        (zipped("mimetype", "x", data=b"application/epub+zip"), "book.zip", OCTETS),
        (zipped("a"), "orders.numbers", OCTETS),
        (zipped("a"), "plan.kmz", OCTETS),
        (zipped("a"), "x", "application/vnd.whatever"),
        (b"MZ" + bytes(500) + zipped("a"), "setup.exe", OCTETS),
        (GZIP, "picture.svgz", OCTETS),
        (GZIP, "", "image/svg+xml"),
        (WORKBOOK, "o.xls", "application/vnd.ms-excel"),
        (WORKBOOK, "", OCTETS),
        (b"%PDF-1.4\n", "o.pdf", "application/pdf"),
        (b"x" * 257 + b"ustar is a format of archives", "notes.txt", "text/plain"),
        (b"BZh9 is how it begins", "notes.txt", "text/plain"),
        (b"Content-Type: text/plain\r\n\r\n", "header.txt", "text/plain"),
        (b"", "", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_archive_to_people_stays_whole(data: bytes, filename: str, declared: str) -> None:
    assert kind(data, filename, declared) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("META-INF/MANIFEST.MF",), "application/java-archive"),
        (("META-INF/MANIFEST.MF", "AndroidManifest.xml"), "application/vnd.android.package-archive"),
        (("doc.kml",), "application/vnd.google-earth.kmz"),
        (("[Content_Types].xml", "3D/x.model"), "model/3mf"),
        (("[Content_Types].xml", "FixedDocumentSequence.fdseq"), "application/vnd.ms-xpsdocument"),
        (("Index/Document.iwa",), "application/vnd.apple.iwork"),
        (("a/doc.kml", "xl/a.txt"), "application/zip"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_a_zip_is_detected_by_the_names_in_its_own_directory(names: tuple[str, ...], expected: str) -> None:
    assert detect_type(zipped(*names)) == expected
    assert detect_type(zipped("inner.zip", data=zipped(*names))) == "application/zip"


@pytest.mark.parametrize(
    ("data", "filename", "name"),
    [
        (zipped("o.pdf"), "o.zip", "o.pdf"),
        (GZIP, "o.csv.gz", "o.csv"),
        (TNEF, "winmail.dat", "o.pdf"),
        (MESSAGE, "o.msg", None),
        (signed(b"%PDF"), "o.pdf.p7m", "o.pdf"),
    ],
    ids=["zip", "gzip", "tnef", "outlook", "smime"],
)
def test_a_container_opens_as_the_kind_it_was_told(data: bytes, filename: str, name: str | None) -> None:
    told = kind(data, filename)
    assert told is not None
    assert [member.name for member in open_container(told, data, budget(), filename)] == [name]


def test_each_opener_of_the_table_is_there_and_takes_what_it_is_told() -> None:
    for module, name, *asked in _OPENERS.values():
        opener = getattr(import_module(f"orderflow_ingest.parsing.containers.{module}"), name)
        assert list(signature(opener).parameters) == ["data", "budget", *asked]


def test_opening_is_lazy_and_an_unknown_kind_is_refused() -> None:
    found = open_container("arj", b"", budget())
    with pytest.raises(ContainerError, match=r"^unknown container$"):
        next(found)
    assert refusal(open_container("zip", b"", budget())) == "damaged"


def test_telling_kinds_imports_no_opener_and_no_library() -> None:
    code = """
import sys
import orderflow_ingest.parsing.containers.kinds
names = ("zipfile", "zlib", "olefile", "orderflow_ingest.parsing.containers.outlook")
print([name for name in names if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() in ("[]", "['zlib']")
