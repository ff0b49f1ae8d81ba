"""Walk ASN.1 in BER (X.690): the little of it that leads to the content of a CMS structure.

Guarantees: raises ValueError, for what is no BER, ends early or has too many parts, and ContainerError where the mail
has no steps left. It takes linear time, and copies nothing. DER is a part of BER. Tags above 30 do not stand in CMS and
are errors.

Own, since the libraries were measured with a signed message of 25 MB: asn1crypto takes 5.5 s and five times the memory
for the chunked form that mail programs stream, and `cryptography` gives no content without verifying it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .guards import UnpackBudget

INTEGER, OCTETS, OBJECT, SEQUENCE, SET, CONTEXT_0 = 0x02, 0x04, 0x06, 0x30, 0x31, 0xA0
_CONSTRUCTED = 0x20
# What one element takes, in steps of the budget.
_STEPS = 3
# A CMS structure has six parts; what signs is DER, of known lengths; a piece of content is 1000 bytes and more.
_MOST_CHILDREN, _MOST_PASSED, _MOST_PIECES = 16, 10_000, 200_000


@dataclass(frozen=True)
class Element:
    """One element: where its content begins and ends. The end is None where an end-of-contents mark ends it."""

    tag: int
    start: int
    end: int | None


def read_element(data: bytes, position: int) -> Element:
    """Return the element at a position. Raise ValueError."""
    if position + 2 > len(data):
        raise ValueError("ends early")
    tag, length, start = data[position], data[position + 1], position + 2
    if tag & 0x1F == 0x1F:
        raise ValueError("long tag")
    if length == 0x80:
        if not tag & _CONSTRUCTED:
            raise ValueError("primitive without length")
        return Element(tag, start, None)
    if length > 0x80:
        size = length & 0x7F
        if size > 8:
            raise ValueError("length too long")
        start += size
        length = int.from_bytes(data[start - size : start], "big")
    if start + length > len(data):
        raise ValueError("ends early")
    return Element(tag, start, start + length)


def children(data: bytes, parent: Element, budget: UnpackBudget) -> Iterator[Element]:
    """Yield the elements within one. Raise ValueError."""
    position, count = parent.start, 0
    while parent.end is None or position < parent.end:
        budget.step(_STEPS)
        child = read_element(data, position)
        if parent.end is None and child.tag == 0:
            return
        if parent.end is not None and (child.end or 0) > parent.end:
            raise ValueError("reaches beyond its parent")
        if (count := count + 1) > _MOST_CHILDREN:
            raise ValueError("too many parts")
        yield child
        position = after(data, child, budget)


def after(data: bytes, element: Element, budget: UnpackBudget) -> int:
    """Return where the next element begins. Raise ValueError."""
    if element.end is not None:
        return element.end
    position, unended, count = element.start, 1, 0
    while unended:
        if (count := count + 1) > _MOST_PASSED:
            raise ValueError("too many parts")
        budget.step(_STEPS)
        child = read_element(data, position)
        position = child.start if child.end is None else child.end
        unended += (child.end is None) - (child.tag == 0)
    return position


def chunks(data: bytes, string: Element, budget: UnpackBudget) -> Iterator[memoryview]:
    """Yield the bytes of an octet string, which may be made of others. Raise ValueError."""
    if not string.tag & _CONSTRUCTED:
        yield memoryview(data)[string.start : string.end]
        return
    position, ends, count = string.start, [string.end], 0
    while ends:
        end = ends[-1]
        if end is not None and position >= end:
            if position > end:
                raise ValueError("reaches beyond its parent")
            ends.pop()
            continue
        budget.step(_STEPS)
        child = read_element(data, position)
        position = child.start
        if end is None and child.tag == 0:
            ends.pop()
        elif child.tag & ~_CONSTRUCTED != OCTETS or (count := count + 1) > _MOST_PIECES:
            raise ValueError("no octet string")
        elif child.tag & _CONSTRUCTED:
            ends.append(child.end)
        else:
            yield memoryview(data)[child.start : child.end]
            position = child.end or child.start
