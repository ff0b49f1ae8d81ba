"""Files of attempts of other namespaces and other users: a process that may live is never called gone."""

import os
import subprocess
import sys

from orderflow_ingest.storage import attempt_files
from tests.support.attempts import files, is_known_gone, marked
from tests.support.lab.process import wait_until


def test_a_process_of_another_pid_namespace_that_lives_is_never_told_gone(place):
    """As a container that shares the directory: its process ids mean others here."""
    directory = place / "in_hand"
    code = (
        "import sys, pathlib, uuid; from orderflow_ingest.storage import attempt_files; d = pathlib.Path(sys.argv[1])\n"
        "with attempt_files.attempt(d, 'message', 3, uuid.UUID(int=7), 'w'):\n"
        "    print(f'host:1{attempt_files.mark(d)}/0123abcd', flush=True); sys.stdin.read()"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", code, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        worker = other.stdout.readline()
        assert [path.name.partition(".")[0] for path in files(place)] == ["1"]
        assert not is_known_gone(directory, worker)
        other.kill()
        other.wait()
        assert wait_until(lambda: is_known_gone(directory, worker), 60)


def test_a_directory_that_may_not_be_read_tells_nothing(place):
    """Only its listing is closed: its identity and every file by name can still be opened."""
    directory = place / "in_hand"
    worker = marked(directory, killed=True)
    for path in (place, directory, directory / "identity"):
        path.chmod(0o711 if path.is_dir() else 0o644)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        os._exit(17 if not attempt_files.is_gone(directory, worker) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
