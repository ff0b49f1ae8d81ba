"""orderflow-replay: run mail again. `orderflow-admin` shows it.

Every command that changes something has --dry-run, and leaves an audit trail: events of the messages, and the row of
its run. A run over messages can be stopped or killed at any point, and resumed: rows record what is done, and the sweep
finds what waits for a worker. Each module beside this one holds one family of commands. `run` runs over messages.
"""

from orderflow_ingest.entrypoints.cli.main import command_group
from orderflow_ingest.entrypoints.cli.terminal import run_cli

_COMMANDS = {
    "archive": (".rebuild:rebuild_from_archive", "Rebuild the rows from the archive alone."),
    "dead": (".left_mail:deliver_dead", "Deliver dead letters again."),
    "handover": (".messages:hand_over_again", "Hand documents over to the handler again."),
    "held": (".held:decide_held_mail", "Accept or discard held mail."),
    "import": (".import_mail:import_mail", "Import mail from .eml and mbox files and Maildirs."),
    "message": (".messages:replay_messages", "Extract messages from the archive again."),
    "resume": (".resume:resume_run", "Resume a run that was stopped or killed."),
    "spool": (".left_mail:drain_spool", "Deliver the mail that is left in the spool."),
}
_FORMER_NAMES = {"conflicts": "held"}
# Commands that only look, which are orderflow-admin's since 0.1.0.
_MOVED = {
    "documents": "orderflow_ingest.entrypoints.admin.messages:list_documents",
    "list": "orderflow_ingest.entrypoints.admin.messages:list_messages",
    "runs": "orderflow_ingest.entrypoints.admin.runs:list_runs",
}


cli = command_group(
    __package__, "Run mail again: messages, hand-overs, held mail, dead letters.", _COMMANDS, _FORMER_NAMES, _MOVED
)


def main() -> None:
    """Run the program."""
    run_cli(cli)
