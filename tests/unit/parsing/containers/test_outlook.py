"""An Outlook message gives its attachments, attached messages and body; a hostile file costs no more than its size."""

import logging
import struct
import tracemalloc

import pytest

from orderflow_ingest.parsing.containers import ContainerError, Role
from orderflow_ingest.parsing.containers.outlook import open_outlook
from tests.support.containers_made import (
    Value,
    attachments,
    budget,
    compound,
    read_all,
    refusal,
    storage,
    survives,
    utf16,
)
from tests.support.containers_made import outlook_message as message
from tests.support.cost import at_most

PDF = b"%PDF-1.4\n" + bytes(range(256)) * 30
STRING, UNICODE, BINARY = 0x1E, 0x1F, 0x102
LONG, SHORT, SHOWN, TAG, CID, DATA = 0x3707, 0x3704, 0x3001, 0x370E, 0x3712, 0x3701
CYRILLIC = (0x3FFD, 3, struct.pack("<I", 1251))


def attached_message(*values: Value, attached: tuple[dict, ...] = ()) -> dict:
    inner = storage(*values, header=24, **attachments(*attached))
    return storage((0x3705, 3, struct.pack("<I", 5)), **{"__substg1.0_3701000D": inner})


@pytest.mark.parametrize("data", [b"", b"small", PDF], ids=["empty", "in the mini stream", "in sectors"])
def test_an_attachment_is_given_to_its_last_byte_with_its_type_and_content_id(data: bytes) -> None:
    values = (
        (LONG, UNICODE, utf16("Größe.pdf")),
        (TAG, UNICODE, utf16("Application/PDF")),
        (CID, UNICODE, utf16("a@b")),
    )
    (member,) = open_outlook(message(attached=(storage(*values, (DATA, BINARY, data)),)), budget())
    assert (member.name, member.data, member.role) == ("Größe.pdf", data, Role.FILE)
    assert (member.declared_type, member.content_id, member.defects) == ("application/pdf", "a@b", ())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (((LONG, STRING, "Заказ.pdf".encode("cp1251")),), "Заказ.pdf"),
        (((SHORT, UNICODE, utf16("O~1.PDF")), (LONG, UNICODE, utf16("order.pdf"))), "order.pdf"),
        (((SHORT, UNICODE, utf16("o.pdf")),), "o.pdf"),
        (((SHOWN, UNICODE, utf16("shown")),), "shown"),
        ((), None),
    ],
    ids=["8-bit", "long", "short", "shown", "none"],
)
def test_a_name_is_the_longest_in_the_code_page_of_the_message(values: tuple[Value, ...], expected: str | None) -> None:
    data = message(CYRILLIC, attached=(storage(*values, (DATA, BINARY, PDF)),))
    assert next(open_outlook(data, budget())).name == expected


def test_the_body_comes_first_and_the_attachments_in_their_order() -> None:
    stores = tuple(storage((LONG, UNICODE, utf16(f"{n}.pdf")), (DATA, BINARY, PDF)) for n in range(40))
    found = list(open_outlook(message((0x1000, UNICODE, utf16("hi")), attached=stores), budget()))
    assert [m.name for m in found] == [None, *(f"{n}.pdf" for n in range(40))]
    assert (found[0].role, found[0].data, found[0].charset) == (Role.BODY, b"hi", "utf-8")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (((0x1000, STRING, b"\xc7\xe0"), CYRILLIC), ("text/plain", "cp1251", b"\xc7\xe0")),
        (((0x1013, BINARY, b"<p>"), (0x3FDE, 3, struct.pack("<I", 65001))), ("text/html", "utf-8", b"<p>")),
        (((0x1009, BINARY, b"\0" * 4 + b"\x09\0\0\0MELA\0\0\0\0{\\rtf1 r}"),), ("text/plain", "utf-8", b"r")),
    ],
    ids=["plain", "html", "rtf"],
)
def test_the_body_is_told_with_its_charset(values: tuple[Value, ...], expected: tuple[str, str, bytes]) -> None:
    (member,) = open_outlook(message(*values), budget())
    assert (member.declared_type, member.charset, member.data) == expected


def test_an_attached_message_gives_its_own_members() -> None:
    inner = storage((LONG, UNICODE, utf16("inner.pdf")), (DATA, BINARY, PDF))
    body = (0x1000, UNICODE, utf16("hello"))
    data = message(attached=(attached_message((0x37, UNICODE, utf16("Order 5")), body, attached=(inner,)),))
    (member,) = open_outlook(data, budget())
    assert (member.role, member.name, member.data) == (Role.MESSAGE, "Order 5", b"")
    assert [(m.name, m.data) for m in member.members] == [(None, b"hello"), ("inner.pdf", PDF)]


def test_messages_within_messages_end_at_a_depth() -> None:
    def nested(depth: int) -> bytes:
        store = storage((DATA, BINARY, PDF))
        for _ in range(depth):
            store = attached_message(attached=(store,))
        return message(attached=(store,))

    (member,) = open_outlook(nested(25), budget())
    with pytest.raises(ContainerError, match=r"^nested too deep$"):
        for _ in range(25):
            (member,) = member.members
    assert refusal(open_outlook(nested(300), budget())) == "damaged"


@pytest.mark.parametrize(
    ("inside", "data", "defect"),
    [
        ({"Package": PDF}, PDF, "embedded object"),
        ({"CONTENTS": PDF}, PDF, "embedded object"),
        ({"\x01Ole": b"x"}, b"", "embedded object without file"),
    ],
    ids=["package", "contents", "neither"],
)
def test_an_attached_object_gives_its_file_or_is_told(inside: dict, data: bytes, defect: str) -> None:
    store = storage((LONG, UNICODE, utf16("sheet")), **{"__substg1.0_3701000D": inside})
    (member,) = open_outlook(message(attached=(store,)), budget())
    assert (member.name, member.data, member.defects) == ("sheet", data, (defect,))


def test_an_attachment_without_data_is_told() -> None:
    (member,) = open_outlook(message(attached=(storage((LONG, UNICODE, utf16("link"))),)), budget())
    assert (member.name, member.data, member.defects) == ("link", b"", ("attachment without data",))


GOOD = message(
    (0x1000, UNICODE, utf16("hi")), attached=(storage((LONG, UNICODE, utf16("o.pdf")), (DATA, BINARY, PDF)),)
)


def patched(offset: int, value: bytes) -> bytes:
    return GOOD[:offset] + value + GOOD[offset + len(value) :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not Outlook"),
        (b"PK\x03\x04", "not Outlook"),
        (GOOD[:8], "damaged"),
        (GOOD[:1400], "damaged"),
        (compound({"Workbook": PDF}), "not Outlook"),
        (message(), "no members"),
        (patched(30, b"\xff\xff"), "damaged"),
        (patched(32, b"\x20\0"), "damaged"),
        (patched(44, b"\xff\xff\xff\x7f"), "damaged"),
        (patched(72, b"\xff\xff\xff\x7f"), "damaged"),
        (patched(64, b"\xff\xff\xff\x7f"), "damaged"),
    ],
    ids=[
        "nothing", "other", "signature", "cut", "workbook", "no attachment", "sectors", "mini sectors", "fat", "difat",
        "minifat",
    ],
)  # fmt: skip
def test_what_cannot_be_opened_says_why_at_once(data: bytes, reason: str) -> None:
    with at_most(600):
        assert refusal(open_outlook(data, budget())) == reason


def test_a_stream_that_claims_more_than_the_file_and_turns_in_a_circle_costs_no_memory() -> None:
    name = GOOD.index("__substg1.0_37010102".encode("utf-16-le"))
    data = bytearray(GOOD)
    data[name + 120 : name + 124] = struct.pack("<I", 0x7FFFFFFF)
    (start,) = struct.unpack_from("<I", data, name + 116)
    (fat,) = struct.unpack_from("<I", data, 76)
    struct.pack_into("<I", data, 512 * (fat + 1) + 4 * start, start)
    tracemalloc.start()
    assert refusal(open_outlook(bytes(data), budget(1 << 40))) == "damaged"
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_what_comes_out_is_bounded_by_the_mail() -> None:
    assert refusal(open_outlook(GOOD, budget(members=1))) == "too many members"
    assert refusal(open_outlook(GOOD, budget(size=len(PDF) + 1))) == "too large when unpacked"
    assert refusal(open_outlook(GOOD, budget(size=len(PDF) + 2, members=2))) == ""


def test_no_mutation_of_a_message_raises_anything_else_or_logs(caplog: pytest.LogCaptureFixture) -> None:
    inner = attached_message((0x37, UNICODE, utf16("x")), attached=(storage((DATA, BINARY, b"y")),))
    samples = [GOOD, message(attached=(inner,)), message((0x1013, BINARY, b"<p>" * 2000))]
    with caplog.at_level(logging.DEBUG):
        opened, refused = survives(lambda data: open_outlook(data, budget(1 << 24)), samples)
    assert opened > 200
    assert refused > 200
    assert not caplog.records
    assert len(read_all(open_outlook(GOOD, budget()))) == 2
