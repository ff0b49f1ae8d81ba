"""orderflow-replay: replay messages, documents, spool entries, dead letters and held mail.

Every command that changes something has --dry-run, and leaves an audit trail: events of the messages, and the row of
its run. A run over messages can be stopped or killed at any point, and resumed: rows record what is done, and the sweep
finds what waits for a worker. Each module beside this one holds one family of commands; `run` runs over messages.
"""

from orderflow_ingest.entrypoints.cli.main import command_group
from orderflow_ingest.entrypoints.cli.terminal import run_cli

_COMMANDS = {
    "archive": (".rebuild:rebuild_from_archive", "Rebuild the rows from the archive alone."),
    "dead": (".spool:deliver_dead", "Show, export or deliver dead letters."),
    "documents": (".messages:list_documents", "Show the documents and skipped parts of a message."),
    "handover": (".messages:hand_over_again", "Hand documents over to the handler again."),
    "held": (".held:decide_held_mail", "Show, accept or discard held mail."),
    "import": (".import_mail:import_mail", "Import mail from .eml and mbox files and Maildirs."),
    "list": (".messages:list_messages", "Show messages, the newest first."),
    "message": (".messages:replay_messages", "Extract messages from the archive again."),
    "resume": (".runs:resume_run", "Resume a run that was stopped or killed."),
    "runs": (".runs:list_runs", "Show who ran what, and how far it came."),
    "spool": (".spool:drain_spool", "Deliver the mail that is left in the spool."),
}
_FORMER_NAMES = {"conflicts": "held"}


cli = command_group(
    __package__, "Replay messages, documents, spool entries, dead letters and held mail.", _COMMANDS, _FORMER_NAMES
)


def main() -> None:
    """Run the program."""
    run_cli(cli)
