"""Every document in a mail is taken, everything else is reported with a reason, and nothing raises."""

import base64

import pytest

from orderflow_ingest.parsing.documents import Part, PartKind, read_parts, walk
from orderflow_ingest.parsing.documents import html_to_text as text
from orderflow_ingest.parsing.mime.filenames import safe_filename, storable
from orderflow_ingest.parsing.mime.sniff import detect_type
from orderflow_ingest.storage.resilience.timeouts import TaskDeadlineReached
from tests.support.containers_made import signed, zipped
from tests.support.cost import at_most
from tests.support.mails import multipart as mail
from tests.support.mails import part
from tests.support.pictures import PNG

PDF = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n"
HTML = b'Content-Type: text/html\r\n\r\n<p><img src="cid:logo@x"></p>'


def only(raw: bytes) -> Part:
    (found,) = (found for found in read_parts(raw) if found.reason != "container")
    return found


@pytest.mark.parametrize(
    ("header", "content", "reason"),
    [
        (b"Content-Type: application/pdf\r\nContent-Disposition: attachment", PDF, "attachment"),
        (b"Content-Type: application/pdf\r\nContent-Disposition: x-odd", PDF, "attachment"),
        (b'Content-Type: text/plain; name="order.csv"', b"a;b\n", "named"),
        (b'Content-Type: application/pdf\r\nContent-Disposition: inline; filename="o.pdf"', PDF, "named"),
        (b"Content-Type: application/pdf\r\nContent-Disposition: inline", PDF, "document type"),
        (b"Content-Type: application/pdf\r\nContent-ID: <a@b>", PDF, "document type"),
        (b"Content-Type: text/csv", b"a;b\n", "document type"),
        (b"Content-Type: text/xml", b"<order/>", "document type"),
        (b"Content-Type: application/edifact", b"UNB+UNOC:3+", "document type"),
        (b"Content-Type: text/plain", PDF, "document type"),
        (b"Content-Type: image/png\r\nContent-Disposition: inline\r\nContent-ID: <scan@x>", PNG, "document type"),
        (b'Content-Type: application/ms-tnef; name="winmail.dat"', b"order", "not opened"),
        (b"Content-Type: application/zip", b"PK\x03\x04", "not opened"),
        (b"Content-Type: message/partial; id=x; number=1", b"Subject: x\n\nhalf", "partial message"),
    ],
)
def test_a_document_is_taken(header: bytes, content: bytes, reason: str) -> None:
    found = only(mail(part(header, content)))
    assert (found.is_document, found.reason, found.data, found.size) == (True, reason, content, len(content))


ICS, CARD = b"BEGIN:VCALENDAR\r\n", b"BEGIN:VCARD\r\n"
PGP = b"-----BEGIN PGP SIGNATURE-----\r\n"


@pytest.mark.parametrize(
    ("header", "content", "reason"),
    [
        (b'Content-Type: text/calendar; name="invite.ics"', ICS, "calendar"),
        (b'Content-Type: application/octet-stream; name="invite.ics"', ICS, "calendar"),
        (b'Content-Type: text/vcard; name="card.vcf"', CARD, "business card"),
        (b"Content-Type: application/pgp-signature; name=signature.asc", PGP, "signature"),
        (b"Content-Type: application/pgp-encrypted", b"Version: 1\r\n", "signature"),
        (b"Content-Type: application/pkcs7-signature; name=smime.p7s", signed(None), "signature"),
        (b"Content-Type: application/octet-stream; name=smime.p7s", b"cut off", "signature"),
        (b"Content-Type: message/delivery-status", b"Action: failed\r\n", "delivery report"),
    ],
    ids=["calendar", "by name", "card", "pgp", "pgp version", "cms", "broken cms", "report"],
)
def test_what_is_no_document_is_skipped_with_its_reason(header: bytes, content: bytes, reason: str) -> None:
    for addition in (b"", b"\r\nContent-Disposition: attachment"):
        found = only(mail(part(header + addition, content)))
        assert (found.is_document, found.reason, found.data) == (False, reason, content)


@pytest.mark.parametrize(
    "kind",
    [
        "text/calendar", "text/directory", "application/pkcs7-signature", "application/pgp-signature",
        "application/pgp-keys", "application/pgp-encrypted", "message/delivery-status", "text/x-vcard",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "content"),
    [("order.pdf", PDF), ("order.csv", b"a;b\n"), ("order", PDF)],
    ids=["pdf", "csv", "pdf without ending"],
)
def test_an_order_is_taken_under_whatever_type_it_goes(kind: str, name: str, content: bytes) -> None:
    header = f'Content-Type: {kind}; name="{name}"\r\nContent-Disposition: attachment'
    found = only(mail(part(header.encode(), content)))
    assert found.is_document and found.data == content


def test_what_was_encrypted_or_signed_with_pgp_is_no_signature() -> None:
    message = b"-----BEGIN PGP MESSAGE-----\r\n\r\nhQEMA\r\n"
    for kind in (b"application/pgp-encrypted", b"application/pgp-signature", b"application/pgp-keys"):
        assert only(mail(part(b"Content-Type: " + kind + b'; name="order.pdf.asc"', message))).is_document


def test_signed_content_is_found_under_the_type_of_a_signature_too() -> None:
    inner = b'Content-Type: application/pdf; name="order.pdf"\r\n\r\n' + PDF
    raw = mail(part(b'Content-Type: application/pkcs7-signature; name="smime.p7s"', signed(inner)))
    assert [found.filename for found in read_parts(raw) if found.is_document] == ["order.pdf"]


@pytest.mark.parametrize(
    "text", [b"-- 10 x Widget\r\n-- 5 x Bolt", b"--- ORDER: 10 x Widget ---", b"--10 x Widget", b"OTTO \xfc 10 x A"]
)
def test_a_body_may_begin_with_anything(text: bytes) -> None:
    assert only(b"Subject: x\r\n\r\n" + text).reason == "text body"


@pytest.mark.parametrize(
    ("header", "content", "text"),
    [
        (b"Content-Type: text/plain", b"12 widgets\r\nThanks\r", b"12 widgets\nThanks\n"),
        (b"X-No-Type: 1", b"12 widgets", b"12 widgets"),
        (b"Content-Type: text/plain; charset=iso-8859-1", b"12 K\xf6rbe", "12 Körbe".encode()),
        (b"Content-Type: text/plain; charset=utf-16", "12 Körbe".encode("utf-16"), "12 Körbe".encode()),
        (b"Content-Type: text/plain; charset=nonsense", "12 Körbe".encode(), "12 Körbe".encode()),
        (b"Content-Type: text/html; charset=latin1", b"<p>12 K\xf6rbe<p>Thanks", "12 Körbe\n\nThanks\n".encode()),
        (b"Content-Type: text/html", b"<meta charset=windows-1251><p>\xe7\xe0\xea\xe0\xe7", "заказ\n".encode()),
        (b"Content-Type: text/html", b"<style>p{}</style><script>a()</script><b>5</b> &euro;", "5 €\n".encode()),
        (b"Content-Type: text/html", b"<div style='display:none'>hid</div>seen", b"seen\n"),
        (
            b"Content-Type: text/html",
            b"<table><tr><th>No</th><th>Qty</th></tr>"
            b"<tr><td><p class=MsoNormal>7<o:p></o:p></p></td>\r\n<td><p>12</p></td></tr></table>",
            b"No\tQty\n7\t12\n",
        ),
        (b"Content-Type: text/html", b"<input name=q value=12> <textarea>nuts</textarea>", b"[ 12 ] [ nuts ]\n"),
        (b"Content-Type: text/html", b"<ul><li>5 nuts<li>6 bolts</ul>", "• 5 nuts\n• 6 bolts\n".encode()),
    ],
    ids=[
        "plain", "no type", "latin1", "utf-16", "unknown charset", "html", "meta charset", "code", "hidden", "table",
        "form", "list",
    ],
)  # fmt: skip
def test_a_text_body_is_a_document_of_its_own_kind_in_utf_8(header: bytes, content: bytes, text: bytes) -> None:
    found = only(mail(part(header, content)))
    assert (found.is_document, found.reason, found.kind) == (True, "text body", PartKind.BODY)
    assert b"\n".join(line.strip() for line in found.data.split(b"\n")) == text
    assert found.content_type == "text/plain" and found.size == len(found.data)


def test_a_page_of_which_no_text_can_be_had_is_kept_as_it_is() -> None:
    found = only(mail(part(b"Content-Type: text/html", b"<!doctype " * 5 + b"order")))
    assert (found.data, found.content_type) == (b"<!doctype " * 5 + b"order", "text/html")
    assert found.defects == ("no text out of the html",)


def test_what_pages_of_one_mail_are_made_text_of_is_bounded() -> None:
    """A page may cost the square of its attributes in a parser that nothing interrupts."""
    page = b"<p>12 widgets" + b" " * 500_000
    told = [
        found.content_type
        for found in read_parts(mail(*[part(b"Content-Type: text/html", page)] * 6))
        if found.is_document
    ]
    assert told == ["text/plain"] * 4 + ["text/html"] * 2
    attributes = b"".join(b" a%d=x" % number for number in range(80_000))
    with at_most(400):
        assert (
            only(mail(part(b"Content-Type: text/html", b"<p" + attributes + b">12 widgets"))).content_type
            == "text/html"
        )


def test_the_time_limit_of_a_task_is_taken_for_nobodys_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def ring(*_: object) -> None:
        raise TaskDeadlineReached

    for place, name in ((text, "decode_bytes"), (walk, "detect_type"), (walk, "decode_body"), (walk, "walk")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, ring)
            with pytest.raises(TaskDeadlineReached):
                list(read_parts(mail(part(b"Content-Type: text/html", b"<p>\xe9"))))


def test_a_page_too_large_for_making_text_of_it_is_kept_as_it_is_but_for_the_pictures_in_it() -> None:
    row, picture = b"<p>12 widgets", b"<img src='data:image/png;base64," + b"A" * (3 << 20) + b"'>"
    found = only(mail(part(b"Content-Type: text/html", row * (1 << 16))))
    assert (found.size, found.content_type, found.is_document) == (len(row) * (1 << 16), "text/html", True)
    found, shown = (
        part for part in read_parts(mail(part(b"Content-Type: text/html", picture + row))) if part.is_document
    )
    assert (found.data, found.content_type, shown.size) == (b"12 widgets\n", "text/plain", 3 * (3 << 20) // 4)


@pytest.mark.parametrize(
    ("plain", "html", "reasons"),
    [
        (b"12 widgets", b"<p>12 widgets</p>", ["text body", "alternative text"]),
        (b"12 widgets", b"<style>" + b"p{x:y}" * 500 + b"</style><p>12 widgets</p>", ["text body", "alternative text"]),
        (b" \r\n", b"<p>12 widgets</p>", ["empty", "text body"]),
        (b"Your program shows no HTML.", b"<p>12 widgets", ["text body", "text body"]),
        (b"12 widgets to Leeds, by Friday please", b"<p>12 widgets to Leeds", ["text body", "alternative text"]),
        (b".", b"<p>500 bolts", ["text body", "text body"]),
        ("\xa0".encode(), b"<p>500 bolts", ["empty", "text body"]),
        (b"Hello", b"<p>Send bolts", ["text body", "text body"]),
        (b"Part one: 10 A", b"<p>Part one: 20 A", ["text body", "text body"]),
        (b"https://click.example/" + b"q" * 400, b"<p>500 bolts", ["text body", "text body"]),
    ],
    ids=[
        "same", "same with styles", "plain empty", "html says more", "html says less", "dot", "blank beyond ascii",
        "greeting", "another number", "link",
    ],
)  # fmt: skip
def test_of_alternatives_those_are_taken_that_say_something_of_their_own(
    plain: bytes, html: bytes, reasons: list[str]
) -> None:
    raw = mail(part(b"Content-Type: text/plain", plain), part(b"Content-Type: text/html", html), kind=b"alternative")
    assert [found.reason for found in read_parts(raw)] == ["container", *reasons]


def test_two_text_bodies_that_are_no_alternatives_are_both_taken() -> None:
    raw = mail(part(b"Content-Type: text/plain", b"12 widgets"), part(b"Content-Type: text/html", b"<p>13 nuts"))
    assert [found.reason for found in read_parts(raw)] == ["container", "text body", "text body"]


def test_the_pieces_of_one_alternative_are_all_taken() -> None:
    """Apple Mail puts pages and files in turn into the last alternative."""
    pieces = mail(HTML, part(b'Content-Type: application/pdf; name="o.pdf"', PDF), part(b"Content-Type: text/html"))
    inner = pieces.replace(b"=bb", b"=cc").replace(b"--bb", b"--cc").split(b"\r\n", 2)[2]
    raw = mail(part(b"Content-Type: text/plain", b""), inner, kind=b"alternative")
    assert [f.reason for f in read_parts(raw) if f.reason != "container"] == ["empty", "empty", "named", "text body"]


def test_an_empty_part_without_name_is_skipped() -> None:
    assert only(mail(part(b"Content-Type: application/pdf", b""))).reason == "empty"


@pytest.mark.parametrize(
    ("header", "verdict"),
    [
        (b"Content-Type: image/png\r\nContent-ID: <logo@x>", (False, "inline image")),
        (b'Content-Type: image/png; name="l.png"\r\nContent-ID: <LOGO@x>', (False, "inline image")),
        (b"Content-Type: image/png\r\nContent-ID: <logo@x>\r\nContent-Disposition: attachment", (True, "attachment")),
        (b"Content-Type: image/png\r\nContent-ID: <scan@x>\r\nContent-Disposition: inline", (True, "document type")),
        (b"Content-Type: application/octet-stream\r\nContent-ID: <logo@x>", (False, "inline image")),
    ],
)
def test_an_image_is_skipped_only_if_the_html_shows_it(header: bytes, verdict: tuple[bool, str]) -> None:
    *_, image = read_parts(mail(HTML, part(header, PNG), kind=b"related"))
    assert (image.is_document, image.reason) == verdict


def test_a_pdf_that_the_html_refers_to_is_still_an_order() -> None:
    *_, found = read_parts(mail(HTML, part(b"Content-Type: application/pdf\r\nContent-ID: <logo@x>", PDF)))
    assert found.is_document


@pytest.mark.parametrize(
    ("text", "size", "taken"),
    [(b"Sent from my phone", 60_000, True), (b"Sent from my phone", 20_000, False), (b"word " * 30, 60_000, False)],
    ids=["photo", "logo", "banner"],
)
def test_a_large_image_that_is_all_a_page_shows_is_an_order_beside_others(text: bytes, size: int, taken: bool) -> None:
    page = part(b"Content-Type: text/html", b"<style>p{x:y}</style><img src=cid:logo@x><p>" + text)
    image = part(b"Content-Type: image/png\r\nContent-ID: <logo@x>", PNG[:20] + b"x" * size)
    *_, found = read_parts(mail(page, part(b"Content-Type: application/pdf", PDF), image, kind=b"related"))
    assert found.is_document is taken


def test_an_image_before_its_html_and_one_of_a_few_bytes_are_skipped() -> None:
    raw = mail(part(b"Content-Type: image/png\r\nContent-ID: <logo@x>", PNG), HTML, kind=b"related")
    assert [found.reason for found in read_parts(raw)] == ["container", "inline image", "empty"]
    raw = mail(HTML, part(b"Content-Type: image/png\r\nContent-ID: <pixel@x>", PNG[:100]), kind=b"related")
    assert [found.reason for found in read_parts(raw)] == ["container", "empty", "small image"]


def test_the_parts_of_an_attached_message_lie_below_its_path() -> None:
    inner = mail(b"\r\ntext", part(b'Content-Type: application/pdf; name="o.pdf"', PDF))
    raw = mail(b"\r\nsee below", b"Content-Type: message/rfc822\r\n\r\n" + inner)
    told = [(found.path, found.is_document) for found in read_parts(raw)]
    assert told == [("0", False), ("1", True), ("2", False), ("2.0", False), ("2.1", True), ("2.2", True)]


def test_a_file_uuencoded_in_the_text_is_taken() -> None:
    raw = b"Subject: x\n\nHello,\nbegin 644 o.txt\n#86)C\n`\nend\nbye\n"
    text, file = read_parts(raw)
    assert (text.reason, file.reason, file.path, file.filename, file.data) == (
        "text body",
        "uuencoded",
        "1.1",
        "o.txt",
        b"abc",
    )


def test_declared_and_detected_type_are_both_told() -> None:
    found = only(mail(part(b'Content-Type: Application/PDF; name="order.pdf"', b"MZ\x90" + b"\0" * 100)))
    assert found.declared_type == "application/pdf"
    assert found.detected_type == "application/vnd.microsoft.portable-executable"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PDF, "application/pdf"),
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "image/jpeg"),
        (b"II*\0\x08\0\0\0" + b"\0" * 60, "image/tiff"),
        (zipped(("a.csv", b"x")), "application/zip"),
        (
            zipped(("[Content_Types].xml", b"x"), ("xl/workbook.xml", b"x")),
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        ),
        (
            zipped(("[Content_Types].xml", b"x"), ("word/document.xml", b"x")),
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600 + "Workbook".encode("utf-16-le"),
            "application/vnd.ms-excel",
        ),
        (b"<?xml version='1.0'?><order/>", "application/xml"),
        (b"UNA:+.? 'UNB+UNOC:3+A+B", "application/edifact"),
        (b"ISA*00*          *00*", "application/edi-x12"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "application/gzip"),
        (b"\x78\x9f\x3e\x22\0\0", "application/vnd.ms-tnef"),
        (b"item;quantity\nscrews;100\n", None),
        (b"MZ stands for Mark Zbikowski", None),
        (b"GIF89a\x01\0\x01\0", "image/gif"),
        (b"\r\n<HTML><body>", "text/html"),
        (b"<ar> is how this text begins", None),
        ("BEGIN:VCARD\nN:Gr\u00f6\u00dfe\n".encode(), None),
        (b"a" * 511 + "\u00df\u00df\u00df".encode(), None),
        (b"\x28\xb5\x2f\xfd\x24\0", "application/zstd"),
        (b"", None),
    ],
)
def test_a_type_is_detected_by_content(data: bytes, kind: str | None) -> None:
    assert detect_type(data) == kind


@pytest.mark.parametrize(
    ("claimed", "safe"),
    [
        ("order.pdf", "order.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\orders\\order.pdf", "order.pdf"),
        ("/", None),
        ("..", None),
        (" . order.pdf. ", "order.pdf"),
        ("a\0b\x1f\x85.pdf", "ab.pdf"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("\u2066a\u200b.pdf\ufeff", "a.pdf"),
        ("a\r\n\tb.pdf", "a b.pdf"),
        ('a<b>:"|?*.pdf', "a_b______.pdf"),
        ("con.pdf", "_con.pdf"),
        ("LPT1", "_LPT1"),
        ("console.pdf", "console.pdf"),
        ("\ud800.pdf", "\ufffd.pdf"),
        ("u\u0308.pdf", "ü.pdf"),
        ("ü" * 300 + ".pdf", "ü" * 98 + ".pdf"),
        ("a." + "b" * 300, "a." + "b" * 198),
        ("", None),
        ("falcon.pdf", "falcon.pdf"),
        ("_nul.txt", "_nul.txt"),
        ("con .txt", "_con .txt"),
        ("\u3000.txt", "txt"),
    ],
)
def test_a_claimed_name_becomes_a_safe_one(claimed: str, safe: str | None) -> None:
    assert safe_filename(claimed) == safe


def test_the_claimed_name_is_kept_beside_the_safe_one_and_storable() -> None:
    found = only(mail(part(b'Content-Type: a/b; name="../M\xfcller?.pdf"')))
    assert (found.filename, found.claimed_filename) == ("Müller_.pdf", "../Müller?.pdf")
    assert storable("a\0b\udc80" + "c" * 2000) == "ab\ufffd" + "c" * 996


def test_filename_wins_over_name_unless_it_is_empty_or_broken() -> None:
    for name, disposition in ((b"b.pdf", b"a.pdf"), (b"a.pdf", b""), (b"a.pdf", b"=?utf-8?Q?=FC=FC?=")):
        header = b'Content-Type: a/b; name="%s"\r\nContent-Disposition: inline; filename="%s"' % (name, disposition)
        assert only(mail(part(header))).filename in ("a.pdf", "üü")


def test_a_charset_declared_in_the_mail_decides_about_raw_names() -> None:
    name = "採購訂單.pdf".encode("big5")
    raw = mail(b"Content-Type: text/plain; charset=big5\r\n\r\nx", part(b'Content-Type: a/b; name="' + name + b'"'))
    assert [found.filename for found in read_parts(raw)] == [None, None, "採購訂單.pdf"]


def test_base64_that_the_sender_did_not_declare_is_decoded_if_the_name_then_is_right() -> None:
    header = b'Content-Type: application/pdf; name="%s"\r\n\r\n'
    found = only(mail(header % b"order.pdf" + base64.encodebytes(PDF)))
    assert (found.data, found.content_type, found.defects) == (PDF, "application/pdf", ("base64 not declared",))
    text = base64.encodebytes(b"no PDF at all")
    assert only(mail(header % b"order.pdf" + text)).data.strip() == text.strip()
    assert only(mail(header % b"order.csv" + base64.encodebytes(PDF))).data.startswith(b"JVBER")


XML, CSV = b'<?xml version="1.0"?><Order nr="4711"/>\n', "sku;Größe\nA1;5\n".encode()


@pytest.mark.parametrize(
    ("header", "content"),
    [
        (b"Content-Type: application/xml; name=o.xml", XML),
        (b"Content-Type: text/csv; name=o.csv", CSV),
        (b"Content-Type: application/xml; name=o.xml", XML.decode().encode("utf-16")),
        (b"Content-Type: text/csv; name=o.csv", CSV.decode().encode("cp1252") + b"A2;7;fifteen;more;text\n"),
        (b"Content-Type: application/octet-stream; name=o.edi", b"UNB+UNOC:3+A+B'\n"),
        (b"Content-Type: application/octet-stream; name=o.txt", "заказ: 100 болтов\n".encode()),
        (b"Content-Type: application/octet-stream", PDF),
        (b"Content-Type: text/plain\r\nContent-Disposition: inline", PDF),
        (b"Content-Type: image/png; name=o.png", PNG),
        (b"Content-Type: text/plain", b"100 bolts M8 to Kiel\n"),
        (b"Content-Type: application/json; name=o.json", b'{"order": 4711}'),
    ],
)
@pytest.mark.parametrize("encoding", [b"", b"Content-Transfer-Encoding: 7bit\r\n"])
def test_whatever_is_in_undeclared_base64_is_decoded(header: bytes, content: bytes, encoding: bytes) -> None:
    for encoded in (base64.encodebytes(content), base64.b64encode(content)):
        found = only(mail(header + b"\r\n" + encoding + b"\r\n" + encoded))
        assert found.is_document and found.data == content and found.defects[-1] == "base64 not declared"


@pytest.mark.parametrize(
    "text", [b"A1B2C3D4\nE5F6A7B8\n" * 4, b"QWERTYUIOPASDFGH", b"Bestellung" * 4, base64.encodebytes(bytes(range(90)))]
)
def test_what_only_looks_like_base64_stays(text: bytes) -> None:
    for header in (b"Content-Type: text/plain", b"Content-Type: text/csv; name=o.csv"):
        assert only(mail(header + b"\r\n\r\n" + text)).data.strip() == text.strip()


def test_a_file_that_is_base64_by_its_nature_stays() -> None:
    text = base64.encodebytes(CSV)
    assert only(mail(b"Content-Type: text/plain; name=key.pem\r\n\r\n" + text)).data.strip() == text.strip()


SAMPLES = (
    mail(b"\r\ntext", part(b'Content-Type: application/pdf; name="o.pdf"', PDF), HTML),
    mail(b"Content-Type: message/rfc822\r\n\r\n" + mail(part(b"Content-Type: text/csv", b"a;b\n"))),
    mail(
        part(b"Content-Type: message/rfc822", mail(HTML, part(b"Content-Type: image/png\r\nContent-ID: <logo@x>", PNG)))
    ),
    b"Subject: =?utf-8?B?QsO8cm8=?=\n\nbegin 644 o.txt\n#86)C\n`\nend\n",
    mail(
        b"Content-Type: a/b\r\nContent-Disposition: inline; filename*0*=utf-8''b%C3; filename*1*=%BC\r\n\r\nx=\r\ny",
        b'Content-Type: text/plain; charset=shift_jis; name="=?x-sjis?Q?=83=65?="\r\n\r\n\x83\x65',
        b'Content-Type: multipart/digest; boundary="b b"\r\n\r\n--b b\r\n\r\nSubject: x\r\n\r\ny\r\n--b b--',
    ),
)


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_prefix_of_a_mail_is_read(sample: bytes) -> None:
    for length in range(0, len(sample), 7):
        assert isinstance(list(read_parts(sample[:length])), list)
