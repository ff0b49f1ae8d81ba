"""What follows DATA becomes the bytes of a message, wherever the blocks are cut and whatever the message holds."""

import random

import pytest

from orderflow_ingest.entrypoints.service.dot_stuffing import DataDecoder

NEAR_MISSES = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n..\r\n",
    b"\r\n.\r\r\n",
    b"\0.\r\n",
]
SAMPLES = [
    b".\r\n",
    b"\r\n.\r\n",
    b"Subject: a\r\n\r\nbody\r\n.\r\nMAIL FROM:<a@b>\r\n",
    b"..\r\n.\r\n",
    b".a\r\n..b\r\n...\r\n.\r\n.\r\n",
    b"\r\r\n\n\r\n.\r\n",
    *(b"a" + miss + b"b\r\n.\r\nRSET\r\n" for miss in NEAR_MISSES),
]


def naive(data: bytes) -> tuple[bytes, bytes | None]:
    """Read a message byte after byte: its content, and what comes after its end."""
    message = line = b""
    for position in range(len(data)):
        line += data[position : position + 1]
        if line == b".\r\n":
            return message, data[position + 1 :]
        if line.endswith(b"\r\n"):
            message += line[1 if line.startswith(b".") else 0 : -2] + b"\n"
            line = b""
    return message, None


def read(*blocks: bytes) -> tuple[bytes, bytes | None]:
    """Feed blocks until the end has come; what was not fed belongs to the rest."""
    stuffing, content = DataDecoder(), b""
    for number, block in enumerate(blocks):
        content += stuffing.feed(block)
        if stuffing.rest is not None:
            return content, stuffing.rest + b"".join(blocks[number + 1 :])
    return content, None


@pytest.mark.parametrize("sent", SAMPLES, ids=repr)
def test_a_message_is_the_same_wherever_two_blocks_meet(sent):
    expected = naive(sent)
    assert expected[1] is not None
    for cut in range(len(sent) + 1):
        for second in range(cut, len(sent) + 1):
            assert read(sent[:cut], sent[cut:second], sent[second:]) == expected, (cut, second)


@pytest.mark.parametrize("sent", SAMPLES, ids=repr)
def test_a_message_is_the_same_byte_by_byte(sent):
    assert read(*(sent[n : n + 1] for n in range(len(sent)))) == naive(sent)


@pytest.mark.parametrize("miss", NEAR_MISSES, ids=repr)
def test_nothing_but_cr_lf_dot_cr_lf_ends_a_message(miss):
    content, rest = read(b"a" + miss + b"MAIL FROM:<smuggled@example.com>\r\n")
    assert rest is None and b"MAIL FROM" in content


def test_bare_line_ends_are_content():
    assert read(b"a\rb\nc\r\r\nd\n\r\n.\r\n") == (b"a\rb\nc\r\nd\n\n", b"")


def test_a_message_may_be_empty():
    assert read(b".\r\n") == (b"", b"")
    assert read(b"\r\n.\r\n") == (b"\n", b"")


def test_random_messages_in_random_blocks_read_as_the_plain_way_reads_them():
    random_ = random.Random(20260727)
    ended = 0
    for _ in range(20000):
        sent = bytes(random_.choices(b"\r\n.a\0", (4, 4, 4, 1, 1), k=random_.randrange(24)))
        sent = random_.choice([sent, sent.replace(b"\n", b"\r\n"), sent + b"\r\n.\r\n" + sent])
        cuts = sorted(random_.randrange(len(sent) + 1) for _ in range(random_.randrange(5)))
        blocks = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        assert read(*blocks)[1] == naive(sent)[1], blocks
        assert read(*blocks, b"\r\n.\r\n") == naive(sent + b"\r\n.\r\n"), blocks
        ended += naive(sent)[1] is not None
    assert ended > 1000


@pytest.mark.parametrize("message", [b"a line\n", b"", b".\n", b"..\n.\n", b"\n.\n\n", b"x" * 300000 + b"\n", b"\r\n"])
def test_what_a_client_stuffs_is_what_it_had(message):
    stuffed = b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in message.split(b"\n")[:-1])
    assert read(stuffed + b".\r\nQUIT\r\n") == (message, b"QUIT\r\n")
