"""The commands of the manual that only look do so, in a deployment that has a message."""

import re
import shlex

from tests.support.lab.deployment import Deployment
from tests.support.mails import mail
from tests.support.manual import command_lines
from tests.support.replaying import ACME

LOOKS = re.compile(
    r"orderflow-admin (?:find \S|list|held|dead|runs|status|org list|org show|documents \S|show \S|reconcile"
    r"|postfix (?:main|master)|retention.* --dry-run)|orderflow-replay .* --dry-run"
)
# Lines of syntax, of files that are not there, and of what another kind of deployment has.
LEFT_OUT = re.compile(r"NAME|FILE|SLUG|PATH|RUN|--fix|--watch|[.]eml|--document 2|--map database|import")
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\bID\b")


def lines() -> list[str]:
    plain = [re.split(r"\s[|>#]|…", line)[0].strip() for line in command_lines()]
    return sorted({line for line in plain if LOOKS.match(line) and not LEFT_OUT.search(line)})


def test_the_manual_has_such_commands():
    assert len(lines()) >= 20


def test_every_command_that_looks_ends_well(quiet: Deployment):
    """One test for all, since a deployment costs more than a command."""
    for number in (4712, 4711):
        quiet.deliver(ACME, mail(number))
    id = quiet.messages()[0]["id"]
    for line in lines():
        words = shlex.split(ID.sub(id, line), comments=True)
        ended = quiet.run(words[0], *words[1:], check=False)
        assert ended.returncode == 0, (line, ended.stdout, ended.stderr)
