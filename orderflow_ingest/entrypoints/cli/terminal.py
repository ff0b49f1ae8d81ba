"""What the operator's programs share: tables and JSON on standard output, errors in one line.

Whatever a sender wrote is made printable first: a subject can hold escape sequences for a terminal.

An error of a backend is printed with the settings file that was in force, see `explain`: what looks like a database
without tables is often a forgotten `--settings`. The backend's own text names database, queue or archive. So every
program loads its settings by `loaded` or `load_app`, and runs by `run_cli`.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from orderflow_ingest.app import App, open_app
from orderflow_ingest.config import Settings, SettingsError, load
from orderflow_ingest.domain.errors import BackendUnavailable, OrderflowError
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.observability.logs import WARNING, event
from orderflow_ingest.storage.archive import ArchiveUnavailable, ObjectDamaged, ObjectMissing
from orderflow_ingest.storage.database import operator_name
from orderflow_ingest.storage.resilience.error_hints import database_name

from .former_keys import FORMER_KEYS
from .run_as import become_owner
from .table import table_lines

Row = Mapping[str, Any]


_SETTINGS = "orderflow_ingest.settings_file"
_LOCAL = "orderflow_ingest.local_times"
_COLORS = {
    **dict.fromkeys(("TROUBLE", "FAILED", "dead", "broken off"), "red"),
    **dict.fromkeys(("warning", "HELD", "stopped"), "yellow"),
    **dict.fromkeys(("ok", "PARSED", "DONE"), "green"),
}
_SETTINGS_HELP = "Settings file; default: $ORDERFLOW_SETTINGS, else /etc/orderflow/ingest.env if it exists."


def _take_settings(ctx: click.Context, _: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Return the settings file of a command, which may stand before it too. Keep what stands before a command."""
    for value in values:
        if ctx.meta.setdefault(_SETTINGS, value) != value:
            raise click.UsageError(f"--settings names two files, {ctx.meta[_SETTINGS]} and {value}")
    found: str | None = ctx.meta.get(_SETTINGS)
    return found


class CommandGroup(click.Group):
    """A group of commands that takes --settings before the command too, has -h, and suggests similar names."""

    group_class = type

    def __init__(self, *arguments: Any, **attributes: Any):
        super().__init__(*arguments, context_settings={"help_option_names": ["-h", "--help"]}, **attributes)
        kept: dict[str, Any] = {"metavar": "FILE", "callback": _take_settings, "multiple": True}
        self.params.append(click.Option(["--settings"], help=_SETTINGS_HELP, expose_value=False, **kept))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name. Raise UsageError with the names that are similar."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            similar = get_close_matches(args[0], self.list_commands(ctx))
            if not similar:
                raise
            raise click.UsageError(f"{error.message} Did you mean {' or '.join(map(repr, similar))}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with the first sentence of its help. No text is cut off."""
        rows = [(name, self.summary(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def summary(self, ctx: click.Context, name: str) -> str:
        """Return the first sentence of a command's help."""
        command = self.get_command(ctx, name)
        return command.get_short_help_str(_LONGEST_SUMMARY) if command else ""


class LazyGroup(CommandGroup):
    """A group whose commands are imported when they are asked for, since a program needs one of them.

    `commands` are names of commands, where each lies, as module:attribute with the module as `package` sees it, and
    what each does in one line, so that help imports none of them. `former_names` are names of earlier versions with
    those of today, and `moved` commands that another program has by now. Neither is listed.
    """

    def __init__(
        self,
        *arguments: Any,
        package: str | None,
        commands: Mapping[str, tuple[str, str]],
        former_names: Mapping[str, str] | None = None,
        moved: Mapping[str, str] | None = None,
        **attributes: Any,
    ):
        super().__init__(*arguments, **attributes)
        self._package, self._commands, self._former_names = package, commands, former_names or {}
        self._moved = moved or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return sorted(self._commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None if there is none of this name."""
        if cmd_name in self._moved:
            place = self._moved[cmd_name]
        else:
            found = self._commands.get(self._former_names.get(cmd_name, cmd_name))
            if found is None:
                return None
            place = found[0]
        module, _, name = place.partition(":")
        command: click.Command = getattr(import_module(module, self._package), name)
        return command

    def summary(self, ctx: click.Context, name: str) -> str:
        """Return what a command does, in one line."""
        return self._commands[name][1]


_LONGEST_SUMMARY = 200  # characters
_LONGEST_COMMAND_LINE = 2000  # characters of a command line that are kept


class NotSetUpError(OrderflowError):
    """What init makes is not there. The text says what."""


_BACKENDS = (NotSetUpError, BackendUnavailable, ObjectMissing, ObjectDamaged, OSError)
_in_force: list[Settings] = []  # the settings of this program, once they are loaded


def run_cli(cli: click.Command) -> None:
    """Run a click program: 0 for success, 1 for an error told in one line, 2 for wrong usage."""
    os.umask(0o077)
    try:
        cli()
    except SettingsError as error:
        _end(str(error))
    except _BACKENDS as error:
        _end(explain(error))
    except UnicodeEncodeError:
        _end("an argument is not UTF-8")


def loaded(settings_file: str | None) -> Settings:
    """Load the settings, and keep them for `explain`. Raise SettingsError."""
    settings = load(settings_file)
    _in_force[:] = [settings]
    return settings


def explain(error: Exception) -> str:
    """Return a backend's error in one line, with the settings file that is in force and, of an archive, its URL."""
    text = str(error)
    if isinstance(error, PermissionError):
        text = f"{error.filename}: {os_reason(error)}; run this as the user that owns the state directory"
    elif isinstance(error, OSError):
        text = f"{error.filename}: {os_reason(error)}" if error.filename else os_reason(error)
    elif isinstance(error, ObjectMissing | ObjectDamaged):
        text = f"{type(error).__name__}: {error}"
    for settings in _in_force:
        is_archive = isinstance(error, ArchiveUnavailable | ObjectMissing | ObjectDamaged)
        if is_archive and settings.archive_url.startswith("s3:"):  # files are named by their path
            text += f"; archive: {settings.archive_url}"
        text += f"; settings: {settings.source}"
    return text


def log_start(action: str, sentence: str, settings: Settings, **fields: Any) -> None:
    """Log that a program has begun to serve, with the settings and the database it has. Warn where init is missing."""
    known: dict[str, Any] = {"settings": settings.source, "database": database_name(settings.database_url)}
    event(action, sentence, **fields, **known)
    if not settings.spool_dir.is_dir():
        reason = f"{settings.spool_dir} is not there: run orderflow-admin init, as the user that delivers"
        event(action, "Deployment was not found to be set up.", WARNING, reason=reason, **known)


def examples(*lines: str) -> str:
    """Return the end of a command's help: commands to type."""
    return "\n".join(("\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)))


def settings_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --settings, which may stand before the command too where it is one of a CommandGroup."""
    kept: dict[str, Any] = {"metavar": "FILE", "callback": _take_settings, "multiple": True}  # to see two that differ
    return click.option("--settings", "settings_file", help=_SETTINGS_HELP, **kept)(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(command)


def load_app(settings_file: str | None, deadline: float | None = None, *, create: bool = False) -> App:
    """Open the parts of the deployment that these settings describe. Backends are given time for a deadline."""
    settings = loaded(settings_file)
    settings = replace(settings, deadline=deadline or settings.deadline)
    operator_name()  # kept for the trace, before this process becomes another user
    become_owner(settings.state_dir)
    return open_app(settings, create=create, guarded=False)


def print_rows(rows: Iterable[Row], *, as_json: bool) -> None:
    """Print rows: a table for a person, with names of columns where the rows are a list, or a JSON object a line.

    On a terminal a table is as wide as the terminal at the most. JSON has the keys of former versions too.
    """
    if as_json:
        context = click.get_current_context(silent=True)
        former_keys = FORMER_KEYS.get((context and context.command.name) or "", {})
        for row in rows:
            former = {old: row[new] for new, old in former_keys.items() if new in row}
            click.echo(json.dumps({name: _plain(value) for name, value in {**row, **former}.items()}))
        return
    heads = [name.upper() for name in next(iter(rows), {})] if isinstance(rows, list) else []
    room = terminal_width()
    paint = _paint if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else str
    for line in table_lines(heads, [[_shown(value) for value in row.values()] for row in rows], room, paint):
        click.echo(line)


def local_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --local, which makes tables show times in the zone of this computer. JSON is always in UTC."""
    kept: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _take_local}
    return click.option("--local", help="Show times in the zone of this computer, not in UTC.", **kept)(command)


def _take_local(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 (click calls it so)
    ctx.meta[_LOCAL] = value


@contextmanager
def progress(length: int, label: str) -> Iterator[Any]:
    """Show a bar with the time left on a terminal's standard error. Nothing elsewhere.

    A text that update() is given beside the number stands behind it: the rate, say.
    """
    shown: dict[str, Any] = {"file": sys.stderr, "show_pos": True, "item_show_func": lambda text: text}
    shown["hidden"] = not sys.stderr.isatty()
    with click.progressbar(length=length, label=label, **shown) as bar:
        yield bar


def command_line() -> str:
    """Return the command as it was typed, for the trace of it. No option of these programs takes a secret."""
    line = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return line if len(line) <= _LONGEST_COMMAND_LINE else f"{line[:_LONGEST_COMMAND_LINE]}\u2026"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, int | float | bool | list | dict) or value is None else str(value)


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output is, or None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _paint(cell: str) -> str:
    """Colour the words that say how well something is. NO_COLOR in the environment switches this off."""
    return click.style(cell, fg=_COLORS[cell]) if cell in _COLORS else cell


def _shown(value: Any) -> str:
    if value in (None, ""):
        return "-"
    return printable(time_text(value) if isinstance(value, datetime) else str(value))


def time_text(at: datetime) -> str:
    """Return a time in UTC, or in the zone of this computer after --local."""
    context = click.get_current_context(silent=True)
    if context and context.meta.get(_LOCAL):
        return f"{at.astimezone():%Y-%m-%d %H:%M:%S%z}"
    return f"{at:%Y-%m-%d %H:%M:%SZ}"


def printable(text: str) -> str:
    """Make what a sender wrote printable: a replacement character for each that a terminal would obey."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _end(text: str) -> None:
    click.echo(f"error: {text}", err=True)
    sys.exit(1)
