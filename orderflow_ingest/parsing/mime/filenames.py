"""Make file names that senders wrote safe.

Guarantees: never raises. A safe name is storable and one path component on every file system: no path, drive,
control, bidi or invisible characters, none that Windows forbids, no reserved device name, no dot or blank at its
ends, at most 200 bytes in UTF-8 with its extension kept. It need not be unique, and is never a key.

Programs write a name as in a URL ("Order%20No%201.pdf"), and mailers show it as it is. It is undone here, so that the
claimed name stays what the sender wrote, and only for a name that is throughout what a URL encoder writes: "100%25
sure.pdf" and "%41.pdf" are not. It is undone before the path is cut off.
"""

import re
import unicodedata
from urllib.parse import unquote_to_bytes

from .words import storable

_SAFE_BYTES = 200
# Controls, what has no width (zero-width signs, soft hyphen, bidi marks, joiners, selectors, tags), and fillers.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_URL_ENCODED = re.compile(r"(?=[^%]*+%)(?:[A-Za-z0-9_.!~*'()+-]|%(?:[2-9A-F][0-9A-F]))++", re.IGNORECASE)
_NEEDLESS_ESCAPE = re.compile(r"%(?:3[0-9]|4[1-9A-F]|5[0-9A]|6[1-9A-F]|7[0-9A]|2[DE]|5F|7[EF])", re.IGNORECASE)
# A name in which nothing is to be made safe, unless it is that of a device.
_SAFE = re.compile(r"(?!\.)[A-Za-z0-9_()+,;=@#&!$'~.-]++(?: [A-Za-z0-9_()+,;=@#&!$'~.-]++)*+(?<!\.)")
_FORBIDDEN = re.compile('[<>:"|?*]')
_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,12})\Z")
_DEVICE = re.compile(
    r"\A(?:CON|PRN|AUX|NUL|CLOCK\$|CONIN\$|CONOUT\$|COM[0-9¹²³]|LPT[0-9¹²³])(?=[ _]*(?:\.|\Z))", re.IGNORECASE
)


def safe_filename(claimed: str) -> str | None:
    """Return a name that is safe to store and to show, None if nothing of the claimed one is left."""
    if len(claimed) <= _SAFE_BYTES and _SAFE.fullmatch(claimed) and not _DEVICE.match(claimed):
        return claimed
    # Line breaks of a folded name are blanks, not garbage.
    text = _INVISIBLE.sub("", re.sub(r"[\t\r\n]+", " ", _undo_url_encoding(storable(claimed))))
    # Blanks beyond ASCII are made plain first: a dot behind one would else come to stand at the beginning.
    components = [" ".join(part.split()).strip(" .") for part in re.split(r"[/\\]", unicodedata.normalize("NFC", text))]
    name = next((part for part in reversed(components) if part), "")
    name = _DEVICE.sub(r"_\g<0>", _FORBIDDEN.sub("_", name), count=1) if name else ""
    return _shorten(name) or None


def extension(filename: str | None) -> str:
    """Return the ending of a safe name in lower case, without its dot, or "" if there is none."""
    if not filename:
        return ""
    found = _EXTENSION.search(filename)
    return found[1].lower() if found else ""


def _undo_url_encoding(name: str) -> str:
    if not _URL_ENCODED.fullmatch(name) or _NEEDLESS_ESCAPE.search(name):
        return name
    try:
        return unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        return name


def _shorten(name: str) -> str:
    if len(name.encode()) <= _SAFE_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension.encode()) > 20:
        stem, dot, extension = name, "", ""
    limit = _SAFE_BYTES - len((dot + extension).encode())
    return stem.encode()[:limit].decode(errors="ignore").rstrip(" .") + (dot + extension if extension else "")
