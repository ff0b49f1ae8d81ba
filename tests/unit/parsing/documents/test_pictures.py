"""A large picture is the order where a mail has no other document; every picture is a document or reported."""

import base64
import struct

import pytest

from orderflow_ingest.parsing.documents import Part, pictures, read_parts
from orderflow_ingest.parsing.documents.pictures import is_large, pixel_size
from tests.support.mails import multipart, part

PAGE = b"Content-Type: text/html\r\n\r\n<p>You have received a fax of 1 page from +49 431 555 0100, fax ID 88123, "
PAGE += b'at 10:04 on 3 May.</p><img src="cid:fax@x"><img src="cid:logo@x">'
PDF = part(b'Content-Type: application/pdf; name="o.pdf"', b"%PDF-1.4\n")


def png(width: int, height: int, size: int = 5000) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08\2\0\0\0" + b"\x01" * size


def shown(name: bytes, data: bytes) -> bytes:
    return part(b"Content-Type: image/png\r\nContent-ID: <" + name + b"@x>", data)


FAX, LOGO = shown(b"fax", png(1728, 1100)), shown(b"logo", png(300, 90))


def verdicts(*parts: bytes) -> dict[str, str]:
    return {found.path: str(found.reason) for found in read_parts(multipart(*parts, kind=b"related"))}


def test_a_fax_under_a_cover_text_is_a_document_and_the_logo_beside_it_is_none() -> None:
    assert verdicts(PAGE, FAX, LOGO) == {"0": "container", "1": "text body", "2": "document type", "3": "inline image"}


@pytest.mark.parametrize("parts", [(PAGE, FAX, PDF), (PAGE, PDF, FAX), (FAX, PAGE, PDF)])
def test_beside_another_document_the_same_picture_is_an_ornament(parts: tuple[bytes, ...]) -> None:
    assert sorted(verdicts(*parts).values()) == ["container", "inline image", "named", "text body"]


@pytest.mark.parametrize(
    "other",
    [
        part(b'Content-Type: text/plain; name="ATT00001.txt"', b"Sent by our gateway"),
        part(b'Content-Type: image/png; name="sign.png"', png(40, 40)),
        part(b'Content-Type: text/calendar; name="i.ics"', b"BEGIN:VCALENDAR\r\n"),
    ],
    ids=["note", "small picture", "calendar"],
)
def test_what_is_no_order_does_not_make_an_ornament_of_the_fax(other: bytes) -> None:
    assert "document type" in verdicts(PAGE, FAX, other).values()


def test_a_document_in_an_attached_mail_counts() -> None:
    attached = b"Content-Type: message/rfc822\r\n\r\n" + multipart(PDF).replace(b"bb", b"cc")
    assert "document type" not in verdicts(PAGE, FAX, attached).values()


def test_pictures_that_wait_are_bounded_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "HELD_SIZE", 12_000)
    told = verdicts(PAGE, *[FAX] * 4)
    assert list(told.values()).count("document type") == 4
    assert list(told) == ["0", "1", "4", "5", "2", "3"]
    assert list(verdicts(PAGE, *[FAX] * 4, PDF).values()).count("inline image") == 2


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(640, 480), (640, 480)),
        (b"GIF89a" + struct.pack("<HH", 640, 480), (640, 480)),
        (b"BM" + b"\0" * 12 + struct.pack("<Iii", 40, 640, -480), (640, 480)),
        (b"BM" + b"\0" * 12 + struct.pack("<IHH", 12, 640, 480), (640, 480)),
        (b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xc4\0\2\xff\xc2\0\x11\x08" + struct.pack(">HH", 480, 640), (640, 480)),
        (b"RIFF....WEBPVP8X" + b"\0" * 8 + b"\x7f\x02\0\xdf\x01\0", (640, 480)),
        (b"RIFF....WEBPVP8L\0\0\0\0\x2f" + (639 | 479 << 14).to_bytes(4, "little"), (640, 480)),
        (b"RIFF....WEBPVP8 " + b"\0" * 10 + struct.pack("<HH", 640, 480), (640, 480)),
        (b"\xff\xd8\xff\xe0\0\x04ab", None),
        (b"\xff\xd8" + b"\xff" * 50_000, None),
        (b"\xff\xd8" + b"\xff\xe0\0\0" * 20_000, None),
        (b"II*\0", None),
        (b"", None),
    ],
)
def test_the_size_of_a_picture_is_read_from_its_header(data: bytes, size: tuple[int, int] | None) -> None:
    assert pixel_size(data) == size
    for length in range(min(len(data), 40)):
        pixel_size(data[:length])


@pytest.mark.parametrize(
    ("data", "large"),
    [
        (png(400, 300), True),
        (png(600, 200), True),
        (png(600, 90), False),
        (png(2000, 60), False),
        (png(40, 40, 250_000), True),
        (b"unknown" * 8000, True),
        (b"unknown" * 6000, False),
    ],
    ids=["photo", "screenshot", "banner", "rule", "heavy", "unknown", "unknown and small"],
)
def test_large_is_a_picture_that_may_hold_an_order(data: bytes, large: bool) -> None:
    assert is_large(data) is large


def with_picture(uri: bytes, *others: bytes) -> list[Part]:
    page = b"Content-Type: text/html\r\n\r\n<p>Our order is below.</p><img src='" + uri + b"'>"
    return [found for found in read_parts(multipart(page, *others)) if found.path.startswith("1")]


def uri(data: bytes) -> bytes:
    return b"data:image/png;base64," + base64.encodebytes(data)


def test_a_picture_in_the_page_itself_becomes_a_document_by_the_same_rule() -> None:
    fax = png(1728, 1100)
    text, picture = with_picture(uri(fax))
    assert text.data == b"Our order is below.\n"
    assert (picture.path, picture.is_document, picture.data, picture.content_type) == ("1.1", True, fax, "image/png")
    assert [str(found.reason) for found in with_picture(uri(fax), PDF)] == ["text body", "inline image"]


@pytest.mark.parametrize(
    ("address", "reason", "data"),
    [
        (uri(png(20, 20, 100)), "small image", png(20, 20, 100)),
        (uri(png(20, 20)), "inline image", png(20, 20)),
        (b"DATA:image/png;charset=x;BASE64,QUJD", "small image", b"ABC"),
        (b"data:image/png;base64,QUJD%0D%0AREVG", "small image", b"ABCDEF"),
        (b"data:image/svg+xml,%3Csvg%3E", "small image", b"<svg>"),
        (b"data:image/jpeg;base64,/9j", "small image", b"\xff\xd8"),
        (b"data:;base64," + base64.encodebytes(png(20, 20)), "inline image", png(20, 20)),
        (b"data:image/svg+xml;utf8,<svg><text>5</text></svg>", "small image", b"<svg"),
    ],
)
def test_a_small_picture_in_the_page_is_reported(address: bytes, reason: str, data: bytes) -> None:
    _, picture = with_picture(address)
    assert (picture.is_document, str(picture.reason), picture.data) == (False, reason, data)


def test_a_document_in_the_page_itself_is_taken_and_a_font_is_nothing() -> None:
    pdf, font = base64.encodebytes(b"%PDF-1.4\n"), base64.encodebytes(b"wOFF" + bytes(60))
    _, *found = with_picture(b"data:font/woff;base64," + font + b"'><embed src='data:application/pdf;base64," + pdf)
    assert [(document.content_type, str(document.reason)) for document in found] == [
        ("application/pdf", "document type")
    ]


def test_a_document_of_no_bytes_makes_no_ornament_of_the_fax() -> None:
    assert verdicts(PAGE, FAX, part(b'Content-Type: application/pdf; name="o.pdf"', b""))["2"] == "document type"


def test_pictures_in_pages_are_bounded_and_the_rest_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orderflow_ingest.parsing.documents.walk.MAX_PICTURES", 2)
    _, *found = with_picture(b"data:image/png;base64,QUJD'><img src='" * 3)
    assert [(picture.path, picture.size) for picture in found] == [("1.1", 3), ("1.2", 3), ("1.3", 0)]
    assert found[-1].defects[-1] == "more pictures in the page"


@pytest.mark.parametrize(
    "reference", [b"url(cid:bg@x)", b"url( 'cid:bg@x' )", b"url(bg.png)", b'url("bg.png")', b"URL(bg%2Epng)"]
)
def test_a_picture_that_a_style_shows_is_shown(reference: bytes) -> None:
    page = b"Content-Type: text/html\r\n\r\n<td style='background:" + reference.replace(b"'", b"") + b"'>500 bolts"
    image = part(b'Content-Type: image/png; name="bg.png"\r\nContent-ID: <bg@x>', png(20, 20))
    assert verdicts(page, image)["2"] == "inline image"
