"""tar, 7z, bzip2 and xz open within bounds; RAR and what else nobody opens here says so; no path touches a disk."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib

import pytest

from orderflow_ingest.parsing.containers import ContainerError, Member, Role, UnpackBudget
from orderflow_ingest.parsing.containers.kinds import container_kind, open_container
from orderflow_ingest.parsing.containers.one_file import open_bzip2, open_xz
from orderflow_ingest.parsing.containers.rar_archive import open_rar
from orderflow_ingest.parsing.containers.seven_zip import open_seven_zip
from orderflow_ingest.parsing.containers.tar_archive import open_tar
from orderflow_ingest.parsing.mime.sniff import detect_type
from tests.support.containers_made import (
    budget,
    pax_record,
    rar_4,
    rar_5,
    refusal,
    seven_header,
    seven_streams,
    seven_zipped,
    survives,
    tar_entry,
)

PDF = b"%PDF-1.4\n" + bytes(range(256)) * 20
CSV = b"article;quantity\n" * 3000
OCTETS = "application/octet-stream"


def tarred(*files: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def found(opened: object) -> list[tuple[str | None, bytes]]:
    return [(member.name, member.data) for member in opened]  # type: ignore[attr-defined]


def kind(data: bytes, filename: str = "", declared: str = OCTETS) -> str | None:
    return container_kind(declared, detect_type(data), filename, data)


# tar

LONG = "Aufträge/" * 20 + "Bestellung.pdf"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_the_files_of_a_tar_archive_are_given_in_its_order(form: int) -> None:
    files = [("order.pdf", PDF), ("a/positions.csv", CSV), (LONG, b"1"), ("empty.txt", b"")]
    data = tarred(*files, form=form)
    assert found(open_tar(data, budget())) == files
    assert kind(data) == kind(data, "orders.tar", "application/x-tar") == "tar"


def test_a_long_name_is_in_the_prefix_of_the_old_form() -> None:
    name = "orders/" * 20 + "order.pdf"
    assert found(open_tar(tarred((name, PDF), form=tarfile.USTAR_FORMAT), budget())) == [(name, PDF)]


def test_archives_before_posix_and_sums_of_signed_bytes_are_read() -> None:
    old = tar_entry(b"order.pdf", PDF, b"\0", magic=b"")
    assert kind(old) == "tar"
    assert found(open_tar(old, budget())) == [("order.pdf", PDF)]
    entry = bytearray(tar_entry("Größe.pdf".encode(), PDF))
    entry[148:156] = b"%06o\0 " % (int(entry[148:154], 8) - 256 * 4)
    assert found(open_tar(bytes(entry), budget())) == [("Größe.pdf", PDF)]


def test_a_name_without_charset_is_read_as_in_a_zip() -> None:
    assert next(open_tar(tar_entry("Bestellung Müller.pdf".encode("cp1252")), budget())).name == "Bestellung Müller.pdf"


def test_links_devices_and_pipes_are_told_and_not_followed() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for letter in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("order.pdf")
            info.type, info.linkname = letter, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("../../etc/cron.d/x"))
    *links, file = open_tar(buffer.getvalue(), budget())
    assert {(link.role, link.data, link.defects) for link in links} == {
        (Role.LINK, b"", ("link or device, not followed",))
    }
    assert (len(links), file.name, file.role) == (5, "../../etc/cron.d/x", Role.FILE)


def test_sparse_files_are_left_out_and_keep_the_archive_whole() -> None:
    gnu = tar_entry(b"disk", bytes(512), b"S", more=b"\1")
    gnu = gnu[:512] + bytes(512) + gnu[512:] + tar_entry(b"order.pdf", PDF)
    pax = tar_entry(b"x", pax_record(b"GNU.sparse.major", b"1"), b"x") + tar_entry(b"disk", b"0\n")
    for data in (gnu, pax + tar_entry(b"order.pdf", PDF)):
        opened = open_tar(data, budget())
        assert next(opened).data == PDF
        assert refusal(opened) == "sparse files"


def test_directories_litter_and_labels_are_not_given_and_what_follows_an_end_is() -> None:
    litter = tar_entry(b"a/", kind=b"5") + tar_entry(b"._o.pdf", b"1") + tar_entry(b"volume", kind=b"V")
    assert found(open_tar(litter + tar_entry(b"o.pdf", PDF), budget())) == [("o.pdf", PDF)]
    assert refusal(open_tar(litter, budget())) == "no members"
    two = tarred(("a.pdf", PDF)) + tarred(("b.pdf", CSV))
    assert found(open_tar(two, budget())) == [("a.pdf", PDF), ("b.pdf", CSV)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no members"),
        (tar_entry(b"a", size=b"-0000000001\0"), "damaged"),
        (tar_entry(b"a", size=b"\xff" * 12), "damaged"),
        (tar_entry(b"a", size=b"\x80" + b"\x7f" * 11), "damaged"),
        (tar_entry(b"a", size=b"00000001000\0"), "damaged"),
        (tar_entry(b"x", b"1" * 100_000, b"x"), "damaged"),
        (tar_entry(b"x", b"99 path=a\n", b"x") + tar_entry(b"a"), "damaged"),
        (tar_entry(b"x", pax_record(b"size", b"-512"), b"x") + tar_entry(b"a"), "damaged"),
        (tar_entry(b"a", kind=b"M"), "multi-part"),
        (tar_entry(b"a") + b"x" * 512, "damaged"),
    ],
    ids=["nothing", "minus", "base 256 minus", "far", "cut", "digits", "record", "pax minus", "volumes", "no header"],
)
def test_a_tar_archive_that_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    assert refusal(open_tar(data, budget())) == reason


def test_what_comes_out_of_a_tar_archive_is_bounded_by_the_mail() -> None:
    data = tarred(("a.pdf", PDF), ("b.pdf", PDF))
    assert refusal(open_tar(data, budget(members=1))) == "too many members"
    assert refusal(open_tar(data, budget(size=len(PDF)))) == "too large when unpacked"


# bzip2, xz


@pytest.mark.parametrize(
    ("opener", "pack", "told", "ending"),
    [(open_bzip2, bz2.compress, "bzip2", "bz2"), (open_xz, lzma.compress, "xz", "xz")],
    ids=["bzip2", "xz"],
)
def test_a_compressed_file_is_given_without_the_ending_of_its_name(opener, pack, told: str, ending: str) -> None:
    data = pack(CSV)
    assert kind(data) == kind(data, "order.pdf", "application/pdf") == told
    assert found(opener(data, budget(), f"order.csv.{ending}")) == [("order.csv", CSV)]
    assert found(opener(data, budget(), f"orders.t{ending}")) == [("orders.tar", CSV)]
    assert found(opener(data + pack(b"x") + pack(b""), budget())) == [(None, CSV + b"x")]
    assert next(opener(data + b"rest", budget())).defects == ("bytes after the end",)
    assert refusal(opener(data[:-5], budget())) == "damaged"
    assert refusal(opener(data[:40] + b"?" * 20 + data[60:], budget())) == "damaged"
    assert refusal(opener(pack(bytes(20_000_000)), budget())) == "ratio too high"
    assert refusal(opener(data, budget(size=100))) == "too large when unpacked"
    assert refusal(opener(data, budget(members=0))) == "too many members"


def test_xz_that_asks_for_much_memory_is_not_unpacked() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9}]
    assert found(open_xz(lzma.compress(CSV, filters=filters), budget())) == [(None, CSV)]
    data = lzma.compress(CSV, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 200 << 20}])
    assert refusal(open_xz(data, budget())) == "damaged"


def test_xz_may_be_padded_between_its_streams() -> None:
    assert found(open_xz(lzma.compress(b"a") + bytes(8) + lzma.compress(b"b"), budget())) == [(None, b"ab")]


# 7z


def coder(method: str, properties: bytes = b"") -> bytes:
    raw = bytes.fromhex(method)
    return (
        bytes([len(raw) | (0x20 if properties else 0)])
        + raw
        + (bytes([len(properties)]) + properties if properties else b"")
    )


def raw_lzma(data: bytes, *filters: dict[str, int]) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=list(filters))


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


LZMA2 = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}
FILES = (("order.pdf", PDF), ("a/größe.csv", CSV))
BOTH = PDF + CSV
METHODS = {
    "stored": (BOTH, b"\x01" + coder("00")),
    "lzma": (
        raw_lzma(BOTH, {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20}),
        b"\x01" + coder("030101", b"\x5d\0\0\x10\0"),
    ),
    "lzma2": (raw_lzma(BOTH, LZMA2), b"\x01" + coder("21", b"\x10")),
    "deflate": (deflated(BOTH), b"\x01" + coder("040108")),
    "bzip2": (bz2.compress(BOTH), b"\x01" + coder("040202")),
    # The first coder is fed by the second: 7-Zip writes them in this order.
    "delta": (
        raw_lzma(BOTH, {"id": lzma.FILTER_DELTA, "dist": 4}, LZMA2),
        b"\x02" + coder("03", b"\x03") + coder("21", b"\x10") + b"\x00\x01",
    ),
    "x86": (
        raw_lzma(BOTH, {"id": lzma.FILTER_X86}, LZMA2),
        b"\x02" + coder("03030103") + coder("21", b"\x10") + b"\x00\x01",
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_the_files_of_a_7z_archive_are_given(method: str) -> None:
    packed, coders = METHODS[method]
    data = seven_zipped(*FILES, coders=coders, packed=packed)
    assert kind(data) == kind(data, "order.pdf", "application/pdf") == "7z"
    assert found(open_seven_zip(data, budget())) == list(FILES)


def test_the_directory_of_a_7z_archive_may_be_packed_too() -> None:
    data = seven_zipped(*FILES)
    plain = data[32 + len(BOTH) :]
    packed = raw_lzma(plain, LZMA2)
    streams = seven_streams(packed, len(plain), b"\x01" + coder("21", b"\x10"), at=len(BOTH)) + b"\x00"
    again = seven_header(BOTH + packed, b"\x17" + streams)
    assert found(open_seven_zip(again, budget())) == list(FILES)
    secret = seven_streams(packed, len(plain), b"\x01" + coder("06f10701", b"\0\0"), at=len(BOTH)) + b"\x00"
    assert refusal(open_seven_zip(seven_header(BOTH + packed, b"\x17" + secret), budget())) == "encrypted"


def test_encryption_in_a_7z_archive_is_told_before_its_first_file() -> None:
    coders = b"\x02" + coder("21", b"\x10") + coder("06f10701", b"\0\0") + b"\x00\x01"
    opened = open_seven_zip(seven_zipped(*FILES, coders=coders), budget())
    with pytest.raises(ContainerError, match=r"^encrypted$"):
        next(opened)


@pytest.mark.parametrize("method", ["030401", "0303011b", "04f71101"], ids=["ppmd", "bcj2", "zstandard"])
def test_what_nothing_unpacks_keeps_a_7z_archive_whole(method: str) -> None:
    data = seven_zipped(*FILES, coders=b"\x01" + coder(method))
    assert refusal(open_seven_zip(data, budget())) == "unsupported compression"


def test_empty_files_directories_and_links_of_a_7z_archive() -> None:
    names = "".join(f"{name}\0" for name in ("empty.txt", "directory", "link")).encode("utf-16-le")
    files = b"\x05\x03\x0e\x01\xc0\x0f\x01\x80\x11" + bytes([len(names) + 1]) + b"\0" + names
    files += b"\x15\x0e\x01\x00" + bytes(8) + (0o120777 << 16 | 0x8000).to_bytes(4, "little") + b"\x00"
    header = b"\x01\x04" + seven_streams(b"/etc/passwd", 11) + b"\x00" + files + b"\x00"
    members = list(open_seven_zip(seven_header(b"/etc/passwd", header), budget()))
    assert [(member.name, member.data, member.role) for member in members] == [
        ("empty.txt", b"", Role.FILE),
        ("link", b"", Role.LINK),
    ]


def test_what_comes_out_of_a_7z_archive_is_bounded_and_checked() -> None:
    data = seven_zipped(*FILES)
    assert refusal(open_seven_zip(data, budget(members=1))) == "too many members"
    assert refusal(open_seven_zip(data, budget(size=len(PDF)))) == "too large when unpacked"
    assert refusal(open_seven_zip(data.replace(CSV[:100], b"?" * 100, 1), budget())) == "damaged"
    assert refusal(open_seven_zip(data[:-1], budget())) == "damaged"
    assert refusal(open_seven_zip(data[:12] + b"\xff" * 16 + data[28:], budget())) == "damaged"
    bomb = raw_lzma(bytes(20_000_000), LZMA2)
    zeros = seven_zipped(("zeros", bytes(20_000_000)), coders=b"\x01" + coder("21", b"\x10"), packed=bomb)
    assert refusal(open_seven_zip(zeros, budget())) == "ratio too high"


def test_a_7z_archive_that_asks_for_much_memory_gets_what_comes_out_of_it() -> None:
    packed = raw_lzma(BOTH, LZMA2)
    data = seven_zipped(*FILES, coders=b"\x01" + coder("21", b"\x28"), packed=packed)
    assert found(open_seven_zip(data, budget())) == list(FILES)


# RAR, and what else nothing opens

RAR_4_MAIN = (0x73, 0, bytes(6), b"")
RAR_5_MAIN = (1, b"\0", b"", b"")
RAR_5_FILE = b"\x00\x0a\x20\x00\x00\x09order.pdf"


def rar_4_file(flags: int) -> tuple[int, int, bytes, bytes]:
    return (0x74, 0x8000 | flags, bytes(21) + b"order.pdf", PDF)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (rar_4(RAR_4_MAIN, rar_4_file(0)), "archive not opened"),
        (rar_4(RAR_4_MAIN, rar_4_file(0), rar_4_file(4)), "encrypted"),
        (rar_4((0x73, 0x80, bytes(6), b"")), "encrypted"),
        (rar_5(RAR_5_MAIN, (2, RAR_5_FILE, b"", PDF)), "archive not opened"),
        (rar_5(RAR_5_MAIN, (2, RAR_5_FILE, b"\x02\x02\x00\x03\x01\x00\x00", PDF)), "encrypted"),
        (rar_5((4, b"\0\0\x0f" + bytes(16), b"", b"")), "encrypted"),
        (b"Rar!\x1a\x07\x01\x00" + b"\xff" * 100, "archive not opened"),
        (b"Rar!\x1a\x07\x00", "archive not opened"),
    ],
    ids=["4", "4 file", "4 names", "5", "5 file", "5 names", "5 damaged", "4 cut"],
)
def test_a_rar_archive_is_told_by_its_bytes_and_stays_whole(data: bytes, reason: str) -> None:
    assert kind(data) == kind(data, "order.pdf", "application/pdf") == "rar"
    assert refusal(open_rar(data, budget())) == reason


@pytest.mark.parametrize(
    "data",
    [b"MSCF\0\0\0\0" + bytes(50), b"\x20\x00-lh5-" + bytes(50), b"1234567**ACE**", b"\x28\xb5\x2f\xfd" + bytes(9)],
    ids=["cabinet", "lha", "ace", "zstandard"],
)
def test_archives_that_nobody_opens_say_so(data: bytes) -> None:
    told = kind(data, "orders.bin")
    assert told is not None
    assert refusal(open_container(told, data, budget())) == "archive not opened"


@pytest.mark.parametrize("name", ["comic.cbr", "comic.cb7", "comic.cbt"])
def test_comics_are_documents_of_one_program(name: str) -> None:
    for data in (rar_4(RAR_4_MAIN), seven_zipped(*FILES), tarred(*FILES)):
        assert kind(data, name) is None


# all


def open_any(data: bytes) -> list[Member]:
    told = kind(data, "a.tar") or "tar"
    return list(open_container(told, data, UnpackBudget(1 << 24), "a"))


def test_no_mutation_of_an_archive_raises_anything_else() -> None:
    samples = [
        tarred(*FILES, (LONG, b"1")),
        tarred(*FILES, (LONG, b"1"), form=tarfile.GNU_FORMAT),
        gzip.compress(tarred(*FILES)),
        bz2.compress(CSV),
        lzma.compress(CSV),
        *(seven_zipped(*FILES, coders=coders, packed=packed) for packed, coders in METHODS.values()),
        rar_4(RAR_4_MAIN, rar_4_file(0)),
        rar_5(RAR_5_MAIN, (2, RAR_5_FILE, b"", PDF)),
    ]
    opened, refused = survives(open_any, samples)
    assert opened > 50
    assert refused > 500


@pytest.mark.parametrize("place", ["header", "directory"])
def test_no_damage_to_the_numbers_of_a_7z_directory_raises_anything_else(place: str) -> None:
    data = seven_zipped(*FILES)
    plain = data[32 + len(BOTH) :]

    def reopen(header: bytes) -> list[Member]:
        return list(open_seven_zip(seven_header(BOTH, header), UnpackBudget(1 << 24)))

    samples = [plain] if place == "directory" else [b"\x17" + seven_streams(plain, len(plain)) + b"\x00"]
    opened, refused = survives(reopen, samples, 1000)
    assert opened + refused == 1000
