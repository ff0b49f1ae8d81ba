"""No charset label raises, and every label in use is known."""

import pytest

from orderflow_ingest.parsing.documents import read_parts
from orderflow_ingest.parsing.mime.charsets import codec_name, decode_bytes
from orderflow_ingest.parsing.mime.words import decode_text

LABELS = {
    "utf-8": "unicode-1-1-utf-8 UTF_8 x-unicode20utf8 csutf8 utf-8-mac cp65001",
    "ascii": "ansi_x3.4-1968 iso-ir-6 us",
    "utf-16": "csunicode iso-10646-ucs-2 unicodefeff",
    "utf-16-be": "unicodefffe cp1201",
    "cp1252": "iso-ir-100 csISOLatin1 ibm819 x-cp1252 iso8859_1 8859-1 windows-28591 iso-latin-1 ansi",
    "iso8859-2": "iso_8859-2:1987 csisolatin2 iso-ir-101 cp28592",
    "iso8859-3": "csisolatin3 iso-ir-109",
    "iso8859-4": "latin4 iso-ir-110",
    "iso8859-5": "csisolatincyrillic iso-ir-144",
    "iso8859-6": "iso-8859-6-e csiso88596i ecma-114 iso-ir-127",
    "iso8859-7": "sun_eu_greek elot_928 iso-ir-126",
    "iso8859-8": "iso-8859-8-e csiso88598i logical visual iso-ir-138",
    "cp1254": "iso-8859-9 latin5 csisolatin5 iso-ir-148",
    "iso8859-10": "latin6 iso-ir-157",
    "iso8859-13": "iso8859-13 cp28603",
    "iso8859-15": "iso_8859-15 csisolatin9 cp28605",
    "cp874": "dos-874 iso-8859-11 x-windows-874 tis620.2533 tis-620",
    "cp866": "csibm866 ibm866 866",
    "cp850": "cp_850 ibm-850 cp00850 x-cp850 dos-850",
    "cp858": "ibm00858",
    "cp1251": "windows1251 win-1251 ansi-1251 x-cp1251 1251 cswindows1251 ms-1251",
    "koi8-r": "koi koi8 cskoi8r cp20866",
    "koi8-u": "koi8-ru cp21866",
    "mac-roman": "macintosh x-mac-roman csmacintosh cp10000",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "mac-latin2": "x-mac-ce x-mac-centraleurroman",
    "cp932": "shift-jis ms_kanji csshiftjis windows-31j x-ms-cp932 cp943c",
    "euc_jp": "x-euc-jp cseucpkdfmtjapanese cp51932",
    "iso2022_jp_ext": "csiso2022jp iso-2022-jp cp50220",
    "cp949": "euc-kr korean iso-ir-149 ksc_5601 csksc56011987 windows-949 ms949 cp51949",
    "gb18030": "gb_2312-80 chinese csiso58gb231280 x-gbk cp936 euc-cn gb18030 csgb2312 iso-ir-58 cp54936",
    "hz": "hz-gb-2312 cp52936",
    "cp950": "big5 cn-big5 x-x-big5 csbig5 ms950 zh-big5",
    "big5hkscs": "big5-hkscs csbig5hkscs",
    "johab": "x-johab",
}


@pytest.mark.parametrize(
    ("label", "codec"), [(label, codec) for codec, labels in LABELS.items() for label in labels.split()]
)
def test_a_label_is_known(label: str, codec: str) -> None:
    assert codec_name(label) == codec
    assert codec_name(f" {label.upper()}\t") == codec
    assert isinstance(decode_bytes(bytes(range(256)), label), str)


@pytest.mark.parametrize(
    "label",
    ["x-user-defined", "unknown-8bit", "default", "viscii", "hex", "rot13", "punycode", "mbcs", "\0", "ü", "x" * 999],
    ids=["x-user-defined", "unknown-8bit", "default", "viscii", "hex", "rot13", "punycode", "mbcs", "nul", "u", "long"],
)
def test_a_label_that_is_unknown_or_no_charset_decodes_all_the_same(label: str) -> None:
    assert decode_bytes("Büro".encode(), label) == "Büro"
    assert decode_bytes("Büro".encode("cp1252"), label) == "Büro"
    word = b"=?" + label.encode() + b"?Q?a?="
    assert isinstance(decode_text(word), str)


WRONG: dict[str, tuple[bytes, str, str]] = {
    "UTF-8 called ASCII": ("Büro".encode(), "us-ascii", "Büro"),
    "windows-1252 called UTF-8": ("Büro €".encode("cp1252"), "utf-8", "Büro €"),
    "windows-1252 called ISO-8859-1": ("Büro €".encode("cp1252"), "iso-8859-1", "Büro €"),
    "windows-31J called Shift_JIS": ("①注文".encode("cp932"), "shift_jis", "①注文"),
    "GBK called GB2312": ("镕基".encode("gbk"), "gb2312", "镕基"),
    "UTF-8 called GB2312, as it cannot be": ("Bü€".encode() + b"\xe2\x82\xac", "big5", "Bü€€"),
    "UTF-8 cut in the middle of a character": ("Größe".encode() + b"\xe2\x82", "utf-8", "Größe\ufffd"),
    "bytes that a charset leaves undefined": (b"a\x81\x8d", "windows-1252", "a\x81\x8d"),
    "an odd byte at the end of UTF-16": (b"a\0b\0c", "utf-16le", "ab\ufffd"),
    "a surrogate alone in UTF-7": (b"+2AA-", "utf-7", "\ufffd"),
    "nothing": (b"", "utf-16", ""),
}


@pytest.mark.parametrize(("data", "label", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_label_is_not_believed_blindly(data: bytes, label: str, text: str) -> None:
    assert decode_bytes(data, label) == text


@pytest.mark.parametrize("label", [b"", b'""', b"=?x?=", b"utf-8; x", b"\xff", b"windows-9999", b"*", b"'"])
def test_the_content_of_a_part_is_given_out_under_any_label(label: bytes) -> None:
    (part,) = read_parts(b"Content-Type: text/csv; charset=" + label + b"\n\nB\xfcro;1\n")
    assert (part.is_document, part.data) == (True, b"B\xfcro;1\n")
