"""orderflow-replay: put messages, documents, spool entries, dead letters and held mail through again.

    orderflow-replay list          show messages
    orderflow-replay documents     show a message's documents
    orderflow-replay message       extract messages again
    orderflow-replay handover      hand documents over again
    orderflow-replay spool         deliver what was left in the spool
    orderflow-replay dead          show, export or deliver what was set aside
    orderflow-replay held          show, accept or discard what was held
    orderflow-replay archive       make the rows anew from the archive alone
    orderflow-replay import        take in mail of the past
    orderflow-replay runs          show who had what done
    orderflow-replay resume        go on with a run that was broken off

Everything that changes something has --dry-run, and leaves a trace: events of the messages, and the row of its run.
A run over messages can be stopped or killed anywhere, and gone on with: rows say what is done, and what was led back
is found by the sweep. Each module beside this one is one family of commands; `run` is the run itself.
"""

import click

from orderflow_ingest import __version__
from orderflow_ingest.entrypoints.cli.terminal import LazyGroup, run_cli

_COMMANDS = {
    "archive": ".rebuild:rebuild_from_archive",
    "dead": ".spool:deliver_dead",
    "documents": ".messages:list_documents",
    "handover": ".messages:hand_over_again",
    "held": ".held:decide_held_mail",
    "import": ".import_mail:import_mail",
    "list": ".messages:list_messages",
    "message": ".messages:replay_messages",
    "resume": ".runs:resume_run",
    "runs": ".runs:list_runs",
    "spool": ".spool:drain_spool",
}
_FORMER_NAMES = {"conflicts": "held"}


@click.group(
    cls=LazyGroup,
    package=__package__,
    commands=_COMMANDS,
    former_names=_FORMER_NAMES,
    help="Put messages, documents, spool entries, dead letters and held mail through again.",
)
@click.version_option(__version__)
def cli() -> None:
    """See the module's header."""


def main() -> None:
    """Run the program."""
    run_cli(cli)
