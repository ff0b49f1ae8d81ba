"""A mail that a gateway has written in another way is the same mail; one that says anything else never is."""

import re
from random import Random

import pytest

from orderflow_ingest.domain.identity import read_mail
from orderflow_ingest.domain.mail_comparison import find_difference
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import HoldReason
from orderflow_ingest.entrypoints.admin.history import held_mail_history
from orderflow_ingest.parsing.mime.fields import HEADER_LINES
from orderflow_ingest.storage.database import Filter
from tests.support.fakes import embedded
from tests.support.rewritten import (
    ACME,
    CSV,
    HEAD,
    PDF,
    TEXT,
    UMLAUTS,
    attached,
    difference,
    mixed,
    post,
    renumbered,
    written,
)

BARE = HEAD.encode() + b"\n12 widgets\n"
SAME = {
    "quoted-printable": (written(), written(encoding="quoted-printable")),
    "base64": (written(), written(encoding="base64")),
    "CRLF in base64": (written(), written(TEXT.replace("\n", "\r\n"), encoding="base64")),
    "CRLF of the mail": (written(), written(encoding="quoted-printable").replace(b"\n", b"\r\n")),
    "MIME-Version": (BARE, BARE.replace(b"\n\n", b"\nMIME-Version: 1.0\n\n", 1)),
    "Content-Type": (BARE, BARE.replace(b"\n\n", b"\nContent-Type: text/plain; charset=us-ascii\n\n", 1)),
    "unknown-8bit": (written(label=""), written(label="unknown-8bit", encoding="quoted-printable")),
    "trace fields": (written(), b"Received: x\nX-Spam: no\n" + written(encoding="quoted-printable")),
    "charset": (written(TEXT.replace("€", "E"), "iso-8859-1"), written(TEXT.replace("€", "E"), encoding="base64")),
    "windows charset": (written(charset="cp1252", label="windows-1252"), written(encoding="base64")),
    "empty lines at the end": (written(), written(TEXT + "\n\n", encoding="base64")),
    "parts": (mixed(), mixed(encodings=("quoted-printable", "base64", "quoted-printable"))),
    "another boundary": (mixed(), mixed(boundary="another")),
    "CSV in base64": (mixed(), mixed(encodings=("8bit", "base64", "base64"))),
}


@pytest.mark.parametrize("case", SAME)
def test_a_mail_that_was_written_in_another_way_is_the_same(case):
    first, second = SAME[case]
    assert difference(first, second) == ""


LONG = HEAD + "X-Long: y\n" * HEADER_LINES
DEEP = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(600))
DIFFERENT = {
    "text": (written(), written(TEXT.replace("12", "13"), encoding="base64"), "part 1: its content differs"),
    "a blank": (written(), written(TEXT.replace("12 ", "12  "), encoding="base64"), "part 1: its content differs"),
    "a letter": (written(), written(TEXT.replace("ü", "u"), encoding="base64"), "part 1: its content differs"),
    "bytes under another label": (written(), written(label="iso-8859-1"), "part 1: its content differs"),
    "an unknown charset": (
        written(UMLAUTS), written(UMLAUTS, "iso-8859-1", label="x-own", encoding="base64"),
        "part 1: its content differs"),
    "no charset": (
        written(UMLAUTS, "iso-8859-1", label=""), written(UMLAUTS, encoding="base64"), "part 1: its content differs"),
    "letters that were lost": (
        written(TEXT.replace("€", "\ufffd")), written(TEXT, label="us-ascii"), "part 1: its content differs"),
    "Subject": (written(), written(head=HEAD.replace("Order 1", "Order 2"), encoding="base64"), "Subject differs"),
    "Subject in an encoded word": (
        written(), written(head=HEAD.replace("Order 1", "=?utf-8?q?Order_1?="), encoding="base64"), "Subject differs"),
    "From in an encoded word": (
        written(),
        written(head=HEAD.replace("<buyer@shop.example>", "=?utf-8?q?=3Cbuyer=40shop.example=3E?="), encoding="base64"),
        "From differs"),
    "Cc": (written(), written(more="Cc: x@y.example\n", encoding="base64"), "Cc differs"),
    "To": (written(), written(head=HEAD.replace("orders+", "x+"), encoding="base64"), "To differs"),
    "Date": (written(), written(head=HEAD.replace("10:00", "10:01"), encoding="base64"), "Date differs"),
    "a field twice": (written(), written(more="Subject: Order 1\n", encoding="base64"), "Subject differs"),
    "a line that is no field": (
        written(), written(more="no field\n", encoding="base64"), "A Line That Is No Field differs"),
    "type": (written(), written(encoding="base64").replace(b"text/plain", b"text/html"), "part 1: its type differs"),
    "disposition": (
        written(), written(more="Content-Disposition: attachment\n", encoding="base64"),
        "part 1: its name, disposition or parameters differ"),
    "flowed": (
        written(), written(label="utf-8; format=flowed", encoding="base64"),
        "part 1: its name, disposition or parameters differ"),
    "an attachment's bytes": (mixed(), mixed(PDF[:-1] + b"\xfe"), "part 2: its content differs"),
    "line ends in a PDF": (mixed(), mixed(PDF.replace(b"\r\n", b"\n")), "part 2: its content differs"),
    "a named text's charset": (
        mixed(), mixed(csv=CSV.decode("latin-1").encode()), "part 3: its content differs"),
    "line ends in a named text in base64": (
        mixed(encodings=("8bit", "base64", "base64")),
        mixed(csv=CSV.replace(b"\n", b"\r\n"), encodings=("8bit", "base64", "base64")), "part 3: its content differs"),
    "a file's name": (mixed(), mixed(name="p.csv"), "part 3: its name, disposition or parameters differ"),
    "a file's type": (mixed(), mixed(kind="text/plain"), "part 3: its type differs"),
    "a part more": (
        mixed(), mixed().replace(b"--b--", b"--b\nContent-Type: text/plain\n\nand 13 more\n--b--"),
        "one has more parts than the other"),
    "text behind the parts": (mixed(), mixed() + b"and more\n", "the text outside of its parts differs"),
    "text before the parts": (
        mixed(), mixed().replace(b"\n\n--b", b"\n\nand more\n--b", 1), "the text outside of its parts differs"),
    "another field of a part": (
        mixed(), mixed().replace(b"Content-Disp", b"Content-Description: of 13\nContent-Disp", 1),
        "the text outside of its parts differs"),
    "the header of an attached mail": (
        attached("Order 2"), attached("Order 3"), "the text outside of its parts differs"),
    "the header of an attached mail in base64": (
        attached("Order 2", "base64"), attached("Order 3", "base64"), "the text outside of its parts differs"),
    "a field of MIME before the parts": (
        mixed().replace(b"\n\n--b", b"\n\nContent-Type: 12\n--b", 1),
        mixed().replace(b"\n\n--b", b"\n\nContent-Type: 90\n--b", 1), "the text outside of its parts differs"),
    "a field of MIME behind the parts": (
        mixed() + b"MIME-Version: 1\n 12 widgets\n", mixed() + b"MIME-Version: 1\n 90 widgets\n",
        "the text outside of its parts differs"),
    "a field of MIME twice in a part": (
        mixed().replace(b"Content-Type: text/csv", b"MIME-Version: 12\nMIME-Version: 1.0\nContent-Type: text/csv", 1),
        mixed().replace(b"Content-Type: text/csv", b"MIME-Version: 90\nMIME-Version: 1.0\nContent-Type: text/csv", 1),
        "the text outside of its parts differs"),
    "a field of MIME twice": (
        written(more="Content-Type: text/html\n"), written(more="Content-Type: application/pdf\n"),
        "a field of MIME differs"),
    "a long header": (written(head=LONG), written(head=LONG, encoding="base64"), "a header is too long to be compared"),
    "depth": (
        (HEAD + DEEP).encode() + b"\none\n", (HEAD + DEEP).encode() + b"\ntwo\n",
        "too deep, too many or too uncertain to be compared"),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_mail_that_says_anything_else_is_another_one(case):
    first, second, said = DIFFERENT[case]
    found = difference(first, second)
    assert found == said or (case == "depth" and found.endswith(said))


TWO_PARTS = f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n--b\n%s\n\nx\n--b--\n"
ANYWHERE = {
    "text between the header and its late fields": "%s\nOrder: 12 widgets\nContent-Type: text/plain\n\nThanks\n",
    "a line behind a semicolon": "%sContent-Type: text/plain;\n12 widgets, please\n\nThanks\n",
    "a line behind any field's semicolon": "%sX-A: b;\n12 widgets\nContent-Type: text/plain; charset=x12\n\nThanks\n",
    "a word that is no parameter": "%sContent-Type: text/plain;\n 12 widgets, please\n\nThanks\n",
    "a comment": "%sContent-Type: text/plain (12 widgets)\n\nThanks\n",
    "a type that is none": "%sContent-Type: 12\n\nThanks\n",
    "a version": "%sMIME-Version: 12\nContent-Type: text/plain; charset=x12\n\nThanks\n",
    "a disposition that stands twice": "%sContent-Disposition: inline\nContent-Disposition: x12\n\nThanks\n",
    "text that may stand in the header": "%sContent-Type: text/plain; charset=x12\nOrder: 12 widgets\n\n",
}


@pytest.mark.parametrize("where", ANYWHERE)
def test_what_may_be_text_is_compared_wherever_it_stands(where):
    raw = ANYWHERE[where] % HEAD
    assert difference(raw.encode(), raw.replace("12", "90").encode())


@pytest.mark.parametrize(
    "field",
    [
        "Content-Type: text/plain (12 widgets)",
        "Content-Type: text/plain;\n 12 widgets",
        "Content-Type: text/plain\nContent-Transfer-Encoding: 8bit (12 widgets)",
        "Content-Type: text/plain\nMIME-Version: 12",
    ],
)
def test_a_field_of_a_part_that_says_more_is_compared_as_it_is_written(field):
    assert difference((TWO_PARTS % field).encode(), (TWO_PARTS % field.replace("12", "90")).encode())


def test_a_field_that_stands_in_another_attached_mail_makes_another_one():
    part = "--b\nContent-Type: message/rfc822\n\n%sFrom: a@b.example\n%s\ntext\n"
    cancel = "Subject: cancel\n"
    head = f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n"
    first = head + part % ("", cancel) + part % ("", "") + "--b--\n"
    second = head + part % ("", "") + part % (cancel, "") + "--b--\n"
    assert difference(first.encode(), second.encode()) == "the text outside of its parts differs"


def test_a_page_that_another_label_makes_readable_in_another_way_is_another_one():
    page = '<meta charset="koi8-r">\u00c3\u00bc'
    kind = "Content-Type: text/html%s\nContent-Transfer-Encoding: 8bit\n\n"
    first, second = (f"{HEAD}{kind % label}{page}\n".encode() for label in ("", "; charset=utf-8"))
    assert difference(first, second) == "part 1: its content differs"


_LABELS = re.compile(rb"(?:charset|boundary)=\"?[\w-]+|--(?:b|another)\b")


def test_no_word_of_the_content_can_change_unseen():
    chosen = Random(1)
    for raw in {mail for pair in SAME.values() for mail in pair}:
        labels = {place for found in _LABELS.finditer(raw) for place in range(*found.span())}
        start = read_mail(raw).header.body_start
        words = [found for found in re.finditer(rb"[A-Za-z0-9]{2,}", raw) if found.start() >= start]
        for word in chosen.sample(words, min(len(words), 8)):
            changed = raw[: word.start()] + b"Zq" + raw[word.start() + 2 :]
            if word.start() not in labels and changed != raw:
                assert find_difference(read_mail(raw), read_mail(changed)), (raw, word)


@pytest.fixture
def app(place):
    return embedded(place)


@pytest.mark.parametrize("policy", ["hold", "accept"])
@pytest.mark.parametrize("case", ["quoted-printable", "Content-Type", "charset", "parts"])
def test_a_copy_that_a_gateway_has_changed_is_a_duplicate_whichever_comes_first(app, case, policy):
    app.records.organizations.change_settings("acme", {"reused_message_id": policy})
    first, second = SAME[case]
    for one, two in ((first, second), (renumbered(second), renumbered(first))):
        delivered = post(app, one)
        assert delivered.outcome is Outcome.DELIVERED
        again = post(app, two)
        assert (again.outcome, again.message_id) == (Outcome.DUPLICATE, delivered.message_id)
    assert len(app.records.messages.select(Filter(), 9)) == 2 == len(app.archive.objects())
    assert app.records.held_mail.count_open() == 0


def test_a_copy_that_lost_a_race_is_a_duplicate_too(app):
    put = app.archive.put

    def late(*arguments):
        app.archive.put = put
        assert post(app, written()).outcome is Outcome.DELIVERED
        put(*arguments)

    app.archive.put = late
    assert post(app, written(encoding="quoted-printable")).outcome is Outcome.DUPLICATE
    (row,) = app.records.messages.select(Filter(), 9)
    assert app.archive.objects() == [row.raw_key]


def test_what_differs_is_kept_with_a_mail_that_is_held_and_shown(app):
    post(app, mixed())
    ended = post(app, mixed(PDF + b"x"))
    assert (ended.outcome, ended.reason) == (Outcome.HELD, "part 2: its content differs")
    (held,) = app.records.held_mail.open()
    assert held.reason is HoldReason.MESSAGE_ID_REUSED
    assert app.archive.describe(held.raw_key).metadata["why"] == held_mail_history(held, app).difference == ended.reason
    assert post(app, mixed(PDF + b"x", encodings=("base64",) * 3)).outcome is Outcome.DUPLICATE, "of the held one"


def test_where_the_recorded_mail_is_gone_the_copy_is_held(app):
    post(app, written())
    (row,) = app.records.messages.select(Filter(), 9)
    app.archive.delete(row.raw_key)
    ended = post(app, written(encoding="base64"))
    assert ended.outcome is Outcome.HELD and ended.reason == "the recorded mail is not in the archive to be compared"


def test_many_mails_of_one_message_id_cost_three_readings_each_at_most(app):
    reads = []
    read = app.archive.read

    def count(key, digest):
        reads.append(key)
        return read(key, digest)

    app.archive.read = count
    for number in range(9):
        post(app, written(f"{number}\n"))
    assert len(reads) <= 3 * 9
    reads.clear()
    post(app, written("other", head=HEAD.replace("Order 1", "Order 2")))
    assert reads == [], "another Subject is seen on the row"
    assert ACME in app.records.held_mail.open()[0].envelope_recipient


@pytest.mark.parametrize(
    ("encoding", "first", "second"),
    [
        ("base64", b"aGVsbG8=\n\n-- \n12 widgets, please\n", b"aGVsbG8=\n\n-- \n90 widgets, please\n"),
        ("base64", b"aGVs!!bG8=\n", b"aGVs?bG8=\n"),
        ("x-uuencode", b"12 widgets\nbegin 644 o\n#86)C\n`\nend\n", b"90 widgets\nbegin 644 o\n#86)C\n`\nend\n"),
        ("x-uuencode", b"begin 644 o\n#86)C\n`\nend\n12\n", b"begin 644 o\n#86)C\n`\nend\n90\n"),
    ],
)
@pytest.mark.parametrize("kind", ["text/plain", "application/pdf"])
def test_what_decoding_leaves_out_is_compared_as_it_is_written(encoding, first, second, kind):
    head = f"{HEAD}Content-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n".encode()
    assert difference(head + first, head + second)
    assert not difference(head + first, head + first.replace(b"\n", b"\r\n"))
