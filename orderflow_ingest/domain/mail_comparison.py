"""Whether two mails of one Message-ID say the same, though a gateway has written one of them in another way.

Gateways turn 8bit into quoted-printable or base64, add MIME-Version and Content-Type, convert a text's charset. Then
the bytes differ, and so do the fingerprints, see `message`. Here the mails are compared as they are read:

    From, To, Cc, Subject, Date, Message-ID    as the fingerprint takes them: not decoded, so that no encoded word
                                               passes for an address
    lines of the header that are no field      byte for byte, also where they are read as part of a field before them
    the tree of parts                          each part in its place, with its kind and its type
    Content-Type, Content-Disposition          every parameter but the charset of a body's text and the boundary
    Content-ID, Content-Location               as they are
    a field of MIME that says anything else    as it is written: with a comment, with a word that is no parameter, with
                                               a type that is none or a version but 1.0, or if it stands there twice
    what stands outside of the leaves          line by line, each in its gap: text before, between and after the parts,
                                               the other fields of each part, the header of an attached mail. Left out
                                               are boundaries and empty lines, and in headers the fields that are
                                               compared above, where all that they say is
    what had to be tolerated in it             the same: a mail with a mended header is another one
    content of a body's text                   decoded; where another charset is declared, as text in which no letter
                                               is lost and none is guessed, by labels that are known
    content of any other part                  decoded, byte for byte. A named text is an attachment
    content that decoding may leave out        as it is written: text behind base64, noise in it, text around
                                               a uuencoded file, an encoding that is not known

Line ends count as the transfer encoding makes them: a text that is not in base64 has the mail's own. Empty lines at the
end of a body's text do not count, nor do fields that servers add.

To take two different mails for one would lose an order. So what is not certainly the same differs: a header over its
bound or in which text may stand, a part that was not opened for its depth, more parts than are read. Linear in the size
of both. The answer names fields and places, and nothing that a sender wrote.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import zip_longest

from orderflow_ingest.parsing.mime.bodies import UU_ENCODINGS, Body, decode_body
from orderflow_ingest.parsing.mime.charsets import codec_name
from orderflow_ingest.parsing.mime.entities import Entity, Header
from orderflow_ingest.parsing.mime.fields import MailHeader, field_name
from orderflow_ingest.parsing.mime.parameters import Parametrized
from orderflow_ingest.parsing.mime.tree import walk

from .identity import ReadMail, written_fields

_BODY_TYPES = ("text/plain", "text/html")
_UNCERTAIN = frozenset(("too many parts", "nested too deep", "text may stand in the header"))
_LOST = "\ufffd"
_DISPOSITION = "content-disposition"
_COMPARED = re.compile(
    rb"(content-type|content-transfer-encoding|mime-version)[ \t]*+:[ \t]*+(message/)?", re.IGNORECASE
)
# A field of MIME of which each word is compared elsewhere: as RFC 2045 writes it, without comments.
_TOKEN = rb"[A-Za-z0-9!#$%&'*+.^_`{|}~-]++"
_PLAIN = {
    "mime-version": re.compile(rb"1\.0"),
    "content-transfer-encoding": re.compile(rb"7bit|8bit|binary|base64|quoted-printable", re.IGNORECASE),
    "content-type": re.compile(
        rb"TOKEN/TOKEN(?:[ \t]*+;[ \t]*+TOKEN=(?:TOKEN|\"(?:[^\"\\\r\n]|\\[\"\\])*+\"))*+[ \t]*+;?+".replace(
            b"TOKEN", _TOKEN
        )
    ),
}


def find_difference(first: ReadMail, second: ReadMail) -> str:
    """Return in what two mails differ as they are read, or "" if in nothing."""
    if not (first.header.is_whole and second.header.is_whole):
        return "a header is too long to be compared"
    fields, others = written_fields(first.header), written_fields(second.header)
    for name in fields:
        if fields[name] != others[name]:
            return f"{name.title()} differs"
    if _lines_without_field(first.header) != _lines_without_field(second.header):
        return "a line that is no field differs"
    if _unusual(first.header) != _unusual(second.header):
        return "a field of MIME differs"
    outside, other_outside = _Outside(), _Outside()
    parts, other_parts = (walk(mail.raw[mail.header.start :]) for mail in (first, second))
    outside.begin(first)
    other_outside.begin(second)
    for one, other in zip_longest(parts, other_parts):
        if one is None or other is None:
            return "one has more parts than the other"
        if found := _difference_of(one, other):
            return f"part {one.path}: {found}"
        outside.add(one)
        other_outside.add(other)
    return "" if outside.gaps() == other_outside.gaps() else "the text outside of its parts differs"


def _lines_without_field(header: MailHeader) -> list[bytes]:
    """Return the lines of a header that neither begin a field nor are indented: they may be text."""
    found, last = list[bytes](), b""
    for line in header.block.split(b"\n"):
        is_mbox = line.startswith((b"From ", b">From ")) and not last.endswith(b";")
        if line.strip() and line[:1] not in b" \t" and not field_name(line) and not is_mbox:
            found.append(line)
        last = line.rstrip()
    return found


def _unusual(header: MailHeader) -> list[tuple[str, bytes]]:
    """Return the fields of MIME that stand there more than once, of which one is read, and those that say more."""
    found = [(field.name, field.value) for field in header.fields if field.name in _PLAIN or field.name == _DISPOSITION]
    counted = Counter(name for name, _ in found)
    return [(name, value) for name, value in found if counted[name] > 1 or not _is_plain(name, value)]


def _is_plain(name: str, value: bytes) -> bool:
    return name == _DISPOSITION or _PLAIN[name].fullmatch(value.strip()) is not None


class _Outside:
    """The lines of a mail that stand in no leaf, of it and of each encoded mail in it, in the order of the leaves."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[bytes, int]] = {}  # each buffer, and up to where it was looked at
        self._boundaries: set[bytes] = set()
        self._gaps: list[tuple[bytes, bool]] = []  # and whether it begins with a header
        self._begins_with_header = False
        self._start = 0

    def begin(self, mail: ReadMail) -> None:
        """Begin where the mail's own header ends, which is compared apart."""
        self._start = mail.header.body_start - mail.header.start

    def add(self, entity: Entity) -> None:
        """Go on to the next entity."""
        source = entity.source
        if entity.kind == "multipart" and (boundary := entity.header.boundary()):
            self._boundaries.add(boundary)
        if id(source) not in self._done:
            self._begins_with_header = bool(self._done) or entity.kind == "message"
            # The header may be read past an empty line: that is no part of the mail's own.
            self._done[id(source)] = (source, 0 if self._done else min(self._start, entity.start))
        if entity.kind == "leaf":
            self._gaps.append((source[self._done[id(source)][1] : entity.start], self._begins_with_header))
            self._done[id(source)] = (source, max(entity.start, entity.end))
            self._begins_with_header = False

    def gaps(self) -> list[list[bytes]]:
        """Return the lines before each leaf, then those behind the last one of each buffer."""
        rest = [(source[position:], False) for source, position in self._done.values()]
        return [list(self._lines_of(gap, is_header=is_header)) for gap, is_header in (*self._gaps, *rest)]

    def _lines_of(self, gap: bytes, *, is_header: bool) -> Iterator[bytes]:
        """Yield all lines but boundaries, empty ones, and the fields that are compared elsewhere.

        Such a field is left out in the header of a part and of a mail that is attached to it, if it stands there once
        and says nothing else.
        """
        skipped, is_skipped, holds_mail = list[list[bytes]](), False, False
        for line in (*gap.splitlines(), b""):
            line = line.rstrip()
            name = line[2:] if line.startswith(b"--") else b""
            is_end = name.removesuffix(b"--") in self._boundaries
            if not line or is_end or name in self._boundaries:
                yield from _unusual_lines(skipped)
                is_header = name in self._boundaries or (not line and is_header and holds_mail)
                skipped, is_skipped, holds_mail = [], False, False
                continue
            if line[:1] not in (b" ", b"\t"):
                found = _COMPARED.match(line) if is_header else None
                is_skipped = found is not None
                if found:
                    skipped.append([])
                    holds_mail = holds_mail or found[2] is not None
            if is_skipped:
                skipped[-1].append(line)
            else:
                yield line


def _unusual_lines(fields: Iterable[list[bytes]]) -> Iterator[bytes]:
    """Yield the lines of those fields of MIME in one header that stand there twice or say more than is compared."""
    read = [(*_split(b"".join(lines)), lines) for lines in fields]
    counted = Counter(name for name, _, _ in read)
    for name, value, lines in read:
        if counted[name] > 1 or not _is_plain(name, value):
            yield from lines


def _split(field: bytes) -> tuple[str, bytes]:
    name, _, value = field.partition(b":")
    return name.strip().lower().decode("ascii"), value


def _difference_of(one: Entity, other: Entity) -> str:
    if _UNCERTAIN.intersection((*one.defects, *other.defects)):
        return "too deep, too many or too uncertain to be compared"
    if (one.path, one.kind, one.parent, one.depth) != (other.path, other.kind, other.parent, other.depth):
        return "it stands in another place"
    if (one.defects, one.header.defects) != (other.defects, other.header.defects):
        return "its form differs"
    if one.header.type != other.header.type:
        return "its type differs"
    if _described(one) != _described(other):
        return "its name, disposition or parameters differ"
    return "its content differs" if one.kind == "leaf" and not _is_same_content(one, other) else ""


def _described(entity: Entity) -> tuple[object, ...]:
    """Return what a header says of its content, but for encoding, boundary, and the charset of a body's text."""
    header = entity.header
    left_out = {"boundary"} if entity.kind == "multipart" else set[str]()
    if _is_body(header):
        left_out.add("charset")
    disposition = header.disposition
    return (
        _parameters(header.content, left_out),
        (disposition.value, _parameters(disposition, set())),
        header.content_id,
        header.location,
    )


def _parameters(field: Parametrized, left_out: set[str]) -> list[tuple[str, bytes]]:
    return [(one.name, one.value) for one in field.parameters if one.name.partition("*")[0] not in left_out]


def _is_body(header: Header) -> bool:
    return header.type in _BODY_TYPES and header.disposition.value in ("", "inline") and not header.has_name()


def _is_same_content(one: Entity, other: Entity) -> bool:
    body, other_body = _decoded(one), _decoded(other)
    if _leaves_out(one, body) or _leaves_out(other, other_body):
        return one.header.encoding == other.header.encoding and _written(one) == _written(other)
    first, second = body.data, other_body.data
    is_text = one.header.type.startswith("text/")
    if is_text and "base64" not in (one.header.encoding, other.header.encoding):
        first, second = (data.replace(b"\r\n", b"\n") for data in (first, second))
    if not _is_body(one.header):
        return first == second
    first, second = (data.replace(b"\r\n", b"\n").rstrip(b"\n") for data in (first, second))
    codecs = codec_name(one.header.charset()), codec_name(other.header.charset())
    if first == second and codecs[0] == codecs[1]:
        return True
    # A page without a label is read by the one in it.
    if None in codecs and (first != second or (one.header.type == "text/html" and not first.isascii())):
        return False
    text, other_text = (_read_strictly(data, codec) for data, codec in zip((first, second), codecs, strict=True))
    return text is not None and text == other_text and _LOST not in text


def _read_strictly(data: bytes, codec: str | None) -> str | None:
    """Return the text by its label alone, None where it must be guessed."""
    try:
        return data.decode(codec or "utf-8")
    except ValueError:
        return None


def _decoded(leaf: Entity) -> Body:
    return decode_body(leaf.source, leaf.start, leaf.end, leaf.header.encoding, leaf.header.type)


def _leaves_out(leaf: Entity, body: Body) -> bool:
    """Return whether something that was written may be missing in what was decoded, as text behind base64 is."""
    return bool(body.defects) or leaf.header.encoding in UU_ENCODINGS


def _written(leaf: Entity) -> bytes:
    return leaf.source[leaf.start : leaf.end].replace(b"\r\n", b"\n").rstrip(b"\n")
