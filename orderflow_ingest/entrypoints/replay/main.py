"""orderflow-replay: replay messages, documents, spool entries, dead letters and held mail.

    orderflow-replay list          show messages
    orderflow-replay documents     show a message's documents
    orderflow-replay message       extract messages again
    orderflow-replay handover      hand documents over again
    orderflow-replay spool         deliver the mail that is left in the spool
    orderflow-replay dead          show, export or deliver dead letters
    orderflow-replay held          show, accept or discard held mail
    orderflow-replay archive       rebuild the rows from the archive alone
    orderflow-replay import        import mail from files
    orderflow-replay runs          show who ran what
    orderflow-replay resume        resume a run that was stopped or killed

Every command that changes something has --dry-run, and leaves an audit trail: events of the messages, and the row of
its run. A run over messages can be stopped or killed at any point, and resumed: rows record what is done, and the sweep
finds what waits for a worker. Each module beside this one holds one family of commands; `run` runs over messages.
"""

from orderflow_ingest.entrypoints.cli.main import command_group
from orderflow_ingest.entrypoints.cli.terminal import run_cli

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


cli = command_group(
    __package__, "Replay messages, documents, spool entries, dead letters and held mail.", _COMMANDS, _FORMER_NAMES
)


def main() -> None:
    """Run the program."""
    run_cli(cli)
