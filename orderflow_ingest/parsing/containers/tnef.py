"""Open TNEF (winmail.dat, [MS-OXTNEF]), in which Outlook and Exchange wrap a mail's attachments and its body.

Reasons: not TNEF · no members · nested too deep · too large when unpacked · too many members · too much to read

Guarantees: nothing but ContainerError leaves. Takes linear time and copies an attachment once. Checksums are not looked
at: programs that cut or recode mail leave them wrong. What ends early is given as far as it goes, with a defect.
Garbage after the last attribute is left out. An attached message is a member MESSAGE and is read as its `members` are
asked for.

Own, since tnefparse, the one library that is kept up, does not stand hostile input, and was read and measured: 41
bytes whose property count says four billion keep it busy without end. It copies the rest of the stream for each
attribute, so that 1 MB of tiny ones takes a second, and 25 MB ten minutes. One value in a code page that it does not
know, or no code page at all, loses the whole stream, and it strips NULs off the end of attached objects. It is LGPL.
The format is a list of attributes, of which seven matter here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from . import ContainerError, Member, Role, UnpackBudget
from .guards import TNEF, reading
from .mapi import (
    ATTACH_DATA,
    ATTACH_MIME_TAG,
    BINARY,
    BODY,
    MESSAGE_CODEPAGE,
    OBJECT,
    STRING,
    UNICODE,
    Properties,
    attachment_name,
    body_members,
    content_id,
    decode_string,
    rtf_member,
)
from .names import cut_text

_ON_ATTACHMENT = 2
_BODY, _DATA, _TITLE, _RENDERING = 0x800C, 0x800F, 0x8010, 0x9002
_MESSAGE_PROPERTIES, _ATTACHMENT_PROPERTIES, _OEM_CODEPAGE = 0x9003, 0x9005, 0x9007
_IID_MESSAGE = bytes.fromhex("0703020000000000c000000000000046")
_IID_SUFFIX = bytes.fromhex("0000c000000000000046")
_MOST_NESTED = 20
_FIXED = {0x01: 0, 0x02: 4, 0x03: 4, 0x04: 4, 0x0A: 4, 0x0B: 4, 0x05: 8, 0x06: 8, 0x07: 8, 0x14: 8, 0x40: 8, 0x48: 16}
_VARIABLE = (0x00, OBJECT, STRING, UNICODE, BINARY)
_MULTIPLE, _NAMED = 0x1000, 0x8000
# What reading one takes, in steps of the budget.
_ATTRIBUTE_STEPS, _PROPERTY_STEPS = 3, 3
_attribute = struct.Struct("<BHHI")


@dataclass(frozen=True)
class _Attribute:
    level: int
    name: int
    data: memoryview
    whole: bool


@dataclass
class _Attachment:
    """An attachment while its attributes come in."""

    title: bytes = b""
    data: memoryview | None = None
    whole: bool = True
    values: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    object: memoryview | None = None


def open_tnef(data: bytes, budget: UnpackBudget) -> Iterator[Member]:
    """Yield the body of a TNEF stream, and then its attachments. Raise ContainerError."""
    if not data.startswith(TNEF):
        raise ContainerError("not TNEF")
    yield from _read(memoryview(data), budget, 0)


def _read(data: memoryview, budget: UnpackBudget, depth: int) -> Iterator[Member]:
    if depth > _MOST_NESTED:
        raise ContainerError("nested too deep")
    given = 0
    with reading("not TNEF"):
        values, codepage = _read_message(data, budget)
        own = Properties(values, None, budget).number(MESSAGE_CODEPAGE)
        message = Properties(values, codepage or own, budget)
        attachments = _read_attachments(data, codepage, budget, depth)
        for member in chain(body_members(message, budget), attachments, rtf_member(message, budget)):
            given += 1
            yield member
    if not given:
        raise ContainerError("no members")


def _read_message(data: memoryview, budget: UnpackBudget) -> tuple[dict[int, tuple[int, bytes]], int | None]:
    """Return the properties of the message itself and the code page of the stream."""
    values: dict[int, tuple[int, bytes]] = {}
    codepage: int | None = None
    for attribute in _attributes(data, budget):
        if attribute.name == _OEM_CODEPAGE:
            codepage = int.from_bytes(attribute.data[:4], "little")
        elif attribute.name == _MESSAGE_PROPERTIES:
            values.update(_properties(attribute.data, budget)[0])
        elif attribute.name == _BODY:
            values.setdefault(BODY, (STRING, bytes(attribute.data)))
    return values, codepage


def _read_attachments(data: memoryview, codepage: int | None, budget: UnpackBudget, depth: int) -> Iterator[Member]:
    attachment: _Attachment | None = None
    for attribute in _attributes(data, budget):
        if attribute.level != _ON_ATTACHMENT:
            continue
        if attachment and _begins_another(attribute, attachment):
            yield from _give(attachment, codepage, budget, depth)
            attachment = None
        attachment = attachment or _Attachment()
        _add(attachment, attribute, budget)
    if attachment:
        yield from _give(attachment, codepage, budget, depth)


def _attributes(data: memoryview, budget: UnpackBudget) -> Iterator[_Attribute]:
    """Yield the attributes of a stream, the last perhaps not whole. Stop where none stands."""
    position = 6
    while position + _attribute.size <= len(data):
        budget.step(_ATTRIBUTE_STEPS)
        level, name, _, size = _attribute.unpack_from(data, position)
        if level not in (1, _ON_ATTACHMENT):
            return
        position += _attribute.size
        yield _Attribute(level, name, data[position : position + size], position + size <= len(data))
        position += size + 2


def _begins_another(attribute: _Attribute, attachment: _Attachment) -> bool:
    again = attribute.name == _DATA and attachment.data is not None
    return attribute.name == _RENDERING or again


def _add(attachment: _Attachment, attribute: _Attribute, budget: UnpackBudget) -> None:
    if attribute.name == _DATA:
        attachment.data, attachment.whole = attribute.data, attribute.whole
    elif attribute.name == _TITLE:
        attachment.title = bytes(attribute.data)
    elif attribute.name == _ATTACHMENT_PROPERTIES:
        values, attached = _properties(attribute.data, budget)
        attachment.values.update(values)
        attachment.object = attached if attached is not None else attachment.object
        attachment.whole = attachment.whole and attribute.whole


def _give(attachment: _Attachment, codepage: int | None, budget: UnpackBudget, depth: int) -> Iterator[Member]:
    """Yield an attachment, or nothing if it has neither data nor a name."""
    values = Properties(attachment.values, codepage, budget)
    name, cut = attachment_name(values)
    if not name:
        name, cut = cut_text(decode_string(STRING, attachment.title, values.charset, budget))
    data = attachment.object if attachment.object is not None else attachment.data
    if data is None and not name:
        return
    defects = [*cut] if data is not None and attachment.whole else [*cut, "attachment ends early"]
    data = data if data is not None else memoryview(b"")
    budget.take_member()
    if data[:16] == _IID_MESSAGE and data[16:20] == TNEF:
        members = _read(data[16:], budget, depth + 1)
        yield Member(name or None, b"", "message/rfc822", Role.MESSAGE, members=members, defects=tuple(defects))
        return
    if attachment.object is not None and data[6:16] == _IID_SUFFIX:
        data = data[16:]
        defects.append("embedded object")
    budget.take(len(data))
    yield Member(
        name=name or None,
        data=bytes(data),
        declared_type=values.short_text(ATTACH_MIME_TAG).lower(),
        content_id=content_id(values),
        defects=tuple(defects),
    )


def _properties(data: memoryview, budget: UnpackBudget) -> tuple[dict[int, tuple[int, bytes]], memoryview | None]:
    """Return the properties of a block that have a fixed id, up to where it is damaged, and the attached object."""
    values: dict[int, tuple[int, bytes]] = {}
    attached: memoryview | None = None
    position = 4
    try:
        for _ in range(_number(data, 0)):
            budget.step(_PROPERTY_STEPS)
            kind, key = struct.unpack_from("<HH", data, position)
            position += 4
            if key & _NAMED:
                position = _after_name(data, position)
            found, position = _value(data, kind, position, budget)
            if found is None or key & _NAMED:
                continue
            if key == ATTACH_DATA:
                attached = found
            else:
                values.setdefault(key, (kind, bytes(found)))
    except (struct.error, ValueError):
        pass
    return values, attached


def _number(data: memoryview, position: int) -> int:
    return int(struct.unpack_from("<I", data, position)[0])


def _after_name(data: memoryview, position: int) -> int:
    """Return where the value of a named property begins."""
    position += 16
    if not _number(data, position):
        return position + 8
    return position + 8 + _padded(_number(data, position + 4))


def _value(data: memoryview, kind: int, position: int, budget: UnpackBudget) -> tuple[memoryview | None, int]:
    """Return a property's value, None if it has several, and where the next begins. Raise ValueError."""
    several, kind = kind & _MULTIPLE, kind & ~_MULTIPLE
    count = 1
    if several or kind in _VARIABLE:
        count = _number(data, position)
        position += 4
    if kind in _FIXED:
        size = _padded(2 * count) if kind in (0x02, 0x0B) else _FIXED[kind] * count
        return (None if several else data[position : position + size]), position + size
    if kind not in _VARIABLE:
        raise ValueError("unknown type")
    first: memoryview | None = None
    for number in range(count):
        budget.step()
        size = _number(data, position)
        if number == 0 and not several:
            first = data[position + 4 : position + 4 + size]
        position += 4 + _padded(size)
    return first, position


def _padded(size: int) -> int:
    return (size + 3) & ~3
