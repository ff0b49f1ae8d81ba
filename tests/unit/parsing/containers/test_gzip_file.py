"""A gzip file is one file, named by its header or by its own name, and unpacked within bounds."""

import gzip
import tracemalloc

import pytest

from orderflow_ingest.parsing.containers.gzip_file import open_gzip
from tests.support.containers_made import budget, refusal, survives
from tests.support.cost import at_most

TEXT = b"article;quantity\n" + b"".join(b"%d;%d\n" % (n, n * 7 % 13) for n in range(5000))


def gzipped(data: bytes, name: bytes = b"") -> bytes:
    packed = gzip.compress(data, mtime=0)
    return packed[:3] + b"\x08" + packed[4:10] + name + b"\0" + packed[10:] if name else packed


@pytest.mark.parametrize(
    ("name", "filename", "expected"),
    [
        (b"order.csv", "other.gz", "order.csv"),
        ("Größe.csv".encode("latin-1"), "", "Größe.csv"),
        ("Größe.csv".encode(), "", "Größe.csv"),
        (b"", "order.csv.gz", "order.csv"),
        (b"", "ORDER.CSV.GZ", "ORDER.CSV"),
        (b"", "orders.tgz", "orders.tar"),
        (b"", "orders.tar.gz", "orders.tar"),
        (b"", "order", "order"),
        (b"", "", None),
    ],
)
def test_the_file_has_the_name_of_the_header_else_of_the_container(
    name: bytes, filename: str, expected: str | None
) -> None:
    (member,) = open_gzip(gzipped(TEXT, name), budget(), filename)
    assert (member.name, member.data, member.defects) == (expected, TEXT, ())


def test_an_extra_field_before_the_name_is_skipped() -> None:
    packed = gzip.compress(TEXT, mtime=0)
    data = packed[:3] + b"\x0c" + packed[4:10] + b"\x03\0abc" + b"o.csv\0" + packed[10:]
    assert next(open_gzip(data, budget())).name == "o.csv"


def test_streams_after_one_another_are_one_file() -> None:
    data = b"".join(gzipped(TEXT[at : at + 100]) for at in range(0, len(TEXT), 100))
    (member,) = open_gzip(data, budget())
    assert member.data == TEXT


def test_bytes_after_the_end_are_left_out_with_a_defect() -> None:
    (member,) = open_gzip(gzipped(TEXT) + b"\0\0\0junk", budget())
    assert (member.data, member.defects) == (TEXT, ("bytes after the end",))
    (member,) = open_gzip(gzipped(TEXT) + bytes(600), budget())
    assert (member.data, member.defects) == (TEXT, ())


@pytest.mark.parametrize(
    "data",
    [b"", b"\x1f\x8b\x08", gzipped(TEXT)[:-9], gzipped(TEXT)[:-1], gzipped(TEXT) + gzipped(TEXT)[:30], b"PK\x03\x04"],
    ids=["nothing", "magic", "no checksum", "one byte short", "second stream cut", "other"],
)
def test_what_is_cut_is_damaged(data: bytes) -> None:
    assert refusal(open_gzip(data, budget())) == "damaged"


def test_a_wrong_checksum_is_damage() -> None:
    data = gzipped(TEXT)
    assert refusal(open_gzip(data[:-8] + b"\0\0\0\0" + data[-4:], budget())) == "damaged"


def test_what_comes_out_is_bounded_by_the_mail_and_by_the_file() -> None:
    assert refusal(open_gzip(gzipped(TEXT), budget(members=0))) == "too many members"
    assert refusal(open_gzip(gzipped(TEXT), budget(size=len(TEXT) - 1))) == "too large when unpacked"
    assert refusal(open_gzip(gzipped(TEXT), budget(size=len(TEXT)))) == ""
    assert refusal(open_gzip(gzipped(bytes(10_400_000)), budget())) == ""
    bomb = gzipped(bytes(60_000_000))
    tracemalloc.start()
    assert refusal(open_gzip(bomb, budget())) == "ratio too high"
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


def test_a_row_of_tiny_streams_takes_linear_time_and_ends() -> None:
    with at_most(1000):
        assert refusal(open_gzip(gzipped(b"") * 120_000, budget())) == "too many members"


def test_no_mutation_of_a_file_raises_anything_else() -> None:
    samples = [gzipped(b"order " * 100, b"o.csv"), gzipped(b"a") + gzipped(b"b", b"x")]
    opened, refused = survives(lambda data: open_gzip(data, budget(1 << 24), "x.gz"), samples)
    assert opened > 100
    assert refused > 500
