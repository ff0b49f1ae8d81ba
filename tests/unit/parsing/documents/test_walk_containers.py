"""What a mail's attachments hold is found, whatever it was wrapped in; what cannot be opened stays whole."""

import binascii
import bz2
import gzip
import lzma
import struct
import zipfile

import pytest

from orderflow_ingest.parsing.containers.mapi import BINARY, STRING, UNICODE
from orderflow_ingest.parsing.documents import Part, PartKind, Reason, read_parts, walk
from tests.support.attached import attached
from tests.support.containers_made import (
    attachment,
    attribute,
    flagged,
    outlook_message,
    properties,
    seven_zipped,
    signed,
    storage,
    tar_entry,
    tnef,
    utf16,
    zipped,
)
from tests.support.cost import at_most
from tests.support.mails import PDF, part
from tests.support.mails import multipart as mail
from tests.support.pictures import PNG

BODY, HTML, DATA, LONG, CONTENT_ID = 0x1000, 0x1013, 0x3701, 0x3707, 0x3712
ORDER = ("order.pdf", PDF)


def told(raw: bytes) -> list[tuple[str, str | None, str]]:
    """List path, name and reason of each part, multiparts left out."""
    return [(p.path, p.filename, p.reason) for p in read_parts(raw) if not p.path.endswith("0")]


def taken(raw: bytes) -> list[Part]:
    return [p for p in read_parts(raw) if p.is_document]


def test_orders_in_a_zip_are_documents_and_the_zip_is_not() -> None:
    raw = mail(attached("orders.zip", zipped(ORDER, ("a/positions.csv", b"a;b\n"))))
    assert told(raw) == [
        ("1.1", "order.pdf", "named"),
        ("1.2", "positions.csv", "named"),
        ("1", "orders.zip", "opened"),
    ]
    first, second = taken(raw)
    assert (first.data, first.content_type, second.claimed_filename) == (PDF, "application/pdf", "a/positions.csv")


def test_an_office_document_is_a_document_and_no_archive() -> None:
    excel = zipped(("[Content_Types].xml", b"<x/>"), ("xl/workbook.xml", b"<x/>"))
    assert told(mail(attached("order.xlsx", excel))) == [("1", "order.xlsx", "named")]


def test_a_gzipped_file_is_given_under_its_name() -> None:
    raw = mail(attached("order.csv.gz", gzip.compress(b"a;b\n")))
    assert [(p.filename, p.data, p.content_type) for p in taken(raw)] == [("order.csv", b"a;b\n", "text/csv")]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("orders.zip", flagged(zipped(ORDER), 1), "encrypted"),
        ("orders.zip", zipped(ORDER)[:-30], "damaged"),
        ("orders.zip", zipped(), "no members"),
        ("order.csv.gz", gzip.compress(b"a;b\n" * 50)[:-20], "damaged"),
        ("winmail.dat", b"this is no TNEF", "not TNEF"),
        ("order.msg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "damaged"),
        ("smime.p7m", b"this is no CMS", "not CMS"),
    ],
    ids=["encrypted", "damaged zip", "empty zip", "damaged gzip", "not tnef", "damaged msg", "not cms"],
)
def test_what_cannot_be_opened_is_a_document_with_the_reason(name: str, data: bytes, why: str) -> None:
    (found,) = taken(mail(attached(name, data)))
    assert (found.reason, found.data, found.filename) == (Reason.NOT_OPENED, data, name)
    assert found.defects[-1] == f"not opened: {why}"


def test_of_an_archive_that_breaks_in_the_middle_the_good_files_and_the_whole_are_documents() -> None:
    archive = zipped(ORDER, ("second.pdf", PDF * 20), method=zipfile.ZIP_STORED)
    damaged = archive.replace(PDF * 20, PDF * 19 + b"x" * len(PDF))
    assert told(mail(attached("orders.zip", damaged))) == [
        ("1.1", "order.pdf", "named"),
        ("1", "orders.zip", "not opened"),
    ]


def test_a_message_in_an_archive_is_read_as_a_mail() -> None:
    archive = zipped(("order.eml", mail(b"\r\n12 widgets", attached(*ORDER))))
    assert told(mail(attached("orders.zip", archive))) == [
        ("1.1.1", None, "text body"),
        ("1.1.2", "order.pdf", "named"),
        ("1.1", "order.eml", "opened"),
        ("1", "orders.zip", "opened"),
    ]


def test_winmail_dat_in_an_attached_message_gives_its_files() -> None:
    inner = mail(b"\r\nsee attached", attached("winmail.dat", tnef(attachment(title=b"order.pdf", data=PDF))))
    raw = mail(b"Content-Type: message/rfc822\r\n\r\n" + inner)
    assert [(p.path, p.filename) for p in taken(raw)] == [("1.1", None), ("1.2.1", "order.pdf")]


def test_the_text_in_winmail_dat_is_taken_only_if_the_mail_does_not_say_it() -> None:
    wrapped = attached(
        "winmail.dat", tnef(attachment(title=b"order.pdf", data=PDF), attribute(1, 0x800C, b"12 widgets"))
    )
    assert [p.reason for p in read_parts(mail(b"\r\n12 widgets", wrapped))][2] == Reason.ALTERNATIVE_TEXT
    assert [p.reason for p in read_parts(mail(b"\r\n", wrapped))][2] == Reason.TEXT_BODY


def test_an_outlook_message_gives_its_text_and_its_files_but_not_the_pictures_of_its_page() -> None:
    page = b"<p>12 widgets and 5 more <img src='cid:logo@x'>"
    files = (
        storage((LONG, UNICODE, utf16("logo.png")), (CONTENT_ID, STRING, b"logo@x"), (DATA, BINARY, PNG)),
        storage((LONG, UNICODE, utf16("order.pdf")), (DATA, BINARY, PDF)),
    )
    data = outlook_message((BODY, UNICODE, utf16("12 widgets")), (HTML, BINARY, page), attached=files)
    assert told(mail(attached("Order.msg", data))) == [
        ("1.1", None, "text body"),
        ("1.2", None, "text body"),
        ("1.3", "logo.png", "inline image"),
        ("1.4", "order.pdf", "named"),
        ("1", "Order.msg", "opened"),
    ]


def test_a_mail_that_is_signed_as_a_whole_is_read() -> None:
    inner = mail(b"\r\n12 widgets", attached(*ORDER)).split(b"\r\n", 1)[1]
    raw = part(
        b'Subject: x\r\nContent-Type: application/pkcs7-mime; smime-type=signed-data; name="smime.p7m"', signed(inner)
    )
    assert [(p.path, p.filename, p.kind) for p in taken(raw)] == [
        ("1.1.1", None, PartKind.BODY),
        ("1.1.2", "order.pdf", PartKind.ATTACHMENT),
    ]
    assert any("signature not verified" in p.defects for p in read_parts(raw))


SIGNED_PART = mail(b"\r\n12 widgets", attached(*ORDER)).partition(b"MIME-Version: 1.0\r\n")[2]
CLEAR_SIGNED = (
    b'MIME-Version: 1.0\r\nContent-Type: multipart/signed; protocol="application/pkcs7-signature";\r\n\tboundary=s1'
    b"\r\n\r\n--s1\r\n" + SIGNED_PART + b"\r\n--s1\r\n"
    b"Content-Type: application/pkcs7-signature; name=smime.p7s\r\nContent-Disposition: attachment\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + binascii.b2a_base64(signed(None)) + b"--s1--\r\n"
)
WITHOUT_HEADER = CLEAR_SIGNED.partition(b"\r\n\r\n")[2]
SIGNED_TYPE = (0x370E, UNICODE, utf16("multipart/signed"))


def of_outlook(data: bytes, *values: tuple[int, int, bytes]) -> bytes:
    return outlook_message(attached=(storage(SIGNED_TYPE, (DATA, BINARY, data), *values),))


def of_exchange(data: bytes, *values: tuple[int, int, bytes]) -> bytes:
    return tnef(attachment(SIGNED_TYPE, *values, data=data))


NAME = (LONG, UNICODE, utf16("smime.p7m"))


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("order.msg", "application/vnd.ms-outlook", of_outlook(CLEAR_SIGNED, NAME)),
        ("order.msg", "application/vnd.ms-outlook", of_outlook(CLEAR_SIGNED)),
        ("order.msg", "application/vnd.ms-outlook", of_outlook(WITHOUT_HEADER, NAME)),
        ("winmail.dat", "application/ms-tnef", of_exchange(CLEAR_SIGNED, NAME)),
        ("winmail.dat", "application/ms-tnef", of_exchange(CLEAR_SIGNED)),
        ("smime.p7m", "application/octet-stream", CLEAR_SIGNED),
        ("smime.p7m", "application/pkcs7-mime", b"\xef\xbb\xbf\r\n" + CLEAR_SIGNED),
        ("smime.p7m", "application/x-pkcs7-mime", CLEAR_SIGNED.replace(b"\r\n", b"\n")),
        ("smime.p7m", "multipart/signed", CLEAR_SIGNED),
        ("smime.p7s", "application/octet-stream", CLEAR_SIGNED),
        ("smime.p7s", "application/pkcs7-signature", CLEAR_SIGNED),
        ("signed.eml", "application/octet-stream", CLEAR_SIGNED),
        ("orders.zip", "application/zip", zipped(("smime.p7m", CLEAR_SIGNED))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_clear_signed_mail_in_a_file_is_read(name: str, kind: str, data: bytes) -> None:
    parts = list(read_parts(mail(attached(name, data, kind))))
    assert ("order.pdf", PDF) in [(part.filename, part.data) for part in parts if part.is_document]
    assert [part.reason for part in parts if part.filename == "smime.p7s" and part.path != "1"] == [Reason.SIGNATURE]
    assert not any(part.reason is Reason.NOT_OPENED for part in parts)


def test_text_that_is_no_mail_stays_what_its_name_says() -> None:
    for text in (b"Note: call us\r\n\r\nThanks", b"-----BEGIN PKCS7-----\r\nAAAA", b"a, b\r\n"):
        (part,) = taken(mail(attached("smime.p7m", text, "application/pkcs7-mime")))
        assert (part.data, part.defects[-1]) == (text, "not opened: not CMS")


def tarred(*names: str) -> bytes:
    return b"".join(tar_entry(name.encode(), PDF) for name in names) + bytes(1024)


@pytest.mark.parametrize(
    ("name", "data", "path"),
    [
        ("orders.tar", tarred("a/order.pdf"), "1.1"),
        ("orders.tar.gz", gzip.compress(tarred("a/order.pdf")), "1.1.1"),
        ("orders.tgz", gzip.compress(tarred("a/order.pdf")), "1.1.1"),
        ("orders.tar.bz2", bz2.compress(tarred("a/order.pdf")), "1.1.1"),
        ("orders.tar.xz", lzma.compress(tarred("a/order.pdf")), "1.1.1"),
        ("order.pdf.bz2", bz2.compress(PDF), "1.1"),
        ("order.pdf.xz", lzma.compress(PDF), "1.1"),
        ("orders.7z", seven_zipped(("a/order.pdf", PDF)), "1.1"),
        ("order.pdf", seven_zipped(("a/order.pdf", PDF)), "1.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_orders_in_archives_of_any_kind_are_documents(name: str, data: bytes, path: str) -> None:
    assert [(part.path, part.filename, part.data) for part in taken(mail(attached(name, data)))] == [
        (path, "order.pdf", PDF)
    ]


def test_links_in_an_archive_are_told_and_are_no_documents() -> None:
    archive = tar_entry(b"../../etc/passwd", kind=b"2") + tar_entry(b"order.pdf", PDF)
    link, order, whole = [part for part in read_parts(mail(attached("o.tar", archive))) if part.path != "0"]
    assert (link.filename, link.is_document, link.reason) == ("passwd", False, Reason.EMPTY)
    assert link.defects == ("link or device, not followed",)
    assert (order.data, whole.reason) == (PDF, Reason.OPENED)


def test_containers_of_every_kind_in_each_other_are_opened() -> None:
    data = PDF
    data = seven_zipped(("order.pdf", data))
    data = tar_entry(b"a.7z", data)
    data = zipped(("a.tar", lzma.compress(bz2.compress(gzip.compress(data)))))
    data = tnef(attachment((LONG, UNICODE, utf16("a.zip")), data=data))
    (part,) = taken(mail(attached("winmail.dat", data)))
    assert (part.filename, part.data, part.path) == ("order.pdf", PDF, "1.1.1.1.1.1.1.1")


def test_a_program_in_an_archive_that_pretends_to_be_an_order_is_marked() -> None:
    (found,) = taken(mail(attached("orders.zip", zipped(("order.pdf", b"MZ\x90" + b"\0" * 100)))))
    assert found.defects == ("content is not what its name says",)
    assert found.content_type == "application/vnd.microsoft.portable-executable"


def test_containers_in_each_other_end_at_a_depth() -> None:
    data = zipped(ORDER)
    for _ in range(walk.CONTAINER_DEPTH):
        data = zipped(("orders.zip", data))
    (found,) = taken(mail(attached("orders.zip", data)))
    assert (found.reason, found.defects[-1]) == (Reason.NOT_OPENED, "not opened: nested too deep")
    assert found.path.count(".") == walk.CONTAINER_DEPTH


def test_what_all_containers_of_a_mail_unpack_to_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "UNPACKED_LIMIT", 3 * len(PDF))
    raw = mail(*(attached(f"{number}.zip", zipped(ORDER)) for number in range(5)))
    assert [p.reason for p in taken(raw)] == [Reason.NAMED] * 3 + [Reason.NOT_OPENED] * 2


def test_what_messages_in_containers_hold_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_PARTS", 10)
    raw = mail(attached("orders.zip", zipped(("order.eml", mail(*[attached(*ORDER)] * 20)))))
    *found, message = taken(raw)
    assert 5 < len(found) < 10 and {p.filename for p in found} == {"order.pdf"}
    assert (message.filename, message.defects) == ("order.eml", ("not opened: too many members",))


def test_messages_in_the_text_are_counted_before_they_are_read() -> None:
    """Each of 40 has 10,000 parts: what is over the bound must not be walked through."""
    message = mail(*[b""] * 10_000)
    body = b"".join(b"begin 644 %d.eml\n%s`\nend\n" % (number, uuencoded(message)) for number in range(40))
    with at_most(1000):
        kept = [p for p in read_parts(b"Subject: x\n\n" + body) if p.reason == Reason.NOT_OPENED]
    assert len(kept) == 40


def uuencoded(data: bytes) -> bytes:
    return b"".join(binascii.b2a_uu(data[start : start + 45]) for start in range(0, len(data), 45))


def test_text_that_is_too_long_keeps_the_container_and_gives_its_files() -> None:
    rtf = struct.pack("<II", 12 + (5 << 20), 5 << 20) + b"MELA" + bytes(4) + b"{\\rtf1 " + b"x" * (5 << 20)
    stream = tnef(attachment(title=b"order.pdf", data=PDF), attribute(1, 0x9003, properties((0x1009, BINARY, rtf))))
    order, whole = taken(mail(attached("winmail.dat", stream)))
    assert (order.filename, whole.defects) == ("order.pdf", ("not opened: text too large",))


def test_paths_stay_short_enough_for_an_index() -> None:
    raw = mail(attached(*ORDER))
    for _ in range(4):
        for _ in range(120):
            raw = b"Content-Type: message/rfc822\r\n\r\n" + raw
        raw = mail(attached("deep.zip", zipped(("deep.eml", raw))))
    assert max(len(p.path) for p in read_parts(raw)) < 2000
