"""File names are found in every form that the parsers of this field know: one row for each rule."""

import pytest

from orderflow_ingest.parsing.documents import read_parts
from orderflow_ingest.parsing.mime.filenames import safe_filename
from orderflow_ingest.parsing.mime.parameters import parse_parameters

DISPOSITIONS: dict[str, tuple[bytes, str | None]] = {
    # RFC 2231
    "continuations with a charset and a language": (
        b"attachment; filename*0*=us-ascii'en'This%20is%20even%20more%20; filename*1*=%2A%2A%2Afun%2A%2A%2A%20; "
        b'filename*2="isn\'t it!"',
        "This is even more ***fun*** isn't it!",
    ),
    "an extended section after a plain one": (b"attachment; filename*0=a; filename*1*=%20b.pdf", "a b.pdf"),
    "plain and extended sections in turn": (
        b"attachment; filename*0*=UTF-8''a%20; filename*1=b; filename*2*=%20c.pdf",
        "a b c.pdf",
    ),
    "a plain section keeps its percent signs": (
        b"attachment; filename*0*=utf-8''a; filename*1=%20.pdf",
        "a%20.pdf",
    ),
    "ten and more sections are ordered as numbers": (
        b"attachment; filename*10=k.pdf; " + b"; ".join(b"filename*%d=%c" % (n, ord("a") + n) for n in range(10)),
        "abcdefghijk.pdf",
    ),
    "section numbers with leading noughts": (b"attachment; filename*00=a; filename*01=b.pdf", "ab.pdf"),
    "sections that begin with one": (b"attachment; filename*1=a; filename*2=b.pdf", "ab.pdf"),
    "the charset in a section that came later": (b"attachment; filename*1*=%BC.pdf; filename*0*=utf-8''%C3", "ü.pdf"),
    "a character split over sections": (b"attachment; filename*0*=utf-8''%E2%82; filename*1*=%AC.pdf", "€.pdf"),
    "an escape sequence split over sections": (
        b"attachment; filename*0*=iso-2022-jp''%1B%24B%43%6D; filename*1*=%4A%38%1B%28B.pdf",
        "注文.pdf",
    ),
    "of a plain and an extended section the extended one counts": (
        b"attachment; filename*0=plain.pdf; filename*0*=utf-8''extended.pdf",
        "extended.pdf",
    ),
    "sections without ; between them": (b'attachment; filename*0="a"\r\n\tfilename*1="b.pdf"', "ab.pdf"),
    "blanks around the equals sign": (b"attachment; filename*0* = utf-8''a%20b; filename*1 = c.pdf", "a bc.pdf"),
    "an extended value with blanks in it": (b"attachment; filename*=utf-8'en'a b.pdf", "a b.pdf"),
    "an extended value with apostrophes in it": (b"attachment; filename*=UTF-8''it's o'clock.pdf", "it's o'clock.pdf"),
    "an empty charset": (b"attachment; filename*=''b%C3%BC.pdf", "bü.pdf"),
    "an unknown charset": (b"attachment; filename*=unknown-8bit''M%FCller.pdf", "Müller.pdf"),
    "a wrong charset": (b"attachment; filename*=us-ascii''b%C3%BC.pdf", "bü.pdf"),
    "raw UTF-8 in an extended value": (b"attachment; filename*=utf-8''Fran\xc3\xa7ois.pdf", "François.pdf"),
    "raw ISO-8859-1 in an extended value": (b"attachment; filename*=utf-8''Fran\xe7ois.pdf", "François.pdf"),
    "a broken escape stands for itself": (b"attachment; filename*=utf-8''a%zz%4.pdf", "a%zz%4.pdf"),
    "a value that ends inside an escape": (b"attachment; filename*=utf-8''a.pdf%2", "a.pdf%2"),
    "an empty extended value gives way to the plain one": (
        b"attachment; filename*=utf-8''; filename=plain.pdf",
        "plain.pdf",
    ),
    "the first of two extended values": (b"attachment; filename*=utf-8''a.pdf; filename*=utf-8''b.pdf", "a.pdf"),
    "marks that are no numbers are another parameter": (b"attachment; filename*x=a; filename*-1=b; filename=c", "c"),
    "an encoded word in an extended value": (b'attachment; filename*="=?UTF-8?B?YsO8cm8ucGRm?="', "büro.pdf"),
    "an encoded word split over extended sections": (
        b'attachment; filename*0*="=?UTF-8?Q?b=C3"; filename*1*="=BCro.pdf?="',
        "büro.pdf",
    ),
    "encoded words in sections": (
        b'attachment; filename*0="=?UTF-8?B?QsO8?="; filename*1=" =?UTF-8?B?cm8=?="',
        "Büro",
    ),
    # RFC 2047
    "an encoded word without quotes": (b"attachment; filename==?UTF-8?Q?a_b=2Epdf?=", "a b.pdf"),
    "two encoded words without quotes": (b"attachment; filename==?UTF-8?Q?a?= =?UTF-8?Q?b.pdf?=", "ab.pdf"),
    "quotes and ; inside an encoded word without quotes": (b'attachment; filename==?utf-8?q?"a;b".pdf?=', "a;b.pdf"),
    "text after an encoded word": (b'attachment; filename="=?UTF-8?Q?a?=.pdf"', "a.pdf"),
    "encoded words in single quotes": (b"attachment; filename='=?UTF-8?Q?a.pdf?='", "a.pdf"),
    "encoded words of two charsets": (b'attachment; filename="=?UTF-8?B?YQ==?= =?ISO-8859-1?Q?=FC?="', "aü"),
    "encoded words without a blank between them": (b'attachment; filename="=?UTF-8?B?YQ==?==?UTF-8?B?Yg==?="', "ab"),
    "an encoded word with an empty charset": (b'attachment; filename="=??Q?a.pdf?="', "a.pdf"),
    "an encoded word with an unknown encoding is none": (b'attachment; filename="=?UTF-8?X?a?="', "=?UTF-8?X?a?="),
    "a question mark inside an encoded word": (b'attachment; filename="=?utf-8?Q?what?.pdf?="', "what?.pdf"),
    "quotes that were encoded": (b'attachment; filename="=?UTF-8?Q?=22a=22.pdf?="', '"a".pdf'),
    "blanks inside base64": (b'attachment; filename="=?utf-8?B?YWJj ZGVm?="', "abcdef"),
    # Grammar
    "brackets and signs without quotes": (b"attachment; filename=Order[1]<a>@b,c?d.pdf", "Order[1]<a>@b,c?d.pdf"),
    "an equals sign without quotes": (b"attachment; filename=a=b.pdf", "a=b.pdf"),
    "a date without quotes before the name": (
        b"attachment; creation-date=Wed, 12 Feb 1997 16:29:51 -0500; filename=a.pdf",
        "a.pdf",
    ),
    "a name inside another parameter's quotes is no name": (
        b'attachment; x-y="; filename=wrong.pdf"; filename=right.pdf',
        "right.pdf",
    ),
    "comments everywhere": (b'(a) attachment (b); (c) filename (d) = (e) "a.pdf" (f)', "a.pdf"),
    "a bracket at the beginning of a name without quotes": (b"attachment; filename=(c)x.pdf", "(c)x.pdf"),
    "quotes around the disposition": (b'"attachment"; filename="a.pdf"', "a.pdf"),
    "quotes around the parameter's name": (b'attachment; "filename"="a.pdf"', "a.pdf"),
    "apostrophes around the parameter's name": (b"attachment; 'filename'='a.pdf'", "a.pdf"),
    "a comma after the disposition": (b'attachment, filename="a.pdf"', "a.pdf"),
    "a colon after the disposition": (b'attachment: filename="a.pdf"', "a.pdf"),
    "a comma between parameters": (b'attachment; filename="a.pdf", size=1', "a.pdf"),
    "many semicolons": (b"attachment;;; filename=a.pdf;;", "a.pdf"),
    "no semicolon at all": (b"attachment\tfilename=a.pdf", "a.pdf"),
    "no disposition": (b'; filename="a.pdf"', "a.pdf"),
    "a comment after the quotes": (b'attachment; filename="a.pdf" (why); size=1', "a.pdf"),
    "a quote at the end only": (b'attachment; filename=a.pdf"', "a.pdf"),
    "escaped quotes at both ends": (b'attachment; filename="\\"a.pdf\\""', '"a.pdf"'),
    "an escaped backslash": (b'attachment; filename="a\\\\b.pdf"', "a\\b.pdf"),
    "the first of two names": (b'attachment; filename="a.pdf"; filename="b.pdf"', "a.pdf"),
    "an empty name gives way to the next": (b'attachment; filename=""; filename=b.pdf', "b.pdf"),
    "a parameter whose name only begins alike": (b"attachment; filename-x=a; filenames=b", None),
    "a NUL inside": (b'attachment; file\0name="a\0.pdf"', "a.pdf"),
    # Raw 8-bit
    "raw UTF-8": ('attachment; filename="заказ №5.pdf"'.encode(), "заказ №5.pdf"),
    "raw windows-1251": ('attachment; filename="накладная.pdf"'.encode("cp1251"), "накладная.pdf"),
    "raw windows-1250": ('attachment; filename="Zamówienie łódź.pdf"'.encode("cp1250"), "Zamówienie łódź.pdf"),
    "raw windows-1252 without quotes": ("attachment; filename=Größe Müller.pdf".encode("cp1252"), "Größe Müller.pdf"),
    "raw windows-1254": ('attachment; filename="sipariş.pdf"'.encode("cp1254"), "sipariş.pdf"),
    "raw windows-1256": ('attachment; filename="طلب شراء.pdf"'.encode("cp1256"), "طلب شراء.pdf"),
    "raw Shift_JIS": ('attachment; filename="見積書.pdf"'.encode("cp932"), "見積書.pdf"),
    "raw Shift_JIS whose last byte is a backslash": ('attachment; filename="能力表"; size=1'.encode("cp932"), "能力表"),
    "raw GBK": ('attachment; filename="报价单.pdf"'.encode("gbk"), "报价单.pdf"),
    "raw GBK that reads half as UTF-8": ('attachment; filename="产品目录.pdf"'.encode("gbk"), "产品目录.pdf"),
    "raw EUC-KR": ('attachment; filename="발주서.pdf"'.encode("euc-kr"), "발주서.pdf"),
    "percent signs of UTF-8": (b'attachment; filename="B%C3%BCro.pdf"', "Büro.pdf"),
    "percent signs of ISO-8859-1": (b'attachment; filename="M%FCller.pdf"', "Müller.pdf"),
    "percent signs of ISO-8859-1 at the beginning": (b"attachment; filename=%DCbersicht.pdf", "Übersicht.pdf"),
    "a percent sign before a word": (b'attachment; filename="100%bestellung.pdf"', "100%bestellung.pdf"),
    "a percent sign before capitals": (b'attachment; filename="100%BESTELLUNG.PDF"', "100%BESTELLUNG.PDF"),
    "a percent sign before a letter of ISO-8859-1": (b"attachment; filename=50%FEtt.pdf", "50%FEtt.pdf"),
    "a percent sign among words": (b'attachment; filename="Rabatt 20%ab Mai.pdf"', "Rabatt 20%ab Mai.pdf"),
    "one percent sign that is no escape": (b'attachment; filename="B%C3%BCro 5%.pdf"', "B%C3%BCro 5%.pdf"),
    "a percent sign after an apostrophe": (b"attachment; filename=\"Tom's '100%be.pdf\"", "Tom's '100%be.pdf"),
    "equals signs of UTF-8": (b'attachment; filename="Pr=C3=BCf.pdf"', "Prüf.pdf"),
    "equals signs that are none": (b'attachment; filename="a=C3=b.pdf"', "a=C3=b.pdf"),
    # Encoded once too often
    "an encoded word in an encoded word": (
        b'attachment; filename="=?us-ascii?Q?=3D=3Futf-8=3FQ=3FPr=3DC3=3DBCf=2Epdf=3F=3D?="',
        "Prüf.pdf",
    ),
    "base64 in base64": (
        b'attachment; filename="=?utf-8?B?PT91dGYtOD9CP1VITER2R1l1Y0dSbT89?="',
        "Prüf.pdf",
    ),
    "an encoded word whose signs are encoded": (
        b'attachment; filename="=3D?utf-8?Q?Pr=C3=BCf.pdf?=3D"',
        "Prüf.pdf",
    ),
    "an encoded word that was made quoted-printable": (
        b'attachment; filename="=3D?utf-8?Q?Pr=3DC3=3DBCf.pdf?=3D"',
        "Prüf.pdf",
    ),
    "a quote behind an encoded equals sign": (b'attachment; filename=3D"o.pdf"; size=3D"1"', "o.pdf"),
    "a name that begins with 3D": (b"attachment; filename=3D-Druck.pdf", "3D-Druck.pdf"),
    # Spoiled charset marks
    "a typographic quote": ("attachment; filename*=utf-8”''order.pdf".encode(), "order.pdf"),
    "a typographic quote of windows-1252": (b"attachment; filename*=utf-8\x94\x94order.pdf", "order.pdf"),
    "a blank between the quotes": (b"attachment; filename*=\"utf-8' 'order.pdf\"", "order.pdf"),
    "a quotation mark": (b'attachment; filename*=Cp1252"Auftragsbest%E4tigung.pdf', "Auftragsbestätigung.pdf"),
    "quotation marks around the language": (
        b'attachment; filename*=Cp1252"de"Auftragsbest%E4t.pdf',
        "Auftragsbestät.pdf",
    ),
    "one apostrophe": (b"attachment; filename*=utf-8'b%C3%BC.pdf", "bü.pdf"),
    "three apostrophes": (b"attachment; filename*=\"utf-8'de-DE'b%C3%BC.pdf\"", "bü.pdf"),
    "encoded apostrophes": (b"attachment; filename*=utf-8%27%27b%C3%BC.pdf", "bü.pdf"),
    "a quotation mark before the apostrophes": (b"attachment; filename*=utf-8\"''b%C3%BC.pdf\"", "bü.pdf"),
    "accents": (b"attachment; filename*=utf-8``b%C3%BC.pdf", "bü.pdf"),
    "an apostrophe in a name without a charset": (b"attachment; filename*=Mac's%20order.pdf", "Mac's order.pdf"),
    "spoiled in the first section": (
        "attachment; filename*0*=utf-8”''b%C3; filename*1*=%BC.pdf".encode(),
        "bü.pdf",
    ),
    "percent signs of ASCII stay in the claimed name": (b'attachment; filename="Order%201.pdf"', "Order%201.pdf"),
    "a percent sign before a dot": (b"attachment; filename=100%.pdf", "100%.pdf"),
    "a percent sign before digits": (b"attachment; filename=50%20.pdf", "50%20.pdf"),
    "a percent sign that is none of the escapes": (b"attachment; filename=50%-M%C3%BCller.pdf", "50%-M%C3%BCller.pdf"),
}


@pytest.mark.parametrize(("value", "name"), DISPOSITIONS.values(), ids=DISPOSITIONS)
def test_the_name_is_read_past(value: bytes, name: str | None) -> None:
    assert parse_parameters(value).get("filename") == name


PREFERENCES: dict[str, tuple[bytes, str | None]] = {
    "filename before name": (
        b"Content-Type: a/b; name=n.pdf\nContent-Disposition: attachment; filename=f.pdf",
        "f.pdf",
    ),
    "the order of the fields is nothing": (
        b"Content-Disposition: attachment; filename=f.pdf\nContent-Type: a/b; name=n.pdf",
        "f.pdf",
    ),
    "name where the disposition has none": (b"Content-Type: a/b; name=n.pdf\nContent-Disposition: attachment", "n.pdf"),
    "name without any disposition": (b"Content-Type: a/b; name=n.pdf", "n.pdf"),
    "an extended name": (b"Content-Type: a/b; name*=utf-8''n%C3%BC.pdf", "nü.pdf"),
    "name where filename is blank": (b'Content-Type: a/b; name=n.pdf\nContent-Disposition: x; filename=" "', "n.pdf"),
    "a filename in the content type": (b"Content-Type: a/b; filename=f.pdf", "f.pdf"),
    "a name in the disposition": (b"Content-Type: a/b\nContent-Disposition: attachment; name=n.pdf", "n.pdf"),
    "the first of two dispositions": (
        b"Content-Disposition: attachment; filename=a.pdf\nContent-Disposition: inline; filename=b.pdf",
        "a.pdf",
    ),
    "a name folded with tabs": (b'Content-Type: a/b;\n\tname="n\n\tm.pdf"', "n\tm.pdf"),
    "a parameter that was not indented": (b"Content-Type: a/b;\nname=n.pdf", "n.pdf"),
    "a parameter that was neither indented nor announced": (b"Content-Type: a/b\nname=n.pdf", "n.pdf"),
    "a parameter after an empty line": (b"Content-Type: a/b;\n\n name=n.pdf", "n.pdf"),
    "a name of the second content type": (b"Content-Type: a/b\nContent-Type: a/b; name=n.pdf", "n.pdf"),
    "a name of the second disposition": (
        b"Content-Disposition: attachment\nContent-Disposition: attachment; filename=n.pdf",
        "n.pdf",
    ),
    "an indented body is no parameter": (b"Content-Type: a/b; name=n.pdf;\n\n name=m.pdf is text", "n.pdf"),
    "none": (b"Content-Type: a/b\nContent-Disposition: attachment", None),
}


@pytest.mark.parametrize(("header", "name"), PREFERENCES.values(), ids=PREFERENCES)
def test_of_several_names_is_taken(header: bytes, name: str | None) -> None:
    (part,) = read_parts(header + b"\n\ncontent")
    assert part.claimed_filename == name
    assert part.data.endswith(b"content")


SAFE: dict[str, tuple[str, str | None]] = {
    "a name as in a URL": ("Order%20No%201.pdf", "Order No 1.pdf"),
    "a name as in a URL with brackets": ("Order%20%281%29.pdf", "Order (1).pdf"),
    "a path as in a URL": ("..%2F..%2Fetc%2Fpasswd", "passwd"),
    "a percent sign as in a URL": ("50%25.pdf", "50%.pdf"),
    "a percent sign that escapes nothing": ("100%.pdf", "100%.pdf"),
    "a blank, which no URL holds": ("100%25 sure.pdf", "100%25 sure.pdf"),
    "an escape that no encoder writes": ("%41%2e.pdf", "%41%2e.pdf"),
    "an escaped control character": ("a%00%0A.pdf", "a%00%0A.pdf"),
    "escaped bytes that are no UTF-8": ("a%FF.pdf", "a%FF.pdf"),
    "escaped bidi marks": ("a%E2%80%AEfdp.exe", "afdp.exe"),
    "an absolute path": ("/etc/cron.d/order", "order"),
    "a path that ends with a slash": ("orders/", "orders"),
    "mixed separators": ("..\\../a\\b/c.pdf", "c.pdf"),
    "a drive without a path": ("C:order.pdf", "C_order.pdf"),
    "a share": ("\\\\server\\share\\order.pdf", "order.pdf"),
    "an alternate stream": ("order.pdf::$DATA", "order.pdf__$DATA"),
    "a hidden file": (".htaccess", "htaccess"),
    "dots and blanks at the end": ("order.exe . .", "order.exe"),
    "a device with two extensions": ("nul.tar.gz", "_nul.tar.gz"),
    "a device of the console": ("CONIN$", "_CONIN$"),
    "a device of the console with an extension": ("conout$.pdf", "_conout$.pdf"),
    "the clock": ("clock$ .txt", "_clock$ .txt"),
    "a device with a colon": ("aux:.pdf", "_aux_.pdf"),
    "a device with an invisible letter": ("co\u200dn.pdf", "_con.pdf"),
    "a device with a selector": ("nul\ufe0f.pdf", "_nul.pdf"),
    "a name that begins like a device": ("CLOCK$WORK.pdf", "CLOCK$WORK.pdf"),
    "Hangul fillers": ("\u3164\u115fa\uffa0b.pdf", "ab.pdf"),
    "tags": ("a\U000e0061\U000e0001.pdf", "a.pdf"),
    "selectors": ("a\ufe00\U000e0100\u180b.pdf", "a.pdf"),
    "joiners": ("a\u200c\u200d\u034f\u2060.pdf", "a.pdf"),
    "a blank of Braille": ("\u2800.pdf", "pdf"),
    "a name that ends like a device": ("bacon.pdf", "bacon.pdf"),
    "a device with a superscript": ("com¹.txt", "_com¹.txt"),
    "a full-width separator is none": ("a\uff0fb.pdf", "a\uff0fb.pdf"),
    "shell signs": ("$(rm -rf ~);`ls`.pdf", "$(rm -rf ~);`ls`.pdf"),
    "only invisible characters": ("\u200b\u202e\ufeff", None),
    "only separators and dots": ("../\\..", None),
    "C1 control characters": ("a\x80\x9f.pdf", "a.pdf"),
    "soft hyphens": ("or\xadder.pdf", "order.pdf"),
    "line separators": ("a\u2028b.pdf", "ab.pdf"),
    "many blanks": ("a   b.pdf", "a b.pdf"),
    "an over-long name of four-byte characters": ("😀" * 300 + ".pdf", "😀" * 49 + ".pdf"),
    "an over-long extension": ("a." + "x" * 500, "a." + "x" * 198),
}


@pytest.mark.parametrize(("claimed", "safe"), SAFE.values(), ids=SAFE)
def test_a_name_is_made_safe_against(claimed: str, safe: str | None) -> None:
    assert safe_filename(claimed) == safe
    assert safe is None or safe_filename(safe) == safe or "%" in safe


DEFECTS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nothing": (b"attachment; filename*0=a; filename*1*=b", ()),
    "a quote never closed": (b'attachment; filename="a.pdf', ("quote never closed",)),
    "raw 8-bit": (b"attachment; filename=\xfc.pdf", ("raw 8-bit in a parameter",)),
    "a gap between sections": (
        b"attachment; filename*0=a; filename*2=c",
        ("sections of a parameter missing or doubled",),
    ),
    "a section twice": (b"attachment; filename*0=a; filename*0=b", ("sections of a parameter missing or doubled",)),
    "too many parameters": (b"attachment" + b"; a=b" * 10_001, ("too many parameters",)),
}


@pytest.mark.parametrize(("value", "defects"), DEFECTS.values(), ids=DEFECTS)
def test_what_was_tolerated_in_a_parameter_is_noted_on_the_part(value: bytes, defects: tuple[str, ...]) -> None:
    (part,) = read_parts(b"Content-Disposition: " + value + b"\n\ncontent")
    assert part.defects[: len(defects)] == defects
