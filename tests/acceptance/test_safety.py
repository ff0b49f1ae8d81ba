"""A command that changes many things asks, and changes nothing where nobody answers or the answer is no."""

import pytest
from click.testing import CliRunner

from orderflow_ingest.app import open_app
from orderflow_ingest.storage.database.tables import inbound_message
from tests.support.command_tree import CHANGES_MANY, PROGRAMS
from tests.support.fakes import embedded
from tests.support.maintenance import OLD, everything_of, populated

# What each command needs to find something to change in the fixture's deployment.
ARGUMENTS = {
    "orderflow-admin erase": ["--org", "acme", "--sender", "buyer@shop.example"],
    "orderflow-admin reconcile": ["--fix"],
    "orderflow-admin retention": ["--raw-days", "1"],
    "orderflow-replay archive": [],
    "orderflow-replay dead": ["--all"],
    "orderflow-replay handover": ["--org", "acme"],
    "orderflow-replay held": ["--org", "acme", "--all", "--discard"],
    "orderflow-replay import": [__file__, "--org", "acme"],
    "orderflow-replay message": ["--org", "acme", "--status", "parsed"],
}


def test_every_command_that_changes_many_things_is_tried():
    assert set(ARGUMENTS) == CHANGES_MANY


@pytest.mark.parametrize("command", sorted(ARGUMENTS))
@pytest.mark.parametrize("answer", ["", "n\n"], ids=["nobody", "no"])
def test_without_a_yes_nothing_is_changed(place, command, answer):
    app = embedded(place)
    open_app(app.settings, create=True).queue.create_tables()
    populated(app)
    with app.records.database.write(1) as connection:
        connection.execute(inbound_message.update().values(received_at=OLD))
    before = [everything_of(app, org_id) for org_id in (1, 2)], app.records.runs.latest()
    program, name = command.split()
    env = {"ORDERFLOW_STATE_DIR": str(place), "ORDERFLOW_SETTINGS": "/dev/null"}
    ended = CliRunner().invoke(PROGRAMS[program], [name, *ARGUMENTS[command]], env=env, input=answer)
    said = "nothing was changed" if answer else "nobody answered, so nothing was changed; --yes answers"
    assert ended.exit_code == 1 and said in ended.stderr, ended.output
    assert "?" in ended.stderr or "Type acme" in ended.stderr
    assert ([everything_of(app, org_id) for org_id in (1, 2)], app.records.runs.latest()) == before
    app.records.database.close()
