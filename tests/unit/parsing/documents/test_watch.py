"""The watch over reading: budgets of time, parts that are kept whole, and the path that is noted while each is read.

The clock of these tests counts how often it is asked, so that no verdict hangs on a machine's speed.
"""

import base64
import io
import zipfile
from itertools import groupby

import pytest

from orderflow_ingest.parsing.documents import DocumentLimit, Part, PartKind, ReadMonitor, Reason, read_parts
from tests.support.mails import PDF, multipart, part

PAGE = b"Content-Type: text/html\r\n\r\n<p>12 widgets to <b>Leeds</b></p>"
TEXT = b"Content-Type: text/plain\r\n\r\n13 widgets to York"


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), PDF + name.encode(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def attached(name: str, content: bytes) -> bytes:
    head = f'Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename="{name}"'
    return part(head.encode(), content)


IMAGE = part(b"Content-Type: image/png\r\nContent-ID: <a>", b"\x89PNG\r\n\x1a\n" + b"p" * 2000)
INNER = zipped("x.pdf", "y.pdf")
MAIL = multipart(
    IMAGE,
    TEXT,
    PAGE,
    attached("orders.zip", zipped("1.pdf", "2.pdf")),
    part(b'Content-Type: message/rfc822; name="mail.eml"', b"Subject: inner\r\n\r\n" + TEXT),
    b"Content-Type: text/plain\r\n\r\nsee below\r\nbegin 644 a.csv\r\n#86)C\r\n`\r\nend\r\n",
    attached("last.pdf", PDF),
)


class Steps:
    """A clock that goes on by one whenever it is asked."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def read(raw: bytes, **options) -> dict[str, Part]:
    found = list(read_parts(raw, ReadMonitor(**options)))
    assert len({one.path for one in found}) == len(found)
    return {one.path: one for one in found}


def noted(raw: bytes) -> list[str]:
    """List the paths that are noted while a mail is read, in order."""
    paths: list[str | None] = []
    for _ in read_parts(raw, ReadMonitor(on_change=paths.append)):
        assert paths[-1] is None, "the caller has the turn"
    assert paths[-1] is None
    return [path for path, _ in groupby(one for one in paths if one is not None)]


def taken(parts: dict[str, Part]) -> dict[str, bytes]:
    return {path: one.data for path, one in parts.items() if one.is_document}


def test_a_part_over_its_time_is_kept_whole_and_the_others_are_opened():
    big = zipped(*(f"{n}.pdf" for n in range(200)))
    raw = multipart(attached("big.zip", big), attached("small.zip", zipped("1.pdf")), PAGE)
    found = read(raw, part_time=100, clock=Steps())
    assert (found["1"].data, found["1"].is_document, found["1"].defects) == (big, True, ("not opened: took too long",))
    assert found["1.1"].is_document and "1.200" not in found, "what came before is good"
    assert found["2"].reason is Reason.OPENED and found["2.1"].data == PDF + b"1.pdf"
    assert found["3"].data == b"12 widgets to Leeds\n"


def test_once_the_time_of_the_mail_is_over_all_parts_are_given_out_whole():
    many = [attached(f"{n}.zip", zipped("1.pdf")) for n in range(40)]
    raw = multipart(*many, PAGE, TEXT, b"Content-Type: text/plain\r\n\r\n \r\n")
    found = read(raw, mail_time=100, clock=Steps())
    assert found["1"].reason is Reason.OPENED
    last = found["40"]
    assert (last.data, last.is_document, last.detected_type) == (zipped("1.pdf"), True, None)
    assert found["41"].data == b"<p>12 widgets to <b>Leeds</b></p>" and found["41"].kind is PartKind.BODY
    assert found["42"].data == b"13 widgets to York" and found["42"].charset is None
    assert {found[path].defects for path in ("40", "41", "42")} == {("not opened: took too long",)}
    assert (found["43"].is_document, found["43"].reason) == (False, Reason.EMPTY)


def test_a_structure_that_takes_too_long_is_given_out_whole_with_what_was_found():
    raw = multipart(*[TEXT] * 300)
    found = read(raw, part_time=10, clock=Steps())
    assert found[""].data == raw and found[""].defects == ("not opened: took too long",)
    assert found["1"].data == b"13 widgets to York"


def test_reading_without_bounds_notes_nothing_and_ends_nothing():
    assert read(MAIL) == {one.path: one for one in read_parts(MAIL)}


@pytest.mark.parametrize("path", sorted(set(noted(MAIL))))
def test_a_part_that_an_attempt_failed_at_is_given_out_whole_and_the_others_as_ever(path):
    usual, found = taken(read(MAIL)), read(MAIL, kept=[path])
    if path == "":
        assert taken(found) == {"": MAIL}
        return
    is_container = found[path].reason is Reason.CONTAINER
    gone = {path} if is_container else {other for other in usual if f"{other}.".startswith(f"{path}.")}
    assert {other: data for other, data in taken(found).items() if other != path} == {
        other: data for other, data in usual.items() if other not in gone
    }
    assert is_container or (
        found[path].is_document and found[path].defects[-1] == "not opened: an attempt failed at it"
    )


@pytest.mark.parametrize("path", sorted(set(noted(MAIL)) - {""}))
def test_what_is_kept_whole_is_not_looked_into_any_more(path):
    """Only its header is read, and its transfer encoding taken off; of a page nobody asks what it shows."""
    looked: list[str | None] = []
    for one in read_parts(MAIL, ReadMonitor(kept=[path], on_change=looked.append)):
        assert one.path != path or one.detected_type is None
    assert path in ("0", "5") or not any(one and one.startswith(f"{path}.") for one in looked)


def test_a_part_that_two_attempts_failed_at_is_given_out_as_it_was_sent():
    found = read(MAIL, kept=["7", "7"])
    assert base64.b64decode(found["7"].data) == PDF
    assert found["7"].defects == ("not decoded: an attempt failed at it",)


def test_an_attempt_that_opens_nothing_gives_out_every_part():
    usual, found = read(MAIL), read(MAIL, keeps_all=True)
    for path, one in usual.items():
        if one.is_document and path.count(".") == 0 and one.kind is PartKind.ATTACHMENT:
            assert found[path].data == one.data
    assert found["4"].data == zipped("1.pdf", "2.pdf") and found["4"].is_document and "4.1" not in found
    assert found["3"].data == b"<p>12 widgets to <b>Leeds</b></p>"
    defects = {one.defects[-1] for one in found.values() if one.is_document}
    assert defects == {"not opened: earlier attempts failed"}


def test_a_page_is_in_hand_while_a_picture_asks_what_it_shows():
    assert noted(multipart(IMAGE, PAGE)) == ["", "0", "1", "2", "1", "2"]


def test_a_member_of_a_container_is_in_hand_and_then_the_container():
    paths = noted(multipart(attached("o.zip", zipped("1.pdf", "2.pdf"))))
    assert paths == ["", "0", "1", "1.1", "1", "1.2", "1"]


@pytest.mark.parametrize(
    ("texts", "files", "taken_texts", "taken_files"),
    [(3, 4, 3, 4), (10_000, 1, 10, 1), (0, 10_000, 0, 20), (15, 15, 10, 10), (10, 10, 10, 10)],
)
def test_many_texts_keep_no_file_out_and_what_is_over_is_told(texts, files, taken_texts, taken_files):
    """A limit of 20; the texts come first."""
    one = {"filename": None, "claimed_filename": None, "declared_type": "", "detected_type": None, "content_type": ""}
    one |= {"disposition": "", "data": b"x", "is_document": True, "reason": Reason.NAMED}
    kinds = [PartKind.BODY] * texts + [PartKind.ATTACHMENT] * files
    limit = DocumentLimit(20)
    found = list(limit.apply(Part(path=str(number), kind=kind, **one) for number, kind in enumerate(kinds)))
    documents = [part.kind for part in found if part.is_document]
    assert (documents.count(PartKind.BODY), documents.count(PartKind.ATTACHMENT)) == (taken_texts, taken_files)
    over = texts + files - taken_texts - taken_files
    told = [part for part in found if part.reason is Reason.TOO_MANY_DOCUMENTS]
    assert (limit.over, len(told)) == (over, min(over, 101))
    if over > 100:
        assert told[-1].defects == (f"{over - 100} parts from here on are not listed",)
    assert len({part.path for part in found}) == len(found)


def test_parts_that_are_skipped_are_listed_up_to_the_limit():
    found = list(DocumentLimit(20).apply(read_parts(multipart(*[b"Content-Type: text/plain\r\n\r\n \r\n"] * 300))))
    assert len(found) == 21
    assert (found[-1].reason, found[-1].is_document) == (Reason.TOO_MANY_PARTS, False)
    assert found[-1].defects == ("281 parts from here on are not listed",)  # the multipart is a part, too
