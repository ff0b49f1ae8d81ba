"""Read the names of members of which nothing says what their bytes are, as ZIP and tar hold them.

Windows writes its OEM code page (850 in the West, 866 in Russia, 932 and 936 in Asia), other programs the ANSI one or
UTF-8. The choice falls on the reading that looks most like a name: see _oddity.

Guarantees: never raises, and a name costs at most a millisecond. Of a longer one than LONGEST_NAME bytes the end is
read, where its last component stands with the ending, and a defect says so. Only the first MOST_GUESSES names of a mail
are each judged. Those after them are in the code page of the last one judged, for the names of an archive have one
writer.
"""

import unicodedata

from orderflow_ingest.parsing.mime.charsets import codec_name, decode_bytes, decode_undeclared

from .guards import UnpackBudget

LONGEST_NAME = 1000
NAME_CUT = "name cut"
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
_JUDGED = 200
_SIGNS = "°§№ー、。「」【】・\u2013\u2019\uff08\uff09"
# The OEM code page of a Windows whose ANSI code page is the first.
_OEM = {
    "cp1250": "cp852", "iso8859-2": "cp852", "cp1251": "cp866", "koi8-r": "cp866", "koi8-u": "cp866",
    "iso8859-5": "cp866", "cp1252": "cp850", "iso8859-15": "cp850", "cp1253": "cp737", "iso8859-7": "cp737",
    "cp1254": "cp857", "cp1255": "cp862", "cp1256": "cp720", "cp1257": "cp775", "cp1258": "cp1258",
}  # fmt: skip
_COMMON = ("cp1252", "cp1251", "cp850", "cp866")
_ASIAN = ("cp932", "gb18030", "big5hkscs", "cp949")


class Names:
    """The names of one archive. Hint is a charset used elsewhere in the mail."""

    def __init__(self, budget: UnpackBudget, hint: str = "") -> None:
        self._budget = budget
        self._hint = hint
        self._last = (b"", "")

    def read(self, raw: bytes) -> tuple[str, tuple[str, ...]]:
        """Return a name as text, and its defects."""
        raw, defects = cut(raw)
        try:
            return raw.decode("utf-8"), defects
        except UnicodeDecodeError:
            pass
        if self._budget.take_guess():
            text = decode_name(raw, self._hint)
            self._last = (raw, text)
        else:
            text = raw.decode(_page_of(*self._last, self._hint), "replace")
        return text, defects


def is_litter(name: str) -> bool:
    """Return whether a file is one that file managers leave in archives."""
    last = name.rsplit("/", 1)[-1]
    return name.startswith("__MACOSX/") or last.startswith("._") or last in _LITTER


def cut(raw: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return a name of bounded length, and the defect of one that was longer."""
    if len(raw) <= LONGEST_NAME:
        return raw, ()
    end = raw[-LONGEST_NAME:]
    # No character of UTF-8 is cut in two.
    begin = next((at for at in range(4) if end[at] & 0xC0 != 0x80), 0)
    return end[begin:], (NAME_CUT,)


def cut_text(name: str) -> tuple[str, tuple[str, ...]]:
    """Return a name that is text already, of bounded length, and the defect of one that was longer."""
    return (name, ()) if len(name) <= LONGEST_NAME else (name[-LONGEST_NAME:], (NAME_CUT,))


def decode_name(raw: bytes, hint: str = "") -> str:
    """Decode a member's name of which nothing says what its bytes are."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    readings = [decode_undeclared(raw, hint)]
    if page := _OEM.get(codec_name(hint) or ""):
        readings.append(raw.decode(page, "replace"))
    readings.append(decode_undeclared(raw))
    readings.extend(decode_bytes(raw, page) for page in _COMMON)
    return min(readings, key=_oddity)


def decode_declared(data: bytes, charset: str, budget: UnpackBudget) -> str:
    """Decode a text whose container names the charset. A wrong one is detected if the budget allows it."""
    codec = codec_name(charset) or "cp1252"
    # Bytes of UTF-7 may stand for what is no text, which decode_bytes looks after.
    if codec != "utf-7":
        try:
            return data.decode(codec)
        except ValueError:
            pass
    if budget.take_guess():
        return decode_bytes(data, codec)
    return data.decode("latin-1" if codec == "utf-7" else codec, "replace")


def _page_of(raw: bytes, text: str, hint: str) -> str:
    """Return the code page in which these bytes are this text, the common one of Windows if there is none."""
    hinted = codec_name(hint) or "cp850"
    pages = (_OEM.get(hinted, hinted), hinted, *_COMMON, *_ASIAN)
    return next((page for page in pages if raw and raw.decode(page, "replace") == text), "cp850")


def _oddity(name: str) -> int:
    """Return how little a text looks like a name: odd signs, and letters that do not stand beside each other."""
    odd, last, last_script = 0, "", ""
    for char in name[-_JUDGED:]:
        script = ""
        if char > "\x7f":
            if not char.isalpha():
                odd += 0 if char in _SIGNS else 3
            elif "HALFWIDTH" in unicodedata.name(char, ""):
                odd += 2
            odd += 2 if char.isupper() and last.islower() else 0
        if char.isalpha():
            script = unicodedata.name(char, "").split(" ")[0]
            odd += 1 if last_script and script != last_script else 0
        last, last_script = char, script
    return odd
