"""A spooled message survives a crash at any line, and a spool that cannot be written says so."""

import io
import os
import subprocess
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest

from orderflow_ingest.domain.outcomes import DeadlineReached
from orderflow_ingest.storage import spool as spool_module
from orderflow_ingest.storage import spool_entry as entry_module
from orderflow_ingest.storage.spool import (
    EntryDamagedError,
    MessageTooBigError,
    MessageTruncatedError,
    Spool,
    SpoolWriteError,
    last_line,
)

from .crash import at_line, kill_at, points

HEADER = b"recipient: orders+acme@orderflow.example.com\nsender: buyer@shop.example\n"
RAW = b"Subject: order 17\r\n\r\nten of them\r\n\0\xff\n\n"
LIMIT = 1 << 26
MODULES = (spool_module, entry_module)


def new_spool(directory):
    spool = Spool(directory / "spool")
    spool.prepare()
    return spool


@pytest.fixture
def spool(place):
    return new_spool(place)


def write(spool, raw=RAW, header=HEADER, **more):
    return spool.write(header, io.BytesIO(raw).read, **{"limit": LIMIT, **more})


def spooled(spool, raw=RAW):
    """Write an entry and let go of it, as a process that died would; give its name."""
    entry = write(spool, raw)
    entry.release()
    return entry.name


def content(spool):
    return {state: sorted(os.listdir(Path(spool.directory) / state)) for state in ("tmp", "new", "dead")}


EMPTY = {"tmp": [], "new": [], "dead": []}


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


# Crash points

BLOCKS = (b"Subject: order 17\n\n", b"ten", b" of them\n")


def write_blocks(spool):
    blocks = iter((*BLOCKS, b""))
    return spool.write(HEADER, lambda _: next(blocks), LIMIT)


def set_aside(spool):
    spool.move_to_dead(spool.claim(spool.entries()[0]), "key", "third failure")


def revive(spool):
    spool.restore_dead(spool.dead()[0][0])


def finish(spool):
    spool.finish(spool.claim(spool.entries()[0]))


def points_of(*work):
    """List the crash points of the last of these steps, done on a spool of its own."""
    with tempfile.TemporaryDirectory() as directory:
        spool = new_spool(Path(directory))
        for step in work[:-1]:
            step(spool)
        return points(MODULES, lambda: work[-1](spool))


WRITE = points_of(write_blocks)
RENAMED = next(p.number for p in WRITE if p.line.startswith("sync_directory(directory)"))


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


# Who works on an entry holds its lock


def test_an_entry_that_is_worked_on_is_passed_over(spool):
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


def test_the_lock_of_a_killed_process_is_free_at_once(spool):
    last = WRITE[-1]
    kill_at(MODULES, last, lambda: write_blocks(spool))
    assert spool.claim(spool.entries()[0]) is not None


def test_the_lock_does_not_pass_to_programs_that_are_started_meanwhile(spool):
    entry = write(spool)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as other:
        entry.release()
        assert spool.claim(entry.name) is not None
        other.kill()


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


# Failures, and what is set aside


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


def time_passed(spool, seconds):
    """Make everything in the spool older."""
    for path in Path(spool.directory).glob("*/*"):
        os.utime(path, (time.time() - seconds, time.time() - seconds))


@pytest.mark.parametrize(("days", "note_is_there"), [(29, True), (31, False)])
def test_failure_notes_outlive_postfixes_queue_and_entries_outlive_everything(spool, days, note_is_there):
    name, dead = spooled(spool), spooled(spool)
    spool.move_to_dead(spool.claim(dead), "dead", "why")
    spool.record_failure("key", "first")
    time_passed(spool, days * 86400)
    assert spool.clean() == (0 if note_is_there else 1)
    assert spool.entries() == [name] and spool.dead() == [(dead, "why")]
    assert spool.record_failure("key", "next") == (2 if note_is_there else 1)


# A spool that cannot be written, on real file systems


class Mount:
    """A file system in memory, mounted until the end of the block."""

    def __init__(self, path, options):
        self.path, self._options = path, options

    def __enter__(self):
        self.path.mkdir(exist_ok=True)
        if _mount("-t", "tmpfs", "-o", self._options, "none", self.path):
            pytest.skip("mount was refused")
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "--lazy", "--recursive", self.path], check=True)

    def remount(self, options):
        assert _mount("-o", f"remount,{options}", self.path) == 0


def _mount(*arguments):
    return subprocess.run(["mount", *map(str, arguments)], stderr=subprocess.DEVNULL).returncode


@pytest.fixture
def small(place):
    """Give a spool on a file system of 64 KiB."""
    with Mount(place / "small", "size=64k") as mount:
        yield new_spool(mount.path)


@pytest.mark.parametrize("size", [65536, 200_000, 5_000_000])
def test_a_message_that_does_not_fit_is_spool_full_and_leaves_nothing(small, size):
    with pytest.raises(SpoolWriteError, match=r"^spool: ENOSPC \("):
        write(small, b"x" * size)
    assert content(small) == EMPTY
    assert write(small).read() == (HEADER, RAW), "there is room for a smaller one"


def test_a_spool_full_of_messages_takes_the_next_when_one_is_finished(small):
    names = []
    with pytest.raises(SpoolWriteError, match="ENOSPC"):
        while True:
            names.append(spooled(small, b"x" * 5000))
    assert small.entries() == names and content(small)["tmp"] == [] and len(names) > 3
    small.finish(small.claim(names[0]))
    assert write(small, b"x" * 5000).read()[1] == b"x" * 5000


def test_a_spool_without_inodes_is_full(place):
    with Mount(place / "small", "size=1m,nr_inodes=12") as mount:
        spool = new_spool(mount.path)
        names = []
        with pytest.raises(SpoolWriteError, match=r"^spool: ENOSPC \("):
            while True:
                names.append(spooled(spool))
        assert spool.entries() == names and content(spool)["tmp"] == []


def test_a_read_only_spool_is_full(place):
    with Mount(place / "small", "size=64k") as mount:
        spool = new_spool(mount.path)
        name = spooled(spool)
        mount.remount("ro")
        with pytest.raises(SpoolWriteError, match=r"^spool: EROFS \("):
            write(spool)
        assert spool.entries() == [name]


@pytest.mark.parametrize("state", ["tmp", "new"])
def test_a_spool_that_turns_read_only_in_the_middle_is_full(place, state):
    """A file system does so by itself after an error of its disk; here one directory is bound over read-only."""
    with Mount(place / "small", "size=64k") as mount:
        spool = new_spool(mount.path)

        def turn(_):
            path = Path(spool.directory) / state
            assert _mount("--bind", path, path) == 0 and _mount("-o", "remount,ro,bind", path) == 0
            return True

        with pytest.raises(SpoolWriteError, match=r"^spool: E(ROFS|XDEV) \("):
            write(spool, is_whole=turn)
        assert content(spool)["new"] == []


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


def test_states_on_different_file_systems_are_noticed(place):
    spool = new_spool(place)
    with Mount(Path(spool.directory) / "new", "size=64k"):
        assert not spool.is_on_one_file_system()
        with pytest.raises(SpoolWriteError, match=r"^spool: EXDEV \("):
            write(spool)
        assert content(spool) == EMPTY
