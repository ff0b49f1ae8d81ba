"""The one convention of every command that changes many things.

Such a command chooses by itself what it changes. So it says what it would do, and asks. `--dry-run` shows it, and
changes nothing. `--yes` answers the question, and does nothing else. Where nobody can answer, the command ends with an
error before it changes anything. What an operator named one by one is not asked about.
"""

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]

_OPTIONS = (
    click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing."),
    click.option("--yes", is_flag=True, help="Answer the question with yes."),
)


def changes_many(command: Command) -> Command:
    """Add --dry-run and --yes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless `yes` is the answer already. Raise ClickException if the answer is no, or if there is none."""
    if not yes and not _answer(lambda: click.confirm(question, err=True)):
        raise click.ClickException("nothing was changed")


def confirm_by_name(question: str, name: str) -> None:
    """Ask for a name. Raise ClickException if the answer is another one, or if there is none."""
    if _answer(lambda: click.prompt(question, err=True)) != name:
        raise click.ClickException("nothing was changed")


def _answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except click.Abort:
        click.echo(err=True)
        raise click.ClickException("nobody answered, so nothing was changed; --yes answers, --dry-run shows") from None
