"""Parts behind a boundary that nobody declared, before the first part or after the last are never silently gone."""

import base64
from collections.abc import Callable

import pytest

from orderflow_ingest.parsing.documents import Part, PartKind, Reason, read_parts

PDF = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n"
MIXED = b"From: a@b.example\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=bb\n\n"
TEXT = b"--bb\nContent-Type: text/plain\n\nsee below\n"
FILE = b"Content-Type: application/pdf\nContent-Disposition: attachment; filename=o.pdf\n"
ENCODED = FILE + b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(PDF)
INNER = (
    b"--bb\nContent-Type: multipart/alternative; boundary=ii\n\n--ii\nContent-Type: text/plain\n\nsee below\n--ii--\n"
)


def documents(raw: bytes) -> list[Part]:
    return [part for part in read_parts(raw) if part.is_document and part.kind is PartKind.ATTACHMENT]


UNDECLARED = {
    "behind an inner multipart": MIXED + INNER + b"--cc\n" + ENCODED + b"--cc--\n",
    "behind an inner multipart, then the last line": MIXED + INNER + b"--cc\n" + ENCODED + b"--cc--\n--bb--\n",
    "behind an inner multipart and an empty line": MIXED + INNER + b"\n\n--cc\n" + ENCODED,
    "behind a text": MIXED + TEXT + b"--cc\n" + ENCODED + b"--cc--\n--bb--\n",
    "behind a text in quoted-printable": MIXED
    + TEXT.replace(b"\n\n", b"\nContent-Transfer-Encoding: quoted-printable\n\n")
    + b"--cc\n"
    + ENCODED
    + b"--bb--\n",
    "behind a page": MIXED + b"--bb\nContent-Type: text/html; charset=utf-8\n\n<p>hi\n\n--cc\n" + ENCODED + b"--bb--\n",
    "behind a file in base64": MIXED
    + b"--bb\n"
    + ENCODED.replace(b"o.pdf", b"first.pdf").replace(base64.encodebytes(PDF), base64.encodebytes(PDF + b"%1\n"))
    + b"--cc\n"
    + ENCODED
    + b"--bb--\n",
    "after the last line": MIXED + TEXT + b"--bb--\n--cc\n" + ENCODED + b"--cc--\n",
    "before the first": MIXED + b"This is a multi-part message.\n--cc\n" + ENCODED + b"--cc--\n" + TEXT + b"--bb--\n",
    "of another boundary each": MIXED + TEXT + b"--cc\n\n--dd\nContent-Type: text/plain\n\nx\n--ee\n" + ENCODED,
    "of the boundary in CRLF": (MIXED + INNER + b"--cc\n" + ENCODED + b"--cc--\n").replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("raw", UNDECLARED.values(), ids=UNDECLARED)
def test_a_document_behind_an_undeclared_boundary_is_taken(raw: bytes) -> None:
    found = documents(raw)[-1]
    assert (found.filename, found.data) == ("o.pdf", PDF)
    assert "outside of the parts" in {defect for part in read_parts(raw) for defect in part.defects}
    bodies = [part.data for part in read_parts(raw) if part.kind is PartKind.BODY]
    assert not any(b"JVBER" in body or b"Content-" in body for body in bodies)


def test_the_parts_that_are_declared_stay_what_they_are() -> None:
    later = b"--bb\nContent-Type: text/csv; name=later.csv\n\na;b\n--bb--\n"
    for raw in (
        MIXED + TEXT + b"--cc\n" + ENCODED + b"--cc--\n" + later,
        MIXED + b"--cc\n" + ENCODED + b"--cc--\n" + TEXT + later,
        MIXED + INNER + b"--cc\n" + ENCODED + b"--dd\n" + ENCODED.replace(b"o.pdf", b"second.pdf") + later,
    ):
        names = [part.filename for part in documents(raw)]
        assert names[0] == "o.pdf" and names[-1] == "later.csv" and len(names) in (2, 3)
        (body,) = (part for part in read_parts(raw) if part.kind is PartKind.BODY)
        assert body.data.strip() == b"see below"


HIDDEN = {
    "fields and base64": ENCODED,
    "base64 alone": base64.encodebytes(PDF),
    "a PDF as it is": PDF,
    "text, then fields": b"forwarded\n\n" + ENCODED,
}
PLACES: dict[str, Callable[[bytes], bytes]] = {
    "before the first part": lambda hidden: MIXED + hidden + b"\n" + TEXT + b"--bb--\n",
    "after the last part": lambda hidden: MIXED + TEXT + b"--bb--\n" + hidden,
    "after an inner multipart": lambda hidden: MIXED + INNER + hidden + b"\n--bb--\n",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_a_document_outside_of_the_parts_is_taken_with_a_defect(hidden: bytes, place) -> None:
    (found,) = documents(place(hidden))
    assert found.data.strip() == PDF.strip() and "outside of the parts" in found.defects


def test_a_uuencoded_file_outside_of_the_parts_is_taken() -> None:
    (found,) = documents(MIXED + TEXT + b"--bb--\nbegin 644 o.txt\nM" + b"86)C" * 15 + b"\n`\nend\n")
    assert (found.reason, found.data) == (Reason.UUENCODED, b"abc" * 15)


def test_an_order_in_the_text_outside_of_the_parts_is_skipped_and_told() -> None:
    for text in (b"bolts to Kiel, please\n" * 50, b"100 bolts to Kiel, please\n"):
        *_, part = read_parts(MIXED + TEXT + b"--bb--\n" + text)
        assert (part.is_document, part.reason, part.defects) == (
            False,
            "outside the parts",
            ("text outside of the parts",),
        )


@pytest.mark.parametrize(
    "usual",
    [
        b"This is a multi-part message in MIME format.\n",
        b"This message is in MIME format. Since your mail reader does not understand\nthis format, some or all of this "
        b"message may not be legible.\n" * 3,
        b"This is an OpenPGP/MIME signed message (RFC 4880 and 3156)\n",
        b"\n\n \n",
        b"______________\nlist mailing list\nlist@lists.example\nhttps://lists.example/listinfo/list\n",
        b"-- \nContent of this mail is confidential.\n",
    ],
)
def test_what_programs_write_outside_of_the_parts_is_nothing(usual: bytes) -> None:
    for place in PLACES.values():
        raw = place(usual)
        assert len(list(read_parts(raw))) == len(list(read_parts(place(b""))))


def test_a_quoted_mail_in_a_file_or_a_report_is_not_taken_apart() -> None:
    quoted = b"--cc\n" + ENCODED + b"--cc--\n"
    raw = MIXED + b"--bb\nContent-Type: text/plain; name=log.txt\n\nlog\n" + quoted + b"--bb--\n"
    assert [part.filename for part in documents(raw)] == ["log.txt"]
    raw = MIXED.replace(b"mixed", b"report") + TEXT + quoted + b"--bb--\n"
    assert documents(raw) == []
