"""The site of the documentation is built without a warning, and has what the code says."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orderflow_ingest.config import KEYS
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.parsing.documents import Reason
from tests.support.command_tree import ALL_COMMANDS
from tests.support.monitoring import DECLARED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "dirhtml", "-d", place / "doctrees"]
    built = subprocess.run([*command, ROOT / "docs", place / "html"], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0 and not built.stderr, built.stderr
    return place / "html"


def text(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("settings", [key.name for key in KEYS]),
        ("outcomes", [outcome.name for outcome in Outcome]),
        ("parts", [str(reason) for reason in Reason]),
        ("metrics", [metric.name for metric in DECLARED]),
        ("commands", [" ".join(names) for program, names, _ in ALL_COMMANDS if program != "orderflow-service"]),
    ],
)
def test_a_page_of_the_reference_has_every_name(site, page, names):
    shown = text(site / "reference" / page / "index.html")
    assert len(names) > 3 and [name for name in names if name not in shown] == []
