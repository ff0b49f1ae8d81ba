"""What the operator's programs share: tables and JSON on standard output, errors in one line.

Whatever a sender wrote is made printable first: a subject can hold escape sequences for a terminal.
"""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from .access import become_owner
from .archive import ArchiveUnavailable, ObjectDamaged, ObjectMissing
from .assembly import Parts, open_parts
from .queue import QueueUnavailable
from .records import RecordsUnavailable, operator_name
from .settings import BadSettings, load

Row = Mapping[str, Any]


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for, since a program needs one of them.

    `rooms` are names of commands and where each lies, as module:attribute, the module as `package` sees it.
    """

    def __init__(self, *arguments: Any, package: str, rooms: Mapping[str, str], **attributes: Any):
        super().__init__(*arguments, **attributes)
        self._package, self._rooms = package, rooms

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names of the commands."""
        return sorted(self._rooms)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of this name."""
        if cmd_name not in self._rooms:
            return None
        module, _, name = self._rooms[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module, self._package), name)
        return command


_TYPED = 2000  # characters of a command line that are kept


def program(cli: click.Command) -> None:
    """Run a click program: 0 for success, 1 for an error told in one line, 2 for wrong usage."""
    os.umask(0o077)
    try:
        cli()
    except (BadSettings, RecordsUnavailable, ArchiveUnavailable, QueueUnavailable) as error:
        _end(str(error))
    except (ObjectMissing, ObjectDamaged) as error:
        _end(f"{type(error).__name__}: {error}")
    except UnicodeEncodeError:
        _end("an argument is not UTF-8")
    except PermissionError as error:
        _end(f"{error.filename}: permission denied; run this as the user that owns the state directory")


def settings_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --settings."""
    text = "Settings file; default: $ORDERFLOW_SETTINGS, else /etc/orderflow/ingest.env if it exists."
    return click.option("--settings", "settings_file", metavar="FILE", help=text)(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(command)


def opened(settings_file: str | None, create: bool = False, deadline: float | None = None) -> Parts:
    """Open the parts of the deployment that these settings describe; backends are given time for a deadline."""
    settings = load(settings_file)
    settings = replace(settings, deadline=deadline or settings.deadline)
    operator_name()  # kept for the trace, before this process becomes another user
    become_owner(settings.state_dir)
    return open_parts(settings, create=create, guarded=False)


def print_rows(rows: Iterable[Row], as_json: bool) -> None:
    """Print rows: aligned columns for a person, with their names where the rows are a list, or a JSON object a line."""
    if as_json:
        for row in rows:
            click.echo(json.dumps({name: _plain(value) for name, value in row.items()}))
        return
    lines = [[_shown(value) for value in row.values()] for row in rows]
    heads = [name.upper() for name in next(iter(rows), {})] if isinstance(rows, list) else []
    if heads:
        lines.insert(0, heads)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@contextmanager
def progress(length: int, label: str) -> Iterator[Any]:
    """Show a bar with the time left on a terminal's standard error; nothing elsewhere.

    A text that update() is given beside the number stands behind it: the rate, say.
    """
    shown: dict[str, Any] = {"file": sys.stderr, "show_pos": True, "item_show_func": lambda text: text}
    shown["hidden"] = not sys.stderr.isatty()
    with click.progressbar(length=length, label=label, **shown) as bar:
        yield bar


def typed() -> str:
    """Give the command as it was typed, for the trace of it; no option of these programs takes a secret."""
    line = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return line if len(line) <= _TYPED else f"{line[:_TYPED]}\u2026"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, int | float | bool | list | dict) or value is None else str(value)


def _shown(value: Any) -> str:
    if value in (None, ""):
        return "-"
    return printable(value.strftime("%Y-%m-%d %H:%M:%SZ") if isinstance(value, datetime) else str(value))


def printable(text: str) -> str:
    """Make what a sender wrote printable: a replacement character for each that a terminal would obey."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _end(text: str) -> None:
    click.echo(f"error: {text}", err=True)
    sys.exit(1)
