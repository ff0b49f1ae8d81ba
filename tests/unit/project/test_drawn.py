"""What is drawn of many cases follows from the source, and --whole draws all."""

from tests.support import drawn as module
from tests.support.drawn import drawn, source_seed

CASES = range(40)


def test_a_seed_draws_the_same_cases_in_their_order_and_another_seed_others():
    chosen = drawn(CASES, 5, "a")
    assert chosen == drawn(CASES, 5, "a") == sorted(set(chosen)) and len(chosen) == 5
    assert {tuple(drawn(CASES, 5, seed)) for seed in "abcdefghij"} != {tuple(chosen)}


def test_each_case_is_drawn_by_some_seed():
    assert {case for seed in range(200) for case in drawn(CASES, 5, str(seed))} == set(CASES)


def test_of_few_cases_all_are_drawn():
    assert drawn("abc", 3) == drawn("abc", 9) == ["a", "b", "c"]


def test_the_seed_changes_with_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    seeds = []
    for text in ("a = 1\n", "a = 1\n", "a = 2\n"):
        (tmp_path / "a.py").write_text(text)
        seeds.append(source_seed.__wrapped__())
    assert seeds[0] == seeds[1] != seeds[2]
