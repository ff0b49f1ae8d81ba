"""What the fuzzer starts from and what it does to mails: small mails of every kind, and mutations that know MIME.

mutate(random, mails) takes a mail and damages it where readers break: lines and fields swapped, doubled, lost; two
mails spliced; boundaries, encodings, parameters, RFC 2231 sections and RFC 2047 words changed; cut off, nested,
repeated; bits, line ends, NULs. All chance comes from the given Random: the same one gives the same mails.
"""

import base64
import binascii
import bz2
import gzip
import lzma
import quopri
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from random import Random

from .containers_made import rar_5, seven_zipped
from .mails import PDF, mail, order

LARGEST = 262_144
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_BOUNDARY = re.compile(rb"boundary\*?=\"?([^\s\";]{1,70})", re.IGNORECASE)
_ENCODING = re.compile(rb"Content-Transfer-Encoding:[^\r\n]*", re.IGNORECASE)
_FIELD = re.compile(rb"^Content-[^\r\n]*", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(rb"\d+")
_BREAK = re.compile(rb"\r?\n")
_CHARSETS = b"""utf-8 us-ascii iso-8859-1 windows-1252 gb2312 shift_jis iso-2022-jp utf-7 utf-16 utf-32 hz big5 euc-kr
koi8-r cp949 unknown-8bit x-user-defined idna punycode rot13 unicode_escape zlib base64 undefined""".split()
_ENCODINGS = b'base64 quoted-printable 7bit 8bit binary x-uuencode uuencode base-64 BASE64 (c)base64 "base64"'.split()
_TYPES = b"""text/plain text/html text/calendar image/png application/pdf application/octet-stream application/zip
application/ms-tnef application/pkcs7-mime application/pkcs7-signature message/rfc822 message/partial
message/external-body message/delivery-status message/global multipart/mixed multipart/alternative multipart/related
multipart/digest multipart/signed multipart/ text / application/""".split()
_NAMES = (
    b"a.pdf", b"../../etc/passwd", b"C:\\a\\b.pdf", b"CON", b"nul.txt", b"...", b" .pdf", b"a\0b.pdf", b"x.eml", b"=2E",
    b"r\xe9sum\xe9.pdf", b"\xd0\xb7\xd0\xb0\xd0\xba\xd0\xb0\xd0\xb7.xls", b"\x83I\x81[\x83_.pdf", b"\xed\xa0\x80.pdf",
    b"a" * 250 + b".pdf", b"\xe2\x80\xaegpj.exe", b"\x1b$B%F%9%H\x1b(B.pdf", b"a%20b.pdf", b"%00.pdf", b"a/b:c|d?.pdf",
    b"." + b"a" * 30, b"\xf0\x9f\x93\x84" * 60 + b".pdf", b"a" * 199 + b" b.pdf", b"smime.p7s", b"winmail.dat",
)  # fmt: skip
_WORDS = (
    b"=?utf-8?Q?=C3=A9?=", b"=?utf-8?B?w6k=?=", b"=?utf-8?B?w6?=", b"=?iso-2022-jp?B?GyRCJUY=?=", b"=?utf-7?Q?+2AA-?=",
    b"=?utf-16?B?2AA=?=", b"=?x?Q?=00=ZZ?=", b"=?utf-8?Q?", b"=?", b"?=", b"=?utf-8*de?q?a_b?=",
    b"=?gb18030?B?gTCBMA?=",
    b"=?utf-8?B?" + b"A" * 41 + b"?=", b"=?unknown?Q?=FF=FE?=", b"=?hz?Q?~{?=",
    b"=?utf-8?Q?=ED=A0=80?= =?utf-8?Q?=ED=B0=80?=",
)  # fmt: skip
_PARAMETERS = (
    b"filename*=utf-8''%s", b"filename*0*=utf-8''%s", b"filename*1*=%s", b"filename*1=%s", b'filename*0="%s"',
    b"filename*999999=%s", b"filename*00*=%s", b"filename*-1=%s", b'filename="%s"', b'filename="%s', b"filename=%s",
    b"name=%s", b'name*0="%s"; name*2="x"', b"name*=%%FF''%s", b"name*='%s", b"name*=utf-16''%s", b"charset=%s",
    b'boundary="%s"', b"boundary*0=%s", b"name*=hz'en'%s", b"(comment) name=%s", b"name =  %s", b"name='%s'", b"%s=",
)  # fmt: skip
_MARKS = (
    b";", b'"', b"\\", b"'", b"*", b"%", b"=", b"(", b")", b"\0", b"\x1b$B", b"\xff", b"\xef\xbb\xbf", b"\x85", b"\xa0",
    b"\r", b"\n", b"\n\n", b"\r\r\n", b" ", b"\t", b"--", b"==", b"=\n", b"= \r\n", b"begin 644 a.pdf\n", b"\nend\n",
    b"From ", b">From ", b"Received: x\n\n", b"cid:", b"<img src=cid:a@b>", b"%PDF-", b"PK\x03\x04", b"\x1f\x8b\x08",
    b"\x78\x9f\x3e\x22", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"UNB+", b"\x30\x80", b"MZ", b"<?xml ",
)  # fmt: skip
_EIGHT_BIT = b"\xe9\xa4\xff gr\xfc\xdfe +2AA- ~{\n"


def seeds() -> list[bytes]:
    """Return small mails of every kind: structures, encodings, names, containers."""
    png = b"\x89PNG\r\n\x1a\n" + bytes(40)
    html = b'Content-Type: text/html\n\n<p>see <img src="cid:logo@x"></p>'
    logo = b"Content-Type: image/png\nContent-ID: <logo@x>\nContent-Disposition: inline\n\n" + png
    plain = b"Content-Type: text/plain\n\nsee below\n"
    status = b"Content-Type: message/delivery-status\n\nAction: failed\n"
    coded = b"Content-Type: application/pdf\nContent-Transfer-Encoding: %s\n\n%s"
    named = b"Content-Type: application/pdf;\n\t%s\nContent-Disposition: attachment; %s\n\n"
    parameters = [parameter % name for parameter, name in zip(_PARAMETERS, _NAMES, strict=False)]
    words = [word.decode("ascii") for word in _WORDS]
    found = [
        b"",
        b"\n",
        mail(),
        order(),
        mail(body=_uuencoded(b"a b.xls", bytes(range(100)))),
        *(_multipart(b"mixed", coded % body) for body in _bodies()),
        *(_multipart(b"mixed", _file(*file)) for file in _containers()),
        *(_multipart(b"mixed", named % two + PDF) for two in zip(parameters, reversed(parameters), strict=True)),
        _multipart(b"related", html, logo),
        _multipart(b"digest", b"\n" + mail(2), b"\n" + order(3)),
        _multipart(b"signed", plain, _file(b"smime.p7s", b"application/pkcs7-signature", b"0\x80")),
        _multipart(b"report", plain, status, b"Content-Type: message/rfc822\n\n" + order(4)),
        *(_nested(Random(number), order(5)) for number in range(8)),
        *(mail(Content_Type=f"text/plain; charset={label.decode()}", body=_EIGHT_BIT) for label in _CHARSETS),
        *(mail(Subject=word, Content_Type=f'application/pdf; name="{word}"') for word in words),
    ]
    return [*found, *(_BREAK.sub(b"\r\n", one) for one in found[:12])]


def _bodies() -> list[tuple[bytes, bytes]]:
    """Return a body in each transfer encoding."""
    joined = base64.b64encode(b"one") + b"\n" + base64.b64encode(b"two!") + b"\nfooter - of a list\n"
    return [
        (b"base64", base64.encodebytes(PDF)),
        (b"base64", joined),
        (b"quoted-printable", quopri.encodestring(PDF + b"\xe9 \n")),
        (b"x-uuencode", _uuencoded(b"order.pdf", PDF)),
        (b"binary", PDF),
    ]


def _containers() -> list[tuple[bytes, bytes, bytes]]:
    """Return a file of each kind of container."""
    zipped, tarred = BytesIO(), BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("orders/a.pdf"), PDF)
        archive.writestr(zipfile.ZipInfo("../b.csv"), b"a;b\n" * 50)
    inner = zipped.getvalue()
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        entry = tarfile.TarInfo("a.pdf")
        entry.size = len(PDF)
        archive.addfile(entry, BytesIO(PDF))
    outer = BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("inner.zip"), inner)
        archive.writestr(zipfile.ZipInfo("order.eml"), order(6))
    return [
        (b"orders.zip", b"application/zip", inner),
        (b"outer.zip", b"application/octet-stream", outer.getvalue()),
        (b"order.pdf.gz", b"application/gzip", gzip.compress(PDF, mtime=0)),
        (b"orders.tar", b"application/x-tar", tarred.getvalue()[:1536]),
        (b"orders.tar.bz2", b"application/x-bzip2", bz2.compress(tarred.getvalue()[:1536])),
        (b"order.pdf.xz", b"application/x-xz", lzma.compress(PDF)),
        (b"orders.7z", b"application/x-7z-compressed", seven_zipped(("a.pdf", PDF), ("b.csv", b"a;b\n"))),
        (b"orders.rar", b"application/vnd.rar", rar_5((1, b"\0", b"", b""), (2, b"\0\x0a\x20\0\0\x01a", b"", PDF))),
        (b"order.eml", b"application/octet-stream", order(7)),
        (b"winmail.dat", b"application/ms-tnef", _tnef()),
        (
            b"smime.p7m",
            b"application/pkcs7-mime",
            b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x80" + PDF,
        ),
        (b"mail.msg", b"application/vnd.ms-outlook", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)),
    ]


def _tnef() -> bytes:
    """Write a TNEF stream with one file: attAttachRendData, attAttachTitle, attAttachData (MS-OXTNEF 2.1.3)."""

    def attribute(number: int, kind: int, data: bytes) -> bytes:
        head = b"\x02" + number.to_bytes(2, "little") + kind.to_bytes(2, "little") + len(data).to_bytes(4, "little")
        return head + data + (sum(data) & 0xFFFF).to_bytes(2, "little")

    attributes = ((0x9002, 6, bytes(14)), (0x8010, 1, b"order.pdf\0"), (0x800F, 6, PDF))
    return b"\x78\x9f\x3e\x22\x01\x00" + b"".join(attribute(*one) for one in attributes)


def _uuencoded(name: bytes, content: bytes) -> bytes:
    lines = (binascii.b2a_uu(content[at : at + 45]) for at in range(0, len(content), 45))
    return b"begin 644 %s\n%s`\nend\n" % (name, b"".join(lines))


def _file(name: bytes, kind: bytes, content: bytes) -> bytes:
    head = b'Content-Type: %s; name="%s"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment\n\n'
    return head % (kind, name) + base64.encodebytes(content)


def _multipart(kind: bytes, *parts: bytes) -> bytes:
    head = b"From: a@b.example\nMIME-Version: 1.0\nContent-Type: multipart/%s; boundary=bb\n\n" % kind
    return head + b"".join(b"--bb\n%s\n" % part for part in parts) + b"--bb--\n"


def mutate(random: Random, mails: Sequence[bytes]) -> bytes:
    """Take one of the mails, a short one rather than a long one, and damage it one to eight times."""
    raw = min(random.choice(mails), random.choice(mails), random.choice(mails), key=len)
    return damage(random, raw, mails)


def damage(random: Random, raw: bytes, mails: Sequence[bytes]) -> bytes:
    """Damage a mail one to eight times; what it is spliced with comes from mails."""
    for _ in range(min(random.randint(1, 8), random.randint(1, 8))):
        raw = random.choice(MUTATIONS)(random, raw, mails)[:LARGEST]
    return raw


def _place(random: Random, raw: bytes) -> int:
    return random.randrange(len(raw) + 1)


def _put(raw: bytes, start: int, end: int, text: bytes) -> bytes:
    return raw[:start] + text + raw[end:]


def _line(random: Random, raw: bytes) -> tuple[int, int]:
    """Choose a line: its start and its end with its line break."""
    at = _place(random, raw)
    start = raw.rfind(b"\n", 0, at) + 1
    end = raw.find(b"\n", at)
    return start, len(raw) if end < 0 else end + 1


def _choose(random: Random, pattern: re.Pattern[bytes], raw: bytes) -> re.Match[bytes] | None:
    """Choose one of the matches of a pattern."""
    matches = list(pattern.finditer(raw))
    return random.choice(matches) if matches else None


def _delete_lines(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _line(random, raw)
    return _put(raw, start, end if random.random() < 0.7 else max(end, _line(random, raw)[1]), b"")


def _double_lines(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _line(random, raw)
    return _put(raw, start, end, raw[start:end] * random.choice((2, 2, 3, 20)))


def _move_lines(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _line(random, raw)
    rest = _put(raw, start, end, b"")
    at = _line(random, rest)[0]
    return _put(rest, at, at, raw[start:end])


def _splice(random: Random, raw: bytes, mails: Sequence[bytes]) -> bytes:
    other = random.choice(mails)
    return raw[: _line(random, raw)[0]] + other[_line(random, other)[0] :]


def _insert_field(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    field = random.choice((
        b"Content-Type: %s; %s" % (random.choice(_TYPES), _parameter(random)),
        b"Content-Disposition: %s; %s" % (random.choice((b"attachment", b"inline", b"x", b"")), _parameter(random)),
        b"Content-Transfer-Encoding: " + random.choice(_ENCODINGS),
        b"Content-ID: <logo@x>", b"MIME-Version: 1.0", b"no field at all", b" a continuation", b": no name",
    ))  # fmt: skip
    near = _choose(random, _FIELD, raw)
    at = near.start() if near and random.random() < 0.7 else _line(random, raw)[0]
    return _put(raw, at, at, field + random.choice((b"\n", b"\n", b"\r\n", b"\n\n", b"")))


def _parameter(random: Random) -> bytes:
    value = random.choice((*_NAMES, *_WORDS))
    return random.choice(_PARAMETERS) % (random.choice(_CHARSETS) if random.random() < 0.2 else value)


def _insert_parameter(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    found = _choose(random, _FIELD, raw)
    at = (
        random.randint(found.start(), found.end()) if found and random.random() < 0.5 else (found.end() if found else 0)
    )
    glue = random.choice((b"; ", b";", b" ", b";\n\t", b"\n ", b""))
    return _put(raw, at, at, glue + _parameter(random))


def _damage_field(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    found = _choose(random, _FIELD, raw)
    if found is None:
        return raw
    start, end = sorted((random.randint(found.start(), found.end()), random.randint(found.start(), found.end())))
    return _put(raw, start, random.choice((start, start + 1, end)), random.choice((*_MARKS, *_WORDS, b"")))


def _insert_mark(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(random, raw)
    return _put(raw, at, at + random.choice((0, 0, 1, 4)), random.choice((*_MARKS, *_WORDS)))


def _change_boundary(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    found = _choose(random, _BOUNDARY, raw)
    if found is None:
        return raw
    name, at = found[1], raw.find(found[1], _place(random, raw))
    other = _choose(random, _BOUNDARY, raw)
    text = random.choice((
        b"", name.upper(), name + b"--", name + b" \t", b"--" + name, name[:-1], other[1] if other else b"",
        b'"' + name, name * 30, name + b"\n--" + name + b"--\n--" + name,
    ))  # fmt: skip
    if random.random() < 0.2:
        return raw.replace(name, text)[: 2 * LARGEST] if len(raw) < 20_000 else raw
    at = at if at >= 0 else found.start(1)
    return _put(raw, at, at + len(name), text)


def _change_encoding(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    found = _choose(random, _ENCODING, raw)
    if found is None:
        return raw
    return _put(raw, found.start(), found.end(), b"Content-Transfer-Encoding: " + random.choice(_ENCODINGS))


def _change_number(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    found = _choose(random, _NUMBER, raw[:50_000])
    text = random.choice((b"0", b"1", b"-1", b"00", b"65536", b"4294967295", b"9" * 5000))
    return _put(raw, found.start(), found.end(), text) if found else raw


def _cut(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    return raw[: _place(random, raw)] if random.random() < 0.7 else raw[_place(random, raw) :]


def _delete(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(random, raw)
    return _put(raw, at, at + random.choice((1, 2, 10, 100)), b"")


def _nest(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    return _nested(random, raw)


def _nested(random: Random, raw: bytes) -> bytes:
    kind = random.choice(
        (b"message/rfc822", b"message/rfc822", b"multipart/mixed; boundary=bb", b"application/x; name=a.eml")
    )
    encoding = random.choice(_ENCODINGS)
    if b"base64" in encoding.lower():
        raw = base64.encodebytes(raw)
    elif encoding == b"quoted-printable":
        raw = quopri.encodestring(raw)
    part = b"Content-Type: %s\nContent-Transfer-Encoding: %s\n\n%s" % (kind, encoding, raw)
    return _multipart(random.choice((b"mixed", b"digest", b"related")), part) if random.random() < 0.7 else part


def _flip(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(raw)
    for _times in range(random.choice((1, 1, 4, 30)) if raw else 0):
        changed[random.randrange(len(raw))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _change_breaks(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    mark = random.choice((b"\r\n", b"\r", b"\r\r\n", b"\n", b"\n\r", b"\0\n", b""))
    if random.random() < 0.3:
        return _BREAK.sub(mark, raw)
    found = _BREAK.search(raw, _place(random, raw))
    return _put(raw, found.start(), found.end(), mark) if found else raw


def _repeat(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    """Repeat a piece so often that what is not linear shows; seldom, since the rest would be slow."""
    if random.random() < 0.9:
        return raw
    start = _place(random, raw)
    piece = raw[start : start + random.choice((1, 2, 5, 20, 100))] or random.choice((*_MARKS, *_WORDS))
    if random.random() < 0.4:
        piece = random.choice((*_MARKS, *_WORDS, *(b"; " + one % b"x" for one in _PARAMETERS)))
    return _put(raw, start, start, piece * (random.choice((5_000, 50_000, 250_000)) // len(piece)))


Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]
MUTATIONS: tuple[Mutation, ...] = (
    _delete_lines, _double_lines, _move_lines, _splice, _insert_field, _insert_parameter, _insert_parameter,
    _damage_field, _damage_field, _insert_mark, _change_boundary, _change_encoding, _change_number, _cut, _delete,
    _nest, _flip, _change_breaks, _repeat,
)  # fmt: skip
