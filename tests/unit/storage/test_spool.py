"""A spooled message survives a crash at any line, and a spool that cannot be written says so."""

import io
import os
import tracemalloc
from pathlib import Path

import pytest

from orderflow_ingest.domain.outcomes import DeadlineReached
from orderflow_ingest.storage import spool as spool_module
from orderflow_ingest.storage.spool import (
    EntryDamagedError,
    MessageTooBigError,
    MessageTruncatedError,
    SpoolWriteError,
    last_line,
)
from tests.support.crash import at_line
from tests.support.spooled import (
    EMPTY,
    HEADER,
    LIMIT,
    MODULES,
    RAW,
    RENAMED,
    WRITE,
    content,
    new_spool,
    set_aside,
    spooled,
    time_passed,
    write,
)


@pytest.fixture
def spool(place):
    return new_spool(place)


# What is written is read


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"\n\n\nbody",
        b"\0",
        b"no line end",
        b"\xff\xfe",
        RAW,
        bytes(range(256)) * 700,
        b"orderflow-spool 1 ",
    ],
)
def test_an_entry_gives_back_header_and_message_as_they_came(spool, raw):
    name = spooled(spool, raw)
    assert spool.claim(name).read() == (HEADER, raw)


@pytest.mark.parametrize("length", [65535, 65536, 65537, 131072])
def test_a_header_line_of_any_length_is_read(spool, length):
    header = b"sender: " + b"x" * (length - 8) + b"\nrecipient: a@b\n"
    entry = write(spool, header=header)
    assert entry.read() == (header, RAW)


def test_the_writers_own_entry_reads_the_same_as_often_as_asked(spool):
    entry = write(spool)
    assert entry.read() == entry.read() == (HEADER, RAW)


def test_an_entry_is_readable_with_less(spool):
    name = spooled(spool)
    text = (Path(spool.directory) / "new" / name).read_bytes()
    assert text == b"orderflow-spool 1 %012d\n" % len(RAW) + HEADER + b"\n" + RAW


def test_entries_are_listed_the_oldest_first(spool):
    names = [spooled(spool) for _ in range(5)]
    assert spool.entries() == names == sorted(names) and len(set(names)) == 5


def test_nobody_else_can_read_the_spool(spool):
    entry = write(spool)
    root = Path(spool.directory)
    assert {path.stat().st_mode & 0o7777 for path in (root, *root.iterdir())} == {0o700}
    assert (root / "new" / entry.name).stat().st_mode & 0o7777 == 0o600


def test_preparing_again_changes_nothing(spool):
    name = spooled(spool)
    spool.prepare()
    assert spool.entries() == [name] and spool.is_on_one_file_system()


def test_a_message_is_read_in_blocks_and_never_held_in_memory(spool):
    class Source:
        left, asked = 8 << 20, set()

        def read(self, size):
            self.asked.add(size)
            block = b"x" * min(size, self.left)
            self.left -= len(block)
            return block

    source = Source()
    tracemalloc.start()
    try:
        spool.write(HEADER, source.read, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20 and source.asked == {65536}
    finally:
        tracemalloc.stop()


def test_short_reads_are_put_together(spool):
    blocks = iter([b"a", b"bc", b"def", b""])
    assert spool.write(HEADER, lambda _: next(blocks), LIMIT).read()[1] == b"abcdef"


# What is refused leaves nothing


@pytest.mark.parametrize(("size", "limit"), [(0, 0), (1, 1), (100, 100), (65536, 65536), (65537, 65537)])
def test_a_message_of_just_the_limit_is_taken(spool, size, limit):
    assert len(write(spool, b"x" * size, limit=limit).read()[1]) == size


@pytest.mark.parametrize(("size", "limit"), [(1, 0), (101, 100), (65537, 65536), (300000, 100)])
def test_a_message_past_the_limit_is_read_to_its_end_and_leaves_nothing(spool, size, limit):
    source = io.BytesIO(b"x" * size)
    with pytest.raises(MessageTooBigError, match=f"^{size} bytes, {limit} are allowed$"):
        spool.write(HEADER, source.read, limit)
    assert source.read() == b"" and content(spool) == EMPTY


def test_a_message_that_is_not_whole_leaves_nothing(spool):
    with pytest.raises(MessageTruncatedError):
        write(spool, is_whole=lambda last: last.endswith(b".\n"))
    assert content(spool) == EMPTY


@pytest.mark.parametrize(("raw", "last"), [(b"", b""), (RAW, RAW), (b"x" * 65536 + b"end", b"end")])
def test_wholeness_is_asked_with_the_last_block_when_all_is_on_disk_and_nothing_in_new(spool, raw, last):
    asked = []

    def is_whole(block):
        (name,) = content(spool)["tmp"]
        asked.append((block, (Path(spool.directory) / "tmp" / name).read_bytes().endswith(b"\n\n" + raw)))
        return content(spool)["new"] == []

    write(spool, raw, is_whole=is_whole)
    assert asked == [(last, True)]


@pytest.mark.parametrize("error", [ConnectionResetError, MemoryError, DeadlineReached, KeyboardInterrupt, SystemExit])
def test_what_reading_raises_passes_and_leaves_nothing(spool, error):
    blocks = iter([b"first"])

    def read(_):
        for block in blocks:
            return block
        raise error

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error):
        spool.write(HEADER, read, LIMIT)
    assert content(spool) == EMPTY and len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("step", ["os.rename(", "sync_directory(directory)", "os.fsync(fd)"])
def test_a_deadline_inside_the_commit_leaves_nothing(spool, step):
    def ring():
        raise DeadlineReached

    with pytest.raises(DeadlineReached):
        at_line(MODULES, step, ring, lambda: write(spool))
    assert content(spool) == EMPTY


def test_every_step_of_a_write_is_a_crash_point():
    reached = " ".join(point.line for point in WRITE)
    steps = [
        "os.open(temporary",
        "fcntl.flock",
        "_write(fd, block)",
        "os.pwrite",
        "os.fsync(fd)",
        "is_whole",
        "os.rename",
    ]
    assert all(step in reached for step in steps) and 0 < RENAMED < len(WRITE) - 1


# Who works on an entry holds its lock


def test_an_entry_that_is_worked_on_is_skipped(spool):
    entry = write(spool)
    assert spool.claim(entry.name) is None
    entry.release()
    claimed = spool.claim(entry.name)
    assert claimed.read() == (HEADER, RAW) and spool.claim(entry.name) is None


def test_an_entry_is_locked_before_anyone_can_see_it_in_new(spool):
    seen = []

    def look():
        (name,) = spool.entries()
        seen.append(spool.claim(name))

    at_line(MODULES, "sync_directory(directory)", look, lambda: write(spool))
    assert seen == [None]


def test_a_finished_entry_is_gone_for_all(spool):
    entry = write(spool)
    spool.finish(entry)
    assert spool.claim(entry.name) is None and content(spool) == EMPTY
    spool.finish(entry)
    entry.release()


def test_an_entry_that_is_finished_while_it_is_claimed_is_not_given(spool):
    entry = write(spool)
    found = at_line(
        MODULES, "fcntl.flock(fd, fcntl.LOCK_EX | ", lambda: spool.finish(entry), lambda: spool.claim(entry.name)
    )
    assert found is None


def test_an_entry_that_is_set_aside_while_it_is_claimed_is_not_given(spool):
    entry = write(spool)
    found = at_line(
        MODULES, "fcntl.flock(fd, fcntl.LOCK_EX | ",
        lambda: spool.move_to_dead(entry, "key", "third failure"), lambda: spool.claim(entry.name),
    )  # fmt: skip
    assert found is None and [name for name, _ in spool.dead()] == [entry.name]


def test_an_entry_that_is_not_there_is_not_given(spool):
    assert spool.claim("missing") is None


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:-1],
        lambda whole: whole[:30],
        lambda whole: whole[: len(whole) - len(RAW)],
        lambda whole: whole + b"x",
        lambda whole: b"\0" * len(whole),
        lambda whole: whole.replace(b"spool 1", b"spool 2"),
        lambda whole: whole.replace(b"\n\n", b"\n"),
        lambda whole: whole[1:],
        lambda whole: RAW,
    ],
)
def test_an_entry_that_is_not_whole_is_damaged(spool, damage):
    name = spooled(spool)
    path = Path(spool.directory) / "new" / name
    path.write_bytes(damage(path.read_bytes()))
    entry = spool.claim(name)
    with pytest.raises(EntryDamagedError, match=name):
        entry.read()
    spool.move_to_dead(entry, "key", "damaged")
    with pytest.raises(EntryDamagedError):
        spool.read_dead(name)


# Failures and dead letters


def test_failures_are_counted_by_content_until_they_are_forgotten(spool):
    assert [
        spool.record_failure("a", "first"),
        spool.record_failure("a", "second"),
        spool.record_failure("b", "x"),
    ] == [
        1,
        2,
        1,
    ]
    spool.forget_failures("a")
    spool.forget_failures("a")
    assert spool.record_failure("a", "again") == 1


@pytest.mark.parametrize("line", ["one\ntwo", "one\r\ntwo", "one\rtwo", "one\ntwo\nthree\n", "\udcff", "bü\0"])
def test_a_failure_counts_once_whatever_its_text(spool, line):
    assert [spool.record_failure("a", line) for _ in range(3)] == [1, 2, 3]


def test_a_dead_letter_tells_every_failure(spool):
    name = spooled(spool)
    for line in ("first", "second"):
        spool.record_failure("key", line)
    spool.move_to_dead(spool.claim(name), "key", "third")
    assert spool.dead() == [(name, "first\nsecond\nthird")]
    assert spool.entries() == [] and os.listdir(Path(spool.directory) / "failures") == []
    assert spool.read_dead(name) == (HEADER, RAW)


def test_the_notes_of_a_dead_letter_are_synced_before_they_are_moved(spool, monkeypatch):
    synced = []
    monkeypatch.setattr(spool_module, "sync_file", lambda path: synced.append((path, Path(path).read_text())))
    spooled(spool)
    set_aside(spool)
    ((path, text),) = synced
    assert Path(path).parent.name == "failures" and text == spool.dead()[0][1] + "\n"


@pytest.mark.parametrize("text", ["", "\n", "\n \n"])
def test_a_dead_letter_without_notes_has_no_reason(spool, text):
    name = spooled(spool)
    set_aside(spool)
    (Path(spool.directory) / "dead" / f"{name}.why").write_text(text)
    assert spool.dead() == [(name, "no reason was noted")]
    assert last_line("first\nsecond") == "second" and last_line(spool.dead()[0][1]) == "no reason was noted"


def test_a_revived_letter_is_spooled_again_without_its_reasons(spool):
    name = spooled(spool)
    spool.move_to_dead(spool.claim(name), "key", "third")
    spool.restore_dead(name)
    assert spool.entries() == [name] and os.listdir(Path(spool.directory) / "dead") == []
    assert spool.claim(name).read() == (HEADER, RAW)


def test_a_dead_letter_that_is_not_there_is_told(spool):
    for read in (spool.read_dead, spool.restore_dead):
        with pytest.raises(FileNotFoundError):
            read("missing")


@pytest.mark.parametrize("name", ["../new/{}", "/etc/passwd", "../../{}"])
def test_a_dead_letters_name_cannot_lead_elsewhere(spool, name):
    entry = spooled(spool)
    with pytest.raises(FileNotFoundError):
        spool.read_dead(name.format(entry))
    with pytest.raises(FileNotFoundError):
        spool.restore_dead(name.format(entry))


@pytest.mark.parametrize(("days", "note_is_there"), [(29, True), (31, False)])
def test_failure_notes_outlive_postfixes_queue_and_entries_outlive_everything(spool, days, note_is_there):
    name, dead = spooled(spool), spooled(spool)
    spool.move_to_dead(spool.claim(dead), "dead", "why")
    spool.record_failure("key", "first")
    time_passed(spool, days * 86400)
    assert spool.clean() == (0 if note_is_there else 1)
    assert spool.entries() == [name] and spool.dead() == [(dead, "why")]
    assert spool.record_failure("key", "next") == (2 if note_is_there else 1)


@pytest.mark.parametrize("spoil", ["missing", "a file", "tmp missing", "new missing"])
def test_a_spool_that_is_not_there_is_full(place, spoil):
    spool = new_spool(place)
    path = Path(spool.directory)
    if spoil in ("missing", "a file"):
        path.rename(place / "elsewhere")
        if spoil == "a file":
            path.write_text("")
    else:
        (path / spoil.split()[0]).rmdir()
    with pytest.raises(SpoolWriteError, match=r"^spool: ENO(ENT|TDIR) \(") as full:
        write(spool)
    assert isinstance(full.value.__cause__, OSError) and str(place) not in str(full.value)
    assert spoil != "new missing" or os.listdir(path / "tmp") == []
