"""Tables fit the width of a terminal, whatever is in them."""

import random

import pytest

from orderflow_ingest.entrypoints.cli.table import cut, display_width, fold, table_lines

HEADS = ["ID", "SUBJECT", "ERROR"]
ID = "1dd226d9-2cef-5525-b232-85555b300f04"


@pytest.mark.parametrize(
    ("text", "width"), [("order", 5), ("采购订单", 8), ("e\u0301", 1), ("ﾊﾛｰ", 3), ("\uff2f\uff52", 4), ("", 0)]
)
def test_a_text_is_as_wide_as_a_terminal_shows_it(text, width):
    assert display_width(text) == width


def test_a_text_that_is_cut_says_so_and_no_character_is_cut_in_half():
    assert cut("purchase order", 8) == "purchas\u2026" and cut("order", 5) == "order"
    assert cut("采购订单", 6) == "采购\u2026"


def test_without_a_terminal_nothing_is_cut():
    line = "x" * 500
    assert list(table_lines(HEADS, [[ID, line, "-"]], None))[1].split() == [ID, line, "-"]


def test_the_widest_cells_are_cut_first_and_an_id_never():
    heads, row = table_lines(HEADS, [[ID, "a long subject " * 9, "KeyError"]], 80)
    assert display_width(row) <= 80 and row.startswith(ID) and row.endswith("KeyError")
    assert "\u2026" in row and heads.split() == HEADS


def test_where_cutting_is_not_enough_each_row_is_a_block_and_empty_cells_are_left_out():
    rows = [[ID, "first", "-"], [ID, "second", "KeyError"]]
    assert list(table_lines(HEADS, rows, 50)) == [
        f"ID       {ID}", "SUBJECT  first", "", f"ID       {ID}", "SUBJECT  second", "ERROR    KeyError",
    ]  # fmt: skip


def test_no_line_is_wider_than_the_terminal():
    chance = random.Random(13)
    for _ in range(300):
        heads = [f"C{n}" for n in range(chance.randrange(1, 12))]
        rows = [["".join(chance.choices("ab 采e\u0301", k=chance.randrange(60))) or "-" for _ in heads] for _ in "xyz"]
        room = chance.randrange(30, 120)
        assert all(display_width(line) <= room for line in table_lines(heads, rows, room))


def test_no_rows_are_no_lines():
    assert list(table_lines([], [], 80)) == [] == list(table_lines([], [], None))


@pytest.mark.parametrize(
    ("text", "room", "lines"),
    [
        ("Subject: order", None, ["Subject: order"]),
        ("Subject: one two three", 14, ["Subject: one", "    two three"]),
        ("Received: " + "x" * 12, 12, ["Received:", "    " + "x" * 7, "    xxxxx"]),
        ("A: 采购订单采购订单", 12, ["A: 采购订单", "    采购订单"]),
        ("A: " + "x" * 12, 1, ["A: xxxxxxxx", "    xxxx"]),
    ],
)
def test_a_long_text_is_folded(text, room, lines):
    folded = list(fold(text, room))
    assert folded == lines and all(room is None or display_width(line) <= max(room, 12) for line in folded)
