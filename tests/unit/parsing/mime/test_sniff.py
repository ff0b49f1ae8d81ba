"""A content's type by its own bytes: what is looked up first decides nothing that puremagic would decide otherwise."""

import random

import puremagic

from orderflow_ingest.parsing.mime import sniff

ROWS = (*puremagic.magic_header_array, *puremagic.magic_footer_array)


def planted(chance: random.Random) -> bytes:
    """Return random bytes with up to two signatures in their places."""
    data = bytearray(chance.randbytes(chance.choice([0, 1, 5, 20, 300, 5000])))
    for row in chance.choices(ROWS, k=chance.choice([0, 1, 1, 2])):
        if row.offset < 0:
            data += row.byte_match + bytes(-row.offset - len(row.byte_match))
            continue
        data += bytes(max(row.offset - len(data), 0))
        data[row.offset : row.offset + len(row.byte_match)] = row.byte_match
    return bytes(data)


def test_a_signature_is_looked_up_exactly_where_puremagic_finds_one(monkeypatch) -> None:
    chance = random.Random(13)
    contents = [planted(chance) for _ in range(600)]
    found = [sniff.detect_type(data) for data in contents]
    monkeypatch.setattr(sniff, "_signatures", lambda: [(slice(0), {b""})])  # puremagic is always asked
    assert found == [sniff.detect_type(data) for data in contents]
    assert 100 < sum(kind is not None for kind in found) < 500
