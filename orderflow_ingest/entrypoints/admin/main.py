"""orderflow-admin: set up, show and verify a deployment.

Each command lies in a module or package of its own beside this one. `_COMMANDS` says where.
"""

from orderflow_ingest.entrypoints.cli.main import command_group
from orderflow_ingest.entrypoints.cli.terminal import run_cli

_COMMANDS = {
    "backup": (".backup:backup", "Copy the embedded databases while mail is delivered."),
    "canary": (".canary.command:canary", "Send a probe mail through the MX and time each step."),
    "check": (".check:check", "Verify every part, and that Postfix's settings agree."),
    "dead": (".dead:show_dead_letters", "Show the dead letters of this host."),
    "documents": (".messages:list_documents", "Show the documents and skipped parts of a message."),
    "erase": (".erase:erase", "Delete all of an organization, a sender or one mail."),
    "find": (".find:find", "Find mail by words, sender, Message-ID, document or time."),
    "handler": (".handler:handler", "Try the document handler on a mail."),
    "held": (".held:list_held_mail", "Show mail that is held, and why."),
    "init": (".init:init", "Create directories, tables and queue, or upgrade them."),
    "list": (".messages:list_messages", "Show messages, the newest first."),
    "org": (".org:org", "Add, list, enable, disable and set up organizations."),
    "postfix": (".postfix.commands:print_postfix", "Print the configuration of Postfix for these settings."),
    "reconcile": (".reconcile:reconcile", "Compare spool, rows, archive and queue, and repair them."),
    "retention": (".retention:retention", "Delete raw mail and documents past their retention."),
    "roles": (".postfix.commands:print_roles", "Print database roles and bucket policies."),
    "runs": (".runs:list_runs", "Show who ran what, and how far it came."),
    "show": (".show:show", "Show the history of one mail, or write its files."),
    "status": (".status:status", "Show counts of messages, documents, spool and queue."),
}


cli = command_group(__package__, "Set up, show and verify a deployment of OrderFlow ingest.", _COMMANDS)


def main() -> None:
    """Run the program."""
    run_cli(cli)
