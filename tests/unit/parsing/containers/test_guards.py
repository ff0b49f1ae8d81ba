"""What the containers of one mail may cost is bounded: steps, names, directories; and a caller's clock is asked."""

import gzip
import struct
from collections.abc import Callable, Iterable

import pytest

from orderflow_ingest.parsing.containers import ContainerError, Member, UnpackBudget
from orderflow_ingest.parsing.containers.gzip_file import open_gzip
from orderflow_ingest.parsing.containers.kinds import container_kind, open_container
from orderflow_ingest.parsing.containers.names import LONGEST_NAME, NAME_CUT
from orderflow_ingest.parsing.containers.outlook import open_outlook
from orderflow_ingest.parsing.containers.seven_zip import open_seven_zip
from orderflow_ingest.parsing.containers.tar_archive import open_tar
from orderflow_ingest.parsing.containers.tnef import open_tnef
from orderflow_ingest.parsing.containers.zip_archive import open_zip
from orderflow_ingest.parsing.mime.sniff import detect_type
from tests.support.containers_made import (
    attachment,
    attribute,
    outlook_message,
    pax_record,
    properties,
    rar_5,
    refusal,
    seven_zipped,
    storage,
    streamed,
    tar_entry,
    tnef,
    utf16,
    zipped,
)

LONG = "directory/" * 500 + "order.pdf"
OEM = "Bestellung Größe für Müller.pdf"


class Clock:
    """Counts how often it is asked, and ends the work after some times."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.asked = 0
        self.most = most

    def __call__(self) -> None:
        self.asked += 1
        if self.asked > self.most:
            raise ContainerError("out of time")


def zip_directory(names: Iterable[bytes], extra: bytes = b"", comment: bytes = b"") -> bytes:
    """Return an archive of empty files, all with this extra field and comment in the directory."""
    files, entries = bytearray(), bytearray()
    count = 0
    for name in names:
        entry = struct.pack("<HHHHHHIII", 20, 20, 0, 0, 0, 33, 0, 0, 0)
        entry += struct.pack("<HHHHHII", len(name), len(extra), len(comment), 0, 0, 0, len(files))
        entries += b"PK\x01\x02" + entry + name + extra + comment
        files += b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0) + name
        count += 1
    end = struct.pack("<HHHHIIH", 0, 0, min(count, 65535), min(count, 65535), len(entries), len(files), 0)
    return bytes(files + entries) + b"PK\x05\x06" + end


def tnef_titles(count: int) -> bytes:
    return tnef(*[attribute(2, 0x8010, b"")] * count)


def tnef_properties(count: int, key: int = 0x3701) -> bytes:
    named = bytes(16) + struct.pack("<II", 0, 5) if key & 0x8000 else b""
    value = struct.pack("<HH", 3, key) + named + bytes(4)
    return tnef(attribute(2, 0x9002, bytes(14)), attribute(2, 0x9005, struct.pack("<I", count) + value * count))


def tnef_values(count: int) -> bytes:
    several = struct.pack("<IHHI", 1, 0x101E, 0x3001, count) + bytes(4 * count)
    return tnef(attribute(2, 0x9002, bytes(14)), attribute(2, 0x9005, several))


def rtf_message(rtf: bytes) -> bytes:
    packed = struct.pack("<II4sI", len(rtf) + 12, len(rtf), b"MELA", 0) + rtf
    return tnef(attribute(1, 0x9003, properties((0x1009, 0x102, packed))))


HOSTILE: dict[str, tuple[Callable[[int], bytes], int]] = {
    "zip entries": (lambda n: zip_directory(b"d%d/" % i for i in range(n)), 2000),
    "zip extra fields": (lambda n: zip_directory([b"d/"] * n, struct.pack("<HH", 1, 0) * 1000), 20),
    "gzip streams": (lambda n: gzip.compress(b"") * n, 2000),
    "tar directories": (lambda n: tar_entry(b"d/", kind=b"5") * n, 500),
    "tar pax records": (lambda n: tar_entry(b"p", b"6 a=b\n" * n, b"x") + tar_entry(b"a"), 5000),
    "tar sparse maps": (lambda n: tar_entry(b"a", kind=b"S", more=b"\1") + (bytes(504) + b"\1" + bytes(7)) * n, 500),
    "7z files": (lambda n: seven_zipped(*[(f"{i}/._x", b"x") for i in range(n)]), 1000),
    "rar blocks": (lambda n: rar_5(*[(1, b"\0", b"", b"")] * n), 1000),
    "tnef attributes": (tnef_titles, 5000),
    "tnef properties": (tnef_properties, 5000),
    "tnef named properties": (lambda n: tnef_properties(n, 0x8001), 5000),
    "tnef values": (tnef_values, 5000),
    "rtf groups": (lambda n: rtf_message(b"{\\rtf1 " + b"{a}" * n), 5000),
    "rtf escapes": (lambda n: rtf_message(b"{\\rtf1\\ansicpg65001 " + b"\\'e9\\'e8 " * n), 2000),
    "cms pieces": (lambda n: streamed(b"x" * n, 1), 5000),
    "cms strings in each other": (lambda n: streamed(b"x", 1).replace(b"\x24\x80", b"\x24\x80" * n, 1), 5000),
    "outlook entries": (lambda n: outlook_message(attached=tuple({} for _ in range(n))), 50),
}  # fmt: skip


def kind_of(data: bytes) -> str | None:
    name = "a.p7m" if data.startswith(b"\x30") else "a.msg"
    return container_kind("application/octet-stream", detect_type(data), name, data)


def steps_of(data: bytes) -> int:
    """Return how many steps it takes to open all of a container."""
    budget = UnpackBudget()
    before = budget.steps
    kind = kind_of(data)
    assert kind is not None
    refusal(open_container(kind, data, budget))
    return before - budget.steps


@pytest.mark.parametrize("name", HOSTILE)
def test_work_that_unpacks_nothing_is_counted_and_grows_as_the_container_does(name: str) -> None:
    make, count = HOSTILE[name]
    once, twice = steps_of(make(count)), steps_of(make(2 * count))
    assert once >= count
    assert 1.8 * once < twice < 2.2 * once


@pytest.mark.parametrize("name", HOSTILE)
def test_a_container_that_takes_more_steps_than_the_mail_has_left_is_refused(name: str) -> None:
    make, count = HOSTILE[name]
    data, clock = make(count), Clock()
    budget = UnpackBudget(check=clock)
    budget.steps = count // 2
    kind = kind_of(data)
    assert refusal(open_container(str(kind), data, budget)) == "too much to read"


def test_a_budget_without_arguments_opens_what_people_send() -> None:
    assert [member.name for member in open_zip(zipped(("order.pdf", b"%PDF")), UnpackBudget())] == ["order.pdf"]


@pytest.mark.parametrize(
    ("kind", "data", "least"),
    [
        ("zip", zipped(*((f"{n}", bytes(200_000)) for n in range(5))), 20),
        ("gzip", gzip.compress(bytes(1 << 20)), 16),
        ("tar", tar_entry(b"a") * 10, 20),
        ("7z", seven_zipped(("a", bytes(1 << 20))), 16),
        ("tnef", tnef_titles(20_000), 10),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_callers_clock_is_asked_for_each_member_block_and_some_thousand_steps(
    kind: str, data: bytes, least: int
) -> None:
    clock = Clock()
    refusal(open_container(kind, data, UnpackBudget(check=clock)))
    assert clock.asked >= least
    assert refusal(open_container(kind, data, UnpackBudget(check=Clock(least // 2)))) == "out of time"


@pytest.mark.parametrize(
    "opened",
    [
        lambda: open_zip(zip_directory([LONG.encode()]), UnpackBudget()),
        lambda: open_zip(zipped(("ü" + LONG, b"")), UnpackBudget()),
        lambda: open_tar(tar_entry(b"L", LONG.encode() + b"\0", b"L") + tar_entry(b"a"), UnpackBudget()),
        lambda: open_tar(tar_entry(b"x", pax_record(b"path", LONG.encode()), b"x") + tar_entry(b"a"), UnpackBudget()),
        lambda: open_seven_zip(seven_zipped((LONG, b"x")), UnpackBudget()),
        lambda: open_gzip(
            b"\x1f\x8b\x08\x08" + bytes(6) + LONG[-4000:].encode() + b"\0" + gzip.compress(b"")[10:], UnpackBudget()
        ),
        lambda: open_tnef(tnef(attachment(title=LONG.encode(), data=b"x")), UnpackBudget()),
        lambda: open_tnef(tnef(attachment((0x3707, 0x1F, utf16(LONG)), data=b"x")), UnpackBudget()),
        lambda: open_outlook(
            outlook_message(attached=(storage((0x3707, 0x1F, utf16(LONG)), (0x3701, 0x102, b"x")),)), UnpackBudget()
        ),
    ],
    ids=["zip", "zip utf-8", "tar", "pax", "7z", "gzip", "tnef title", "tnef", "outlook"],
)  # fmt: skip
def test_of_a_name_that_is_too_long_the_end_is_kept_and_told(opened: Callable[[], Iterable[Member]]) -> None:
    (member,) = opened()
    assert member.name is not None
    assert member.name.endswith("er.pdf")
    assert len(member.name) <= LONGEST_NAME
    assert NAME_CUT in member.defects


def test_the_charset_of_few_names_is_guessed_and_the_others_are_read_like_them() -> None:
    budget = UnpackBudget()
    budget.guesses = 5
    names = [f"{number} {OEM}" for number in range(50)]
    found = open_zip(zip_directory(name.encode("cp850") for name in names), budget)
    assert [member.name for member in found] == names


def test_the_charset_of_texts_that_are_not_what_they_say_is_detected_for_few_of_them() -> None:
    budget = UnpackBudget()
    budget.guesses = 5
    titles = (attachment(title=b"%d \xe9\xe8.pdf" % number, data=b"x") for number in range(50))
    members = list(open_tnef(tnef(attribute(1, 0x9007, struct.pack("<II", 65001, 0)), *titles), budget))
    assert len({member.name for member in members}) == 50
    assert members[-1].name == "49 \ufffd\ufffd.pdf"
    assert "\ufffd" not in (members[0].name or "\ufffd")


def test_a_directory_of_great_fields_keeps_the_archive_whole() -> None:
    extra = struct.pack("<HH", 1, 0)
    assert refusal(open_zip(zip_directory([b"a"], extra * 1000), UnpackBudget())) == ""
    assert refusal(open_zip(zip_directory([b"a"], extra * 1100), UnpackBudget())) == "directory too large"
    assert (
        refusal(open_zip(zip_directory([b"a%d" % n for n in range(200)], b"", bytes(60_000)), UnpackBudget()))
        == "directory too large"
    )
    assert refusal(open_tar(tar_entry(b"x", bytes(2 << 20), b"x"), UnpackBudget())) == "headers too large"
