"""A put into the archive of files that is killed at any line leaves a whole object or none."""

import tempfile
from pathlib import Path

import pytest

from orderflow_ingest.storage.archive import FileArchive, ObjectMissing, files
from tests.support.crash import kill_at, points
from tests.support.s3_answers import DIGEST, KEY, RAW, Files, Objects, client_of


@pytest.fixture(scope="module")
def client(ceph):
    with client_of(ceph) as client:
        yield client


@pytest.fixture(params=["file", "s3"])
def store(request, place):
    return Files(place) if request.param == "file" else Objects(place, request.getfixturevalue("client"))


def put(root):
    FileArchive(root).put(KEY, RAW, DIGEST, {"org": "acme"})


def points_of_put():
    with tempfile.TemporaryDirectory() as directory:
        store = Files(Path(directory))
        return points((files,), lambda: put(store.root))


@pytest.mark.parametrize("point", points_of_put(), ids=str)
def test_killed_at_any_line_of_a_put_the_object_is_whole_or_not_there(place, point):
    store = Files(place)
    kill_at((files,), point, lambda: put(store.root))
    try:
        assert store.archive.read(KEY, DIGEST) == RAW
    except ObjectMissing:
        assert KEY not in store.names()
    put(store.root)
    assert store.archive.read(KEY, DIGEST) == RAW and store.metadata(KEY) == {"org": "acme"}
