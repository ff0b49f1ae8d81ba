"""The two commands that the README begins with run as it says."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_two_commands_are_there_and_run_as_told():
    for command in ("script/demo", "script/test"):
        assert re.search(rf"^sudo {command}$", README, re.MULTILINE)
        assert subprocess.run(["sh", "-n", ROOT / command]).returncode == 0
