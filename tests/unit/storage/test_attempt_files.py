"""attempt_files: what a process had in hand is found after it is gone, and never while it is there."""

import os
import signal
import threading

import pytest

from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.attempt_files import LostAttempt
from tests.support.attempts import ID, files, is_known_gone, marked


def dead(directory, *parts: str | None, then=lambda hand: None) -> None:
    """Take an attempt in a process that looks into these parts and is killed."""
    child = os.fork()
    if child == 0:
        with attempt_files.attempt(directory, attempt_files.MESSAGE, 3, ID, "mail1:9/abcd") as hand:
            for part in parts:
                hand.set_part(part)
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
    assert list(attempt_files.lost_attempts(place / "in_hand")) == [LostAttempt("message", 3, ID, "mail1:9/abcd", part)]
    assert list(attempt_files.lost_attempts(place / "in_hand")) == [] == files(place)


def test_what_was_put_down_is_not_lost(place):
    dead(place / "in_hand", "1", then=lambda hand: hand.clear())
    assert list(attempt_files.lost_attempts(place / "in_hand")) == []


def test_what_a_living_process_has_in_hand_is_left_alone(place):
    with attempt_files.attempt(place / "in_hand", attempt_files.DOCUMENT, 3, ID, "mail1:9/abcd"):
        assert list(attempt_files.lost_attempts(place / "in_hand")) == []
        assert len(files(place)) == 1


def test_each_thread_and_each_fork_has_a_file_of_its_own_and_keeps_it(place):
    def work() -> None:
        for _ in range(3):
            with attempt_files.attempt(place / "in_hand", attempt_files.MESSAGE, 3, ID, "w"):
                counts.append(len(files(place)))

    counts: list[int] = []
    with attempt_files.attempt(place / "in_hand", attempt_files.MESSAGE, 3, ID, "w"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        dead(place / "in_hand", "1")
        (found,) = attempt_files.lost_attempts(place / "in_hand")
    assert counts == [2, 2, 2] and found.part == "1"


def test_one_who_cannot_note_the_loss_leaves_it_to_the_next(place):
    dead(place / "in_hand", "1")
    with pytest.raises(OSError, match="away"):
        for _ in attempt_files.lost_attempts(place / "in_hand"):
            raise OSError("away")
    assert len(list(attempt_files.lost_attempts(place / "in_hand"))) == 1


@pytest.mark.parametrize("line", [b"", b"\n", b"\0" * 80, b"message 1 no-id w /1\n", b"message 1\n"])
def test_what_a_crash_of_the_machine_leaves_says_nothing(place, line):
    (place / "1.abcd").write_bytes(line)
    assert list(attempt_files.lost_attempts(place)) == []


def test_a_directory_that_cannot_be_made_costs_the_knowledge_alone(place):
    (place / "in_hand").write_text("")
    with attempt_files.attempt(place / "in_hand", attempt_files.MESSAGE, 3, ID, "w") as hand:
        hand.set_part("1")
    assert list(attempt_files.lost_attempts(place / "in_hand")) == []


# What a crash of the machine leaves on rows alone


def test_the_mark_of_a_process_that_is_gone_is_known_with_its_file_and_without(place):
    directory = place / "in_hand"
    worker = marked(directory, killed=True)
    assert attempt_files.is_gone(directory, worker)
    for path in directory.glob("[0-9]*"):  # a crash of the machine took it
        path.unlink()
    assert attempt_files.is_gone(directory, worker)


def test_the_mark_of_a_living_process_is_never_told_gone(place):
    directory = place / "in_hand"
    with attempt_files.attempt(directory, attempt_files.MESSAGE, 3, ID, "w"):
        worker = f"host:1{attempt_files.mark(directory)}/0123abcd"
        assert attempt_files.mark(directory) and not attempt_files.is_gone(directory, worker)
        child = os.fork()
        if child == 0:  # another process of this host, as one that has just started
            os._exit(17 if not attempt_files.is_gone(directory, worker) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    assert not attempt_files.is_gone(directory, worker), "it may begin another one at any time"


@pytest.mark.parametrize("worker", ["host:1/0123abcd", "host:1@/0123abcd", "host:1@.x/0123abcd", "host:1@{}/0123abcd",
                                    "host:1@{}./0123abcd", "host:1@{}.*/0123abcd", "host:1@{}.[/0123abcd", "erase/17",
                                    "host:1@0000000000000000.0123abcd/0123abcd"])  # fmt: skip
def test_a_mark_that_this_directory_has_not_made_tells_nothing(place, worker):
    """Of the version before, of an eraser, of a container of the same name, of a directory that was made again."""
    directory = place / "in_hand"
    identity = (
        attempt_files.mark(directory)[1:].partition(".")[0] or marked(directory, killed=True).partition("@")[2][:16]
    )
    assert not attempt_files.is_gone(directory, worker.format(identity))


def test_a_process_id_that_is_used_again_and_a_clock_that_is_set_mislead_nobody(place):
    directory = place / "in_hand"
    worker = marked(directory, killed=True).replace("host:1@", f"host:{os.getpid()}@")
    (path,) = directory.glob("[0-9]*")
    path.rename(directory / f"{os.getpid()}.{path.name.partition('.')[2]}")
    os.utime(directory / f"{os.getpid()}.{path.name.partition('.')[2]}", (2**33, 2**33))
    assert attempt_files.is_gone(directory, worker)


@pytest.mark.parametrize("left", [b"", b"\0" * 16, b"short"])
def test_an_identity_that_a_crash_has_damaged_is_made_again(place, left):
    directory = place / "in_hand"
    directory.mkdir()
    (directory / "identity").write_bytes(left)
    worker = marked(directory, killed=True)
    assert attempt_files.is_gone(directory, worker)
    assert marked(directory, killed=True)[:23] == worker[:23] and not list(directory.glob(".*"))


def test_processes_that_start_at_the_same_time_agree_on_the_identity(place):
    directory = place / "in_hand"
    reading, writing = os.pipe()
    children = []
    for _ in range(8):
        if (child := os.fork()) == 0:
            os.write(writing, attempt_files.mark(directory).partition(".")[0].encode() + b"\n")
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        assert len(set(told.read().split())) == 1


def test_a_process_that_is_stopped_is_never_told_gone(place):
    directory, (reading, writing) = place / "in_hand", os.pipe()
    child = os.fork()
    if child == 0:
        with attempt_files.attempt(directory, attempt_files.MESSAGE, 3, ID, "w"):
            os.write(writing, f"host:1{attempt_files.mark(directory)}/0123abcd".encode())
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
    worker = os.read(reading, 1000).decode()
    os.waitpid(child, os.WUNTRACED)
    assert not is_known_gone(directory, worker)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert is_known_gone(directory, worker)


def test_a_child_of_a_worker_that_ends_takes_no_lock_with_it(place):
    """As a handler's helper, which may use this package or not."""
    directory = place / "in_hand"
    with attempt_files.attempt(directory, attempt_files.MESSAGE, 3, ID, "w"):
        worker = f"host:1{attempt_files.mark(directory)}/0123abcd"
        for do in (lambda: None, lambda: attempt_files.mark(directory), lambda: attempt_files._own.file.close()):
            if (child := os.fork()) == 0:
                do()
                os._exit(0)
            os.waitpid(child, 0)
            assert not attempt_files.is_gone(directory, worker)


def test_a_clone_of_this_machine_knows_nothing_of_its_living_processes(place, monkeypatch):
    """Its disk is a copy, with the identity; the machine's id, or the inode, is another."""
    directory, clone = place / "in_hand", place / "clone"
    with attempt_files.attempt(directory, attempt_files.MESSAGE, 3, ID, "w"):
        worker = f"host:1{attempt_files.mark(directory)}/0123abcd"
        clone.mkdir()
        (clone / "identity").write_bytes((directory / "identity").read_bytes())
        assert not attempt_files.is_gone(clone, worker)
    worker = marked(directory, killed=True)
    monkeypatch.setattr(attempt_files, "_machine_id", lambda: "another")
    assert not attempt_files.is_gone(directory, worker)
    monkeypatch.undo()
    assert attempt_files.is_gone(directory, worker)


def test_a_process_that_is_gone_and_noted_nothing_is_told_by_its_mark(place):
    directory, told = place / "in_hand", []
    worker = marked(directory, killed=False)
    (path,) = files(place)
    assert (
        list(attempt_files.lost_attempts(directory, told.append))
        == []
        == list(attempt_files.lost_attempts(directory, told.append))
    )
    assert told == [f"{path.name.partition('.')[0]}@{worker.partition('@')[2].partition('/')[0]}"]
