"""The manual: its language, its links, its commands, and what the code says of settings, outcomes and parts."""

import re
import shlex
import sys
from pathlib import Path

import click
import pytest

from orderflow_ingest.config import KEYS, load, read_file
from orderflow_ingest.domain import org_settings, outcomes
from orderflow_ingest.domain.automatic_mail import AutomaticMailSignal
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import HandOver, HoldReason, Status
from orderflow_ingest.entrypoints import pipe
from orderflow_ingest.parsing.documents import Reason, part
from orderflow_ingest.parsing.documents.part import PartKind
from tests.support.command_tree import ALL_COMMANDS, PROGRAMS
from tests.support.language import measure
from tests.support.manual import DOCS, PAGES, ROOT, TEXTS, command_lines

sys.path.insert(0, str(DOCS / "_ext"))
import settings_example

# The language


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_page_is_plain(page):
    found = measure(TEXTS[page])
    assert found.mean_sentence <= 17
    assert found.semicolons_per_1000_words < 3 or found.semicolons == 1
    assert found.longest_cell <= 25


def test_the_readme_is_short():
    assert len(TEXTS[ROOT / "README.md"].splitlines()) <= 200


def test_the_figures_of_a_text_are_right():
    found = measure(
        "# A title; not counted\n\nOne two three. Four; `a b c`!\n\n```\nx; y\n```\n| a | b c d |\n|---|---|\n"
    )
    assert (found.words, found.sentences, found.semicolons, found.longest_cell) == (5, 2, 1, 3)
    assert measure("- one two\n- three\n\nfour:\n").mean_sentence == 4 / 3


# What the code says


def test_every_outcome_and_every_reason_has_its_meaning():
    assert set(outcomes.MEANINGS) == set(Outcome) and set(part.MEANINGS) == set(Reason)
    keys = [key.meaning for key in (*KEYS, *org_settings.KEYS)]
    for meaning in (*outcomes.MEANINGS.values(), *part.MEANINGS.values(), *keys):
        assert len(meaning.split()) <= 25 and meaning.endswith("."), meaning


@pytest.mark.parametrize("status", [*Status, *HandOver, *PartKind], ids=lambda status: status.value)
def test_every_status_stands_in_the_reference(status):
    assert f"`{status.value}`" in TEXTS[DOCS / "reference/outcomes.md"]


@pytest.mark.parametrize("held", HoldReason)
def test_every_reason_to_hold_a_mail_stands_in_the_page_for_support(held):
    assert f"`{held.value}`" in TEXTS[DOCS / "how-to/find-an-order.md"]


@pytest.mark.parametrize("trait", AutomaticMailSignal, ids=lambda trait: trait.name)
def test_every_trait_stands_in_the_reference(trait):
    assert f"`{trait}`" in TEXTS[DOCS / "reference/parts.md"]


@pytest.mark.parametrize("option", pipe.OPTIONS)
def test_every_option_of_the_delivery_program_stands_in_the_manual(option):
    assert option in TEXTS[DOCS / "reference/outcomes.md"]
    assert option in pipe.__doc__


def test_every_option_of_every_command_has_a_help_text():
    for program, names, command in ALL_COMMANDS:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.help, (program, names, parameter)


def test_the_example_of_the_settings_has_every_key_and_no_other(tmp_path):
    example = (ROOT / "systemd/ingest.env.example").read_text()
    assert example == settings_example.text(), "script/docs writes it"
    assert re.findall(r"^#([A-Z0-9_]+)=", example, re.MULTILINE) == [key.name for key in KEYS]
    (tmp_path / "ingest.env").write_text(re.sub(r"^#([A-Z0-9_]+=.+)", r"\1", example, flags=re.MULTILINE))
    assert len(read_file(str(tmp_path / "ingest.env"))) > 20
    environment = {"ORDERFLOW_STATE_DIR": str(tmp_path)}
    assert load(str(tmp_path / "ingest.env"), environment).deadline == load("/dev/null", environment).deadline


# Commands


@pytest.mark.parametrize("line", command_lines())
def test_every_command_of_the_manual_is_one_that_the_program_takes(line, tmp_path):
    words = shlex.split(re.split(r"\s[|>#]|…", line)[0], comments=True)
    command: click.Command = PROGRAMS[words[0]]
    rest = words[1:]
    context = click.Context(command, info_name=words[0])
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        assert found is not None, f"no command {rest[0]}"
        command, rest = found, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in known | {"--help", "--version"}, word


# Links


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXTS[page]):
        assert (page.parent / target).exists(), target


def test_every_page_stands_in_the_index():
    index = TEXTS[DOCS / "index.md"]
    for page in PAGES:
        if page.is_relative_to(DOCS) and page.name != "index.md":
            assert f"\n{page.relative_to(DOCS).with_suffix('')}\n" in index, page
