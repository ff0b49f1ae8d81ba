"""A document is found whatever is wrong with the structure around it: one row for each rule."""

import base64
import binascii

import pytest

from orderflow_ingest.parsing.documents import Part, read_parts
from orderflow_ingest.parsing.mime.bodies import decode_body, find_uuencoded

CONTENT = b"%PDF-1.4 an order"
TOP = b"From: a@example.com\r\nMIME-Version: 1.0\r\n"
MIXED = TOP + b"Content-Type: multipart/mixed; boundary=bb\r\n\r\n"
TEXT = b"--bb\r\nContent-Type: text/plain\r\n\r\ntext\r\n"
PDF = b'Content-Type: application/pdf; name="o.pdf"\r\nContent-Transfer-Encoding: base64\r\n'
BODY = b"\r\n" + base64.encodebytes(CONTENT).replace(b"\n", b"\r\n")
PARTS = TEXT + b"--bb\r\n" + PDF + BODY + b"--bb--\r\n"


def typed(value: bytes, parts: bytes = PARTS) -> bytes:
    return TOP + b"Content-Type: " + value + b"\r\n\r\n" + parts


def bounded(value: bytes, boundary: bytes) -> bytes:
    return typed(b"multipart/mixed; boundary=" + value, PARTS.replace(b"--bb", b"--" + boundary))


def headed(header: bytes) -> bytes:
    return MIXED + TEXT + b"--bb\r\n" + header + BODY + b"--bb--\r\n"


def encoded(word: bytes) -> bytes:
    return headed(PDF.replace(b"base64", word))


def order(raw: bytes) -> Part:
    (found,) = (part for part in read_parts(raw) if part.data.rstrip() == CONTENT)
    assert (found.is_document, found.filename, found.declared_type) == (True, "o.pdf", "application/pdf")
    return found


BOUNDARIES: dict[str, bytes] = {
    "quoted": bounded(b'"bb"', b"bb"),
    "with equals signs": bounded(b'"=bb="', b"=bb="),
    "unquoted with equals signs": bounded(b"==bb==", b"==bb=="),
    "unquoted with every sign of the grammar": bounded(b"'()+_,-./:=?bb", b"'()+_,-./:=?bb"),
    "with a semicolon": bounded(b'"a;b"', b"a;b"),
    "with an escaped quote": bounded(b'"a\\"b"', b'a"b'),
    "with blanks inside": bounded(b'"a b"', b"a b"),
    "with a blank at the end": bounded(b'"bb "', b"bb"),
    "with a blank at its beginning": bounded(b'" bb"', b"bb"),
    "with a comment": bounded(b"bb (why)", b"bb"),
    "of dashes": bounded(b'"------------bb"', b"------------bb"),
    "of 8-bit characters": bounded(b'"b\xfcb"', b"b\xfcb"),
    "longer than allowed": bounded(b"x" * 500, b"x" * 500),
    "folded": bounded(b'"bb\r\n cc"', b"bb cc"),
    "in RFC 2231 form": typed(b"multipart/mixed; boundary*=us-ascii''b%62"),
    "in RFC 2231 sections": typed(b'multipart/mixed; boundary*0="b"; boundary*1="b"'),
    "in another case": typed(b'MULTIPART/Mixed; BOUNDARY="BB"'),
    "in apostrophes": typed(b"multipart/mixed; boundary='bb'"),
    "with an encoded equals sign": typed(b'multipart/mixed; boundary=3D"bb"'),
    "never closed quote": typed(b'multipart/mixed; boundary="bb'),
    "not indented": typed(b"multipart/mixed;\r\nboundary=bb"),
    "not indented nor announced": typed(b"multipart/mixed\r\nboundary=bb"),
    "after an empty line": typed(b"multipart/mixed;\r\n\r\n boundary=bb"),
    "after a line of blanks": typed(b"multipart/mixed;\r\n \t\r\n boundary=bb"),
    "folded with tabs": typed(b"multipart/mixed;\r\n\tcharset=x;\r\n\t\tboundary=bb"),
    "after a comment": typed(b"multipart/mixed (a comment); boundary=bb"),
    "of a type with blanks": typed(b"multipart / mixed; boundary=bb"),
    "of a type without subtype": typed(b"multipart; boundary=bb"),
    "of no type": typed(b"; boundary=bb"),
    "of an unknown subtype": typed(b"multipart/x-unknown; boundary=bb"),
    "of the second content type": typed(b"multipart/mixed; boundary=bb\r\nContent-Type: text/plain"),
    "after an unusable content type": typed(b"-\r\nContent-Type: multipart/mixed; boundary=bb"),
}


@pytest.mark.parametrize("raw", BOUNDARIES.values(), ids=BOUNDARIES)
def test_a_boundary_parameter_is_read(raw: bytes) -> None:
    assert order(raw).path == "2"


GUESSED: dict[str, bytes] = {
    "missing": typed(b"multipart/mixed"),
    "empty": typed(b'multipart/mixed; boundary=""'),
    "wrong": typed(b"multipart/mixed; boundary=other"),
    "with an encoded equals sign": typed(b"multipart/mixed; boundary=3Dbb"),
    "with the dashes": typed(b"multipart/mixed; boundary=--bb"),
    "quoted in the lines": typed(b'multipart/mixed; boundary="bb"', PARTS.replace(b"--bb", b'--"bb"')),
    "with text behind every line": MIXED + PARTS.replace(b"--bb\r\n", b"--bb junk\r\n"),
    "in a mail without content type": TOP + b"\r\n" + PARTS,
    "in a mail whose content type has no colon": TOP + b"Content-Type multipart/mixed; boundary=bb\r\n\r\n" + PARTS,
    "in a mail whose content type has a blank": TOP + b"Content Type: multipart/mixed; boundary=bb\r\n\r\n" + PARTS,
    "after the preamble of a mail without content type": TOP
    + b"\r\nThis is a multi-part message in MIME format.\r\n\r\n"
    + PARTS,
}


@pytest.mark.parametrize("raw", GUESSED.values(), ids=GUESSED)
def test_a_boundary_is_guessed_if_it_is(raw: bytes) -> None:
    assert order(raw).path == "2"
    assert "boundary guessed" in {defect for part in read_parts(raw) for defect in part.defects}


INNER = b"--bb\r\nContent-Type: multipart/alternative; boundary=%s\r\n\r\n--%s\r\n\r\ntext\r\n"
LINES: dict[str, tuple[bytes, str | None]] = {
    "ordinary": (MIXED + PARTS, None),
    "with blanks behind": (MIXED + PARTS.replace(b"--bb\r\n", b"--bb \t\r\n"), None),
    "with blanks behind the last": (MIXED + PARTS.replace(b"--bb--", b"--bb-- \t"), None),
    "with blanks before the closing dashes": (MIXED + PARTS.replace(b"--bb--", b"--bb --"), None),
    "in another case": (MIXED + PARTS.replace(b"--bb", b"--BB"), None),
    "without a last one": (MIXED + PARTS.removesuffix(b"--bb--\r\n"), "multipart never closed"),
    "without line break at the end": (MIXED + PARTS.removesuffix(b"\r\n"), None),
    "with a preamble": (MIXED + b"preamble\r\n--b\r\n--bbb\r\n" + PARTS, None),
    "with an epilogue": (MIXED + PARTS + b"--bbb\r\nepilogue", None),
    "the last one first": (MIXED + b"--bb--\r\n" + PARTS, "part after the end of its multipart"),
    "the last one in the middle": (
        MIXED + PARTS.replace(TEXT, TEXT + b"--bb--\r\n"),
        "part after the end of its multipart",
    ),
    "of an inner multipart never closed": (MIXED + INNER % (b"ii", b"ii") + b"--bb\r\n" + PDF + BODY + b"--bb--", None),
    "of a boundary used twice": (
        MIXED + INNER % (b"bb", b"bb") + b"--bb--\r\n--bb\r\n" + PDF + BODY + b"--bb--",
        None,
    ),
    "of a longer inner boundary": (
        MIXED + INNER % (b"bbb", b"bbb") + b"--bbb--\r\n--bb\r\n" + PDF + BODY + b"--bb--",
        None,
    ),
    "of an inner multipart without parts": (
        MIXED + b"--bb\r\nContent-Type: multipart/mixed; boundary=ii\r\n\r\n\r\n--bb\r\n" + PDF + BODY + b"--bb--",
        None,
    ),
    "after an empty part": (MIXED + b"--bb\r\n--bb\r\n\r\n" + PARTS, None),
    "ended by LF alone": (MIXED + PARTS.replace(b"\r\n--bb", b"\n--bb"), None),
    "ended by CR alone": (MIXED + PARTS.replace(b"\r\n--bb", b"\r--bb"), None),
    "in a mail of LF": ((MIXED + PARTS).replace(b"\r\n", b"\n"), None),
    "in a mail of CR": ((MIXED + PARTS).replace(b"\r\n", b"\r"), None),
    "in a mail converted twice": ((MIXED + PARTS).replace(b"\r\n", b"\r\r\n"), None),
    "in a mail whose header alone is of LF": (MIXED.replace(b"\r\n", b"\n") + PARTS, None),
}


@pytest.mark.parametrize(("raw", "defect"), LINES.values(), ids=LINES)
def test_boundary_lines_are_found(raw: bytes, defect: str | None) -> None:
    assert order(raw).defects == ((defect,) if defect else ())


MISSING_LINE = "empty line after the header missing"
EARLY_LINE = "empty line inside the header"
ODD_LINE = "odd line in the header"
HEADERS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "a blank in a field's name": (b"Some Field: x\r\n" + PDF, (ODD_LINE,)),
    "a line without colon": (PDF + b"no colon here\r\n", (ODD_LINE,)),
    "a line without colon between the fields": (PDF.replace(b"\r\nC", b"\r\nno colon\r\nC"), (ODD_LINE,)),
    "a line without colon and its continuation": (b"no colon\r\n indeed: none\r\n" + PDF, (ODD_LINE,)),
    "a colon without a name": (b": x\r\n" + PDF, (ODD_LINE,)),
    "a line of HTML": (b"<meta>\r\n" + PDF, (ODD_LINE,)),
    "a byte order mark": (b"\xef\xbb\xbf" + PDF, ()),
    "an mbox line": (b"From a@example.com Mon Jan  1 00:00:00 2024\r\n" + PDF, ()),
    "an indented first field": (b" " + PDF, ()),
    "a fold with tabs": (PDF.replace(b"; name", b";\r\n\t\t name"), ()),
    "a fold before the value": (PDF.replace(b": application", b":\r\n application"), ()),
    "a fold of blanks only": (PDF.replace(b": application", b":\r\n\t\r\n application"), ()),
    "a blank before the colon": (PDF.replace(b"Type:", b"Type :").replace(b"Encoding:", b"Encoding\t:"), ()),
    "no blank after the colon": (PDF.replace(b": ", b":"), ()),
    "names in capitals": (PDF.upper().replace(b"O.PDF", b"o.pdf"), ()),
    "a NUL in a field's name": (PDF.replace(b"Content-T", b"Content\0-T"), ()),
    "8-bit in another field": (b"X-Raw: \xfc\xff\r\n" + PDF, ()),
    "an empty field": (b"X-Empty:\r\n" + PDF, ()),
    "an empty line first": (b"\r\n" + PDF, (EARLY_LINE,)),
    "an empty line before an identifier": (b"\r\nContent-ID: <1@x>\r\n" + PDF, (EARLY_LINE,)),
    "an empty line before a description": (b"\r\nContent-Description: order\r\n" + PDF, (EARLY_LINE,)),
    "an empty line before another field": (b"\r\nX-Attachment-Id: f_1\r\n" + PDF, (EARLY_LINE,)),
    "an empty line before a field of no header": (b"\r\nOdd: 1\r\n two\r\n" + PDF, (EARLY_LINE,)),
    "an empty line after the type": (
        PDF.replace(b"\r\nC", b"\r\n\r\nContent-ID: <1@x>\r\nX-Y: z\r\nC"),
        (EARLY_LINE,),
    ),
    "two empty lines first": (b"\r\n\r\n" + PDF, (EARLY_LINE,)),
    "an empty line between the fields": (PDF.replace(b"\r\nC", b"\r\n\r\nC"), (EARLY_LINE,)),
    "an empty line before the first content field": (b"X-Other: 1\r\n\r\n" + PDF, (EARLY_LINE,)),
    "an empty line inside a field": (PDF.replace(b"; name", b";\r\n\r\n\tname"), (EARLY_LINE,)),
}


@pytest.mark.parametrize(("header", "defects"), HEADERS.values(), ids=HEADERS)
def test_a_header_is_read_past(header: bytes, defects: tuple[str, ...]) -> None:
    assert order(headed(header)).defects == defects


TOPS: dict[str, bytes] = {
    "an mbox line": b"From a@example.com Mon Jan  1 00:00:00 2024\r\n" + MIXED,
    "a quoted mbox line": b">From a@example.com Mon Jan  1 00:00:00 2024\r\n" + MIXED,
    "a byte order mark": b"\xef\xbb\xbf" + MIXED,
    "empty lines": b"\r\n\n\r" + MIXED,
    "NULs": b"\0\0" + MIXED,
    "a line without colon": b"odd\r\n" + MIXED,
    "an empty line after the first field": b"From: a\r\n\r\n" + MIXED.removeprefix(b"From: a@example.com\r\n"),
    "an empty line and more fields": b"X-First: 1\r\n\r\nSubject: an\r\n order\r\n" + MIXED,
    "a server's trace before it": b"Return-Path: <a>\r\nReceived: by b;\r\n\tnow\r\n\r\n" + MIXED,
    "no empty line after it": MIXED.removesuffix(b"\r\n"),
    "no empty line, but a preamble after it": MIXED.removesuffix(b"\r\n") + b"A multi-part message.\r\n",
}


@pytest.mark.parametrize("top", TOPS.values(), ids=TOPS)
def test_the_header_of_a_mail_is_read_with(top: bytes) -> None:
    assert order(top + PARTS).path == "2"


@pytest.mark.parametrize(
    "word",
    [
        b"BASE64", b"base64 \t ", b" base64;", b'"base64"', b"(a (b) c) base64 (d)", b"base64\r\n ", b"base64; x=y",
        b"base-64", b"base 64", b"x-base64", b"b64", b"base64, base64",
    ],
)  # fmt: skip
def test_a_transfer_encoding_is_known_in_any_spelling(word: bytes) -> None:
    assert order(encoded(word)).defects == ()


@pytest.mark.parametrize("word", [b"7bit", b"8BIT ", b"8-bit", b"7bits", b"binary", b""])
def test_a_transfer_encoding_that_does_nothing_is_no_defect(word: bytes) -> None:
    raw = encoded(word).replace(BODY, b"\r\n" + CONTENT + b"\r\n")
    assert order(raw).defects == ()


@pytest.mark.parametrize("encoding", [b"base64", b"quoted-printable", b"BASE64 (why)"])
def test_a_container_that_is_only_called_encoded_is_read(encoding: bytes) -> None:
    raw = b"Content-Transfer-Encoding: " + encoding + b"\r\n" + MIXED + PARTS
    order(raw)
    assert "encoded container" in next(read_parts(raw)).defects


@pytest.mark.parametrize("levels", [1, 2, 5, 100])
def test_messages_in_quoted_printable_are_read_however_deep(levels: int) -> None:
    raw = MIXED.replace(b"bb", b"cc") + b"--cc\r\n" + PDF + BODY + b"--cc--\r\n"
    for _ in range(levels):
        head = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        raw = head + raw.replace(b"=", b"=3D")
    found = [part for part in read_parts(raw) if part.filename == "o.pdf"]
    assert [part.defects for part in found] == [()]


def test_a_message_that_is_only_called_quoted_printable_is_read_as_it_is() -> None:
    inner = bounded(b'"=AA"; charset=utf-8', b"=AA")
    raw = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + inner
    assert order(raw).path == "1.2"


@pytest.mark.parametrize(
    ("raw", "reasons"),
    [
        (MIXED, ["multipart without parts"]),
        (MIXED + b"--bb--", ["multipart without parts"]),
        (MIXED + b"only a preamble\r\n--bb--\r\nepilogue", ["multipart without parts"]),
        (MIXED + b"--bb\r\n\r\n--bb--", []),
        (MIXED + b"--bb\r\n--bb--", []),
        (MIXED + b"--bb", ["multipart never closed"]),
    ],
    ids=["nothing", "the last line", "a preamble", "an empty part", "a part without header", "a line alone"],
)
def test_a_multipart_may_hold_nothing_but(raw: bytes, reasons: list[str]) -> None:
    container, leaf = read_parts(raw)
    assert (container.reason, list(leaf.defects), leaf.is_document) == ("container", reasons, b"preamble" in raw)


def test_text_that_begins_with_fields_keeps_them() -> None:
    (part,) = read_parts(b"From: a\nContent-Type: text/plain\n\nSubject: x\nMIME-Version: 1.0\n\ntext")
    assert part.data == b"Subject: x\nMIME-Version: 1.0\n\ntext"
    (part,) = read_parts(b"From: a\n\nSubject: forwarded\nDate: today\n\ntext")
    assert part.data == b"Subject: forwarded\nDate: today\n\ntext"
    digest = b"Content-Type: multipart/digest; boundary=d\n\n--d\n\nMIME-Version: 1.0\nSubject: x\n\ninner\n--d--"
    assert [part.path for part in read_parts(digest)] == ["0", "1", "1.1"]


def test_a_signature_of_dashes_is_no_boundary() -> None:
    (part,) = read_parts(b"From: a\n\nHello\n-- \nContent-Manager of Example\n--x\nnot: a boundary\n")
    assert part.data.startswith(b"Hello")


CLEAN = base64.encodebytes(bytes(range(200)))
BASE64: dict[str, tuple[bytes, bytes]] = {
    "lines of any length": (b"aG\nVsb\n\n\nG8=", b"hello"),
    "blanks at line ends": (b"aGVs \t\nbG8= \n", b"hello"),
    "indented lines": (b"  aGVs\n  bG8=\n", b"hello"),
    "CR alone": (CLEAN.replace(b"\n", b"\r"), bytes(range(200))),
    "CR CR LF": (CLEAN.replace(b"\n", b"\r\r\n"), bytes(range(200))),
    "NULs between": (CLEAN.replace(b"\n", b"\0\n"), bytes(range(200))),
    "8-bit noise": (CLEAN.replace(b"\n", b"\xff\xa0\n"), bytes(range(200))),
    "a line of noise": (CLEAN[:73] + b"!!!!\n" + CLEAN[73:], bytes(range(200))),
    "one equals sign missing": (b"aGVsbA=", b"hell"),
    "all equals signs missing": (b"aGVsbA", b"hell"),
    "equals signs on their own line": (b"aGVsbA\n==\n", b"hell"),
    "too many equals signs": (b"aGVsbA=====", b"hell"),
    "an equals sign in the middle": (b"aGVs=bG8=", b"hello"),
    "one digit over": (b"aGVsbG8hY", b"hello!"),
    "URL-safe digits": (b"-_-_aGVs", b"\xfb\xff\xbfhel"),
    "pieces joined": (b"aGVsbA==bw==", b"hello"),
    "a signature after it": (CLEAN + b"\n-- \nregards\n", bytes(range(200))),
    "a boundary-like line after it": (CLEAN + b"--other--\n", bytes(range(200))),
    "nothing": (b"", b""),
    "only line ends": (b"\r\n\r\n", b""),
}


@pytest.mark.parametrize(("text", "data"), BASE64.values(), ids=BASE64)
def test_base64_is_decoded_with(text: bytes, data: bytes) -> None:
    assert decode_body(text, 0, len(text), "base64").data == data


QUOTED: dict[str, tuple[bytes, bytes]] = {
    "lower-case digits": (b"=e4=f6", b"\xe4\xf6"),
    "an equals sign before a letter": (b"a=b", b"a=b"),
    "one digit only": (b"a=4 b", b"a=4 b"),
    "two equals signs": (b"a==3D", b"a=="),
    "an equals sign at the end": (b"abc=", b"abc"),
    "a soft break at the end": (b"abc=\r\n", b"abc"),
    "a soft break with blanks behind": (b"a= \t \r\nb", b"ab"),
    "a soft break of CR CR LF": (b"a=\r\r\nb", b"ab"),
    "two soft breaks": (b"a=\r\n=\r\nb", b"ab"),
    "raw 8-bit": (b"\xfc=C3=BC", b"\xfc\xc3\xbc"),
    "long lines": (b"x" * 2000 + b"=3D", b"x" * 2000 + b"="),
    "an underscore stays": (b"a_b", b"a_b"),
    "blanks inside a line": (b"a \t b=20\r\n", b"a \t b \r\n"),
    "NULs": (b"a\0=00", b"a\0\0"),
    "LF alone": (b"a=\nb\nc", b"ab\nc"),
}


@pytest.mark.parametrize(("text", "data"), QUOTED.values(), ids=QUOTED)
def test_quoted_printable_is_decoded_with(text: bytes, data: bytes) -> None:
    assert decode_body(text, 0, len(text), "quoted-printable").data == data


UU = b"begin 644 o.pdf\n" + binascii.b2a_uu(CONTENT) + b"`\nend\n"
UUENCODED: dict[str, bytes] = {
    "alone": UU,
    "of LF": b"Hello\n\n" + UU + b"bye\n",
    "of CRLF": b"Hello\r\n" + UU.replace(b"\n", b"\r\n"),
    "of CR": b"Hello\r" + UU.replace(b"\n", b"\r"),
    "with blanks behind the lines": UU.replace(b"\n", b" \n"),
    "with a blank for the empty line": UU.replace(b"`\n", b" \n"),
    "without an empty line": UU.replace(b"`\n", b""),
    "with blank lines": UU.replace(b"\n", b"\n\n"),
    "with four digits of mode": UU.replace(b"644", b"0644"),
    "without a line break at the end": UU.removesuffix(b"\n"),
    "after a sentence that begins alike": b"begin 644 times\nover\n" + UU,
}


@pytest.mark.parametrize("text", UUENCODED.values(), ids=UUENCODED)
def test_a_uuencoded_file_is_found(text: bytes) -> None:
    (file,) = find_uuencoded(text)
    assert (file.name, file.data, file.complete) == (b"o.pdf", CONTENT, True)


@pytest.mark.parametrize("text", [b"begin 644 \n#86)C\nend", b"xbegin 644 o\n#86)C\nend", b"begin 9 o\n#86)C\nend"])
def test_what_only_looks_like_uuencode_is_none(text: bytes) -> None:
    assert not list(find_uuencoded(text))


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_a_multipart_that_is_called_encoded_and_is_not_is_opened_once(encoding: str) -> None:
    head = f"Content-Type: multipart/mixed; boundary=aa\nContent-Transfer-Encoding: {encoding}\n\n".encode()
    *_, leaf = read_parts(head + b"!!! (see --aa, which is no line of its own) !!!\n" * 3)
    assert leaf.path == "1" and not {"too many parts", "nested too deep"} & set(leaf.defects)
