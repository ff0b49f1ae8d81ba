"""The manual is the README and the pages of docs/: it names every outcome, setting, status, option and command."""

import re
from pathlib import Path

import click
import pytest

from orderflow_ingest.config import KEYS
from orderflow_ingest.domain import org_settings
from orderflow_ingest.domain.automatic_mail import AutomaticMailSignal
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import HandOver, HoldReason, Status
from orderflow_ingest.entrypoints import pipe
from orderflow_ingest.entrypoints.admin import main as admin_main
from orderflow_ingest.entrypoints.console import main as console_main
from orderflow_ingest.entrypoints.exporter import main as exporter_main
from orderflow_ingest.entrypoints.replay import main as replay_main
from orderflow_ingest.parsing.documents import Reason
from orderflow_ingest.parsing.documents.part import PartKind

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))
MANUAL = "\n".join([README, *(page.read_text() for page in PAGES)])


@pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.name)
def test_every_outcome_stands_in_the_manual_with_its_encodings(outcome):
    cells = (f"`{outcome.name}`", str(outcome.exit_status), outcome.dsn_code, str(outcome.reply_code))
    row = rf"^\| {re.escape(cells[0])} \|.*\| {cells[1]} \| {re.escape(cells[2])} \| {cells[3]} \|$"
    assert re.search(row, README, re.MULTILINE), row


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_setting_stands_in_the_manual_with_its_default_and_meaning(key):
    default = key.default_meaning or key.default
    assert f"| `{key.name}` | {f'`{default}`' if not key.default_meaning else default} | {key.meaning} |" in README


@pytest.mark.parametrize("key", org_settings.KEYS, ids=lambda key: key.name)
def test_every_setting_of_an_organization_stands_in_the_manual(key):
    assert f"| `{key.name}` | {key.default_meaning or f'`{key.default}`'} | {key.meaning} |" in README


@pytest.mark.parametrize("held", HoldReason)
def test_every_reason_to_hold_a_mail_stands_in_the_page_for_operators(held):
    assert f"`{held.value}`" in (ROOT / "docs/operating.md").read_text()


@pytest.mark.parametrize("status", [*Status, *HandOver, *PartKind], ids=lambda status: status.value)
def test_every_status_stands_in_the_manual(status):
    assert re.search(rf"\b{status.value}\b", README)


@pytest.mark.parametrize("trait", AutomaticMailSignal, ids=lambda trait: trait.name)
def test_every_trait_stands_in_the_manual(trait):
    assert f"`{trait}`" in README


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_for_a_part_stands_in_the_manual(reason):
    assert re.search(rf"^\|.*`{reason}`.*\| (?:yes|no) \|", README, re.MULTILINE)


def commands(group: click.Group, name: str):
    context = click.Context(group)
    for command in (group.get_command(context, one) for one in group.list_commands(context)):
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {command.name}")
        else:
            yield f"{name} {command.name}", command


COMMANDS = dict(
    [
        *commands(admin_main.cli, "orderflow-admin"),
        *commands(console_main.cli, "orderflow-console"),
        *commands(replay_main.cli, "orderflow-replay"),
    ]
)
COMMANDS["orderflow-metrics"] = exporter_main.cli


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_stands_in_the_manual(name):
    assert re.search(rf"`{name}\b", README), name
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter
            for option in parameter.opts:
                assert re.search(rf"[` (]{option}\b", MANUAL), option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_can_be_reached_from_the_readme(page):
    of_readme = set(re.findall(r"\]\((docs/[^)#]+\.md)", README))
    of_those = {
        f"docs/{target}"
        for name in of_readme
        for target in re.findall(r"\]\(([^)#:/]+\.md)", (ROOT / name).read_text())
    }
    assert f"docs/{page.name}" in of_readme | of_those


@pytest.mark.parametrize("option", pipe.OPTIONS)
def test_every_option_of_the_delivery_program_stands_in_the_manual(option):
    assert option in README
    assert option in pipe.__doc__


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
