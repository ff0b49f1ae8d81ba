"""Every command of every program takes --settings, before each word of its name and behind it."""

from pathlib import Path
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner

from orderflow_ingest.config import SettingsError
from orderflow_ingest.entrypoints.admin import main as admin_main
from tests.support.command_tree import ALL_COMMANDS, PROGRAMS

# What a command demands beyond what its parameters say.
MORE = {"message": ["--org", "acme"], "handover": ["--org", "acme"]}


def value(parameter: click.Parameter) -> str:
    if isinstance(parameter.type, click.Choice):
        return str(parameter.type.choices[0])
    if parameter.type is click.UUID:
        return str(uuid4())
    if "=" in (parameter.metavar or ""):
        return "name=value"
    return __file__ if isinstance(parameter.type, click.File | click.Path) else "1"


def demanded(command: click.Command) -> list[str]:
    """Return a value for all that a command cannot do without."""
    words = []
    for parameter in command.params:
        if parameter.required:
            words += [parameter.opts[0]] if isinstance(parameter, click.Option) else []
            words.append(value(parameter))
    return words


def test_the_programs_are_those_that_are_installed():
    setup = Path(__file__).parents[3].joinpath("setup.py").read_text()
    assert all(f'"{program}=' in setup for program in PROGRAMS)
    assert setup.count(':main"') == len(PROGRAMS) and len(ALL_COMMANDS) > 30


@pytest.mark.parametrize(("program", "names", "command"), ALL_COMMANDS, ids=lambda value: str(value)[:40])
def test_settings_are_taken_before_and_behind_each_word_of_a_command(program, names, command):
    behind = [*demanded(command), *MORE.get(" ".join(names), [])]
    for at in range(len(names) + 1):
        words = [*names[:at], "--settings", "/nonexistent/file", *names[at:], *behind]
        result = CliRunner().invoke(PROGRAMS[program], words)
        assert isinstance(result.exception, SettingsError), (words, result.output)
        assert "settings file /nonexistent/file cannot be read" in str(result.exception)


@pytest.mark.parametrize(("program", "names", "command"), ALL_COMMANDS, ids=lambda value: str(value)[:40])
def test_an_empty_name_is_refused_at_each_place_and_so_is_another_file_at_the_same(program, names, command):
    behind = [*demanded(command), *MORE.get(" ".join(names), [])]
    for at in range(len(names) + 1):
        for value in ([""], ["/nonexistent/a", "/nonexistent/b"], ["/nonexistent/a", ""]):
            words = [*names[:at], *(word for one in value for word in ("--settings", one)), *names[at:], *behind]
            result = CliRunner().invoke(PROGRAMS[program], words)
            said = "--settings names no file" if value == [""] else "--settings names two files"
            assert result.exit_code and said in f"{result.output} {result.exception}", (words, result.output)


@pytest.mark.parametrize("words", [["org", "list"], ["status"]], ids=" ".join)
def test_two_different_files_are_refused_and_the_same_one_is_not(words):
    twice = ["--settings", "/nonexistent/a", *words, "--settings"]
    result = CliRunner().invoke(admin_main.cli, [*twice, "/nonexistent/b"])
    assert result.exit_code == 2 and "--settings names two files" in result.output
    result = CliRunner().invoke(admin_main.cli, [*twice, "/nonexistent/a"])
    assert isinstance(result.exception, SettingsError)
