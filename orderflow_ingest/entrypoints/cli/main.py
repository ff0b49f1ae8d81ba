"""What the programs with many commands share: a group of lazily imported commands, with --version and --settings.

orderflow-admin and orderflow-replay each have a table of commands in their `main` module, and nothing else there. A
command's module is imported only when the command is used or its help is printed.
"""

from collections.abc import Mapping

import click

from orderflow_ingest import __version__

from .terminal import LazyGroup

_EPILOG = """Exit status: 0 done; 1 an error, or something is left; 2 wrong usage.

COMMAND -h shows the options of a command and an example.
"""


def command_group(
    package: str | None,
    help_text: str,
    commands: Mapping[str, tuple[str, str]],
    former_names: Mapping[str, str] | None = None,
    moved: Mapping[str, str] | None = None,
) -> click.Group:
    """Return a program's group of commands.

    `commands` maps names to module:attribute, the module relative to `package`, and to what each does in one line.
    `former_names` maps hidden old names to those that replaced them. `moved` maps hidden commands, which are another
    program's by now, to module:attribute.
    """
    group = LazyGroup(
        "cli",
        package=package,
        commands=commands,
        former_names=former_names,
        moved=moved,
        help=help_text,
        epilog=_EPILOG,
    )
    return click.version_option(__version__)(group)
