"""Crash points: the lines of some modules that a piece of work reaches, and a child killed on reaching the n-th.

The child is a fork that gets SIGKILL before the line runs, so nothing of the program's own cleans up after it.
"""

import linecache
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any


@dataclass(frozen=True)
class Point:
    """The `number`-th line that the work reaches."""

    number: int
    function: str
    line: str

    def __str__(self) -> str:
        return f"{self.number}-{self.function}-{self.line}"


def points(modules: tuple[ModuleType, ...], work: Callable[[], object]) -> list[Point]:
    """Do the work here, and list the lines it reaches."""
    found: list[Point] = []

    def note(frame: FrameType) -> None:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        found.append(Point(len(found), frame.f_code.co_name, line))

    _traced(modules, work, note)
    return found


def kill_at(modules: tuple[ModuleType, ...], point: Point, work: Callable[[], object]) -> None:
    """Do the work in a child that is killed on reaching the point."""
    child = os.fork()
    if child == 0:
        reached = iter(range(point.number + 1))

        def count(frame: FrameType) -> None:
            if next(reached) == point.number:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            _traced(modules, work, count)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"{point} was not reached"


def at_line(modules: tuple[ModuleType, ...], text: str, action: Callable[[], object], work: Callable[[], Any]) -> Any:
    """Do the work, and the action before the first line that begins with `text`: what another process would do."""
    actions = [action]

    def act(frame: FrameType) -> None:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if actions and line.startswith(text):
            actions.pop()()

    found = _traced(modules, work, act)
    assert not actions, f"{text} was not reached"
    return found


def _traced(modules: tuple[ModuleType, ...], work: Callable[[], Any], at: Callable[[FrameType], None]) -> Any:
    files = {module.__file__ for module in modules}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            at(frame)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return work()
    finally:
        sys.settrace(before)
