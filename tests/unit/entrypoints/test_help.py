"""The help of every command: an example that is right, and one convention for what changes many things."""

import shlex

import click
import pytest

from tests.support.command_tree import ALL_COMMANDS, CHANGES_MANY, PROGRAMS, commands

PEOPLES = [one for one in ALL_COMMANDS if one[0] not in ("orderflow-service", "orderflow-metrics")]
# It does what the service does by itself, so it does not ask.
SHOWS_ONLY_ON_DEMAND = {"orderflow-replay spool"}


def examples(command: click.Command) -> list[str]:
    return [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  orderflow-")]


@pytest.mark.parametrize(("program", "names", "command"), PEOPLES, ids=lambda value: str(value)[:40])
def test_each_help_has_examples_that_the_command_takes(program, names, command, tmp_path):
    found = [word for line in examples(command) for word in line.partition("#")[0].split("|")[:1]]
    assert found
    for line in found:
        words = shlex.split(line)
        assert words[: 1 + len(names)] == [program, *names]
        taken = [str(tmp_path) if word.startswith("/srv/") else word for word in words[1 + len(names) :]]
        taken = [__file__ if word.endswith(".eml") and "--export" not in words else word for word in taken]
        command.make_context(names[-1], taken)


def test_what_changes_many_things_has_dry_run_and_yes_and_nothing_else_has_one_of_them():
    with_both, with_one = set(), set()
    for program, names, command in ALL_COMMANDS:
        options = {option for parameter in command.params for option in parameter.opts}
        count = len(options & {"--dry-run", "--yes"})
        name = " ".join((program, *names))
        (with_both if count == 2 else with_one if count else set()).add(name)
    assert with_both == CHANGES_MANY
    assert with_one == SHOWS_ONLY_ON_DEMAND


def test_commands_that_only_look_are_hidden_in_replay_and_work_there_as_before():
    replay = PROGRAMS["orderflow-replay"]
    listed = {names[0] for names, _ in commands(replay)}
    admin = {names[0]: command for names, command in commands(PROGRAMS["orderflow-admin"])}
    with click.Context(replay) as context:
        for name in ("list", "documents", "runs"):
            assert name not in listed and replay.get_command(context, name) is admin[name]
