"""Containers made byte by byte for the tests: TNEF streams, Outlook messages in OLE compound files, CMS, ZIP."""

import math
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from orderflow_ingest.parsing.containers import ContainerError, Member, UnpackBudget

GUID_MESSAGE = bytes.fromhex("0703020000000000c000000000000046")
GUID_STORAGE = bytes.fromhex("0b00000000000000c000000000000046")
Value = tuple[int, int, bytes]  # id, type, bytes


def budget(size: int = 1 << 30, members: int = 1000) -> UnpackBudget:
    return UnpackBudget(size, members)


def refusal(opened: Iterable[Member]) -> str:
    """Return the words with which an opener refuses, "" if it does not."""
    try:
        list(opened)
    except ContainerError as refused:
        return str(refused)
    return ""


def read_all(opened: Iterable[Member], depth: int = 0) -> list[Member]:
    """Return all members, those within members too."""
    found: list[Member] = []
    for member in opened:
        found.append(member)
        if depth < 3:
            found.extend(read_all(member.members, depth + 1))
    return found


def mutants(samples: list[bytes], count: int) -> Iterable[bytes]:
    """Yield damaged containers, the same ones every time."""
    for seed in range(count):
        dice = random.Random(seed)
        data = bytearray(samples[seed % len(samples)])
        for _ in range(dice.randint(1, 6)):
            start = dice.randrange(len(data) + 1)
            stop = min(len(data), start + dice.choice((1, 2, 4, 40)))
            kind = dice.randrange(5)
            if kind == 0:
                data[start:stop] = dice.choice((b"\xff", b"\0", b"\x80")) * (stop - start)
            elif kind == 1:
                data[start:stop] = dice.randbytes(stop - start)
            elif kind == 2:
                data[start:start] = data[stop : stop + 100]
            elif kind == 3:
                del data[start:stop]
            else:
                data[:] = data[: max(1, stop)] if dice.random() < 0.2 else data
        yield bytes(data)


def survives(opener: Callable[[bytes], Iterable[Member]], samples: list[bytes], count: int = 2000) -> tuple[int, int]:
    """Open damaged containers; return how many opened and how many were refused. Anything else raises."""
    opened = refused = 0
    for data in mutants(samples, count):
        try:
            for member in read_all(opener(data)):
                assert len(member.data) <= 20_000_000
                (member.name or "").encode()
            opened += 1
        except ContainerError:
            refused += 1
    return opened, refused


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"


# TNEF


def attribute(level: int, name: int, data: bytes) -> bytes:
    return struct.pack("<BHHI", level, name, 6, len(data)) + data + struct.pack("<H", sum(data) & 0xFFFF)


def properties(*values: Value) -> bytes:
    out = struct.pack("<I", len(values))
    for key, kind, data in values:
        out += struct.pack("<HH", kind, key)
        if kind in (0x0D, 0x1E, 0x1F, 0x102):
            out += struct.pack("<II", 1, len(data)) + data + bytes(-len(data) % 4)
        else:
            out += data
    return out


def tnef(*attributes: bytes) -> bytes:
    return b"\x78\x9f\x3e\x22\x01\x00" + b"".join(attributes)


def attachment(*values: Value, title: bytes = b"", data: bytes | None = None) -> bytes:
    out = attribute(2, 0x9002, bytes(14))
    out += attribute(2, 0x8010, title + b"\0") if title else b""
    out += attribute(2, 0x800F, data) if data is not None else b""
    return out + (attribute(2, 0x9005, properties(*values)) if values else b"")


# OLE compound files: a tree of dicts is a storage, bytes are a stream


Tree = dict[str, Any]  # of names to bytes and to further trees
Entry = list[Any]  # name, kind, left, right, child, data


def compound(tree: Tree) -> bytes:
    """Return a compound file of 512-byte sectors; siblings hang in a balanced tree, as Windows writes it."""
    entries: list[Entry] = [["Root Entry", 5, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, b""]]

    def add(parent: int, children: Tree) -> None:
        first = len(entries)
        names = sorted(children, key=lambda name: (len(name), name.upper()))
        for name in names:
            content = children[name]
            stream = isinstance(content, bytes)
            entries.append([name, 2 if stream else 1, *[0xFFFFFFFF] * 3, content if stream else b""])
        entries[parent][4] = _balance(entries, first, first + len(names))
        for offset, name in enumerate(names):
            if isinstance(inner := children[name], dict):
                add(first + offset, inner)

    add(0, tree)
    mini, minifat, sectors, fat = bytearray(), list[int](), bytearray(), list[int]()

    def chain(data: bytes, size: int, table: list[int], room: bytearray) -> int:
        count = math.ceil(len(data) / size)
        start = len(table)
        table.extend([*range(start + 1, start + count), 0xFFFFFFFE] if count else [])
        room += data + bytes(-len(data) % size)
        return start if count else 0xFFFFFFFE

    starts = []
    for entry in entries:
        small = len(entry[5]) < 4096
        starts.append(chain(entry[5], 64, minifat, mini) if small else chain(entry[5], 512, fat, sectors))
    starts[0] = chain(bytes(mini), 512, fat, sectors)
    entries[0][5] = bytes(mini)
    minifat_start = chain(struct.pack(f"<{len(minifat)}I", *minifat), 512, fat, sectors)
    directory = b"".join(_directory_entry(entry, start) for entry, start in zip(entries, starts, strict=True))
    directory_start = chain(directory, 512, fat, sectors)
    count = math.ceil(len(fat) / 127)
    where = [*range(len(fat), len(fat) + count)]
    fat += [0xFFFFFFFD] * count
    sectors += struct.pack(f"<{len(fat)}I", *fat) + b"\xff" * (-len(fat) * 4 % 512)
    assert count <= 109
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    header += struct.pack("<IIIII", 0, count, directory_start, 0, 4096)
    header += struct.pack("<IIII", minifat_start, math.ceil(len(minifat) / 128), 0xFFFFFFFE, 0)
    return header + struct.pack(f"<{count}I", *where) + b"\xff" * (436 - 4 * count) + bytes(sectors)


def _balance(entries: list[Entry], first: int, stop: int) -> int:
    if first >= stop:
        return 0xFFFFFFFF
    middle = (first + stop) // 2
    entries[middle][2] = _balance(entries, first, middle)
    entries[middle][3] = _balance(entries, middle + 1, stop)
    return middle


def _directory_entry(entry: Entry, start: int) -> bytes:
    name, kind, left, right, child, data = entry
    raw: bytes = name.encode("utf-16-le")
    out = raw + bytes(64 - len(raw)) + struct.pack("<HBBIII", len(raw) + 2, kind, 1, left, right, child)
    return out + bytes(36) + struct.pack("<III", start, len(data), 0)


def storage(*values: Value, header: int = 8, **inside: Tree) -> Tree:
    """Return what an Outlook message keeps of its properties; header is 32 of a message, 24 of one within, 8 else."""
    fixed, streams = bytes(header), {}
    for key, kind, data in values:
        if kind in (0x1E, 0x1F, 0x102):
            streams[f"__substg1.0_{key:04X}{kind:04X}"] = data
            data = struct.pack("<II", len(data), 0)
        fixed += struct.pack("<HHI", kind, key, 6) + data[:8] + bytes(8 - len(data[:8]))
    return {"__properties_version1.0": fixed, **streams, **inside}


# CMS

OIDS = {
    "data": "2a864886f70d010701",
    "signed": "2a864886f70d010702",
    "enveloped": "2a864886f70d010703",
    "compressed": "2a864886f70d0109100109",
    "auth": "2a864886f70d0109100117",
}


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def oid(name: str) -> bytes:
    return der(6, bytes.fromhex(OIDS[name]))


def info(kind: str, content: bytes) -> bytes:
    return der(0x30, oid(kind) + der(0xA0, content))


def signed(content: bytes | None, inner: str = "data", signers: bytes = b"\x30\x00") -> bytes:
    capsule = oid(inner) + (der(0xA0, der(4, content)) if content is not None else b"")
    body = der(2, b"\x01") + der(0x31, b"") + der(0x30, capsule) + der(0xA0, der(0x30, b"")) + der(0x31, signers)
    return info("signed", der(0x30, body))


def streamed(content: bytes, size: int = 1000) -> bytes:
    """Return what is signed in BER: lengths told by end marks, the content in pieces."""
    pieces = b"".join(der(4, content[at : at + size]) for at in range(0, len(content), size))
    string = b"\xa0\x80\x24\x80" + pieces + bytes(4)
    capsule = b"\x30\x80" + oid("data") + string + bytes(2)
    body = b"\x30\x80" + der(2, b"\x01") + der(0x31, b"") + capsule + der(0x31, b"\x30\x00") + bytes(2)
    return b"\x30\x80" + oid("signed") + b"\xa0\x80" + body + bytes(4)


def compressed(packed: bytes) -> bytes:
    capsule = oid("data") + der(0xA0, der(4, packed))
    return info("compressed", der(0x30, der(2, b"\0") + der(0x30, b"") + der(0x30, capsule)))


def attachments(*stores: Tree) -> dict[str, Tree]:
    return {f"__attach_version1.0_#{number:08X}": store for number, store in enumerate(stores)}


def outlook_message(*values: Value, attached: tuple[Tree, ...] = ()) -> bytes:
    return compound(storage(*values, header=32, **attachments(*attached)))


def zipped(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, data)
    return buffer.getvalue()


def flagged(data: bytes, flags: int) -> bytes:
    at = data.index(b"PK\x01\x02") + 8
    return data[:at] + struct.pack("<H", flags) + data[at + 2 :]


# Archives: tar, 7z, RAR


def tar_entry(
    name: bytes,
    data: bytes = b"",
    kind: bytes = b"0",
    size: bytes = b"",
    magic: bytes = b"ustar\00000",
    more: bytes = b"",
) -> bytes:
    """Return one member of a tar archive, its header before its content; more stands where GNU goes on with a map."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[124:136] = b"0000644\0", size or b"%011o\0" % len(data)
    block[148:156], block[156:157] = b" " * 8, kind
    block[257 : 257 + len(magic)] = magic
    block[482 : 482 + len(more)] = more
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


def pax_record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def seven_number(value: int) -> bytes:
    """Return a number as 7z writes it: the ones in front of the first byte tell how many bytes follow."""
    for count in range(8):
        if value < 1 << 7 * (count + 1):
            first = (0xFF00 >> count) & 0xFF | value >> 8 * count
            return bytes([first]) + (value & (1 << 8 * count) - 1).to_bytes(count, "little")
    return b"\xff" + value.to_bytes(8, "little")


def seven_header(packed: bytes, header: bytes) -> bytes:
    start = struct.pack("<QQI", len(packed), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf\x27\x1c\0\4" + struct.pack("<I", zlib.crc32(start)) + start + packed + header


def seven_streams(packed: bytes, size: int, coders: bytes = b"\x01\x01\x00", at: int = 0) -> bytes:
    """Return what tells of one folder; coders are their number and themselves, stored if not given."""
    pack = b"\x06" + seven_number(at) + b"\x01\x09" + seven_number(len(packed)) + b"\x00"
    outputs = seven_number(size) * coders[0]
    return pack + b"\x07\x0b\x01\x00" + coders + b"\x0c" + outputs + b"\x00"


def seven_zipped(*files: tuple[str, bytes], coders: bytes = b"\x01\x01\x00", packed: bytes | None = None) -> bytes:
    """Return a 7z archive of files that are not empty, in one folder."""
    content = b"".join(data for _, data in files)
    packed = content if packed is None else packed
    sizes = b"".join(seven_number(len(data)) for _, data in files[:-1])
    crcs = b"\x0a\x01" + b"".join(struct.pack("<I", zlib.crc32(data)) for _, data in files)
    substreams = b"\x08\x0d" + seven_number(len(files)) + (b"\x09" + sizes if sizes else b"") + crcs + b"\x00"
    names = b"\x00" + b"".join(utf16(name) for name, _ in files)
    told = b"\x05" + seven_number(len(files)) + b"\x11" + seven_number(len(names)) + names + b"\x00"
    header = b"\x01\x04" + seven_streams(packed, len(content), coders) + substreams + b"\x00" + told + b"\x00"
    return seven_header(packed, header)


def rar_4(*blocks: tuple[int, int, bytes, bytes]) -> bytes:
    """Return a RAR 4 archive of blocks: their type, flags, the rest of the header, and the data after it."""
    out = b"Rar!\x1a\x07\x00"
    for kind, flags, rest, data in blocks:
        rest = struct.pack("<I", len(data)) + rest if flags & 0x8000 else rest
        head = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
        out += struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head + data
    return out


def rar_5(*blocks: tuple[int, bytes, bytes, bytes]) -> bytes:
    """Return a RAR 5 archive of blocks: their type, what is particular to it, the extra area, and the data."""
    out = b"Rar!\x1a\x07\x01\x00"
    for kind, rest, extra, data in blocks:
        head = bytes([kind, (1 if extra else 0) | (2 if data else 0)])
        head += (rar_number(len(extra)) if extra else b"") + (rar_number(len(data)) if data else b"") + rest + extra
        head = rar_number(len(head)) + head
        out += struct.pack("<I", zlib.crc32(head)) + head + data
    return out


def rar_number(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])
