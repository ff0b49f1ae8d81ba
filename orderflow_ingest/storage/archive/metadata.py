"""How an object's metadata is written into S3's headers, and how it is read after stores and proxies changed it.

A value is percent-encoded, so that it is plain ASCII without blanks. Stores and proxies are known to change it all the
same. `check` is made of all names and values: a reading of the headers is the right one if it fits.

    names in other letters, `_` for `-`, doubled prefix       read as ours
    one header sent twice and joined by a comma               read once
    values encoded once more, or decoded                      each is tried
    decoded, and UTF-8 taken for Latin-1, or Latin-1 sent     each is tried
    decoded, and written in RFC 2047's words                  each is tried
    empty values left out                                     `empty` names them
    values trimmed, cut, or lost                              read as far as it goes, and reported as changed

What earlier versions wrote has no `check`. There a value that we never write so shows what was done to it. A name that
is missing is not there: nobody may take it for an empty value.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from orderflow_ingest.parsing.mime.words import decode_text

BESIDE = "beside"  # the one name in the metadata of an object whose metadata lies beside it
_CHECK, _EMPTY = "check", "empty"
_SAFE, _FORMERLY_SAFE = "@.:/", "@+.:/"  # a proxy that decodes makes a blank of +
_PREFIX = "x-amz-meta-"
_CHECK_DIGITS = 16
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_TEXT = re.compile(r"[^\x20-\x7e]|=\?")


class ReadHeaders(NamedTuple):
    """What headers say: names and values, and whether they are known not to be those that were written."""

    metadata: dict[str, str]
    is_changed: bool = False


def write_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata as names and values for headers, or nothing for nothing."""
    if not metadata:
        return {}
    written = {name: quote(value, safe=_SAFE) for name, value in metadata.items() if value}
    empty = ".".join(name for name, value in metadata.items() if not value)
    return {**written, **({_EMPTY: empty} if empty else {}), _CHECK: _check(metadata)}


def read_headers(headers: Mapping[str, str]) -> ReadHeaders:
    """Read what write_headers() of this or an earlier version has made, whatever was done to it on the way."""
    values, is_clear = _named(headers)
    check, empty = (unquote(_text(values.pop(name, ""))).strip() for name in (_CHECK, _EMPTY))
    if not check:
        found = _read_former(values)
        return ReadHeaders(found.metadata, found.is_changed or not is_clear)
    nothing = dict.fromkeys(filter(None, empty.split(".")), "")
    for reading in _readings(values):
        if _check(nothing | reading) == check.lower():
            return ReadHeaders(nothing | reading)
    return ReadHeaders(nothing | _plain(values), is_changed=True)


def _named(headers: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """Return the values by our names, and whether no name has two values."""
    values: dict[str, str] = {}
    is_clear = True
    for name, value in headers.items():
        name = name.lower().replace("_", "-")
        while name.startswith(_PREFIX):
            name = name.removeprefix(_PREFIX)
        doubled = value.strip().split(", ")
        value = doubled[0] if len(set(doubled)) == 1 else ", ".join(doubled)
        is_clear = is_clear and values.setdefault(name, value) == value
    return values, is_clear


def _readings(values: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield what the values may have been, the likeliest first."""
    texts = {name: _text(value) for name, value in values.items()}
    for source in (dict(values), texts) if texts != values else (texts,):
        once = {name: unquote(value) for name, value in source.items()}
        yield from (once, {name: unquote(value) for name, value in once.items()}, source)


def _read_former(values: Mapping[str, str]) -> ReadHeaders:
    if all(_is_ours(value) for value in values.values()):
        return ReadHeaders({name: unquote(value) for name, value in values.items()})
    once = {name: unquote(value) for name, value in values.items()}
    if all(_is_ours(value) for value in once.values()):
        return ReadHeaders({name: unquote(value) for name, value in once.items()})
    return ReadHeaders(_plain(values), is_changed=True)


def _plain(values: Mapping[str, str]) -> dict[str, str]:
    """Read each value for itself, as far as it goes."""
    texts = {name: _text(value) for name, value in values.items()}
    return {name: unquote(text) if _is_ours(text) else text for name, text in texts.items()}


def _is_ours(value: str) -> bool:
    value = _ESCAPE.sub(lambda found: found[0].upper(), value)
    return value in (quote(unquote(value), safe=safe) for safe in (_SAFE, _FORMERLY_SAFE))


def _text(value: str) -> str:
    """Return a header's value as text: RFC 2047's words decoded, and UTF-8 that was taken for Latin-1."""
    if _TEXT.search(value) is None:
        return value
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError:
        return value
    if b"=?" in raw:
        return decode_text(raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _check(metadata: Mapping[str, str]) -> str:
    text = json.dumps(dict(metadata), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_CHECK_DIGITS]
