"""Decode bytes to text, whatever charset a sender claims (labels as in the WHATWG Encoding Standard).

Guarantees: never raises, never looks a sender's label up in Python's codec registry (that imports by name and knows
codecs that are no charsets), and never yields a lone surrogate.

A label stands for the widest charset in real use under it: ISO-8859-1 for windows-1252, GB2312 for GB18030, Shift_JIS
for windows-31J. A wrong or unknown label falls back to UTF-8, then to the hint (the charset declared elsewhere in the
same mail), then to detection. chardet detects: with its candidates narrowed to the charsets of mail it is right about
file names of a few letters, where charset-normalizer takes Spanish for cp1250 and Chinese for UTF-16. It is imported
on the first undeclared 8-bit text only.
"""

import re
from functools import lru_cache

_SINGLE = re.compile(r"(?:windows|win|cp|ibm|dos|oem|ansi|ms|mscp|microsoftcp)?0{0,2}(\d{3,4})")
_ISO = re.compile(r"(?:iso)?8859(?:p|part)?(\d{1,2})[ie]?(?:\d{4})?")
_WINDOWS_ISO = re.compile(r"(?:windows|cp)?28(?:59([1-9])|60([356]))")
_X_OR_CS = re.compile(r"^(?:x{1,2}+|cs)(?=[a-z0-9]{2})")
_WIDER = {1: "cp1252", 9: "cp1254", 11: "cp874"}
_ISO_PARTS = frozenset(range(1, 17)) - {12}
_CODE_PAGES = """
037 273 437 500 720 737 775 850 852 855 856 857 858 860 861 862 863 864 865 866 869 874 932 949 950 1006 1125 1140
1250 1251 1252 1253 1254 1255 1256 1257 1258
"""
_SAME = {
    "ascii": "ascii us usascii ansix341968 isoir6 cp20127 iso646us iso646 646",
    "utf-8": "utf8 utf utf81 utf8utf8 unicode11utf8 unicode20utf8 utf8mb4 utf8mac utf8sig utf8bom cp65001 65001",
    "utf-7": "utf7 unicode11utf7 unicode20utf7",
    "utf-16": "utf16 ucs2 iso10646ucs2 unicode unicodefeff",
    "utf-16-le": "utf16le unicodelittle ucs2le cp1200",
    "utf-16-be": "utf16be unicodebig unicodefffe ucs2be cp1201",
    "utf-32": "utf32 ucs4 iso10646ucs4",
    "utf-32-le": "utf32le cp12000",
    "utf-32-be": "utf32be",
    "cp1252": "latin1 l1 ansi isolatin1 isoir100 cp819 ibm819 windows31latin1",
    "iso8859-2": "latin2 l2 isolatin2 isoir101",
    "iso8859-3": "latin3 l3 isolatin3 isoir109",
    "iso8859-4": "latin4 l4 isolatin4 isoir110",
    "iso8859-5": "cyrillic isocyrillic isolatincyrillic isoir144",
    "iso8859-6": "arabic isolatinarabic asmo708 ecma114 isoir127",
    "iso8859-7": "greek greek8 isolatingreek suneugreek ecma118 elot928 isoir126",
    "iso8859-8": "hebrew isolatinhebrew isoir138 logical visual",
    "cp1254": "latin5 l5 isolatin5 isoir148 turkish",
    "iso8859-10": "latin6 l6 isolatin6 isoir157",
    "iso8859-15": "latin9 l9 isolatin9 latin0 isoir203",
    "iso8859-16": "latin10 l10 isoir226",
    "cp874": "tis620 tis62025291 isoir166 tis6202533 thai",
    "koi8-r": "koi8r koi8 koi koi8rru cp20866",
    "koi8-u": "koi8u koi8ru cp21866",
    "koi8-t": "koi8t",
    "mac-roman": "macintosh mac macroman cp10000",
    "mac-cyrillic": "maccyrillic macukrainian",
    "mac-latin2": "maclatin2 macce maccentraleurope maccentraleurroman",
    "mac-greek": "macgreek",
    "mac-turkish": "macturkish",
    "mac-romanian": "macromanian",
    "mac-iceland": "maciceland macicelandic",
    "mac-croatian": "maccroatian",
    "cp932": "shiftjis sjis shiftjisx0213 mskanji windows31j win31j mscp932 cp943 cp943c macjapanese",
    "euc_jp": "eucjp euc ujis eucjpms eucpkdfmtjapanese cp51932 cp20932",
    "iso2022_jp_ext": "iso2022jp jis cp50220 cp50221 cp50222 iso2022jpms iso2022jp1",
    "iso2022_jp_2": "iso2022jp2",
    "iso2022_jp_2004": "iso2022jp3 iso2022jp2004",
    "iso2022_kr": "iso2022kr cp50225",
    "cp949": "euckr ksc56011987 ksc56011989 ksc5601 ksx1001 isoir149 korean uhc cp51949 cp20949",
    "johab": "johab cp1361 ms1361",
    "gb18030": "gb18030 gbk gb2312 gb231280 gb23121980 gb gb13000 chinese"
    " iso58gb231280 isoir58 euccn cp936 windows936 ms936 cp51936 cp54936 cp20936",
    "hz": "hz hzgb hzgb2312 cp52936",
    "cp950": "big5 cnbig5 twbig5 zhbig5 big5tw big5eten eten",
    "big5hkscs": "big5hkscs",
    "ptcp154": "ptcp154 cp154 cyrillicasian",
    "kz1048": "kz1048 rk1048",
    "hp-roman8": "hproman8 roman8 r8",
}
_CODECS = {label: codec for codec, labels in _SAME.items() for label in labels.split()}
_CANDIDATES = """
cp932 gb18030 big5hkscs cp949 euc-jis-2004 cp1252 cp1251 koi8-r cp1250 cp1253 cp1254 cp1255 cp1256 cp874
"""
_DETECT_FROM = 4096
_JIS_ESCAPE = re.compile(rb"\x1b\$[@B]|\x1b\([JI]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def codec_name(label: str) -> str | None:
    """Return Python's name of the codec that a charset label stands for, None if it is not a known charset."""
    return _find_codec(label[:60])


@lru_cache(maxsize=256)
def _find_codec(label: str) -> str | None:
    squeezed = re.sub(r"[^a-z0-9]", "", label.split("*")[0].lower()).removeprefix("charset")
    # "x-" and IANA's "cs" stand before any label.
    squeezed = _X_OR_CS.sub("", squeezed)
    if squeezed in _CODECS:
        return _CODECS[squeezed]
    if (page := _SINGLE.fullmatch(squeezed)) and page[1] in _CODE_PAGES.split():
        return "cp" + page[1]
    part = _ISO.fullmatch(squeezed)
    number = int(part[1]) if part else 0
    if windows := _WINDOWS_ISO.fullmatch(squeezed):
        number = int(windows[1] or f"1{windows[2]}")
    return _WIDER.get(number, f"iso8859-{number}") if number in _ISO_PARTS else None


def is_utf8(data: bytes) -> bool:
    """Return whether data is UTF-8 throughout."""
    return _strictly(data, "utf-8") is not None


def decode_bytes(data: bytes, label: str = "", hint: str = "") -> str:
    """Decode data as its label says. Where that cannot be, as UTF-8, as the hint says, or as detected."""
    codec = codec_name(label)
    # ASCII in UTF-16 is UTF-8, too, with a NUL for every other byte.
    wide = codec is not None and codec.startswith(("utf-16", "utf-32")) and b"\0" in data
    for name in (codec, None if wide else "utf-8"):
        if name and (text := _strictly(data, name)) is not None:
            return text
    if codec in ("utf-8", "utf-7", "ascii", None) and not _mostly_utf8(data):
        return decode_undeclared(data, hint)
    return data.decode(codec or "utf-8", "replace")


def decode_undeclared(data: bytes, hint: str = "") -> str:
    """Decode data of which no charset is known: UTF-8, ISO-2022-JP by its escapes, the hint, or detection."""
    if _JIS_ESCAPE.search(data) and (text := _strictly(data, "iso2022_jp_ext")) is not None:
        return text
    if (text := _strictly(data, "utf-8")) is not None:
        return text
    if (codec := codec_name(hint)) and codec != "ascii" and (text := _strictly(data, codec)) is not None:
        return text
    if _mostly_utf8(data):
        return data.decode("utf-8", "replace")
    return data.decode(_detect(data), "replace")


def _strictly(data: bytes, codec: str) -> str | None:
    try:
        text = data.decode(codec)
    except (UnicodeError, ValueError):
        # ISO-8859-1 knows the C1 bytes that windows-1252 leaves undefined.
        return data.decode("latin-1") if codec == "cp1252" else None
    return _SURROGATES.sub("\ufffd", text) if codec == "utf-7" else text


def _mostly_utf8(data: bytes) -> bool:
    """Return whether data is UTF-8 that was cut or damaged, rather than another charset."""
    # A character cut in two at the end is no damage; GBK reads as UTF-8 with two characters of five damaged.
    text = data.decode("utf-8", "replace").removesuffix("\ufffd")[:_DETECT_FROM]
    return sum(char > "\x7f" for char in text) > 3 * text.count("\ufffd")


def _detect(data: bytes) -> str:
    import chardet

    found = chardet.detect(data[:_DETECT_FROM], include_encodings=_CANDIDATES.split())
    return codec_name(found["encoding"] or "") or "cp1252"
