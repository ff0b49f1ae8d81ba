"""What is signed or compressed comes out, unverified and told so; what is secret or empty says why it stays."""

import base64
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from orderflow_ingest.parsing.containers import Role
from orderflow_ingest.parsing.containers.smime import open_smime
from tests.support.containers_made import budget, compressed, der, info, oid, refusal, signed, streamed, survives
from tests.support.cost import at_most

MAIL = b'Content-Type: text/plain; name="o.txt"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n' + b"one order\r\n" * 300
DEFECTS = ("signature not verified",)


@pytest.mark.parametrize(
    "data",
    [
        signed(MAIL),
        streamed(MAIL),
        streamed(MAIL, 7),
        base64.encodebytes(signed(MAIL)),
        b"-----BEGIN PKCS7-----\n" + base64.encodebytes(signed(MAIL)) + b"-----END PKCS7-----\n",
        signed(signed(MAIL)),
        signed(streamed(signed(MAIL))),
        signed(MAIL) + b"\r\n",
        compressed(zlib.compress(MAIL)),
        signed(compressed(zlib.compress(MAIL))),
        info("data", der(4, MAIL)),
    ],
    ids=["der", "ber", "small pieces", "base64", "pem", "twice", "mixed", "tail", "zlib", "signed zlib", "data"],
)
def test_the_content_of_a_message_comes_out_as_a_message_never_as_trusted(data: bytes) -> None:
    (member,) = open_smime(data, budget(), "smime.p7m")
    assert (member.role, member.data, member.name, member.defects) == (Role.MESSAGE, MAIL, None, DEFECTS)


def test_a_structure_without_wrapping_inside_another_is_read_by_the_type_it_is_given() -> None:
    bare = signed(MAIL)[4 + 11 :]
    assert bare.startswith(b"\xa0\x82")
    (member,) = open_smime(signed(bare[4:], inner="signed"), budget())
    assert member.data == MAIL


@pytest.mark.parametrize(
    ("filename", "content", "expected"),
    [
        ("order.pdf.p7m", b"%PDF-1.4\n", (Role.FILE, "order.pdf")),
        ("invoice.xml.P7M", b"<?xml version='1.0'?>", (Role.FILE, "invoice.xml")),
        ("order.pdf.p7m.p7m", b"%PDF-1.4\n", (Role.FILE, "order.pdf")),
        ("order.eml.p7m", b"Content-Type: text/plain\r\n\r\nx", (Role.MESSAGE, None)),
        ("order.eml.p7m", b"MIME-Version: 1.0\r\nContent-Type: a/b\r\n\r\nx", (Role.MESSAGE, None)),
        ("smime.p7m", b"%PDF-1.4\n", (Role.MESSAGE, None)),
        ("", b"Subject: x\r\n\r\nx", (Role.MESSAGE, None)),
    ],
)
def test_a_file_that_was_signed_as_a_file_keeps_its_name(
    filename: str, content: bytes, expected: tuple[Role, str | None]
) -> None:
    (member,) = open_smime(signed(content), budget(), filename)
    assert (member.role, member.name, member.data) == (*expected, content)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (info("enveloped", der(0x30, b"")), "encrypted"),
        (info("auth", der(0x30, b"")), "encrypted"),
        (signed(info("enveloped", der(0x30, b""))), "encrypted"),
        (signed(b"secret", inner="enveloped"), "encrypted"),
        (signed(None, signers=b""), "certificates only"),
        (signed(None), "no content"),
        (signed(b""), "no content"),
        (b"", "not CMS"),
        (b"Content-Type: text/plain\r\n\r\n", "not CMS"),
        (signed(MAIL)[:-800], "not CMS"),
        (streamed(MAIL)[:-800], "not CMS"),
        (der(0x30, der(6, b"\x2a\x03") + der(0xA0, der(4, b"x"))), "not CMS"),
        (b"\x30\x80" * 5000, "not CMS"),
        (b"\x30\x80" + oid("signed") + b"\xa0\x80\x30\x80\x02\x01\x01" + b"\x31\x80" * 300_000, "not CMS"),
        (b"\x30\x80" + oid("data") + b"\xa0\x80" + b"\x24\x80" * 300_000, "not CMS"),
        (signed(MAIL).replace(der(4, MAIL), b"\x24\x80" + b"\x04\x00" * 300_000), "not CMS"),
        (b"\x30\x80" + oid("data") + b"\xa0\x80\x24\x80" + b"\x04\x00" * 300_000, "not CMS"),
        (b"\x30\x88\xff\xff\xff\xff\xff\xff\xff\xff" + oid("signed"), "not CMS"),
        (compressed(zlib.compress(MAIL)[:-9]), "not CMS"),
    ],
    ids=[
        "enveloped", "auth enveloped", "enveloped in signed", "enveloped type", "certificates", "detached", "empty",
        "nothing", "mail", "cut", "cut ber", "other type", "open sequences", "open sets", "open strings",
        "wrong lengths", "tiny strings", "huge length", "cut zlib",
    ],
)  # fmt: skip
def test_what_cannot_be_opened_says_why(data: bytes, reason: str) -> None:
    with at_most(600):
        assert refusal(open_smime(data, budget())) == reason


def test_what_comes_out_is_bounded_by_the_mail_and_in_depth() -> None:
    assert refusal(open_smime(signed(MAIL), budget(members=0))) == "too many members"
    assert refusal(open_smime(signed(MAIL), budget(size=len(MAIL) - 1))) == "too large when unpacked"
    assert refusal(open_smime(signed(MAIL), budget(size=len(MAIL)))) == ""
    assert refusal(open_smime(compressed(zlib.compress(bytes(10_500_000))), budget())) == "ratio too high"
    nested = MAIL
    for _ in range(9):
        nested = signed(nested)
    assert refusal(open_smime(nested, budget())) == "nested too deep"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("form", [("DER",), ("DER", "-stream"), ("PEM",)], ids=["der", "stream", "pem"])
def test_what_openssl_signs_comes_out(tmp_path: Path, form: tuple[str, ...]) -> None:
    (tmp_path / "mail").write_bytes(MAIL)
    key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a", "-keyout", "k", "-out", "c"]
    subprocess.run(key, cwd=tmp_path, check=True, capture_output=True)
    sign = ["openssl", "smime", "-sign", "-nodetach", "-binary", "-in", "mail", "-signer", "c", "-inkey", "k"]
    made = subprocess.run([*sign, "-outform", *form], cwd=tmp_path, check=True, capture_output=True).stdout
    (member,) = open_smime(made, budget())
    assert member.data == MAIL


def test_no_mutation_of_a_message_raises_anything_else() -> None:
    short = MAIL[:400]
    samples = [signed(short), streamed(short, 50), compressed(zlib.compress(short)), base64.encodebytes(signed(short))]
    opened, refused = survives(lambda data: open_smime(data, budget(1 << 24), "x.p7m"), samples)
    assert opened > 100
    assert refused > 300
