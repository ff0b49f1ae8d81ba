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

_SINGLE = re.compile(r"(?:windows|win|cp|ibm|xcp|dos|oem|microsoftcp)(\d{3,4})")
_ISO = re.compile(r"(?:iso|xiso)?8859(?:p|part)?(\d{1,2})[ie]?(?:\d{4})?")
_WIDER = {1: "cp1252", 9: "cp1254", 11: "cp874"}
_ISO_PARTS = frozenset(range(1, 17)) - {12}
_CODE_PAGES = """
437 720 737 775 850 852 855 857 858 860 861 862 863 864 865 866 869 874 932 949 950
1250 1251 1252 1253 1254 1255 1256 1257 1258
"""
_SAME = {
    "ascii": "ascii us usascii ansix341968 iso646us iso646 646",
    "utf-8": "utf8 utf utf81 unicode11utf8 xunicode20utf8 utf8mb4 utf8bom cp65001 65001",
    "utf-7": "utf7 unicode11utf7 csunicode11utf7",
    "utf-16": "utf16 ucs2 iso10646ucs2 unicode csunicode",
    "utf-16-le": "utf16le unicodelittle ucs2le",
    "utf-16-be": "utf16be unicodebig unicodefffe ucs2be",
    "utf-32": "utf32 ucs4 iso10646ucs4",
    "utf-32-le": "utf32le",
    "utf-32-be": "utf32be",
    "cp1252": "latin1 l1 ansi isolatin1 xansi",
    "iso8859-2": "latin2 l2 isolatin2",
    "iso8859-3": "latin3 l3",
    "iso8859-4": "latin4 l4",
    "iso8859-5": "cyrillic isocyrillic",
    "iso8859-6": "arabic asmo708 ecma114",
    "iso8859-7": "greek greek8 ecma118 elot928",
    "iso8859-8": "hebrew logical visual",
    "cp1254": "latin5 l5 turkish",
    "iso8859-10": "latin6 l6",
    "iso8859-15": "latin9 l9 latin0",
    "iso8859-16": "latin10 l10",
    "cp874": "tis620 tis62025291 thai",
    "koi8-r": "koi8r koi8 koi cskoi8r koi8rru",
    "koi8-u": "koi8u koi8ru",
    "koi8-t": "koi8t",
    "mac-roman": "macintosh mac macroman xmacroman csmacintosh xmac",
    "mac-cyrillic": "maccyrillic xmaccyrillic xmacukrainian",
    "mac-latin2": "maclatin2 xmacce macce maccentraleurope",
    "mac-greek": "macgreek xmacgreek",
    "mac-turkish": "macturkish xmacturkish",
    "cp932": "shiftjis xshiftjis sjis xsjis shiftjisx0213 mskanji csshiftjis windows31j cswindows31j ms932 win31j",
    "euc_jp": "eucjp xeucjp xeuc ujis eucjpms cseucpkdfmtjapanese",
    "iso2022_jp_ext": "iso2022jp csiso2022jp jis xjis cp50220 cp50221 cp50222 iso2022jpms iso2022jp1",
    "iso2022_jp_2": "iso2022jp2 csiso2022jp2",
    "iso2022_jp_2004": "iso2022jp3 iso2022jp2004",
    "iso2022_kr": "iso2022kr csiso2022kr",
    "cp949": "euckr xeuckr ksc56011987 ksc56011989 ksc5601 ksx1001 uhc windows949 cseuckr xwindows949",
    "johab": "johab cp1361",
    "gb18030": "gb18030 gbk xgbk gb2312 gb23121980 csgb2312 xgb euccn xeuccn cp936 windows936 ms936",
    "hz": "hz hzgb hzgb2312",
    "cp950": "big5 xbig5 xxbig5 cnbig5 csbig5 big5eten",
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
    squeezed = re.sub(r"[^a-z0-9]", "", label[:60].split("*")[0].lower()).removeprefix("charset")
    if squeezed in _CODECS:
        return _CODECS[squeezed]
    if (page := _SINGLE.fullmatch(squeezed)) and page[1] in _CODE_PAGES.split():
        return "cp" + page[1]
    if (part := _ISO.fullmatch(squeezed)) and int(part[1]) in _ISO_PARTS:
        return _WIDER.get(int(part[1]), f"iso8859-{int(part[1])}")
    return None


def decode_bytes(data: bytes, label: str = "", hint: str = "") -> str:
    """Decode data as its label says; where that cannot be, as UTF-8, as the hint says, or as detected."""
    codec = codec_name(label)
    for name in (codec, "utf-8"):
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
    """Tell whether data is UTF-8 that was cut or damaged, rather than another charset."""
    text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    return sum(char > "\x7f" for char in text[:_DETECT_FROM]) > 2 * damaged


def _detect(data: bytes) -> str:
    import chardet

    found = chardet.detect(data[:_DETECT_FROM], include_encodings=_CANDIDATES.split())
    return codec_name(found["encoding"] or "") or "cp1252"
