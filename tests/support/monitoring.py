"""The monitoring files, read."""

import json
import re
import socket
from contextlib import suppress
from pathlib import Path

import yaml

from orderflow_ingest.entrypoints.exporter import gauges
from orderflow_ingest.observability import metrics

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
DECLARED = (*gauges.GAUGES, *metrics.COUNTERS, *metrics.HISTOGRAMS)


def asked(port: int, request: bytes) -> bytes:
    """Return the answer to a request; a server that refuses may close the connection before it has read all."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), 20) as client, suppress(ConnectionError):
        client.sendall(request)
        while block := client.recv(65536):
            answer += block
    return answer


DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]


def names(expression: str) -> set[str]:
    return set(re.findall(r"\borderflow_\w+", expression))
