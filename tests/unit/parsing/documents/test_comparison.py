"""Of alternatives the later is skipped only if the first says the same words and numbers in the same order."""

import random

import pytest

from orderflow_ingest.parsing.documents import read_parts
from orderflow_ingest.parsing.documents.comparison import Wording
from tests.support.mails import multipart, part

ORDER = (
    "<p>Dear all,</p><table><tr><td>10</td><td>nuts</td></tr><tr><td>20</td><td>bolts</td></tr></table><p>Thanks</p>"
)


def reasons(plain: str, html: str) -> list[str]:
    raw = multipart(
        part(b"Content-Type: text/plain; charset=utf-8", plain.encode()),
        part(b"Content-Type: text/html; charset=utf-8", html.encode()),
        kind=b"alternative",
    )
    return [str(found.reason) for found in read_parts(raw)][1:]


@pytest.mark.parametrize(
    ("plain", "html"),
    [
        ("Please send the ten\nbolts that we\nspoke of.", "<p>Please send the ten bolts that we spoke of."),
        (
            "See our shop <https://shop.example/1?x=2>\nnow",
            "<p>See <a href='https://shop.example/1?x=2'>our shop</a> now",
        ),
        (
            "See our shop [1] now\n\n[1] https://shop.example/",
            "<p>See <a href='https://shop.example/'>our shop</a> now",
        ),
        ("* 5 nuts\n* 6 bolts", "<ul><li>5 nuts<li>6 bolts</ul>"),
        ("> 5 nuts\n> and 6\n> bolts\nyes", "<blockquote>5 nuts and 6 bolts</blockquote>yes"),
        ("[image: our logo]\n5 nuts [cid:a.png@01] each", "<img alt='our logo'><p>5 nuts <img src=cid:a.png@01> each"),
        ("*5* _nuts_", "<b>5</b> <i>nuts</i>"),
        ("Hello Ms Li,\n5 nuts\nRegards", "<p>5 nuts"),
        ("10 | nuts\n20 | bolts", ORDER.replace("Dear all,", "").replace("Thanks", "")),
        ("採購訂單五\n個螺母", "<p>採購訂單五個螺母"),
        ("see https://shop.example/4711.", "<p>see https://shop.example/4711"),
    ],
    ids=[
        "wrapped",
        "link",
        "footnote",
        "bullets",
        "quoted",
        "pictures",
        "stars",
        "greeting",
        "table",
        "han",
        "address",
    ],
)
def test_a_text_that_a_program_made_of_the_page_says_the_same(plain: str, html: str) -> None:
    assert reasons(plain, html) == ["text body", "alternative text"]


@pytest.mark.parametrize(
    ("plain", "html"),
    [
        ("Dear all,\n20 nuts\n10 bolts\nThanks", ORDER),
        ("Dear all,\n10 nuts\n20 bolts, and 10 more\nThanks", ORDER.replace("20", "30")),
        ("Please cancel order 4711 " + "as we agreed " * 50, "<p>Please deliver order 4711 " + "as we agreed " * 50),
        ("Please send it " + "as agreed " * 50, "<p>Please do not send it " + "as agreed " * 50),
        ("10 bolts", "<p>10 bolts<p>10 bolts"),
        ("5 nuts for 7 bolts", "<p>5 bolts"),
        ("5 € each", "<p>5 $ each"),
        ("see our shop", "<p>see our shop https://shop.example/4711"),
        ("[5] nuts", "<p>[6] nuts"),
        ("we take 105 nuts", "<p>we take 10 nuts"),
        ("-5 nuts", "<p>5 nuts"),
        ("5 nuts", "<p>-5 nuts"),
        ("1,500 kg", "<p>1.500 kg"),
        ("5-10 nuts", "<p>5 10 nuts"),
        ("1/2 pallet", "<p>1:2 pallet"),
        ("\u2611 nuts \u2610 bolts", "<p>\u2610 nuts \u2611 bolts"),
    ],
    ids=[
        "swapped",
        "other number",
        "cancel",
        "not",
        "twice",
        "pieces",
        "currency",
        "address",
        "brackets",
        "longer",
        "minus",
        "a minus in the page",
        "separators",
        "range",
        "fraction",
        "ticks",
    ],
)
def test_a_text_with_another_number_word_or_order_is_kept(plain: str, html: str) -> None:
    assert reasons(plain, html) == ["text body", "text body"]


def test_a_body_in_pieces_says_what_the_page_says() -> None:
    inner = b"Content-Type: multipart/mixed; boundary=cc\r\n\r\n--cc\r\n\r\n5 nuts\r\n--cc\r\n\r\n6 bolts\r\n--cc--"
    raw = multipart(inner, part(b"Content-Type: text/html", b"<p>5 nuts<p>6 bolts"), kind=b"alternative")
    assert [found.reason for found in read_parts(raw)][-1] == "alternative text"


def test_words_out_of_translated_bytes_are_those_of_the_pattern():
    signs = "ab ZÄß€$%‰£0123456789.,:/-+()\n\t\r\x1c\xa0_²…'\"[]"
    chance = random.Random(13)
    for _ in range(5000):
        text = "".join(chance.choices(signs, k=chance.randrange(14)))
        coded = Wording(text)
        other = Wording(f"{text} \N{BALLOT BOX}")  # a sign that windows-1252 has not: read by the pattern
        assert f"{coded.words.strip()} \N{BALLOT BOX}".split() == other.words.split()
        assert [*"".join(coded.lines).split(), "\N{BALLOT BOX}"] == "".join(other.lines).split()
