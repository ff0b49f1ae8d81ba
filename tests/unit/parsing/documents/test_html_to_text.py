"""No text is lost that any program may show, and text that a person may not see is reported."""

import pytest

from orderflow_ingest.parsing.documents import Part, read_parts
from tests.support.mails import multipart, part

SHEET = b"<style>.m{display:block !important}</style>"


def body(page: bytes) -> Part:
    (found,) = (found for found in read_parts(multipart(part(b"Content-Type: text/html", page))) if found.is_document)
    return found


@pytest.mark.parametrize(
    "style",
    [
        "display:none;display:block",
        "display:none;DISPLAY : Block",
        "display:none!important;display:block!important",
        "display:none;display:inline-block",
        "/* display:none */color:red",
        "margin-left:-8px;font-size:11px",
        "color:white;background:#004080",
        "text-indent:-18pt",
        "overflow:hidden;height:20px",
        "xdisplay:none",
    ],
)
def test_text_that_its_style_shows_stays_without_a_mark(style: str) -> None:
    found = body(f'<p>Hello</p><p style="{style}">500 bolts</p>'.encode())
    assert (found.data, found.defects) == (b"Hello\n\n500 bolts\n", ())


@pytest.mark.parametrize(
    "style",
    [
        "display:none",
        "display: none ;",
        "DISPLAY:NONE",
        "color:red;display:none;mso-hide:all",
        "display:block;display:none",
        "display:none !important;display:block",
        "display:none;font-family:'Open Sans',Arial",
        "display&#58;none",
        "dis/**/play:x;display:none",
    ],
)
def test_text_that_its_own_style_hides_for_certain_is_left_out(style: str) -> None:
    found = body(f'<p>Hello</p><div style="{style}">unseen</div>'.encode())
    assert (found.data, found.defects) == (b"Hello\n", ())


@pytest.mark.parametrize(
    "page",
    [
        b"<div style='display:none'>%s</div>" + SHEET,
        b"<div style='display:none'>%s</div><style>@import url(x)</style>",
        b"<div style='display:none'>%s</div><link rel=stylesheet href=x>",
        b"<div style='display:none;display:-x-flow'>%s</div>",
        b"<div style='display:none;all:initial'>%s</div>",
        b"<div style=\"font-family:'a;display:none;b'\">%s</div>",
        b"<div style='d\\69splay:none'>%s</div>",
        b"<style>.x{display:none}</style><p class=x>%s</p>",
        b"<style>@media all{p{font-size:0}}</style><p>%s</p>",
        b"<p style='mso-hide:all'>%s</p>",
        b"<p style='visibility:hidden'>%s</p>",
        b"<p style='font-size:0'>%s</p>",
        b"<p style='font:1px/0 Arial'>%s</p>",
        b"<p style='FONT-SIZE:0.5px'>%s</p>",
        b"<p style='opacity:0.00'>%s</p>",
        b"<p style='color:#fff'>%s</p>",
        b"<p style='color:rgb(255, 254, 255);background-color:white'>%s</p>",
        b"<p style='color:transparent'>%s</p>",
        b"<p style='color:#123456;background:#123456'>%s</p>",
        b"<p><font color=white>%s</font></p>",
        b"<p style='text-indent:-9999px'>%s</p>",
        b"<p style='position:absolute;left:-5000px'>%s</p>",
        b"<p style='max-height:0;overflow:hidden'>%s</p>",
        b"<p style='clip:rect(0,0,0,0)'>%s</p>",
        b"<p style='transform:scale(0)'>%s</p>",
        b"<p hidden>%s</p>",
        b'<p aria-hidden="true">%s</p>',
        b'<p aria-hidden="TRUE">%s</p>',
        b"<p style='color:rgb(100%%,100%%,100%%)'>%s</p>",
        b"<p style='color:rgba(255,255,255,1)'>%s</p>",
        b"<p style='color:hsl(0,0%%,100%%)'>%s</p>",
        b"<p style='color:#ffffffff'>%s</p>",
        b"<p style='color:hsla(0,0%%,0%%,0)'>%s</p>",
        b"<p style='background:black;color:#000000'>%s</p>",
        b"<p style='font-size:calc(0px)'>%s</p>",
        b"<p style='position:absolute;left:9999px'>%s</p>",
        b"<p style='zoom:0'>%s</p>",
        b"<p style='scale:0'>%s</p>",
        b"<p style='letter-spacing:-99px'>%s</p>",
        b"<p style='filter:alpha(opacity=0)'>%s</p>",
        b"<p style='content-visibility:hidden'>%s</p>",
        b"<p style='display:var(--x)'>%s</p>",
        b"<p><font color=ffffff>%s</font></p>",
        b"<p><font color='#fefefe'>%s</font></p>",
        b"<p><font color=snow>%s</font></p>",
        b"<body text='#ffffff'><p>%s</p>",
        b"<body><p><dialog>%s</dialog></p>",
        b"<p><noframes>%s</noframes></p>",
        b"<style>.x{color:#fff}</style><p class=x>%s</p>",
        b"<style>.x{font:0/0 a}</style><p class=x>%s</p>",
        b"<style>@media all{.x{height:0;overflow:hidden}}</style><p class=x>%s</p>",
        b"<style>.x{color:transparent</style><p class=x>%s</p>",
    ],
)
def test_text_that_may_be_hidden_stays_and_is_reported(page: bytes) -> None:
    found = body(b"<p>Hello</p>" + page % b"500 bolts")
    assert (found.data, found.defects) == (b"Hello\n\n500 bolts\n", ("hidden text",))


@pytest.mark.parametrize("kind", [b"text/plain", b"text/html"])
def test_text_in_signs_that_nobody_sees_is_reported(kind: bytes) -> None:
    secret = "".join(chr(0xE0000 + ord(sign)) for sign in "cancel")
    flag = "\U0001f3f4" + "".join(chr(0xE0000 + ord(sign)) for sign in "gbsct") + chr(0xE007F)
    for hidden, defects in ((secret, ("hidden text",)), (flag, ()), (flag + "x" + secret, ("hidden text",))):
        header = b"Content-Type: " + kind + b"; charset=utf-8"
        (found,) = (
            part_ for part_ in read_parts(multipart(part(header, f"500 bolts {hidden}".encode()))) if part_.is_document
        )
        assert found.defects == defects


def test_what_hides_no_text_is_not_reported() -> None:
    spacers = b"<div style='font-size:0;line-height:0'>&nbsp;</div><td style='display:none'></td><p hidden></p>"
    assert body(b"<p>500 bolts</p>" + spacers).defects == ()


def test_the_style_sheet_of_outlook_hides_nothing() -> None:
    sheet = rb"<style><!-- v\:* {behavior:url(#default#VML);} p.MsoNormal {margin:0cm; font-size:11.0pt;} --></style>"
    found = body(sheet + b"<p class=MsoNormal>500 bolts</p><p style='display:none'>unseen</p>")
    assert (found.data, found.defects) == (b"500 bolts\n", ())


def test_a_page_of_hidden_text_only_is_empty() -> None:
    raw = multipart(part(b"Content-Type: text/html", b"<p style='display:none'>unseen</p>"))
    assert [found.reason for found in read_parts(raw)] == ["container", "empty"]


@pytest.mark.parametrize(
    "page",
    [
        b"<figure>500 bolts<figcaption>x</figcaption></figure>",
        b"<object>500 bolts</object>",
        b"<svg><text>500 bolts</text></svg>",
        b"<select><option>500 bolts<option>6 nuts</select>",
        b"<p>Our data:2026,500 bolts to the warehouse in Leeds please and " + b"by the usual carrier " * 9,
        b"<head><title>x</title><p>500 bolts",
    ],
    ids=["figure", "object", "svg", "select", "data:", "open head"],
)
def test_text_is_found_wherever_a_program_shows_it(page: bytes) -> None:
    assert b"500 bolts" in body(page).data


def test_a_page_in_a_frame_is_reported() -> None:
    frame = b"<IFRAME width=9 SrcDoc='&lt;p>12 bolts&lt;/p>'></IFRAME>"
    found = body(b"<p>Hello</p>" + frame)
    assert (found.data, found.defects) == (b"Hello\n", ("a frame in the page is not read",))
    alone = body(frame)
    assert frame in alone.data
    assert alone.defects == ("no text out of the html", "a frame in the page is not read")
    assert body(b"<p>Hello</p><iframe src='https://x.example'></iframe>").defects == ()


@pytest.mark.parametrize(
    "page",
    [
        b"<div style='background:#123456'><p>Hello <b style='color:#123456'>%s</b></p></div>",
        b"<table bgcolor=#123456><tr><td>Hello <font color='#123456'>%s</font></table>",
        b"<body style='background-color:Black'><p>Hello</p><p style='COLOR: #000'>%s</p>",
        b"<div style='background:white'><div style='background:#eee'><p style='color:#eeeeee'>%s</p>Hello</div></div>",
    ],
)
def test_text_of_the_color_of_the_background_around_it_is_reported(page: bytes) -> None:
    found = body(page % b"500 bolts")
    assert b"500 bolts" in found.data
    assert found.defects == ("hidden text",)


@pytest.mark.parametrize(
    "page",
    [
        b"<a style='background:#123456;color:#eee'>Order</a><h1 style='color:#123456'>500 bolts</h1>",
        b"<div style='background:#123456'><p style='background:#fff'><b style='color:#123456'>500 bolts</b></p></div>",
        b"<table bgcolor=#123456><tr><td bgcolor=#ffffff><font color=#123456>500 bolts</font></table>",
    ],
)
def test_text_of_the_color_of_a_background_that_is_not_behind_it_is_not_reported(page: bytes) -> None:
    assert body(page).defects == ()
