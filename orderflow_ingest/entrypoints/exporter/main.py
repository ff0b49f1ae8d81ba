"""orderflow-metrics: what the programs of this host have counted, and how things stand, for Prometheus.

    orderflow-metrics                      serve it at ORDERFLOW_METRICS, GET /metrics, until SIGTERM
    orderflow-metrics --once               print it
    orderflow-metrics --textfile FILE      write it, whole or not at all, for node_exporter's textfile collector

The counts are of this host's programs alone. What is measured in database and queue is the same from every host. It
changes nothing, and can be ended at any time: nothing is counted in here.
"""

import os
import signal
import sys
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from orderflow_ingest import __version__
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.entrypoints.cli.terminal import load_app, log_start, run_cli, settings_option
from orderflow_ingest.entrypoints.http_server import serve
from orderflow_ingest.entrypoints.unix_socket import SocketInUseError
from orderflow_ingest.observability import logs
from orderflow_ingest.storage.replace_file import replace_file

from .page import Page
from .server import metrics_app

_DEADLINE = 15.0  # seconds, as of a delivery: a statement gets a quarter of what it gets where that is a minute


@click.command(help="Show the metrics of this host to Prometheus, at ORDERFLOW_METRICS; see docs/how-to/monitoring.md.")
@click.option("--once", is_flag=True, help="Print the page once.")
@click.option("--textfile", metavar="FILE", type=click.Path(path_type=Path), help="Write the page to FILE, once.")
@click.option("--any-address", is_flag=True, help="Listen at an address that other hosts can reach, too.")
@settings_option
@click.version_option(__version__)
def cli(*, once: bool, textfile: Path | None, any_address: bool, settings_file: str | None) -> None:
    """See the module's header."""
    app = load_app(settings_file, deadline=_DEADLINE)
    address = app.settings.metrics
    page = Page(app)
    if once or textfile:
        logs.configure("stderr", "metrics", None)  # with the reason why a part is unavailable
    if textfile:
        _write_textfile(textfile, page.text())
    if once:
        click.echo(page.text().decode(), nl=False)
    if once or textfile:
        sys.stdout.flush()
        os._exit(0)  # else a backend that hangs would be waited for
    if not (any_address or _is_local(address)):
        raise click.ClickException(f"ORDERFLOW_METRICS is {address}, which other hosts may reach: say --any-address")
    logs.configure(app.settings.log, "metrics", app.settings.state_dir)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)

    def started() -> None:
        log_start("metrics", "Metrics server started.", app.settings, address=address)

    try:
        serve(metrics_app(page), address, started)
    except SocketInUseError as taken:
        raise click.ClickException(f"{address} cannot be listened at: {taken}") from None
    except OSError as error:
        raise click.ClickException(f"{address} cannot be listened at: {os_reason(error)}") from None


def main() -> None:
    """Run the program."""
    run_cli(cli)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    logs.event("metrics", "Metrics server stopped.", at=datetime.now(UTC).isoformat(timespec="seconds"))
    os._exit(0)


def _is_local(address: str) -> bool:
    """Return whether only this host can reach an address."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _write_textfile(path: Path, text: bytes) -> None:
    try:
        replace_file(path, text, 0o644)  # another user reads it
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {os_reason(error)}") from None
