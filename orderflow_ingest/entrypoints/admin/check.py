"""The command check: print the findings of `checks` in a table. The exit status is 1 if any is trouble."""

import click

from orderflow_ingest.entrypoints.cli.terminal import examples, json_option, loaded, print_rows, settings_option

from .checks import check_all
from .checks.findings import Level

_MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.TROUBLE: "TROUBLE"}


@click.command(
    epilog=examples("orderflow-admin check", "orderflow-admin check --no-postfix   # on a host with workers only")
)
@click.option("--postfix-config", metavar="DIR", help="Postfix's configuration directory; default: the system's.")
@click.option("--no-postfix", is_flag=True, help="Leave Postfix out, on a host that has none.")
@json_option
@settings_option
def check(postfix_config: str | None, *, no_postfix: bool, as_json: bool, settings_file: str | None) -> None:
    """Verify every part, and that Postfix's settings agree with these. Exit 1 on trouble."""
    settings = loaded(settings_file)
    findings = list(check_all(settings, postfix_config, with_postfix=not no_postfix))
    print_rows(
        [{"part": found.part, "finding": _MARKS[found.level], "detail": found.text} for found in findings],
        as_json=as_json,
    )
    if any(found.level is Level.TROUBLE for found in findings):
        raise SystemExit(1)
