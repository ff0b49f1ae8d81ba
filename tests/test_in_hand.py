"""in_hand.py: what a process had in hand is found after it is gone, and never while it is there."""

import os
import signal
import threading
from uuid import UUID

import pytest

from orderflow_ingest import in_hand
from orderflow_ingest.in_hand import Lost

ID = UUID(int=7)


def dead(directory, *parts: str | None, then=lambda hand: None) -> None:
    """Take an attempt in a process that looks into these parts and is killed."""
    child = os.fork()
    if child == 0:
        with in_hand.attempt(directory, in_hand.MESSAGE, 3, ID, "mail1:9/abcd") as hand:
            for part in parts:
                hand.look(part)
            then(hand)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("parts", "part"),
    [(["1.2.10", "1"], "1"), (["1", None], None), ([], None), ([""], "")],
    ids=["shorter than before", "put back", "none yet", "the structure"],
)
def test_what_a_killed_process_had_in_hand_is_found_once(place, parts, part):
    dead(place / "in_hand", *parts)
    assert list(in_hand.lost(place / "in_hand")) == [Lost("message", 3, ID, "mail1:9/abcd", part)]
    assert list(in_hand.lost(place / "in_hand")) == [] == list((place / "in_hand").iterdir())


def test_what_was_put_down_is_not_lost(place):
    dead(place / "in_hand", "1", then=lambda hand: hand.put_down())
    assert list(in_hand.lost(place / "in_hand")) == []


def test_what_a_living_process_has_in_hand_is_left_alone(place):
    with in_hand.attempt(place / "in_hand", in_hand.DOCUMENT, 3, ID, "mail1:9/abcd"):
        assert list(in_hand.lost(place / "in_hand")) == []
        assert len(list((place / "in_hand").iterdir())) == 1


def test_each_thread_and_each_fork_has_a_file_of_its_own_and_keeps_it(place):
    def work() -> None:
        for _ in range(3):
            with in_hand.attempt(place / "in_hand", in_hand.MESSAGE, 3, ID, "w"):
                counts.append(len(list((place / "in_hand").iterdir())))

    counts: list[int] = []
    with in_hand.attempt(place / "in_hand", in_hand.MESSAGE, 3, ID, "w"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        dead(place / "in_hand", "1")
        (found,) = in_hand.lost(place / "in_hand")
    assert counts == [2, 2, 2] and found.part == "1"


def test_one_who_cannot_note_the_loss_leaves_it_to_the_next(place):
    dead(place / "in_hand", "1")
    with pytest.raises(OSError, match="away"):
        for _ in in_hand.lost(place / "in_hand"):
            raise OSError("away")
    assert len(list(in_hand.lost(place / "in_hand"))) == 1


@pytest.mark.parametrize("line", [b"", b"\n", b"\0" * 80, b"message 1 no-id w /1\n", b"message 1\n"])
def test_what_a_crash_of_the_machine_leaves_says_nothing(place, line):
    (place / "1.abcd").write_bytes(line)
    assert list(in_hand.lost(place)) == []


def test_a_directory_that_cannot_be_made_costs_the_knowledge_alone(place):
    (place / "in_hand").write_text("")
    with in_hand.attempt(place / "in_hand", in_hand.MESSAGE, 3, ID, "w") as hand:
        hand.look("1")
    assert list(in_hand.lost(place / "in_hand")) == []
