"""orderflow-admin: set up, show and verify a deployment.

orderflow-admin init       create directories, tables and queue; safe to repeat
orderflow-admin org        add, list, enable, disable and set up organisations; try what would become of a mail
orderflow-admin check      verify every part, and that Postfix's settings agree; 1 on trouble
orderflow-admin backup     copy the embedded databases while mail goes on
orderflow-admin canary     send a probe mail through the real MX and time it; 1 if it does not come through
orderflow-admin status     show what is where
orderflow-admin find       find mail by words, sender, Message-ID, document, time
orderflow-admin show       tell the whole story of one mail; write out its raw bytes or a document
orderflow-admin postfix    print the Postfix configuration for these settings
orderflow-admin roles      print roles and policies, least privilege for each program
orderflow-admin reconcile  hold spool, rows, archive and queue against each other; 1 if anything is wrong
orderflow-admin retention  delete raw mail and documents that are kept for no longer
orderflow-admin erase      delete all that there is of an organisation, a sender or one mail
"""

import click

from orderflow_ingest import __version__
from orderflow_ingest.entrypoints.cli.terminal import LazyGroup, run_cli

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


@click.group(
    cls=LazyGroup,
    package=__package__,
    commands=_COMMANDS,
    help="Set up, show and verify a deployment of OrderFlow ingest.",
)
@click.version_option(__version__)
def cli() -> None:
    """See the module's header."""


def main() -> None:
    """Run the program."""
    run_cli(cli)
