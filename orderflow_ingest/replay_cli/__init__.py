"""orderflow-replay: put messages, documents, spool entries, dead letters and held mail through again.

    orderflow-replay list          show messages
    orderflow-replay documents     show a message's documents
    orderflow-replay message       extract messages again
    orderflow-replay handover      hand documents over again
    orderflow-replay spool         deliver what was left in the spool
    orderflow-replay dead          show, export or deliver what was set aside
    orderflow-replay conflicts     show, accept or discard what was held
    orderflow-replay archive       make the rows anew from the archive alone
    orderflow-replay import        take in mail of the past
    orderflow-replay runs          show who had what done
    orderflow-replay resume        go on with a run that was broken off

Everything that changes something has --dry-run, and leaves a trace: events of the messages, and the row of its run.
A run over messages can be stopped or killed anywhere, and gone on with: rows say what is done, and what was led back
is found by the sweep. Each room of this package is one family of commands; `walk` is the run itself.
"""

import click

from .. import __version__
from ..terminal import program
from .archive import rebuild_from_archive
from .conflicts import resolve_conflicts
from .imports import import_mail
from .messages import hand_over_again, list_documents, list_messages, replay_messages
from .runs import list_runs, resume_run
from .spooled import deliver_dead, drain_spool


@click.group(help="Put messages, documents, spool entries, dead letters and held mail through again.")
@click.version_option(__version__)
def cli() -> None:
    """See the module's header."""


for command in (
    list_messages,
    list_documents,
    replay_messages,
    hand_over_again,
    drain_spool,
    deliver_dead,
    resolve_conflicts,
    rebuild_from_archive,
    import_mail,
    list_runs,
    resume_run,
):
    cli.add_command(command)


def main() -> None:
    """Run the program."""
    program(cli)
