"""The operator's programs, and what they say of a deployment."""

import json
from typing import Any

from .lab.deployment import Deployment


def failing(deployment: Deployment, program: str, *arguments: str) -> str:
    """Run a program that must fail; return what it says in its one line."""
    ended = deployment.run(program, *arguments, check=False)
    assert ended.returncode in (1, 2), ended.stdout
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip().splitlines()[-1]


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def check(deployment: Deployment, *options: str) -> dict[str, tuple[str, str]]:
    """Run check; give finding and text for each part, several of one part joined."""
    ended = deployment.run("orderflow-admin", "check", "--json", *options, check=False)
    found: dict[str, tuple[str, str]] = {}
    for row in rows(ended.stdout):
        found[row["part"]] = (row["finding"], found.get(row["part"], ("", ""))[1] + row["detail"] + "\n")
    assert ended.returncode == any(finding == "TROUBLE" for finding, _ in found.values())
    return found
