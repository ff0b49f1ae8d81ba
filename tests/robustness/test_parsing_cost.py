"""Reading mail takes time that grows as its length, whatever a sender has made of it."""

import random
import time
import tracemalloc
from collections.abc import Callable

import pytest

from orderflow_ingest.parsing.containers.outlook import open_outlook
from orderflow_ingest.parsing.containers.rtf import strip_rtf
from orderflow_ingest.parsing.containers.smime import open_smime
from orderflow_ingest.parsing.documents import Part, Reason, read_parts
from orderflow_ingest.parsing.documents.comparison import Wording
from orderflow_ingest.parsing.mime.fields import (
    iterate_fields,
    split_header,
)
from orderflow_ingest.parsing.mime.tree import walk
from tests.support.attached import attached
from tests.support.containers_made import (
    budget,
    compound,
    signed,
    storage,
    streamed,
    utf16,
    zipped,
)
from tests.support.cost import at_most, unit
from tests.support.mails import multipart, part
from tests.support.sender_fields import MX, doubt_mail, fields

MIXED = b"From: a@b.example\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=bb\n\n"
TEXT = b"--bb\nContent-Type: text/plain\n\nsee below\n"


@pytest.mark.parametrize(
    "piece",
    [
        b"--%d\nContent-Type: text/plain\n\nx\n",
        b"--%d\nContent-Type: text/plain\nodd\n\nx\n",
        b"--%d\nContent-Type: application/pdf; name=x\n\nx\n",
        b"--bb--\n--%d\nContent-Type: text/plain\n\nx\n",
        b"--%d\nContent-Type: multipart/mixed; boundary=x%d\n\n--x%d--\n",
        b"--%d--\nContent-Type: a/b\n",
        b"--%d\nContent-Type: message/rfc822\nSubject: x\n",
        b"--bb\n\n--bb--\nJVBERi0 %d\n",
    ],
)
def test_many_undeclared_boundaries_take_linear_time(piece: bytes) -> None:
    def seconds(count: int) -> float:
        pieces = (piece % ((number,) * piece.count(b"%d")) for number in range(count))
        raw = MIXED + TEXT + b"".join(pieces)
        start = time.process_time()
        assert sum(1 for _ in walk(raw, most=1_000_000))
        return time.process_time() - start

    # Messages within messages are dear up to the bound of their depth, so fewer of them tell as much.
    count = 1_000 if b"rfc822" in piece else 4_000
    few = max(seconds(count), unit())
    assert seconds(4 * count) < 10 * few or seconds(4 * count) < 10 * max(seconds(count), unit())


def test_thousands_of_alternatives_cost_no_more_each_than_hundreds() -> None:
    def cost(count: int) -> float:
        numbers = iter(range(100 * count))
        texts = [" ".join(str(next(numbers)) for _ in range(100)).encode() for _ in range(count)]
        raw = multipart(*(part(b"Content-Type: text/plain", text) for text in texts), kind=b"alternative")
        began = time.process_time()
        assert sum(found.is_document for found in read_parts(raw)) == count
        return time.process_time() - began

    assert min(cost(2000) for _ in range(3)) < 4 * min(cost(1000) for _ in range(3))


def test_comparing_texts_is_linear_whatever_is_in_them() -> None:
    seed = random.Random(13)

    def text(size: int, words: str) -> str:
        return " ".join(seed.choices(words.split(), k=size)) + seed.choice(["", "\n", " z"])

    def cost(size: int, words: str) -> float:
        pairs = [(text(size, words), text(size, words).replace(" b", "\nb")) for _ in range(2)]
        pairs += [
            ("a " * size, "a " * (size // 2) + "b"),
            ("a\n" * size, "a\n" * size + "b"),
            ("[" * size, "[1" * size),
        ]
        began = time.process_time()
        for first, second in pairs:
            Wording(second).is_contained_in(Wording(first))
        return time.process_time() - began

    for words in ("a", "a b", "1 2 3 b", "http:x <b [1] (", "採 購 a"):
        assert min(cost(40_000, words) for _ in range(3)) < 4 * min(cost(20_000, words) for _ in range(3)), words


@pytest.mark.parametrize(
    "raw",
    [
        MIXED + b"--bb\r\n" + b"--\n" * 300_000,
        MIXED + b"--bb\nA: b\n" * 100_000,
        MIXED + b"--bb\nContent-Type: multipart/mixed; boundary=c\n" * 30_000,
        b"".join(b"Content-Type: multipart/mixed; boundary=z%d\n\n--y\n" % n for n in range(400)) + b"x\n" * 500_000,
        b"".join(b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" for _ in range(400)) + b"--b--\n" * 200_000,
        b"\r" * 1_000_000,
        b"\0" * 1_000_000,
    ],
)
def test_a_hostile_mail_takes_little(raw: bytes) -> None:
    with at_most(600):
        assert sum(1 for _ in walk(raw))


@pytest.mark.parametrize(
    "part", [" ", "(", "((x)", '"', "\\", "a", "a.", ";", "a=b ", " x.y=z", "(\\", "/1", "=", '"a" ']
)
def test_a_field_is_read_in_linear_time(part):
    def seconds(length: int) -> float:
        field = f"{MX}; dmarc=pass {part * (length // len(part))}y"
        start = time.process_time()
        for _ in range(20):
            doubt_mail(fields(field), fields(field))
            doubt_mail(fields(field))
        return time.process_time() - start

    assert min(seconds(40_000) for _ in range(3)) < 4 * max(min(seconds(20_000) for _ in range(3)), unit())


def taken(raw: bytes) -> list[Part]:
    return [p for p in read_parts(raw) if p.is_document]


def test_of_ten_thousand_orders_in_an_archive_each_is_found_and_one_more_keeps_it_whole() -> None:
    files = [(f"{number}.csv", b"a;b\n") for number in range(10_001)]
    assert len(taken(multipart(attached("orders.zip", zipped(*files[:-1]))))) == 10_000
    assert taken(multipart(attached("orders.zip", zipped(*files))))[-1].reason == Reason.NOT_OPENED


MAIL = b'Content-Type: text/plain; name="o.txt"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n' + b"one order\r\n" * 300


@pytest.mark.parametrize("make", [signed, streamed])
def test_a_large_message_is_copied_once_and_at_once(make: Callable[[bytes], bytes]) -> None:
    data = make(MAIL[:80] + bytes(8_000_000))
    tracemalloc.start()
    with at_most(600):
        (member,) = open_smime(data, budget())
    assert tracemalloc.get_traced_memory()[1] < 1.5 * len(member.data)
    tracemalloc.stop()


STRING, UNICODE, BINARY = 0x1E, 0x1F, 0x102


def test_many_entries_take_linear_time() -> None:
    streams = {f"s{number}": b"x" for number in range(30_000)}
    data = compound({**storage((0x1000, UNICODE, utf16("hi")), header=32), **streams})
    with at_most(400):
        assert len(list(open_outlook(data, budget()))) == 1


@pytest.mark.parametrize(
    "block",
    [
        b"Received: from a by b;\r\n\tMon, 1 Jan 2024 00:00:00 +0000 (xxxxxxxxxxxxxxxxxx)\r\n" * 12_000,
        b"a" * 1_000_000,
        b"\r" * 1_000_000,
        b"a: ;\n" + b"b\n" * 500_000,
        b"a:" + b"\n ;" * 300_000,
    ],
)
def test_a_header_of_a_megabyte_takes_little(block: bytes) -> None:
    with at_most(200):
        list(iterate_fields(block[: split_header(block)[0]]))


@pytest.mark.parametrize(
    "junk", [b"{", b"}", b"{\\field{\\*\\fldinst{ ", b"\\f1\\fcharset", b"\\'e4", b"\\u8364?"], ids=str
)
def test_hostile_rtf_takes_linear_time(junk: bytes) -> None:
    with at_most(600):
        strip_rtf(b"{\\rtf1 " + junk * (1_000_000 // len(junk)), "", budget())
