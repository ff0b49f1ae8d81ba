"""Postfix's parameters, read and changed."""

import os
import shutil
from pathlib import Path

from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.admin.checks.postconf import Postconf
from orderflow_ingest.entrypoints.admin.postfix.render import render


def printed(place: Path, way: str, given: dict[str, str], main: str = "", old: str = "", new: str = "") -> Postconf:
    """Write what is printed for a way, with one thing changed, and let postconf read it."""
    settings = load(None, {"ORDERFLOW_RELAY": "127.0.0.1:10026", **given})
    texts = {part: render(part, settings, way, "nobody", None) for part in ("main", "master")}
    assert old in texts["master"]
    main = f"compatibility_level = 3.6\n{texts['main']}\n{main}\n"
    return read(place, main, texts["master"].replace(old, new) if old else texts["master"])


def read(place: Path, main: str, master: str | None = None) -> Postconf:
    for name, text in (("main.cf", main), ("master.cf", master)):
        if text is not None:
            (place / name).write_text(text)
        os.utime(place / name, (0, 0))  # postconf waits until what it reads is a second old
    return Postconf(str(shutil.which("postconf")), str(place))
