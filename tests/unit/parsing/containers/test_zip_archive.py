"""ZIP archives open within bounds, their files named as written; what cannot be opened says why."""

import struct
import tracemalloc
import zipfile
import zlib

import pytest

from orderflow_ingest.parsing.containers import ContainerError
from orderflow_ingest.parsing.containers.names import decode_name
from orderflow_ingest.parsing.containers.zip_archive import open_zip
from tests.support.containers_made import budget, flagged, mutants, read_all, refusal, survives, zipped
from tests.support.cost import at_most

PDF = b"%PDF-1.4\n" + bytes(range(256)) * 20


def named(raw: bytes, extra: bytes = b"") -> bytes:
    """Return an archive of one empty file whose name is these bytes, without the flag of UTF-8."""
    local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, 0, 0, 0, len(raw), 0) + raw
    entry = b"PK\x01\x02" + struct.pack(
        "<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 33, 0, 0, 0, len(raw), len(extra), 0, 0, 0, 0, 0
    )
    entry += raw + extra
    return local + entry + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    at = data.index(b"PK\x01\x02") + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_files_of_an_archive_are_given_in_its_order(method: int) -> None:
    data = zipped(("b.pdf", PDF), ("orders/a.csv", b"a;b\n"), ("empty.txt", b""), method=method)
    told = [(member.name, member.data) for member in open_zip(data, budget())]
    assert told == [("b.pdf", PDF), ("orders/a.csv", b"a;b\n"), ("empty.txt", b"")]


def test_two_files_of_one_name_are_both_given() -> None:
    with pytest.warns(UserWarning):
        data = zipped(("o.pdf", b"1"), ("o.pdf", b"2"))
    assert [member.data for member in open_zip(data, budget())] == [b"1", b"2"]


def test_directories_and_litter_are_not_given() -> None:
    litter = ("x/", "__MACOSX/._o.pdf", ".DS_Store", "x/.DS_Store", "x/Thumbs.db", "desktop.ini")
    data = zipped(*((name, b"") for name in litter), ("x/o.pdf", b"1"))
    assert [member.name for member in open_zip(data, budget())] == ["x/o.pdf"]
    assert refusal(open_zip(zipped(*((name, b"") for name in litter)), budget())) == "no members"


def test_an_archive_after_a_prefix_opens() -> None:
    assert [member.data for member in open_zip(b"MZ" + bytes(500) + zipped(("o.pdf", PDF)), budget())] == [PDF]


GERMAN = ("Bestellung Müller.pdf", "Größe.xlsx", "Auftragsbestätigung.pdf", "ÄÖÜ.pdf", "für.txt", "été n° 12.pdf")
RUSSIAN = ("Заказ на поставку.pdf", "Договор № 7.docx", "прайс.pdf", "заявка.doc")
CHINESE = ("采购订单.pdf", "订单2024.xlsx", "报价单.doc", "采购合同(新).pdf")
JAPANESE = ("発注書.pdf", "注文書2024.xlsx", "見積書.pdf", "ご注文.pdf", "カタログ.pdf", "PO注文.pdf")


@pytest.mark.parametrize(
    ("names", "charset", "hint"),
    [
        (GERMAN, "cp850", ""),
        (GERMAN, "cp850", "iso-8859-1"),
        (GERMAN, "cp1252", ""),
        (GERMAN, "cp1252", "windows-1252"),
        (GERMAN, "utf-8", "iso-8859-1"),
        (RUSSIAN, "cp866", ""),
        (RUSSIAN, "cp866", "koi8-r"),
        (RUSSIAN, "cp866", "windows-1251"),
        (RUSSIAN, "cp1251", ""),
        (RUSSIAN, "cp1251", "windows-1251"),
        (CHINESE, "gbk", "gb2312"),
        (JAPANESE, "cp932", ""),
        (JAPANESE, "cp932", "iso-2022-jp"),
        (("Zamówienie części.pdf", "Objednávka č. 5.pdf"), "cp852", "iso-8859-2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_name_without_charset_is_read_as_its_windows_wrote_it(
    names: tuple[str, ...], charset: str, hint: str
) -> None:
    raws = [name.replace("№", "N").encode(charset) if charset == "cp1252" else name.encode(charset) for name in names]
    assert [next(open_zip(named(raw), budget(), hint)).name for raw in raws] == list(names)


def test_the_unicode_path_field_names_a_file_only_if_it_belongs_to_its_name() -> None:
    raw, better = b"M_ller.pdf", "Müller.pdf".encode()
    field = b"\x01" + struct.pack("<I", zlib.crc32(raw)) + better
    extra = struct.pack("<HHI", 1, 4, 0) + struct.pack("<HH", 0x7075, len(field)) + field
    assert next(open_zip(named(raw, extra), budget())).name == "Müller.pdf"
    assert next(open_zip(named(b"renamed.pdf", extra), budget())).name == "renamed.pdf"


def test_backslashes_of_a_path_are_slashes() -> None:
    assert next(open_zip(named(b"orders\\o.pdf"), budget())).name == "orders/o.pdf"


def test_a_name_of_any_bytes_is_text() -> None:
    assert decode_name(bytes(range(1, 256))).encode()


GOOD = zipped(("o.pdf", PDF), ("b.csv", b"a;b\n"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04 and nothing", "damaged"),
        (GOOD[:-30], "damaged"),
        (GOOD[:60] + GOOD[90:], "damaged"),
        (patched(GOOD, 16, b"\0\0\0\0"), "damaged"),
        (zipped(), "no members"),
        (flagged(GOOD, 1), "encrypted"),
        (patched(GOOD, 10, struct.pack("<H", 9)), "unsupported compression"),
        (zipped(("o.pdf", PDF), method=zipfile.ZIP_BZIP2), "unsupported compression"),
        (zipped(("o.pdf", PDF), method=zipfile.ZIP_LZMA), "unsupported compression"),
        (GOOD[: GOOD.rindex(b"PK\x05\x06") + 4] + b"\x02\0\x02\0" + GOOD[-14:], "multi-part"),
    ],
    ids=[
        "nothing",
        "no directory",
        "cut",
        "hole",
        "checksum",
        "empty",
        "encrypted",
        "method 9",
        "bzip2",
        "lzma",
        "disks",
    ],
)
def test_what_cannot_be_opened_says_why(data: bytes, reason: str) -> None:
    assert refusal(open_zip(data, budget())) == reason


def test_encryption_of_any_file_is_told_before_the_first() -> None:
    last = GOOD.rindex(b"PK\x01\x02") + 8
    with pytest.raises(ContainerError, match=r"^encrypted$"):
        next(open_zip(GOOD[:last] + b"\x01\x00" + GOOD[last + 2 :], budget()))


def test_files_before_a_damaged_one_are_given() -> None:
    at = GOOD.rindex(b"PK\x03\x04") + 30 + len("b.csv")
    found = open_zip(GOOD[:at] + b"\xff" + GOOD[at + 1 :], budget())
    assert next(found).data == PDF
    assert refusal(found) == "damaged"


def test_what_comes_out_is_bounded_by_the_mail_and_by_the_archive() -> None:
    assert refusal(open_zip(GOOD, budget(members=1))) == "too many members"
    assert refusal(open_zip(GOOD, budget(size=len(PDF)))) == "too large when unpacked"
    assert refusal(open_zip(GOOD, budget(size=len(PDF) + 4, members=2))) == ""
    assert refusal(open_zip(zipped(("zeros", bytes(10_400_000))), budget())) == ""
    assert refusal(open_zip(zipped(("zeros", bytes(10_500_000))), budget())) == "ratio too high"


def test_a_bomb_costs_no_more_than_its_bound_whatever_its_directory_claims() -> None:
    bomb = zipped(("zeros", bytes(60_000_000)))
    liar = patched(bomb, 24, struct.pack("<I", 10))
    tracemalloc.start()
    assert refusal(open_zip(bomb, budget())) == "ratio too high"
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()
    assert refusal(open_zip(liar, budget())) == "damaged"


def test_files_that_share_their_bytes_are_a_bomb() -> None:
    entry = GOOD[GOOD.index(b"PK\x01\x02") : GOOD.rindex(b"PK\x01\x02")]
    start = GOOD.index(b"PK\x01\x02")
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 50, 50, 50 * len(entry), start, 0)
    assert refusal(open_zip(GOOD[:start] + 50 * entry + end, budget())) == "overlapping members"


def test_a_directory_of_very_many_entries_is_refused_before_it_is_read() -> None:
    entry = named(b"a")[31:-22]
    data = named(b"a")[:31] + entry * 300_000
    data += b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, len(entry) * 300_000, 31, 0)
    with at_most(200):
        assert refusal(open_zip(data, budget())) == "too many members"


def test_no_mutation_of_an_archive_raises_anything_else() -> None:
    samples = [GOOD, zipped(("ü.pdf", PDF), method=zipfile.ZIP_STORED), named("Größe".encode("cp850"))]
    with at_most(4000):
        opened, refused = survives(lambda data: open_zip(data, budget(1 << 24), "koi8-r"), samples)
        assert opened > 100
        assert refused > 500


def test_mutations_are_the_same_every_time() -> None:
    assert list(mutants([GOOD], 20)) == list(mutants([GOOD], 20))
    assert len(read_all(open_zip(GOOD, budget()))) == 2
