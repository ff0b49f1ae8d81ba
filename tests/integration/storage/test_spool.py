"""The spool on file systems that are full, read-only, or several; needs root to mount them."""

import subprocess
from pathlib import Path

import pytest

from orderflow_ingest.storage.spool import SpoolWriteError
from tests.support.spooled import EMPTY, HEADER, RAW, content, new_spool, spooled, write


@pytest.fixture
def spool(place):
    return new_spool(place)


def test_the_lock_does_not_pass_to_programs_that_are_started_meanwhile(spool):
    entry = write(spool)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as other:
        entry.release()
        assert spool.claim(entry.name) is not None
        other.kill()


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
    """Return a spool on a file system of 64 KiB."""
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


def test_states_on_different_file_systems_are_noticed(place):
    spool = new_spool(place)
    with Mount(Path(spool.directory) / "new", "size=64k"):
        assert not spool.is_on_one_file_system()
        with pytest.raises(SpoolWriteError, match=r"^spool: EXDEV \("):
            write(spool)
        assert content(spool) == EMPTY
