"""winmail.dat gives its attachments with their own names, its attached messages and its body, whatever is damaged."""

import logging
import struct

import pytest

from orderflow_ingest.parsing.containers import ContainerError, Member, Role
from orderflow_ingest.parsing.containers.rtf import rtf_to_text, strip_rtf
from orderflow_ingest.parsing.containers.tnef import open_tnef
from tests.support.containers_made import (
    GUID_MESSAGE,
    GUID_STORAGE,
    attachment,
    attribute,
    budget,
    properties,
    read_all,
    refusal,
    survives,
    tnef,
    utf16,
)
from tests.support.cost import at_most

PDF = b"%PDF-1.4\n" + bytes(range(256)) + b"\0\0\0"
STRING, UNICODE, BINARY, OBJECT = 0x1E, 0x1F, 0x102, 0x0D
LONG, SHORT, SHOWN, TAG, CID = 0x3707, 0x3704, 0x3001, 0x370E, 0x3712
CYRILLIC = attribute(1, 0x9007, struct.pack("<II", 1251, 0))


def only(data: bytes) -> Member:
    (member,) = open_tnef(data, budget())
    return member


def message(*values: tuple[int, int, bytes]) -> bytes:
    return attribute(1, 0x9003, properties(*values))


@pytest.mark.parametrize(
    ("values", "title", "expected"),
    [
        (((LONG, UNICODE, utf16("Größe.pdf")),), b"GRE~1.PDF", "Größe.pdf"),
        (((LONG, STRING, "Заказ.pdf".encode("cp1251") + b"\0"),), b"", "Заказ.pdf"),
        (((SHORT, UNICODE, utf16("o.pdf")),), b"", "o.pdf"),
        (((SHOWN, UNICODE, utf16("shown.pdf")),), b"", "shown.pdf"),
        (((SHOWN, UNICODE, utf16("shown.pdf")), (LONG, UNICODE, utf16("long.pdf"))), b"short.pdf", "long.pdf"),
        ((), "Заказ.pdf".encode("cp1251"), "Заказ.pdf"),
        (((LONG, UNICODE, utf16("")),), b"title.pdf", "title.pdf"),
        ((), b"", None),
    ],
    ids=["unicode", "8-bit", "short", "shown", "long first", "title", "empty long", "none"],
)
def test_an_attachment_has_its_longest_name_in_the_code_page_of_the_stream(
    values: tuple[tuple[int, int, bytes], ...], title: bytes, expected: str | None
) -> None:
    member = only(tnef(CYRILLIC, attachment(*values, title=title, data=PDF)))
    assert (member.name, member.data, member.role, member.defects) == (expected, PDF, Role.FILE, ())


def test_a_name_before_or_after_the_data_and_without_rendering_belongs_to_it() -> None:
    one = attribute(2, 0x8010, b"a\0") + attribute(2, 0x800F, b"1")
    two = attribute(2, 0x800F, b"2") + attribute(2, 0x8010, b"b\0")
    assert [(m.name, m.data) for m in open_tnef(tnef(one, two), budget())] == [("a", b"1"), ("b", b"2")]


def test_type_and_content_id_are_told() -> None:
    values = ((TAG, STRING, b"Image/PNG\0"), (CID, UNICODE, utf16("<logo@x>")))
    member = only(tnef(attachment(*values, title=b"l.png", data=PDF)))
    assert (member.declared_type, member.content_id) == ("image/png", "logo@x")


def test_properties_that_are_named_multiple_or_of_any_type_are_skipped() -> None:
    named = struct.pack("<HH", UNICODE, 0x8001) + bytes(16) + struct.pack("<II", 1, 6) + b"a\0b\0\0\0\0\0"
    named += struct.pack("<II", 1, 4) + b"x\0\0\0"
    by_number = struct.pack("<HH", 3, 0x8002) + bytes(16) + struct.pack("<II", 0, 7) + bytes(4)
    several = struct.pack("<HHI", 0x1002, 0x10, 3) + bytes(8)
    strings = struct.pack("<HHI", 0x101F, 0x11, 2) + (struct.pack("<I", 2) + bytes(4)) * 2
    fixed = struct.pack("<HH", 2, 0x12) + bytes(4) + struct.pack("<HH", 0x40, 0x13) + bytes(8)
    last = struct.pack("<HHII", UNICODE, LONG, 1, 12) + utf16("o.pdf")
    block = struct.pack("<I", 7) + named + by_number + several + strings + fixed + last
    assert only(tnef(attribute(2, 0x800F, PDF), attribute(2, 0x9005, block))).name == "o.pdf"


@pytest.mark.parametrize(("guid", "defects"), [(b"", ()), (GUID_STORAGE, ("embedded object",))], ids=["bare", "guid"])
def test_an_attached_object_is_given_without_its_guid_to_the_last_byte(guid: bytes, defects: tuple[str, ...]) -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(503)
    member = only(tnef(attachment((0x3701, OBJECT if guid else BINARY, guid + ole), title=b"Sheet")))
    assert (member.data, member.defects) == (ole, defects)


def test_an_attached_message_gives_its_own_members() -> None:
    inner = tnef(attachment(title=b"inner.pdf", data=PDF), message((0x1000, UNICODE, utf16("hello"))))
    outer = tnef(attachment((0x3701, OBJECT, GUID_MESSAGE + inner), (SHOWN, STRING, b"Forwarded\0")))
    member = only(outer)
    assert (member.role, member.name, member.data) == (Role.MESSAGE, "Forwarded", b"")
    assert [(m.role, m.name, m.data) for m in member.members] == [
        (Role.BODY, None, b"hello"),
        (Role.FILE, "inner.pdf", PDF),
    ]


def test_messages_within_messages_end_at_a_depth() -> None:
    data = tnef(attachment(title=b"o.pdf", data=PDF))
    for _ in range(100):
        data = tnef(attachment((0x3701, OBJECT, GUID_MESSAGE + data), title=b"m"))
    member = only(data)
    with pytest.raises(ContainerError, match=r"^nested too deep$"):
        for _ in range(100):
            (member,) = member.members


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (((0x1000, UNICODE, utf16("Größe")),), [("text/plain", "utf-8", "Größe".encode())]),
        (((0x1000, STRING, b"\xc7\xe0\0"),), [("text/plain", "cp1251", b"\xc7\xe0")]),
        (((0x1013, BINARY, b"\xd0"), (0x3FDE, 3, struct.pack("<I", 65001))), [("text/html", "utf-8", b"\xd0")]),
        (((0x1013, BINARY, b"<p>"), (0x3FDE, 3, struct.pack("<I", 28592))), [("text/html", "iso-8859-2", b"<p>")]),
        (
            ((0x1000, STRING, b"t\0"), (0x1013, BINARY, b"<p>")),
            [("text/plain", "cp1251", b"t"), ("text/html", "cp1251", b"<p>")],
        ),
        (((0x1000, STRING, b"t\0"), (0x1009, BINARY, b"{\\rtf1 r}")), [("text/plain", "cp1251", b"t")]),
    ],
    ids=["unicode", "8-bit", "html", "html in latin 2", "both", "plain before rtf"],
)  # fmt: skip
def test_the_body_is_told_with_its_charset(
    values: tuple[tuple[int, int, bytes], ...], expected: list[tuple[str, str, bytes]]
) -> None:
    found = list(open_tnef(tnef(CYRILLIC, message(*values)), budget()))
    assert [(m.declared_type, m.charset, m.data) for m in found] == expected
    assert {m.role for m in found} == {Role.BODY}


def packed_rtf(literal: bytes) -> bytes:
    """Return compressed RTF of literals only, with a wrong checksum."""
    runs = b"".join(b"\0" + literal[at : at + 8] for at in range(0, len(literal), 8))
    return struct.pack("<II", len(runs) + 12, len(literal)) + b"LZFu" + bytes(4) + runs


def test_the_text_of_rtf_stands_in_for_a_missing_body_and_says_so() -> None:
    rtf = b"{\\rtf1\\ansi\\ansicpg1252{\\fonttbl{\\f0 Arial;}}\\f0 Gr\\'f6\\'dfe\\par \\u8364? 5\\tab x}"
    body = only(tnef(message((0x1009, BINARY, packed_rtf(rtf)))))
    assert (body.data.decode(), body.charset, body.defects) == ("Größe\n€ 5\tx", "utf-8", ("text of RTF",))


def test_compressed_rtf_refers_back_into_itself_and_into_its_first_dictionary() -> None:
    # The example of [MS-OXRTFCP] section 3.1.
    example = "2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320af32068656c090020627705b06c647d0a800fa0"
    assert rtf_to_text(bytes.fromhex(example), "", budget())[1].strip() == "hello world"
    # One letter, ten more by a reference to it that overlaps itself, and the end mark.
    runs = b"\0{\\rtf1 a" + b"\x03" + struct.pack(">HH", (207 + 7) << 4 | 8, (207 + 8 + 10) << 4)
    assert rtf_to_text(struct.pack("<II", len(runs) + 12, 18) + b"LZFu" + bytes(4) + runs, "", budget())[1] == 11 * "a"


@pytest.mark.parametrize(
    ("rtf", "text"),
    [
        (b"{\\rtf1\\fbidis{\\fonttbl{\\f1\\fnil\\fcharset204 Arial;}}\\f1\\'c7\\'e0}", "\u0417\u0430"),
        (b"{\\rtf1\\uc2\\u-10179??\\u-8704??!}", "😀!"),
        (b"{\\rtf1\\u55357?}", "\ufffd"),
        (b"{\\rtf1 a{\\pict 0102}{\\*\\unknown b}\\{c\\}\\~d}", "a{c}\xa0d"),
        (b"{\\rtf1{\\*\\htmltag <p>}\\htmlrtf {\\htmlrtf0 x\\htmlrtf }\\htmlrtf0 y}", "xy"),
        (b"{\\rtf1 a}trailing", "a"),
        (
            b"{\\rtf1\\fromhtml1 {\\*\\htmltag64 <p>}\\htmlrtf {\\htmlrtf0 4711{\\*\\htmltag148 <td>}10\\htmlrtf "
            b"\\cell}\\htmlrtf0 {\\*\\htmltag84 &euro;}}",
            "<p>4711<td>10&euro;",
        ),
        (b"\\u99999999999999? {{{ x", "x"),
    ],
    ids=[
        "font charset",
        "surrogates",
        "half a surrogate",
        "groups aside",
        "html",
        "after the end",
        "wrapped html",
        "garbage",
    ],
)
def test_rtf_is_read_for_its_text(rtf: bytes, text: str) -> None:
    assert text in strip_rtf(rtf, "", budget())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not TNEF"),
        (b"PK\x03\x04", "not TNEF"),
        (b"\x78\x9f\x3e\x22", "no members"),
        (tnef(message()), "no members"),
        (tnef(b"\x07garbage that is no attribute"), "no members"),
    ],
    ids=["nothing", "other", "signature", "no attachment", "garbage"],
)
def test_what_cannot_be_opened_says_why(data: bytes, reason: str) -> None:
    assert refusal(open_tnef(data, budget())) == reason


def test_wrong_checksums_and_garbage_after_the_end_are_tolerated() -> None:
    data = bytearray(tnef(attachment(title=b"o.pdf", data=PDF)))
    data[-2:] = b"\xff\xff"
    assert only(bytes(data) + b"\x55" * 40).data == PDF


def test_an_attachment_that_ends_early_is_kept_with_a_defect() -> None:
    member = only(tnef(attachment(title=b"o.pdf", data=PDF))[:-100])
    assert (member.name, member.defects) == ("o.pdf", ("attachment ends early",))
    assert member.data == PDF[: len(PDF) - 98]


def test_one_odd_value_costs_no_other() -> None:
    odd = attribute(1, 0x9007, struct.pack("<I", 4_000_000_000)), attribute(1, 0x8004, b"\x81\x8d\0")
    block = properties((LONG, UNICODE, utf16("o.pdf"))) + b"\xff\xff\xff\xff"
    broken = struct.pack("<I", 99) + block[4:]
    member = only(tnef(*odd, attribute(2, 0x800F, PDF), attribute(2, 0x9005, broken)))
    assert (member.name, member.data) == ("o.pdf", PDF)


def test_what_comes_out_is_bounded_by_the_mail() -> None:
    data = tnef(attachment(title=b"a", data=PDF), attachment(title=b"b", data=PDF))
    assert refusal(open_tnef(data, budget(members=1))) == "too many members"
    assert refusal(open_tnef(data, budget(size=2 * len(PDF) - 1))) == "too large when unpacked"
    assert refusal(open_tnef(data, budget(size=2 * len(PDF), members=2))) == ""


ENDLESS = struct.pack("<I", 0xFFFFFFFF)


@pytest.mark.parametrize(
    "data",
    [
        tnef(attribute(1, 0x9003, ENDLESS + bytes(20))),
        tnef(attribute(1, 0x9003, ENDLESS + struct.pack("<HH", 0x1002, 1) + ENDLESS)),
        tnef(attribute(1, 0x9003, ENDLESS + struct.pack("<HH", 0x101E, 1) + ENDLESS + bytes(2_000_000))),
        tnef(attribute(1, 0x9003, ENDLESS + b"\1\0\1\0" * 500_000)),
        tnef(attribute(1, 0x9006, b"\0\0\1\0") * 150_000),
        tnef(struct.pack("<BHHI", 1, 0x9003, 6, 0xFFFFFFFF)),
    ],
    ids=["count", "fixed values", "strings", "null values", "tiny attributes", "length"],
)
def test_hostile_counts_and_lengths_take_linear_time(data: bytes) -> None:
    with at_most(600):
        assert refusal(open_tnef(data, budget())) == "no members"


def test_no_mutation_of_a_stream_raises_anything_else_or_logs(caplog: pytest.LogCaptureFixture) -> None:
    inner = tnef(attachment(title=b"inner.pdf", data=b"data"))
    samples = [
        tnef(CYRILLIC, attachment((LONG, UNICODE, utf16("o.pdf")), data=PDF), message((0x1000, STRING, b"hi\0"))),
        tnef(attachment((0x3701, OBJECT, GUID_MESSAGE + inner)), message((0x1009, BINARY, packed_rtf(b"{\\rtf1 hi}")))),
    ]  # fmt: skip
    with caplog.at_level(logging.DEBUG):
        opened, refused = survives(lambda data: open_tnef(data, budget(1 << 24)), samples)
    assert opened > 500
    assert refused > 50
    assert not caplog.records


def test_the_body_of_a_stream_comes_first_wherever_it_stands() -> None:
    data = tnef(attachment(title=b"a", data=b"1"), message((0x1000, STRING, b"t\0")), attachment(title=b"b", data=b"2"))
    assert [(m.name, m.data) for m in read_all(open_tnef(data, budget()))] == [(None, b"t"), ("a", b"1"), ("b", b"2")]
