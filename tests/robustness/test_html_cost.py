"""No page costs more than its size allows, whatever its tags are; and a page cut in pieces loses nothing."""

import random
import time

import pytest

from orderflow_ingest.parsing.documents import html_to_text, markup
from orderflow_ingest.parsing.documents.html_to_text import html_text

ELEMENTS = """
p div span table tr td th ul li ol b i a font nobr select option optgroup form input button textarea pre h1 hr br dl dt
dd svg math mi style script title template frameset html body head object applet marquee center ruby rt x figure details
caption col colgroup tbody iframe noscript image plaintext listing xmp foreignobject desc o:p
"""
ODD = r"""
x &amp; & <!-- --> <![CDATA[ ]]> " ' / < > [ ( /* url( src= data:image/png;base64,AAAA <style>{display:none}
"""
TOKENS = [
    *(f"<{name}>" for name in ELEMENTS.split()),
    *(f"</{name}>" for name in ELEMENTS.split()),
    *(f"<{name} a{{}}=x b>" for name in ("b", "p", "body", "svg", "td", "a")),
    *ODD.split(),
    *("  ", "\n", "\t\n", '<p a=">">', "<p a='", " b{}", " b{}='>'", "<li>5\n", "<td><p>", "</p></td>", "<p style='"),
    *("<p style='display:none'>", "<p style='font-size:0'>", "<p hidden>"),
]


def cost(page: str, budget: html_to_text.ByteBudget | None = None) -> float:
    budget = budget or html_to_text.ByteBudget()
    began = time.process_time()
    html_text(page, budget)
    return time.process_time() - began


def make(first: list[str], second: list[str], size: int) -> str:
    """Return a page of so many characters: one unit after the other, or all of the first and then all of the second."""
    begin, units = "".join(first[:1]), ["".join(first), "".join(second)]
    count = size // max(1, len("".join(units)))
    apart = len(first) % 2
    rows = [units[0]] * count + [units[1]] * count if apart else [units[0] + units[1]] * count
    return begin + "".join(row.replace("{}", str(number)) for number, row in enumerate(rows))


@pytest.mark.parametrize("seed", range(40))
def test_a_page_of_any_shape_costs_at_most_its_length_times_a_constant(seed: int) -> None:
    """The parser alone takes 10 to 100 times as long for pages of twice the size that it is bad at."""
    chance = random.Random(seed)
    first, second = chance.choices(TOKENS, k=chance.randint(1, 4)), chance.choices(TOKENS, k=chance.randint(0, 3))
    small, large = make(first, second, 60_000), make(first, second, 240_000)
    floor = cost("<p>500 bolts</p>" * 4_000)  # 64 kB of an ordinary page
    assert min(cost(large) for _ in range(2)) < 6 * max(min(cost(small) for _ in range(2)), 3 * floor), (first, second)


@pytest.mark.parametrize(
    "unit",
    [
        "<p>" + " b{}" * 30_000 + ">x",
        "<p a='>'" + " b{}" * 30_000 + ">x",
        "<p" + " b{}='>'" * 20_000 + ">x",
        "<p" + "/b{}" * 30_000 + ">x",
        '<p a=""' + 'b{}=""' * 30_000 + ">x",
        "<p a='" + "<b a=\"'>\" b{}" * 15_000,
        "<body a{}>" * 30_000,
        "<option>x" * 30_000,
        "<svg>" * 30_000 + "</y>" * 30_000,
        "<span>" * 30_000 + "</y>" * 30_000,
        "<p>" + "<b a{}>" * 20_000 + "</p>" + "<p>x</p>" * 20_000,
        "<pre>" + " " * 400_000 + "x",
        "<td>" + "</p>" * 100_000,
        "<style " * 60_000,
    ],
    ids=[
        "attributes", "quoted end", "quoted ends", "slashes", "quotes", "open quotes", "bodies", "options", "svg",
        "open elements", "formatting", "blanks", "paragraph ends", "open style sheets",
    ],
)  # fmt: skip
def test_what_the_parser_is_worst_at_costs_little(unit: str) -> None:
    page = "".join(piece + str(number) for number, piece in enumerate(unit.split("{}")))[: markup.HTML_LIMIT]
    ordinary = ("<p>500 bolts</p>" * (len(page) // 16 + 1))[: len(page)]
    assert min(cost(page) for _ in range(2)) < 6 * min(cost(ordinary) for _ in range(2))


def test_what_small_pages_may_cost_together_is_bounded() -> None:
    page = "<p>" + "".join(f"<b a{number}>" for number in range(300)) + "</p>" + "<p>x</p>" * 300
    budget = html_to_text.ByteBudget()
    assert budget.take_risk(1)
    for _ in range(10):
        html_text(page, budget)
    assert not budget.take_risk(4_500_000)
    ordinary = ("<p>500 bolts</p>" * (len(page) // 16 + 1))[: len(page)]
    assert min(cost(page, budget) for _ in range(9)) < 8 * min(cost(ordinary) for _ in range(9))


@pytest.mark.parametrize("row", ["<tr><td>{}</td><td>nuts</td></tr>", "<p>{} nuts</p>", "<i>{}</i>\n<b>nuts</b><br>"])
def test_a_long_order_cut_in_pieces_keeps_every_row_in_its_order(row: str) -> None:
    begin = "<table>" if "<tr>" in row else ""
    page = f"<body><div>{begin}" + "".join(row.replace("{}", str(number)) for number in range(4000))
    assert page.count("<") >= 2 * markup.MAX_TAGS
    found = html_text(page, html_to_text.ByteBudget()).text
    assert found is not None
    assert found.split() == [word for number in range(4000) for word in (str(number), "nuts")]


def test_cells_stay_apart_where_a_page_is_cut() -> None:
    row = "<tr><td>1</td><td>2</td><td><table><tr><td>3</td><td>4</td></tr></table></td></tr>"
    found = html_text("<table>" + row * 2000, html_to_text.ByteBudget()).text
    assert found is not None and found.split() == ["1", "2", "3", "4"] * 2000


def test_an_ordinary_long_tag_is_read() -> None:
    style, address = "font-family: x, y z; " * 40, "https://x/" + "a/b?" * 5000
    page = f"<p style=\"{style}\" title='a > b'><a href='{address}'>500 bolts</a>"
    assert html_text(page, html_to_text.ByteBudget()).text == "500 bolts\n"
