"""A small file is replaced whole and durably, or stays as it was."""

import os

import pytest

from orderflow_ingest.storage import fsync
from orderflow_ingest.storage.replace_file import replace_file


def test_a_file_is_replaced_and_has_its_mode_whatever_the_umask(tmp_path):
    path = tmp_path / "one"
    before = os.umask(0o077)
    try:
        replace_file(path, b"old\n", 0o644)
        replace_file(path, b"new\n", 0o644)
    finally:
        os.umask(before)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new\n", 0o644)
    assert os.listdir(tmp_path) == ["one"]


def test_what_a_killed_process_left_does_not_matter(tmp_path):
    (tmp_path / f".one.{os.getpid()}.tmp").write_bytes(b"half")
    replace_file(tmp_path / "one", b"whole")
    assert (tmp_path / "one").read_bytes() == b"whole"
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "one"
    replace_file(path, b"old")

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        replace_file(path, b"new")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["one"])


def test_the_file_is_synced_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append((tmp_path / "one").exists()))
    monkeypatch.setattr(fsync.os, "fsync", lambda fd: steps.append((tmp_path / "one").exists()))
    replace_file(tmp_path / "one", b"new")
    assert steps == [False, True]
