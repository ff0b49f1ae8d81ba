"""The commands of every program, as click knows them."""

from collections.abc import Iterator

import click

from orderflow_ingest.entrypoints.admin import main as admin_main
from orderflow_ingest.entrypoints.console import main as console_main
from orderflow_ingest.entrypoints.exporter import main as exporter_main
from orderflow_ingest.entrypoints.replay import main as replay_main
from orderflow_ingest.entrypoints.service import daemon

PROGRAMS = {
    "orderflow-admin": admin_main.cli,
    "orderflow-console": console_main.cli,
    "orderflow-metrics": exporter_main.cli,
    "orderflow-replay": replay_main.cli,
    "orderflow-service": daemon.cli,
}


def commands(command: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each command of a program that is no group, with the words that name it."""
    if not isinstance(command, click.Group):
        yield names, command
        return
    with click.Context(command) as context:
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, *names, name)


ALL_COMMANDS = [(program, names, command) for program, cli in PROGRAMS.items() for names, command in commands(cli)]

# Commands that choose by themselves what they change.
CHANGES_MANY = {
    "orderflow-admin erase",
    "orderflow-admin reconcile",
    "orderflow-admin retention",
    "orderflow-replay archive",
    "orderflow-replay dead",
    "orderflow-replay handover",
    "orderflow-replay held",
    "orderflow-replay import",
    "orderflow-replay message",
}
