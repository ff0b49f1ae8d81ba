"""Who may import whom: a module of the package imports from lower floors only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "orderflow_ingest"
FLOORS = (
    {"addresses", "ascii_case"},
    {
        *("mime", "outcomes", "status", "header", "envelope", "keys", "message", "traits", "containers", "attachments"),
        *("org_settings", "authentication_results", "senders", "same_mail"),
    },
    {
        "limits",
        "grouping",
        "durable",
        "entry",
        "metrics",
        "breaker",
        "trust",
        "sampled",
        "answered",
        "probe",
        "database_answers",
        "postgresql_url",
    },
    {"settings", "logs", "spool", "archive", "records", "queue", "heartbeat", "in_hand", "rounds"},
    {"assembly", "recognition"},
    {"archived", "attempts", "delivery"},
    {"extraction", "handover", "replay"},
    {"rebuild", "imports"},
    {"keeping"},
    {"access", "terminal", "asking", "output", "deadline", "service_health"},
    {"in_process"},
    {"deliver_cli", "service", "replay_cli", "admin_cli", "metrics_cli", "console", "tasks"},
)
# Rooms on a floor: message and attachments stand on the MIME reader, records on the statuses.
MAY_SHARE_A_FLOOR = {
    ("envelope", "header"),
    ("entry", "durable"),
    ("metrics", "durable"),
    ("database_answers", "trust"),
    ("database_answers", "postgresql_url"),
    ("answered", "postgresql_url"),
    ("breaker", "metrics"),
    ("queue", "logs"),
    ("message", "mime"),
    ("traits", "mime"),
    ("same_mail", "message"),
    ("same_mail", "mime"),
    ("senders", "mime"),
    ("senders", "authentication_results"),
    ("containers", "mime"),
    ("attachments", "mime"),
    ("attachments", "containers"),
    ("attachments", "status"),
    ("terminal", "access"),
}
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """Give the top-level module or package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Give the rooms that a file imports from, relative imports being the only ones we use."""
    found, depth = set(), len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("orderflow_ingest") for alias in node.names), path
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("orderflow_ingest"), path
            if node.level == depth:
                found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_from_lower_floors_only(path):
    if room(path) == "__init__":
        return
    for other in imported(path) - {room(path)}:
        assert FLOOR[other] < FLOOR[room(path)] or (room(path), other) in MAY_SHARE_A_FLOOR, other


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_doors_and_their_kin_know_click_and_sys_exit(path):
    text = path.read_text()
    if FLOOR.get(room(path), 0) < FLOOR["terminal"]:
        assert "import click" not in text
        assert "sys.exit" not in text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_in_charge_of(path):
    assert ast.get_docstring(ast.parse(path.read_text())), path
