"""Interpreters that fail, in the place of the one that a program starts with."""

import shutil
from pathlib import Path

from .lab.deployment import PROGRAMS


def make_python(programs: Path, script: str) -> Path:
    """Make a directory of programs with a python3 of its own; return the path of orderflow-deliver in it."""
    programs.mkdir(parents=True)
    (programs / "python3").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "python3").chmod(0o755)
    return Path(shutil.copy(PROGRAMS / "orderflow-deliver", programs))
