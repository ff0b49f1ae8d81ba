"""The operator's programs, run by a process that has loaded them: each run is a process of its own, forked from it.

A test asks for some status ten times over, and to load the libraries takes most of a program's time. The package is the
installed one, as the user that runs it may not enter the checkout. What loading a program does is not seen in this way.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from pwd import getpwnam
from typing import Any

PROGRAMS = {
    "orderflow-admin": "orderflow_ingest.entrypoints.admin.main",
    "orderflow-replay": "orderflow_ingest.entrypoints.replay.main",
}
_context = get_context("forkserver")
_context.set_forkserver_preload(["tests.support.lab.warm_modules"])


def run(
    program: Path, arguments: Sequence[str], env: Mapping[str, str], credentials: Mapping[str, Any], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as subprocess.run() would. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        paths = ["/dev/null", *(f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err))]
        child = start(program, arguments, env, credentials, paths)
        child.join(timeout)
        if child.exitcode is None:
            child.kill()
            raise subprocess.TimeoutExpired([str(program), *arguments], timeout)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess([str(program), *arguments], child.exitcode, out.read(), err.read())


def start(
    program: Path, arguments: Sequence[str], env: Mapping[str, str], credentials: Mapping[str, Any], paths: list[str]
) -> BaseProcess:
    """Start a program with these files as its standard input, output and error."""
    command = [str(program), *map(str, arguments)]
    child = _context.Process(target=_run, args=(command, dict(env), dict(credentials), paths))
    child.start()
    return child


def _run(command: list[str], env: Mapping[str, str], credentials: Mapping[str, Any], paths: list[str]) -> None:
    main = import_module(PROGRAMS[Path(command[0]).name]).main
    for number, path in enumerate(paths):
        file = os.open(path, os.O_WRONLY if number else os.O_RDONLY)
        os.dup2(file, number)
        os.close(file)
    sys.argv = command
    os.environ.clear()
    os.environ.update(env)
    os.chdir("/")
    if credentials:
        os.umask(credentials["umask"])
        os.setgroups(credentials["extra_groups"])
        os.setgid(credentials["group"])
        os.setuid(getpwnam(credentials["user"]).pw_uid)
    main()
