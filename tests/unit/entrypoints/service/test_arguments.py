"""The arguments of MAIL, RCPT and XFORWARD: columns of what is read, and of what is not."""

import pytest

from orderflow_ingest.entrypoints.service.arguments import (
    SmtpSyntaxError,
    client_address,
    declared_size,
    path,
    read_attributes,
    read_recipient,
    read_sender,
)

NAMES = ("NAME", "ADDR", "HELO", "IDENT")
LATIN = b"b\xfcro@example.com".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("argument", "address", "parameters"),
    [
        ("FROM:<>", "", {}),
        ("FROM:<> SIZE=12", "", {"SIZE": "12"}),
        ("from:<a@example.com> size=12 body=8BITMIME smtputf8", "a@example.com",
         {"SIZE": "12", "BODY": "8BITMIME", "SMTPUTF8": ""}),
        ("FROM: <a@example.com>", "a@example.com", {}),
        ("FROM:a@example.com SIZE=1", "a@example.com", {"SIZE": "1"}),
        ("FROM:<@one.example,@two.example:a@example.com>", "a@example.com", {}),
        ('FROM:<"a b"@example.com>', "a b@example.com", {}),
        (r'FROM:<"a\"<>b"@example.com>', 'a"<>b@example.com', {}),
        ("FROM:<MAILER-DAEMON>", "MAILER-DAEMON", {}),
        ("FROM:<büro@example.com> SMTPUTF8", "büro@example.com", {"SMTPUTF8": ""}),
        (f"FROM:<{LATIN}>", LATIN, {}),
        ("FROM:<a=b+c@example.com> AUTH=<> RET=HDRS ENVID=x+3D", "a=b+c@example.com",
         {"AUTH": "<>", "RET": "HDRS", "ENVID": "x+3D"}),
    ],
)  # fmt: skip
def test_a_sender_is_read(argument, address, parameters):
    assert read_sender(argument) == (address, parameters)
    if address:
        assert read_recipient("TO" + argument[4:]) == (address, parameters)


@pytest.mark.parametrize(
    "argument",
    [
        None, "", "FROM", "FROM:", "FROM: ", "TO:<a@example.com>", "FROM:<a@example.com",
        "FROM:<a@example.com>SIZE=1", "FROM:<a@example.com> =1", "FROM:<a@example.com> SIZE=", "FROM:<a@b, c@d>",
        "FROM:<a@b c@d>", "FROM:<a@b>c@d", 'FROM:<a "b"@d>', "FROM:<a@b;c@d>",
        'FROM:<"a@example.com>', "FROM:<a@example.com> A=B=C", "X FROM:<a@example.com>",
    ],
)  # fmt: skip
def test_what_is_no_sender_is_refused(argument):
    with pytest.raises(SmtpSyntaxError):
        read_sender(argument)


@pytest.mark.parametrize("argument", [None, "TO:<>", "TO:", "FROM:<a@example.com>"])
def test_what_is_no_recipient_is_refused(argument):
    with pytest.raises(SmtpSyntaxError):
        read_recipient(argument)


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("<a@example.com.>", "a@example.com"),
        ("<a@example.com..>", "a@example.com."),
        ("<a@.>", "a@."),
        ("a@example.com>", "a@example.com"),
        ("<<a@example.com>>", "a@example.com"),
        ("<x y <a@example.com>>", "a@example.com"),
        ("<a@example.com>;", "a@example.com"),
        ("<g: a@example.com;>", "a@example.com"),
        ("<, a@example.com>", "a@example.com"),
        ("<< @x:a@example.com>>", "a@example.com"),
        ("<a(one(two)\\)three)@example.com>", "a@example.com"),
        ("<a@example.com(one>", "a@example.com"),
        ("< a @ example . com >", "a@example.com"),
        (r"<a\+b@example.com>", "a+b@example.com"),
        (r"<a\@b@example.com>", "a@b@example.com"),
        (r'<"a\+b"@example.com>', "a+b@example.com"),
        ('<a@"example".com>', "a@example.com"),
        ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ("<a%example.com>", "a@example.com"),
        ("<a%b%example.com>", "a%b@example.com"),
        ("<example.com!a>", "a@example.com"),
        ("<example.com!a%b>", "a%b@example.com"),
        ("<a%b@example.com>", "a%b@example.com"),
        ('<"a@example.com">', "a@example.com"),
        ('<"a%example.com">', "a%example.com"),
        ("<a:b@example.com>", "a:b@example.com"),
        ("<(>", ""),
        ("<,>", ""),
        ('<"">', ""),
    ],
)
def test_a_path_is_read_as_postfix_reads_it(written, address):
    assert read_sender(f"FROM:{written}") == (address, {})


@pytest.mark.parametrize(
    "run", ["(", ")", "<", ">", '"', '""', "[", ",", ";", ":", "@", "%", "!", "\\", '\\"', " ", "a ", "a,", "(\\"]
)
def test_a_line_of_anything_is_read_or_refused(run):
    """A line has 2,048 bytes at most, so that nothing here is large; and none must raise anything else."""
    for argument in (f"TO:<{run * 1000}a@example.com>", f"TO:{run * 1000}", f"TO:<a@example.com> {run * 1000}"):
        try:
            read_recipient(argument)
        except SmtpSyntaxError:
            continue


@pytest.mark.parametrize(
    ("argument", "attributes"),
    [
        ("ADDR=192.0.2.1 NAME=mail.example", {"ADDR": "192.0.2.1", "NAME": "mail.example"}),
        ("addr=192.0.2.1", {"ADDR": "192.0.2.1"}),
        ("NAME=[UNAVAILABLE] ADDR=[tempunavail]", {"NAME": "", "ADDR": ""}),
        ("HELO=a+2Bb+3Dc", {"HELO": "a+b=c"}),
        ("HELO=a+0Ab", {"HELO": ""}),
        ("IDENT=4XyZ123", {"IDENT": "4XyZ123"}),
        ("NAME=a=b", {"NAME": "a=b"}),
    ],
)
def test_attributes_are_read(argument, attributes):
    assert read_attributes(argument, NAMES) == attributes


@pytest.mark.parametrize("argument", [None, "", "ADDR", "ADDR=1 NAME", "COLOUR=red"])
def test_what_are_no_attributes_is_refused(argument):
    with pytest.raises(SmtpSyntaxError):
        read_attributes(argument, NAMES)


@pytest.mark.parametrize(
    ("attribute", "address"),
    [("192.0.2.1", "192.0.2.1"), ("IPV6:2001:db8::1", "2001:db8::1"), ("ipv6:::1", "::1"), ("", "")],
)
def test_an_address_loses_the_mark_of_its_family(attribute, address):
    assert client_address(attribute) == address


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("", "<>"),
        ("a.b+c=d@example.com", "<a.b+c=d@example.com>"),
        ("postmaster", "<postmaster>"),
        ("a b@example.com", '<"a b"@example.com>'),
        ('a"<>\\b@example.com', r'<"a\"<>\\b"@example.com>'),
        ("@example.com", '<""@example.com>'),
        (LATIN, f"<{LATIN}>"),
    ],
)
def test_a_path_is_written_so_that_it_is_read_as_the_address(address, written):
    assert path(address) == written
    assert read_sender(f"FROM:{written}")[0] == address


def test_a_size_is_digits():
    assert declared_size({"SIZE": "0012"}) == 12
    assert declared_size({}) == 0
    for size in ("", "-1", "+1", "1_0", "\u0661", "1" * 21):
        with pytest.raises(SmtpSyntaxError):
            declared_size({"SIZE": size})
