"""What of a document is shown in a page: text, a table, or a picture. Everything else is for downloading.

Text is shown as text, whatever it says it is: the page escapes it, so that HTML and SVG are their source. A picture
is one that its own bytes say a browser draws without running anything: PNG, JPEG, GIF, WebP. A PDF or an office file
runs programs of its reader, and none of them is started here.

Guarantees: pure, and bounded: at most TEXT_LIMIT bytes are decoded, and a table has at most ROWS rows of COLUMNS cells.
"""

import csv
import io
from dataclasses import dataclass
from enum import Enum

from orderflow_ingest.parsing.mime.charsets import decode_bytes

from .filters import line, lines

TEXT_LIMIT = 256 << 10
PICTURE_LIMIT = 8 << 20
ROWS, COLUMNS = 200, 40
_CELL = 200
_TEXTS = ("application/json", "application/xml", "application/edifact", "application/edi-x12", "message/rfc822")
_TABLES = ("text/csv", "text/tab-separated-values")
_PICTURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


class Kind(Enum):
    """How a document is shown."""

    TEXT = "text"
    TABLE = "table"
    PICTURE = "picture"
    NONE = "none"


@dataclass(frozen=True)
class Preview:
    """What is shown of a document, and whether that is not all of it."""

    kind: Kind
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    is_cut: bool = False


def kind_of(content_type: str) -> Kind:
    """Return how a document of this type is shown, before its bytes are read."""
    if content_type in _TABLES:
        return Kind.TABLE
    if content_type in _PICTURES.values() or content_type == "image/webp":
        return Kind.PICTURE
    is_text = content_type.startswith("text/") or content_type in _TEXTS or content_type.endswith(("+xml", "+json"))
    return Kind.TEXT if is_text else Kind.NONE


def picture_type(data: bytes) -> str | None:
    """Return what picture these bytes are, by their beginning, or None if they are none that is safe to draw."""
    if len(data) > PICTURE_LIMIT:
        return None
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _PICTURES.items() if data.startswith(start)), None)


def preview(data: bytes, content_type: str, charset: str | None) -> Preview:
    """Make of a document what a page shows."""
    kind = kind_of(content_type)
    if kind is Kind.PICTURE:
        return Preview(kind) if picture_type(data) else Preview(Kind.NONE)
    if kind is Kind.NONE:
        return Preview(kind)
    text, is_cut = decode_bytes(data[:TEXT_LIMIT], charset or ""), len(data) > TEXT_LIMIT
    if kind is Kind.TABLE and (table := _table(text)):
        rows = tuple(tuple(line(cell, _CELL) for cell in row[:COLUMNS]) for row in table[:ROWS])
        return Preview(kind, rows=rows, is_cut=is_cut or len(table) > ROWS or any(len(r) > COLUMNS for r in table))
    return Preview(Kind.TEXT, text=lines(text), is_cut=is_cut)


def _table(text: str) -> list[list[str]] | None:
    """Read a table of separated values, up to one row more than is shown, or None if it does not read as one."""
    first = text.lstrip("\ufeff").partition("\n")[0]
    delimiter = max(";\t,|", key=first.count)
    if not first.count(delimiter):
        return None
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=delimiter):
            if row:
                rows.append(row)
            if len(rows) > ROWS:
                break
    except csv.Error:
        return None
    return rows
