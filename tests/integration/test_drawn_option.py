"""The option --whole runs every case of each campaign."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = "def test_x(draw):\n    print('drawn:', len(draw(range(40), 3)))\n"


@pytest.mark.parametrize(("options", "count"), [([], 3), (["--whole"], 40)], ids=["some", "whole"])
def test_the_option_takes_all(tmp_path, options, count):
    (tmp_path / "test_x.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-s", "-p", "tests.support.drawn", *options, "test_x.py"]
    said = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True).stdout
    assert f"drawn: {count}\n" in said
