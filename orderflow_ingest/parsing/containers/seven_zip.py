"""Open a 7z archive (7zFormat.txt of the LZMA SDK): its files in the order of its directory.

Reasons: damaged · directory too large · encrypted · no members · ratio too high · too large when unpacked · too many
members · too much to read · unsupported compression

Guarantees: nothing but ContainerError leaves, and time is linear. Encryption of any file is reported before the first
is given. Where the names are encrypted too, the archive is. Bytes are counted as they are unpacked, and a dictionary is
no larger than what is to come out. Directories and the litter of file managers are not given. Nothing touches a file
system.

Own, since there is no library to leave this to. py7zr brings seven packages in C and a tenth of a second of start, and
unpacks without a bound of its own. libarchive is C that reads hostile bytes in the process which holds the keys of all
tenants. Its RAR and 7z readers have had faults of memory year after year. The format is a short list of numbers, and
lzma, bz2 and zlib of the standard library unpack what 7-Zip writes for documents: LZMA, LZMA2, Deflate, bzip2, stored.
A file in PPMd, or behind a filter for programs before LZMA, is left out, and the archive is kept whole for it after its
other members.
"""

import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from . import ContainerError, Member, Role, UnpackBudget
from .guards import BLOCK, LINK_NOT_FOLLOWED, SEVEN_ZIP, UnpackLimit, reading
from .names import cut_text, is_litter

_HEADER_SIZE = 32
_MOST_FILES, _LARGEST_DIRECTORY = 20_000, 8 << 20
# What a file, and what a folder takes, in steps of the budget.
_FILE_STEPS, _FOLDER_STEPS = 10, 40
_END, _HEADER, _PROPERTIES, _ADDITIONAL, _MAIN_STREAMS, _FILES, _PACK_INFO, _UNPACK_INFO, _SUBSTREAMS = range(9)
_SIZE, _CRC, _FOLDER, _UNPACK_SIZE, _NUMBER_OF_STREAMS, _EMPTY_STREAM, _EMPTY_FILE, _, _NAMES = range(9, 18)
_ATTRIBUTES, _ENCODED_HEADER = 0x15, 0x17
# How often a directory may be packed, and how many coders 7-Zip puts in a row.
_MOST_PACKED, _MOST_CODERS = 4, 8
_STORED, _LZMA, _LZMA2, _DEFLATE, _BZIP2 = b"\0", b"\x03\x01\x01", b"\x21", b"\x04\x01\x08", b"\x04\x02\x02"
_DELTA, _X86, _OLD_X86 = b"\x03", b"\x04", b"\x03\x03\x01\x03"
_ALONE, _FILTERS = ([_STORED], [_LZMA], [_DEFLATE], [_BZIP2]), {_DELTA, _X86, _OLD_X86}
# Every cipher of 7z stands below this number.
_CIPHERS = b"\x06\xf1"
_LEAST_DICTIONARY = 4096


@dataclass(frozen=True)
class _Coder:
    method: bytes
    properties: bytes


@dataclass
class _Folder:
    """Streams packed as one: how they were packed, from the packed side, where the bytes lie, and what comes out.

    chain is empty where the coders stand in no row. Ciphered is true if one of them is a cipher.
    """

    chain: list[_Coder]
    ciphered: bool
    packed: int
    outputs: int
    main: int
    begin: int = 0
    end: int = 0
    size: int = 0
    crc: int | None = None


@dataclass(frozen=True)
class _Stream:
    """One file's bytes in a folder."""

    folder: int
    size: int
    crc: int | None


@dataclass(frozen=True)
class _File:
    name: str
    defects: tuple[str, ...]
    has_stream: bool
    is_directory: bool
    is_link: bool


class _Inflater(Protocol):
    """What bz2 and lzma have in common."""

    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Numbers:
    """A header, read number by number. What ends early raises IndexError or ValueError."""

    def __init__(self, data: bytes, budget: UnpackBudget) -> None:
        self.data = data
        self.position = 0
        self._budget = budget

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.position:
            raise ValueError("ends early")
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self) -> int:
        """Return a number: the ones that its first byte begins with say how many bytes follow."""
        self._budget.step()
        first, mask, value = self.byte(), 0x80, 0
        for place in range(8):
            if not first & mask:
                return value + ((first & (mask - 1)) << 8 * place)
            value += self.byte() << 8 * place
            mask >>= 1
        return value

    def count(self) -> int:
        """Return a number of things that are described one by one."""
        found = self.number()
        if found > _MOST_FILES:
            raise ContainerError("too many members")
        return found

    def bits(self, count: int) -> list[bool]:
        octets = self.take((count + 7) // 8)
        return [bool(octets[at >> 3] & 0x80 >> (at & 7)) for at in range(count)]

    def checksums(self, count: int) -> list[int | None]:
        known = [True] * count if self.byte() else self.bits(count)
        return [int.from_bytes(self.take(4), "little") if is_known else None for is_known in known]

    def expect(self, kind: int) -> None:
        if self.byte() != kind:
            raise ValueError("out of order")


class _Source:
    """What comes out of a folder, read from its beginning to its end."""

    def __init__(self, data: bytes, folder: _Folder, limit: UnpackLimit) -> None:
        if not folder.begin <= folder.end <= len(data):
            raise ContainerError("damaged")
        self._blocks = _unpack(data, folder)
        self._limit = limit
        self._waiting = bytearray()

    def read(self, size: int, crc: int | None) -> bytes:
        """Return the next bytes. Raise ContainerError."""
        while len(self._waiting) < size:
            block = next(self._blocks, b"")
            if not block:
                raise ContainerError("damaged")
            self._limit.take(len(block))
            self._waiting += block
        content = bytes(self._waiting[:size])
        del self._waiting[:size]
        if crc is not None and zlib.crc32(content) != crc:
            raise ContainerError("damaged")
        return content


def open_seven_zip(data: bytes, budget: UnpackBudget) -> Iterator[Member]:
    """Yield the files of an archive. Raise ContainerError."""
    given, left_out, at, source = 0, False, -1, None
    with reading("damaged"):
        limit = UnpackLimit(len(data), budget)
        folders, streams, files = _read_directory(data, limit, budget)
        waiting = iter(streams)
        for file in files:
            content = b""
            if file.has_stream:
                stream = next(waiting)
                if not _is_supported(folders[stream.folder]):
                    left_out = True
                    continue
                if source is None or stream.folder != at:
                    at, source = stream.folder, _Source(data, folders[stream.folder], limit)
                content = source.read(stream.size, stream.crc)
            if file.is_directory or is_litter(file.name):
                continue
            budget.take_member()
            given += 1
            if file.is_link:
                yield Member(file.name, b"", role=Role.LINK, defects=(*file.defects, LINK_NOT_FOLLOWED))
            else:
                yield Member(file.name or None, content, defects=file.defects)
    if left_out:
        raise ContainerError("unsupported compression")
    if not given:
        raise ContainerError("no members")


def _read_directory(
    data: bytes, limit: UnpackLimit, budget: UnpackBudget
) -> tuple[list[_Folder], list[_Stream], list[_File]]:
    """Return what an archive holds. Raise ContainerError, ValueError, IndexError."""
    begin, size = (int.from_bytes(data[at : at + 8], "little") for at in (12, 20))
    begin += _HEADER_SIZE
    if not data.startswith(SEVEN_ZIP) or begin + size > len(data):
        raise ContainerError("damaged")
    header = data[begin : begin + size]
    if zlib.crc32(header) != int.from_bytes(data[28:32], "little"):
        raise ContainerError("damaged")
    for _ in range(_MOST_PACKED):
        if len(header) > _LARGEST_DIRECTORY:
            raise ContainerError("directory too large")
        numbers = _Numbers(header, budget)
        kind = numbers.byte()
        if kind == _HEADER:
            return _read_header(numbers, budget)
        if kind != _ENCODED_HEADER:
            break
        # The directory is packed itself, and encrypted with it where the names are.
        folders, _ = _read_streams(numbers, budget)
        if folders[0].size > _LARGEST_DIRECTORY:
            raise ContainerError("directory too large")
        if not _is_supported(folders[0]):
            raise ContainerError("unsupported compression")
        header = _Source(data, folders[0], limit).read(folders[0].size, folders[0].crc)
    raise ContainerError("damaged")


def _read_header(numbers: _Numbers, budget: UnpackBudget) -> tuple[list[_Folder], list[_Stream], list[_File]]:
    folders: list[_Folder] = []
    streams: list[_Stream] = []
    kind = numbers.byte()
    if kind == _PROPERTIES:
        while numbers.byte():
            numbers.take(numbers.number())
        kind = numbers.byte()
    if kind == _ADDITIONAL:
        _read_streams(numbers, budget)
        kind = numbers.byte()
    if kind == _MAIN_STREAMS:
        folders, streams = _read_streams(numbers, budget)
        kind = numbers.byte()
    return folders, streams, _read_files(numbers, budget) if kind == _FILES else []


def _read_streams(numbers: _Numbers, budget: UnpackBudget) -> tuple[list[_Folder], list[_Stream]]:
    """Return the folders of an archive, and the streams in them. Raise ContainerError for what cannot be unpacked."""
    position, sizes = _HEADER_SIZE, []
    folders: list[_Folder] = []
    kind = numbers.byte()
    if kind == _PACK_INFO:
        position += numbers.number()
        count = numbers.count()
        if (kind := numbers.byte()) == _SIZE:
            sizes = [numbers.number() for _ in range(count)]
            kind = numbers.byte()
        if kind == _CRC:
            numbers.checksums(count)
            kind = numbers.byte()
        kind = _after_end(kind, numbers)
    if kind == _UNPACK_INFO:
        numbers.expect(_FOLDER)
        count = numbers.count()
        numbers.expect(0)
        folders = [_read_folder(numbers, budget) for _ in range(count)]
        numbers.expect(_UNPACK_SIZE)
        for folder in folders:
            folder.size = [numbers.number() for _ in range(folder.outputs)][folder.main]
        if (kind := numbers.byte()) == _CRC:
            for folder, crc in zip(folders, numbers.checksums(count), strict=True):
                folder.crc = crc
            kind = numbers.byte()
        kind = _after_end(kind, numbers)
    packed = iter(sizes)
    for folder in folders:
        folder.begin = position
        position += sum(next(packed) for _ in range(folder.packed))
        folder.end = position
    streams = [_Stream(at, folder.size, folder.crc) for at, folder in enumerate(folders)]
    if kind == _SUBSTREAMS:
        streams = _read_substreams(numbers, folders)
        kind = numbers.byte()
    if kind != _END:
        raise ValueError("out of order")
    if any(folder.ciphered for folder in folders):
        raise ContainerError("encrypted")
    return folders, streams


def _after_end(kind: int, numbers: _Numbers) -> int:
    """Return the kind of what follows the end of a part."""
    if kind != _END:
        raise ValueError("out of order")
    return numbers.byte()


def _read_folder(numbers: _Numbers, budget: UnpackBudget) -> _Folder:
    budget.step(_FOLDER_STEPS)
    coders: list[_Coder] = []
    inputs = outputs = 0
    for _ in range(_most(numbers.number())):
        flags = numbers.byte()
        method = numbers.take(flags & 0x0F)
        ins, outs = (_most(numbers.number()), _most(numbers.number())) if flags & 0x10 else (1, 1)
        coders.append(_Coder(method, numbers.take(numbers.number()) if flags & 0x20 else b""))
        inputs, outputs = inputs + ins, outputs + outs
    # Which output feeds which input.
    bound = {numbers.number(): numbers.number() for _ in range(outputs - 1)}
    packed = inputs - len(bound)
    if packed > 1:
        for _ in range(packed):
            numbers.number()
    ends = [output for output in range(outputs) if output not in bound.values()]
    chain: list[_Coder] = []
    if inputs == outputs == len(coders) and packed == 1:
        at = next((number for number in range(inputs) if number not in bound), None)
        feeds = {output: number for number, output in bound.items()}
        while at is not None and at < len(coders) and len(chain) < len(coders):
            chain.append(coders[at])
            at = feeds.get(at)
    ciphered = any(coder.method.startswith(_CIPHERS) for coder in coders)
    return _Folder(chain if len(chain) == len(coders) else [], ciphered, packed, outputs, ends[0])


def _most(count: int) -> int:
    """Return a number of coders, or of what goes through one. Raise ValueError for more than any program writes."""
    if not 0 < count <= _MOST_CODERS:
        raise ValueError("too many coders")
    return count


def _read_substreams(numbers: _Numbers, folders: list[_Folder]) -> list[_Stream]:
    counts = [1] * len(folders)
    kind = numbers.byte()
    if kind == _NUMBER_OF_STREAMS:
        counts = [numbers.count() for _ in folders]
        kind = numbers.byte()
    if sum(counts) > _MOST_FILES:
        raise ContainerError("too many members")
    found: list[_Stream] = []
    for at, (folder, count) in enumerate(zip(folders, counts, strict=True)):
        # The size of the last is what is left.
        sizes = [numbers.number() if kind == _SIZE else -1 for _ in range(count - 1)]
        sizes += [folder.size - sum(sizes)] if count else []
        if min(sizes, default=0) < 0:
            raise ValueError("sizes do not fit")
        found.extend(_Stream(at, size, folder.crc if count == 1 else None) for size in sizes)
    if kind == _SIZE:
        kind = numbers.byte()
    if kind == _CRC:
        unknown = [number for number, stream in enumerate(found) if stream.crc is None]
        for number, crc in zip(unknown, numbers.checksums(len(unknown)), strict=True):
            found[number] = replace(found[number], crc=crc)
        kind = numbers.byte()
    if kind != _END:
        raise ValueError("out of order")
    return found


def _read_files(numbers: _Numbers, budget: UnpackBudget) -> list[_File]:
    count = numbers.count()
    budget.step(_FILE_STEPS * count)
    empty, empty_files = [False] * count, [False] * count
    links, names = [False] * count, [""] * count
    while (kind := numbers.byte()) != _END:
        part = _Numbers(numbers.take(numbers.number()), budget)
        if kind == _EMPTY_STREAM:
            empty = part.bits(count)
        elif kind == _EMPTY_FILE:
            marks = iter(part.bits(sum(empty)))
            empty_files = [is_empty and next(marks) for is_empty in empty]
        elif kind == _NAMES:
            part.expect(0)
            names = part.take(len(part.data) - 1).decode("utf-16-le", "replace").split("\0")[:count]
        elif kind == _ATTRIBUTES:
            known = [True] * count if part.byte() else part.bits(count)
            part.expect(0)
            links = [is_known and _is_link(int.from_bytes(part.take(4), "little")) for is_known in known]
    return [
        _File(*cut_text(name), not is_empty, is_empty and not is_file, is_link)
        for name, is_empty, is_file, is_link in zip(names, empty, empty_files, links, strict=True)
    ]


def _is_link(attributes: int) -> bool:
    """Return whether a file is a symbolic link, by the Unix mode in the upper half of its attributes."""
    return bool(attributes & 0x8000) and stat.S_ISLNK(attributes >> 16)


def _is_supported(folder: _Folder) -> bool:
    methods = [coder.method for coder in folder.chain]
    return methods in _ALONE or (methods[:1] == [_LZMA2] and set(methods[1:]) <= _FILTERS)


def _unpack(data: bytes, folder: _Folder) -> Iterator[bytes]:
    """Yield what comes out of a folder, block by block. Raise ContainerError."""
    methods = [coder.method for coder in folder.chain]
    if methods == [_STORED]:
        for at in range(folder.begin, folder.end, BLOCK):
            yield data[at : min(at + BLOCK, folder.end)]
    elif methods == [_DEFLATE]:
        yield from _inflate(data, folder)
    else:
        inflater = _inflater(folder)
        position = folder.begin
        while True:
            chunk = b""
            if inflater.needs_input:
                chunk = data[position : min(position + BLOCK, folder.end)]
                position += len(chunk)
            block = inflater.decompress(chunk, BLOCK)
            if block:
                yield block
            elif not chunk:
                return


def _inflate(data: bytes, folder: _Folder) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for at in range(folder.begin, folder.end, BLOCK):
        chunk = data[at : min(at + BLOCK, folder.end)]
        while chunk and not inflater.eof:
            if block := inflater.decompress(chunk, BLOCK):
                yield block
            chunk = inflater.unconsumed_tail
    while not inflater.eof and (block := inflater.decompress(b"", BLOCK)):
        yield block


def _inflater(folder: _Folder) -> _Inflater:
    import bz2
    import lzma

    first, *others = folder.chain
    if first.method == _BZIP2:
        return bz2.BZ2Decompressor()
    if first.method == _LZMA:
        byte, dictionary = first.properties[0], int.from_bytes(first.properties[1:5], "little")
        filters = [{"id": lzma.FILTER_LZMA1, "lc": byte % 9, "lp": byte // 9 % 5, "pb": byte // 45}]
    else:
        power = min(first.properties[0], 40)
        dictionary = (2 | power & 1) << power // 2 + 11
        filters = [{"id": lzma.FILTER_LZMA2}]
    # No match reaches further back than what is to come out.
    filters[0]["dict_size"] = max(_LEAST_DICTIONARY, min(dictionary, folder.size))
    for coder in others:
        is_delta = coder.method == _DELTA
        filters.insert(
            0, {"id": lzma.FILTER_DELTA, "dist": coder.properties[0] + 1} if is_delta else {"id": lzma.FILTER_X86}
        )
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
