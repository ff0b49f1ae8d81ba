"""What threads want done at the same time is done once for all, and each gets what is his."""

import gc
import threading
import time
import weakref

import pytest

from orderflow_ingest.storage.resilience.group_commit import GroupCommit


class AwayError(Exception):
    pass


class Work:
    """Doubles numbers, slowly; notes its groups. 13 breaks it, and so does everything while `is_away`."""

    def __init__(self):
        self.groups, self.is_away = [], False
        self.double = GroupCommit(self, shared=(AwayError,), most=8)

    def __call__(self, numbers):
        self.groups.append(numbers)
        time.sleep(0.02)
        if self.is_away:
            raise AwayError
        if 13 in numbers:
            raise ValueError(f"{len(numbers)} with a 13")
        return [2 * number for number in numbers]

    def by_threads(self, numbers):
        found = {}

        def one(number):
            try:
                found[number] = self.double(number)
            except (AwayError, ValueError) as error:
                found[number] = error

        threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def test_who_is_alone_is_a_group():
    work = Work()
    assert [work.double(number) for number in (1, 2)] == [2, 4]
    assert work.groups == [[1], [2]]


def test_who_waits_at_the_same_time_is_done_together_and_in_bounds():
    work = Work()
    assert work.by_threads(range(100, 140)) == {n: 2 * n for n in range(100, 140)}
    assert sorted(n for group in work.groups for n in group) == list(range(100, 140)), "each once"
    assert len(work.groups) < 20 and max(map(len, work.groups)) <= 8


def test_one_that_breaks_the_group_spoils_nobody_else():
    work = Work()
    found = work.by_threads(range(20))
    assert {n: v for n, v in found.items() if n != 13} == {n: 2 * n for n in range(20) if n != 13}
    assert isinstance(found[13], ValueError) and str(found[13]) == "1 with a 13"


def test_what_is_shared_is_everyones_at_once():
    work = Work()
    work.is_away = True
    found = work.by_threads(range(10))
    assert all(isinstance(value, AwayError) for value in found.values())
    assert len(work.groups) < 10


@pytest.mark.parametrize("numbers", [[13], [1]])
def test_after_an_error_it_goes_on(numbers):
    work = Work()
    work.by_threads(numbers)
    assert work.double(7) == 14


class Message:
    """What a caller holds while it waits."""


@pytest.mark.parametrize("number", [13, 1])
def test_an_error_does_not_keep_what_its_caller_held(number):
    """A message of 25 MB would stay until the garbage collector comes by."""
    work = Work()
    work.is_away = number != 13

    def deliver():
        message = Message()
        with pytest.raises((AwayError, ValueError)):
            work.double(number)
        return weakref.ref(message)

    gc.disable()
    try:
        assert deliver()() is None
    finally:
        gc.enable()


class Shards:
    """Keeps numbers by owner, as a cluster does whose nodes hold an owner's rows each; some nodes are away."""

    def __init__(self, *away):
        self.groups, self.away = [], set(away)
        self.keep = GroupCommit(self, shared=(AwayError,), owner=lambda item: item[0])

    def __call__(self, items):
        self.groups.append(items)
        time.sleep(0.02)
        if self.away & {owner for owner, _ in items}:
            raise AwayError("a node")
        return [number for _, number in items]

    def by_threads(self, items):
        found, start = {}, threading.Barrier(len(items))

        def one(item):
            start.wait()
            try:
                found[item] = self.keep(item)
            except AwayError as error:
                found[item] = error

        threads = [threading.Thread(target=one, args=(item,)) for item in items]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def test_of_several_owners_that_one_is_away_for_the_others_are_done():
    work = Shards("b")
    found = work.by_threads([(owner, number) for number in range(8) for owner in "abc"])
    assert {owner for (owner, _), result in found.items() if isinstance(result, AwayError)} == {"b"}
    assert all(result == number for (owner, number), result in found.items() if owner != "b")
    assert max(len({owner for owner, _ in group}) for group in work.groups) > 1, "they were done together first"


def test_a_group_that_is_away_for_all_is_tried_once_for_each_owner_and_no_more():
    work = Shards("a", "b", "c")
    found = work.by_threads([(owner, number) for number in range(8) for owner in "abc"])
    assert all(isinstance(result, AwayError) for result in found.values()) and len(set(map(id, found.values()))) == 24
    tried = sum(len(group) for group in work.groups)
    assert tried <= 2 * 24


def test_a_backend_that_hangs_is_not_waited_for_once_for_each_owner(monkeypatch):
    monkeypatch.setattr("orderflow_ingest.storage.resilience.group_commit.RETRIES", 0.0)
    work = Shards("a", "b", "c")
    found = work.by_threads([(owner, number) for number in range(8) for owner in "abc"])
    assert all(isinstance(result, AwayError) for result in found.values())
    assert sum(len(group) for group in work.groups) == 24
