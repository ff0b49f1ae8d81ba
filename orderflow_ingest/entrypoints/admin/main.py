"""orderflow-admin: set up, show and verify a deployment.

orderflow-admin init       create directories, tables and queue; safe to repeat
orderflow-admin org        add, list, enable, disable and set up organizations; test a mail without delivering it
orderflow-admin check      verify every part, and that Postfix's settings agree; exit 1 on trouble
orderflow-admin backup     copy the embedded databases while mail is delivered
orderflow-admin canary     send a probe mail through the real MX and time it; exit 1 if it does not arrive
orderflow-admin status     show counts of messages, documents, spool, queue and errors
orderflow-admin find       find mail by words, sender, Message-ID, document, time
orderflow-admin show       show the history of one mail; write its raw bytes or a document to a file
orderflow-admin postfix    print the Postfix configuration for these settings
orderflow-admin roles      print database roles and bucket policies with least privilege
orderflow-admin reconcile  compare spool, rows, archive and queue; exit 1 if anything is wrong
orderflow-admin retention  delete raw mail and documents past their retention
orderflow-admin erase      delete everything about an organization, a sender or one mail
"""

from orderflow_ingest.entrypoints.cli.main import command_group
from orderflow_ingest.entrypoints.cli.terminal import run_cli

_COMMANDS = {
    "backup": ".backup:backup",
    "canary": ".canary.command:canary",
    "check": ".check:check",
    "erase": ".erase:erase",
    "find": ".find:find",
    "init": ".init:init",
    "org": ".org:org",
    "postfix": ".postfix.commands:print_postfix",
    "reconcile": ".reconcile:reconcile",
    "retention": ".retention:retention",
    "roles": ".postfix.commands:print_roles",
    "show": ".show:show",
    "status": ".status:status",
}


cli = command_group(__package__, "Set up, show and verify a deployment of OrderFlow ingest.", _COMMANDS)


def main() -> None:
    """Run the program."""
    run_cli(cli)
