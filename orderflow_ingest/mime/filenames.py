"""Make file names that senders wrote safe.

Guarantees: never raises. A safe name is storable and one path component on every file system: no path, drive,
control, bidi or invisible characters, none that Windows forbids, no reserved device name, no dot or blank at its
ends, at most 200 bytes in UTF-8 with its extension kept. It need not be unique, and is never a key.
"""

import re
import unicodedata

from .words import storable

_SAFE_BYTES = 200
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_FORBIDDEN = re.compile('[<>:"|?*]')
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|COM[0-9¹²³]|LPT[0-9¹²³])(?=\.|$)", re.IGNORECASE)


def safe_filename(claimed: str) -> str | None:
    """Return a name that is safe to store and to show, None if nothing of the claimed one is left."""
    # Line breaks of a folded name are blanks, not garbage.
    text = _INVISIBLE.sub("", re.sub(r"[\t\r\n]+", " ", storable(claimed)))
    components = [part.strip(" .") for part in re.split(r"[/\\]", unicodedata.normalize("NFC", text))]
    name = next((part for part in reversed(components) if part), "")
    name = _DEVICE.sub(r"_\g<0>", _FORBIDDEN.sub("_", name), count=1) if name else ""
    return _shorten(" ".join(name.split())) or None


def _shorten(name: str) -> str:
    if len(name.encode()) <= _SAFE_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension.encode()) > 20:
        stem, dot, extension = name, "", ""
    room = _SAFE_BYTES - len((dot + extension).encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(" .") + (dot + extension if extension else "")
