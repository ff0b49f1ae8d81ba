"""Open an Outlook message (.msg, [MS-OXMSG]): the attachments and the body out of an OLE compound file.

Reasons: damaged · not Outlook · no members · nested too deep · too large when unpacked · too many members · too much
to read

Guarantees: nothing but ContainerError leaves. Time and memory stay in proportion to the file, whatever its tables
claim. All streams together are no longer than four times the file. An attached message is a member MESSAGE and is read
as its `members` are asked for. An attached OLE object is given as its Package or CONTENTS stream. One that has neither
is listed, without data.

olefile (BSD, pure Python) reads the compound file. Extract-msg, which reads all of a message, is GPL and brings six
more packages. olefile trusts the header, and was measured: a FAT that claims to go on costs unbounded memory, a
stream whose sectors turn in a circle costs what its size claims, and looking for streams that begin in one sector
costs the square of their number. So the header is checked before, sizes as they are opened, and that search, which
finds nothing that matters here, is left out. The entries of its directory and the sectors of its streams are counted as
steps of the budget. olefile's logger is off unless somebody turns it on.
"""

import re
import struct
from collections.abc import Iterator
from itertools import chain
from typing import Any, Protocol

from . import ContainerError, Member, Role, UnpackBudget
from .guards import OLE, reading
from .mapi import (
    ATTACH_CONTENT_ID,
    ATTACH_DATA,
    ATTACH_FILENAME,
    ATTACH_LONG_FILENAME,
    ATTACH_MIME_TAG,
    BINARY,
    BODY,
    BODY_HTML,
    BODY_RTF,
    DISPLAY_NAME,
    INTERNET_CODEPAGE,
    MESSAGE_CODEPAGE,
    OBJECT,
    STRING,
    SUBJECT,
    UNICODE,
    Properties,
    attachment_name,
    body_members,
    content_id,
    rtf_member,
)

_FIXED_STREAM = "__properties_version1.0"
_VALUE_STREAM = re.compile(r"__substg1\.0_([0-9A-F]{4})([0-9A-F]{4})", re.IGNORECASE)
_ATTACHMENT = "__attach_version1.0_"
# The fixed properties begin after a header, which differs by what they are of ([MS-OXMSG] section 2.4.1).
_OF_MESSAGE, _OF_EMBEDDED, _OF_ATTACHMENT = 32, 24, 8
_OBJECT_STREAMS = ("package", "contents")
_MOST_NESTED = 20
# What olefile takes for an entry of the directory, in steps of the budget.
_ENTRY_STEPS = 30
_SECTOR, _MINI_SECTOR, _MINI_STREAM = 512, 64, 4096
_BYTES_A_STEP = 48  # of fixed properties
_WANTED = (
    *(SUBJECT, BODY, BODY_RTF, BODY_HTML, DISPLAY_NAME),
    *(ATTACH_FILENAME, ATTACH_LONG_FILENAME, ATTACH_MIME_TAG, ATTACH_CONTENT_ID),
)


class _Entry(Protocol):
    """A stream or a storage of a compound file, as olefile has it."""

    name: str
    size: int
    isectStart: int
    entry_type: int
    kids: "list[_Entry]"


class _File:
    """A compound file with its streams, read within bounds."""

    def __init__(self, data: bytes, budget: UnpackBudget) -> None:
        import olefile

        _check_header(data)
        # The properties of a message are read twice, first for its code page, of an attached one thrice.
        self._room = 4 * len(data)
        self._ole: Any = olefile.OleFileIO()
        self.budget = budget
        self._ole._check_duplicate_stream = lambda *_: None
        self._load_entry = self._ole._load_direntry
        self._ole._load_direntry = self._load_counted
        self._ole.open(data)
        self._stream_type = olefile.STGTY_STREAM
        if self._ole.root.size > len(data) or self._ole.num_mini_fat_sectors * 128 > len(data):
            raise ContainerError("damaged")

    @property
    def root(self) -> _Entry:
        root: _Entry = self._ole.root
        return root

    def is_stream(self, entry: _Entry) -> bool:
        return bool(entry.entry_type == self._stream_type)

    def _load_counted(self, number: int) -> Any:
        self.budget.step(_ENTRY_STEPS)
        return self._load_entry(number)

    def read(self, entry: _Entry) -> bytes:
        """Return a stream's bytes, as far as they go. Raise ContainerError."""
        self._room -= entry.size
        if self._room < 0:
            raise ContainerError("damaged")
        self.budget.step(entry.size // (_MINI_SECTOR if entry.size < _MINI_STREAM else _SECTOR))
        data: bytes = self._ole._open(entry.isectStart, entry.size).getvalue()
        return data


def open_outlook(data: bytes, budget: UnpackBudget) -> Iterator[Member]:
    """Yield the body of an Outlook message, and then its attachments. Raise ContainerError."""
    if not data.startswith(OLE):
        raise ContainerError("not Outlook")
    with reading("damaged"):
        file = _File(data, budget)
        if not any(entry.name.lower() == _FIXED_STREAM for entry in file.root.kids):
            raise ContainerError("not Outlook")
    yield from _read_message(file, file.root, _OF_MESSAGE, budget, 0)


def _check_header(data: bytes) -> None:
    """Raise ContainerError for a header whose numbers do not fit the file."""
    if len(data) < 1536:
        raise ContainerError("damaged")
    (version, _, shift, mini_shift) = struct.unpack_from("<HHHH", data, 26)
    (fat_sectors,) = struct.unpack_from("<I", data, 44)
    if version not in (3, 4) or shift not in (9, 12) or mini_shift != 6:
        raise ContainerError("damaged")
    # A sector of the FAT describes as many sectors as it holds numbers; olefile lets the count bound all the rest.
    if fat_sectors > (len(data) >> shift) // (1 << shift - 2) + 109:
        raise ContainerError("damaged")


def _read_message(file: _File, storage: _Entry, header: int, budget: UnpackBudget, depth: int) -> Iterator[Member]:
    if depth > _MOST_NESTED:
        raise ContainerError("nested too deep")
    given = 0
    with reading("damaged"):
        values = _read_properties(file, storage, header, None)
        codepage = values.number(MESSAGE_CODEPAGE) or values.number(INTERNET_CODEPAGE)
        message = _read_properties(file, storage, header, codepage)
        attachments = (
            _read_attachment(file, entry, codepage, budget, depth)
            for entry in storage.kids
            if entry.name.lower().startswith(_ATTACHMENT) and not file.is_stream(entry)
        )
        for member in chain(body_members(message, budget), attachments, rtf_member(message, budget)):
            given += 1
            yield member
    if not given:
        raise ContainerError("no members")


def _read_attachment(file: _File, storage: _Entry, codepage: int | None, budget: UnpackBudget, depth: int) -> Member:
    budget.take_member()
    values = _read_properties(file, storage, _OF_ATTACHMENT, codepage)
    name, cut = attachment_name(values)
    data = b""
    defects: tuple[str, ...] = ("attachment without data",)
    for entry in storage.kids:
        kind = _value_key(entry)
        if kind == (ATTACH_DATA, BINARY) and file.is_stream(entry):
            budget.take(entry.size)
            data = file.read(entry)
            defects = () if len(data) == entry.size else ("attachment ends early",)
        elif kind == (ATTACH_DATA, OBJECT) and _is_message(entry):
            subject = _read_properties(file, entry, _OF_EMBEDDED, codepage).short_text(SUBJECT)
            members = _read_message(file, entry, _OF_EMBEDDED, budget, depth + 1)
            return Member(name or subject or None, b"", "message/rfc822", Role.MESSAGE, members=members, defects=cut)
        elif kind == (ATTACH_DATA, OBJECT):
            data, defects = _read_object(file, entry, budget)
    return Member(
        name=name,
        data=data,
        declared_type=values.short_text(ATTACH_MIME_TAG).lower(),
        content_id=content_id(values),
        defects=(*defects, *cut),
    )


def _value_key(entry: _Entry) -> tuple[int, int]:
    """Return the property and the type that a stream or a storage holds, by its name."""
    match = _VALUE_STREAM.fullmatch(entry.name)
    return (int(match[1], 16), int(match[2], 16)) if match else (0, 0)


def _is_message(storage: _Entry) -> bool:
    return any(entry.name.lower() == _FIXED_STREAM for entry in storage.kids)


def _read_object(file: _File, storage: _Entry, budget: UnpackBudget) -> tuple[bytes, tuple[str, ...]]:
    """Return the file inside an OLE object, empty if there is none."""
    for entry in storage.kids:
        if entry.name.lower() in _OBJECT_STREAMS and file.is_stream(entry):
            budget.take(entry.size)
            return file.read(entry), ("embedded object",)
    return b"", ("embedded object without file",)


def _read_properties(file: _File, storage: _Entry, header: int, codepage: int | None) -> Properties:
    """Return a storage's properties, but for the data of attachments. Raise ContainerError."""
    values: dict[int, tuple[int, bytes]] = {}
    for entry in storage.kids:
        if not file.is_stream(entry):
            continue
        if entry.name.lower() == _FIXED_STREAM:
            file.budget.step(entry.size // _BYTES_A_STEP)
            for kind, key, value in struct.iter_unpack("<HHxxxx8s", _whole_records(file.read(entry)[header:])):
                if kind not in (STRING, UNICODE, BINARY, OBJECT):
                    values.setdefault(key, (kind, value))
            continue
        key, kind = _value_key(entry)
        if key in _WANTED and kind in (STRING, UNICODE, BINARY):
            values[key] = (kind, file.read(entry))
    return Properties(values, codepage, file.budget)


def _whole_records(data: bytes) -> bytes:
    return data[: len(data) // 16 * 16]
