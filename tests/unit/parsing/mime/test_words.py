"""Text of any claimed charset is decoded and never raises."""

import pytest

from orderflow_ingest.parsing.mime.charsets import codec_name, decode_bytes, decode_undeclared
from orderflow_ingest.parsing.mime.words import decode_text
from tests.support.cost import at_most


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", "plain"),
        (b"=?utf-8?B?QsO8cm8=?=", "Büro"),
        (b"=?utf-8?b?QsO8cm8?=", "Büro"),
        (b"=?utf-8?Q?B=C3=BCro_1?=", "Büro 1"),
        (b"=?iso-8859-1?q?B=fcro?= order", "Büro order"),
        (b"=?utf-8*de?Q?B=C3=BCro?=", "Büro"),
        (b"=?utf-8?Q?a?=\r\n =?utf-8?Q?b?=", "ab"),
        (b"=?utf-8?Q?a?= and =?utf-8?Q?b?=", "a and b"),
        (b"=?utf-8?Q?B=C3?= =?UTF-8?Q?=BCro?=", "Büro"),
        (b"=?utf-8?B?QsM=?= =?utf-8?Q?=BCro?=", "Büro"),
        (b"=?utf-8?B?QsO8c?= =?utf-8?B?m8=?=", "Büro"),
        (b'"=?utf-8?Q?a b.pdf?="', '"a b.pdf"'),
        (b"x=?utf-8?Q?y?=z", "xyz"),
        (b"=?utf-8?Q?cut off", "cut off"),
        (b"=?utf-8?Q?bad=ZZ?=", "bad=ZZ"),
        (b"=?utf-8?B?QQ=?=", "A"),
        (b"=?no-such-charset?Q?B=C3=BCro?=", "Büro"),
        (b"=?us-ascii?Q?B=C3=BCro?=", "Büro"),
        (b"=?=?= 1 =? 2", "=?=?= 1 =? 2"),
        ("Büro".encode(), "Büro"),
        ("注文書".encode("iso2022_jp"), "注文書"),
        (b"=?iso-2022-jp?B?GyRCQ21KOBsoQg==?=", "注文"),
        (b"=?utf-7?Q?+2AA-?=", "\ufffd"),
    ],
)
def test_encoded_words_and_raw_text_are_decoded(value: bytes, text: str) -> None:
    assert decode_text(value) == text


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Commande d'été n°12.pdf", "cp1252"),
        ("заказ на поставку.pdf", "cp1251"),
        ("заказ.pdf", "koi8-r"),
        ("発注書2024年3月.xlsx", "cp932"),
        ("发票订单.pdf", "gbk"),
        ("주문서.pdf", "cp949"),
        ("objednávka č. 5 žluťoučký.pdf", "cp1250"),
        ("παραγγελία.pdf", "cp1253"),
    ],
)
def test_the_charset_of_a_short_raw_name_is_detected(text: str, codec: str) -> None:
    assert decode_text(text.encode(codec)) == text


def test_a_charset_declared_elsewhere_in_the_mail_is_believed_before_detection() -> None:
    assert decode_undeclared("採購訂單.pdf".encode("big5"), "big5") == "採購訂單.pdf"
    assert decode_undeclared("Büro".encode(), "big5") == "Büro"


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("windows-874", "cp874"),
        ("cp-850", "cp850"),
        ("x-sjis", "cp932"),
        ("iso-8859-8-i", "iso8859-8"),
        ("ISO_8859-1:1987", "cp1252"),
        ("utf8", "utf-8"),
        ("gb2312", "gb18030"),
        ("ks_c_5601-1987", "cp949"),
        ("tis-620", "cp874"),
        ("latin-9", "iso8859-15"),
        ("base64", None),
        ("idna", None),
        ("unicode_escape", None),
        ("iso-8859-12", None),
        ("", None),
        ("../../etc", None),
    ],
)
def test_a_label_stands_for_a_charset_or_for_nothing(label: str, codec: str | None) -> None:
    assert codec_name(label) == codec


def test_a_wrong_label_does_not_raise_and_keeps_what_it_can() -> None:
    assert decode_bytes("Büro".encode("latin-1"), "utf-8") == "Büro"
    assert decode_bytes("Bestellung für Büro".encode()[:-1] + b"\xc3", "utf-8").startswith("Bestellung für Bür")
    assert decode_bytes(b"\x81", "windows-1252") == "\x81"
    assert decode_bytes(b"\x81", "shift_jis") == "\ufffd"


@pytest.mark.parametrize(
    "value", [b"=?a?q?" * 100_000, b"=?a?q?\xff?= =?b?q?\xff?=" * 5_000, b"\xff =?a?q?x?=" * 5_000, b"=?" * 400_000]
)
def test_a_long_value_takes_little(value: bytes) -> None:
    with at_most(400):
        decode_text(value)
