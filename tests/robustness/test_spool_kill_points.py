"""A process that is killed between any two lines of the spool leaves an entry whole or none."""

import pytest

from tests.support.crash import kill_at
from tests.support.spooled import (
    BLOCKS,
    EMPTY,
    HEADER,
    MODULES,
    RAW,
    RENAMED,
    WRITE,
    content,
    new_spool,
    points_of,
    set_aside,
    spooled,
    time_passed,
    write_blocks,
)


@pytest.fixture
def spool(place):
    return new_spool(place)


def revive(spool):
    spool.restore_dead(spool.dead()[0][0])


def finish(spool):
    spool.finish(spool.claim(spool.entries()[0]))


@pytest.mark.parametrize("point", WRITE[:RENAMED], ids=str)
def test_killed_before_the_rename_nothing_is_spooled_and_the_rest_is_cleaned(spool, point):
    kill_at(MODULES, point, lambda: write_blocks(spool))
    left = content(spool)
    assert left["new"] == [] and len(left["tmp"]) <= 1
    assert spool.clean() == 0 and content(spool) == left, "what is arriving just now stays"
    time_passed(spool, 86401)
    assert spool.clean() == len(left["tmp"]) and content(spool) == EMPTY


@pytest.mark.parametrize("point", WRITE[RENAMED:], ids=str)
def test_killed_after_the_rename_the_entry_is_whole_and_nobodys(spool, point):
    kill_at(MODULES, point, lambda: write_blocks(spool))
    (name,) = content(spool)["new"]
    assert content(spool)["tmp"] == []
    entry = spool.claim(name)
    assert entry.read() == (HEADER, b"".join(BLOCKS))
    spool.finish(entry)
    assert content(spool) == EMPTY


@pytest.mark.parametrize("point", points_of(spooled, set_aside), ids=str)
def test_killed_while_setting_aside_the_entry_is_in_one_place_and_whole(spool, point):
    name = spooled(spool)
    kill_at(MODULES, point, lambda: set_aside(spool))
    left = content(spool)
    if left["new"]:
        assert spool.dead() == []
        spool.move_to_dead(spool.claim(name), "key", "once more")
    ((dead, why),) = spool.dead()
    assert dead == name and why.endswith("once more" if left["new"] else "third failure")
    assert spool.read_dead(name) == (HEADER, RAW)


@pytest.mark.parametrize("point", points_of(spooled, set_aside, revive), ids=str)
def test_killed_while_reviving_the_entry_is_in_one_place_and_whole(spool, point):
    name = spooled(spool)
    set_aside(spool)
    kill_at(MODULES, point, lambda: revive(spool))
    if spool.dead():
        spool.restore_dead(name)
    assert spool.claim(name).read() == (HEADER, RAW) and spool.dead() == []


@pytest.mark.parametrize("point", points_of(spooled, finish), ids=str)
def test_killed_while_finishing_the_entry_is_whole_or_gone(spool, point):
    name = spooled(spool)
    kill_at(MODULES, point, lambda: finish(spool))
    entry = spool.claim(name)
    assert entry is None or entry.read() == (HEADER, RAW)


def test_the_lock_of_a_killed_process_is_free_at_once(spool):
    last = WRITE[-1]
    kill_at(MODULES, last, lambda: write_blocks(spool))
    assert spool.claim(spool.entries()[0]) is not None
