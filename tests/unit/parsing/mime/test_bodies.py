"""Transfer encodings are undone however a mailer spoiled them."""

import base64
import binascii
import random
import re

import pytest

from orderflow_ingest.parsing.mime import bodies
from orderflow_ingest.parsing.mime.bodies import decode_body, find_uuencoded
from tests.support.mails import PDF


def decode(text: bytes, encoding: str) -> tuple[bytes, tuple[str, ...]]:
    body = decode_body(b"before" + text + b"after", 6, 6 + len(text), encoding)
    return body.data, body.defects


@pytest.mark.parametrize(
    ("text", "defects"),
    [
        (b"aGVsbG8=", ()),
        (b"aGVs\r\nbG8=\r\n", ()),
        (b"aGVs\rbG8=", ()),
        (b"aGV sbG8=", ()),
        (b"aGVsbG8", ("base64 padding missing",)),
        (b"aGVsbG8====", ()),
        (b"=aGVsbG8=", ()),
        (b"aGVs!!bG8=", ("noise in base64",)),
        (b"aG\0VsbG8=", ("noise in base64",)),
        (b"aGVsbG8=\n-- \nA mailing list's footer\n", ("text after base64",)),
        (b"aGVsbG8=\n\n____\nfooter, too\n", ("text after base64",)),
    ],
)
def test_base64_is_decoded(text: bytes, defects: tuple[str, ...]) -> None:
    assert decode(text, "base64") == (b"hello", defects)


def test_base64_blocks_that_were_padded_one_by_one_are_joined() -> None:
    assert decode(b"aGVsbG8=\r\nIHdvcmxk\r\nIQ==\r\n", "base64")[0] == b"hello world!"


def test_base64_cut_off_keeps_the_whole_bytes() -> None:
    assert decode(b"aGVsb", "base64") == (b"hel", ("base64 cut off",))


def test_what_is_no_base64_stays_as_it_is() -> None:
    for text in (
        b"Dear sir, please find attached",
        b"%PDF-1.4\r\n%\xe2\xe3\xcf\xd3\r\n1 0 obj\r\n",
        b"Hello\n\nDear sir, our order",
    ):
        assert decode(text, "base64") == (text, ("not base64",))


def test_a_clean_body_of_many_lines_is_decoded_without_defect() -> None:
    content = bytes(range(256)) * 300
    assert decode(base64.encodebytes(content), "base64") == (content, ())


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (b"a=20b=3D", b"a b="),
        (b"so=\r\nft", b"soft"),
        (b"so= \t\r\nft", b"soft"),
        (b"so=\nft", b"soft"),
        (b"so=\rft", b"soft"),
        (b"blanks \t\r\nend", b"blanks\r\nend"),
        (b"=fc=FC", b"\xfc\xfc"),
        (b"=ZZ a=b=", b"=ZZ a=b"),
    ],
)
def test_quoted_printable_is_decoded(text: bytes, data: bytes) -> None:
    assert decode(text, "quoted-printable") == (data, ())


@pytest.mark.parametrize("encoding", ["", "7bit", "8bit", "binary"])
def test_identity_encodings_change_nothing(encoding: str) -> None:
    assert decode(b"a\r\n\0\xff=20", encoding) == (b"a\r\n\0\xff=20", ())


def test_an_unknown_encoding_changes_nothing_and_is_told() -> None:
    assert decode(b"abc", "x-own") == (b"abc", ("unknown transfer encoding",))


def uuencoded(data: bytes) -> bytes:
    lines = [binascii.b2a_uu(data[i : i + 45]) for i in range(0, len(data), 45)]
    return b"begin 644 my order.txt\n" + b"".join(lines) + b"`\nend\n"


def test_uuencoded_files_are_found_in_text() -> None:
    files = list(find_uuencoded(b"Hello,\n" + uuencoded(b"order " * 20) + b"bye\n" + uuencoded(b"x")))
    assert [(file.name, file.data, file.complete) for file in files] == [
        (b"my order.txt", b"order " * 20, True),
        (b"my order.txt", b"x", True),
    ]


def test_a_sentence_that_begins_like_uuencode_is_none() -> None:
    assert not list(find_uuencoded(b"begin 644 times\nand then stop talking about it, please\n"))


def test_uuencode_that_never_ends_keeps_what_there_is() -> None:
    (file,) = find_uuencoded(uuencoded(b"order " * 20).replace(b"end\n", b""))
    assert (file.data, file.complete) == (b"order " * 20, False)


def test_a_body_encoded_as_a_whole_is_decoded() -> None:
    assert decode(uuencoded(b"abc"), "x-uuencode") == (b"abc", ())
    assert decode(b"none", "uuencode") == (b"none", ("not uuencoded",))


HARD = b"%PDF-1.4\n%=E2=E3=CF=D3\nsoft=\nbreak\nend"
FILE = b"%PDF-1.4\r\n%\xe2\xe3\xcf\xd3\r\nsoftbreak\r\nend"


@pytest.mark.parametrize("kind", ["application/pdf", "application/octet-stream", "text/plain", "image/png"])
@pytest.mark.parametrize(
    "text",
    [
        HARD,
        HARD.replace(b"\n", b"\r\n"),
        HARD.replace(b"\n", b"\r"),
        HARD.replace(b"4\n", b"4=0D\n").replace(b"k\n", b"k=0d\r\n"),
        HARD.replace(b"4\n", b"4=0D=0A=\n").replace(b"k\n", b"k=0D=0A=\r\n"),
        HARD.replace(b"4\n", b"4 \t\n"),
    ],
    ids=["LF", "CRLF", "CR", "encoded CR", "encoded CRLF", "blanks behind"],
)
def test_a_hard_line_break_in_what_is_no_text_is_crlf(text: bytes, kind: str) -> None:
    assert decode_body(text, 0, len(text), "quoted-printable", kind).data == FILE


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("application/octet-stream", b"a;b\nc;d\n"),
        ("application/vnd.ms-excel", b"sku;qty\nA1;5\n"),
        ("application/xml", b'<?xml version="1.0"?>\n<o/>\n'),
        ("application/edifact", b"UNB+UNOC:3+A+B'\n"),
        ("text/csv", b"a;\xe4\n"),
        ("message/rfc822", b"Subject: x\n\nbody\n"),
    ],
)
def test_a_hard_line_break_in_text_stays_as_it_is(kind: str, text: bytes) -> None:
    assert decode_body(text, 0, len(text), "quoted-printable", kind).data == text


@pytest.mark.parametrize("encoding", ["base64", "7bit", "8bit", "binary", ""])
def test_only_quoted_printable_changes_line_ends(encoding: str) -> None:
    text = base64.encodebytes(PDF) if encoding == "base64" else PDF
    assert decode_body(text, 0, len(text), encoding, "application/pdf").data == PDF


def test_an_encoded_lf_of_a_file_stays_one() -> None:
    text = b"\x89PNG=0D=0A=1A=0A=\nIHDR=00"
    assert decode_body(text, 0, len(text), "quoted-printable", "image/png").data == b"\x89PNG\r\n\x1a\nIHDR\0"


@pytest.mark.parametrize("size", range(1, 50))
def test_the_unused_bits_of_the_last_uuencoded_group_may_be_anything(size: int) -> None:
    content = bytes(range(100, 100 + size))
    *lines, last = uuencoded(content).splitlines(keepends=True)[1:-2]
    for filler in (b"_", b"!", b"`", b" ", b""):
        group = last.rstrip(b"\n")
        used = 1 + (((last[0] - 32) * 8 + 5) // 6 if filler else len(group) - 1)
        spoiled = group[:used] + filler * (len(group) - used)
        if filler and size % 3:
            # The bits of the last sign that no byte takes, all of them set.
            bits = {1: 15, 2: 3}[size % 3]
            spoiled = spoiled[: used - 1] + bytes((32 + ((spoiled[used - 1] - 32) & 63 | bits),)) + spoiled[used:]
        text = b"begin 644 o\n" + b"".join(lines) + spoiled + b"\n`\nend\n"
        (file,) = find_uuencoded(text)
        assert (file.data, file.complete) == (content, True)


@pytest.mark.parametrize("kind", ["text/plain", "application/pdf"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("odd", [b"", b"1 =2 == 3", b"blanks \t", b"soft= ", b"return=0D"])
def test_a_large_quoted_printable_body_is_decoded_as_its_lines_are(kind: str, line_end: bytes, odd: bytes) -> None:
    lines = [b"Position %d: 12 widgets=20=C3=A4" % number for number in range(5000)]
    lines[3000:3000] = [odd, b"after it"]
    start = b"%PDF-1.4\n" if kind == "application/pdf" else b""
    text = start + line_end.join(lines)
    parts = [start + lines[0] + line_end, *(line + line_end for line in lines[1:-1]), lines[-1]]
    if kind == "application/pdf":  # each line as the beginning of a PDF, which is then cut off
        wanted = [decode_body(b"%PDF-" + part, 0, 5 + len(part), "quoted-printable", kind).data[5:] for part in parts]
    else:
        wanted = [decode_body(part, 0, len(part), "quoted-printable", kind).data for part in parts]
    assert decode_body(text, 0, len(text), "quoted-printable", kind).data.split(b"\n") == b"".join(wanted).split(b"\n")


def plainly_decoded(text: bytes, with_crlf: bool) -> bytes:
    """Decode quoted-printable by the rules of the module, sign by sign over the whole text."""
    text = re.sub(rb"(?<![ \t])[ \t]+(?=\r?\n|\r?\Z)", b"", text)
    text = re.sub(rb"=\r(?!\n)(?:\r\n)?", b"", re.sub(rb"=(?==)", b"=3D", text))
    if with_crlf:
        for line_end in (b"\r\r\n", b"\r\n", b"\r"):
            text = text.replace(line_end, b"\n")
        text = re.sub(rb"(?<!=0D)(?<!=0d)\n", b"\r\n", text)
    decoded, position = bytearray(), 0
    while position < len(text):
        if soft := re.compile(rb"=(?:\r?\n|\Z)").match(text, position):
            position = soft.end()
        elif escape := re.compile(rb"=([0-9A-Fa-f]{2})").match(text, position):
            decoded += bytes.fromhex(escape[1].decode())
            position = escape.end()
        else:
            decoded.append(text[position])
            position += 1
    return bytes(decoded)


TOKENS = [b"\n", b"\r\n", b"\r", b"\r\r\n", b"=\n", b"=\r\n", b"=\r\r\n", b"=\r", b"=\r \r\n", b"= \n", b"=0d", b"=0D"]
TOKENS += [b"=0A", b"=", b"==", b"=4", b"1", b"a", b" ", b"\t", b"=20", b"=C3=A4", b"=zz"]


@pytest.mark.parametrize("with_crlf", [False, True])
def test_what_is_decoded_does_not_depend_on_where_a_block_ends(
    with_crlf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random.Random(14)
    texts = [b"=0d=\r\r\n\nb", b"=4=\r\r\n1", b"=4=\r \t\r\n1"]
    texts += [b"".join(chosen.choices(TOKENS, k=chosen.randint(1, 12))) for _ in range(6000)]
    for text in texts:
        wanted = plainly_decoded(text, with_crlf)
        for size in (0, 1, 3, 1000):
            monkeypatch.setattr(bodies, "_LINES_AT_ONCE", size)
            found = bodies._decode_quoted_printable(b"=" + text, 1, 1 + len(text), with_crlf=with_crlf)
            assert found == wanted, (text, size)
