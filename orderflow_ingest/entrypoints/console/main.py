"""orderflow-console: the mail, its documents and what is held, in a browser.

    orderflow-console serve                   answer at ORDERFLOW_CONSOLE, till SIGTERM
    orderflow-console user add NAME           let NAME log in: --org what they see, --may-change what they may do
    orderflow-console user password NAME      give NAME another password
    orderflow-console user list               show who may log in
    orderflow-console user remove NAME        end NAME's access at once

It listens on loopback or a unix socket alone: TLS, and the way from elsewhere, are a reverse proxy's. A password is
asked for on the terminal, or read from standard input. It is never an argument, which others can see.

It is an extra, `orderflow-ingest[console]`. Without it the program says so in one line.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from orderflow_ingest import __version__
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.entrypoints.cli.terminal import (
    CommandGroup,
    examples,
    json_option,
    load_app,
    log_start,
    print_rows,
    run_cli,
    settings_option,
)
from orderflow_ingest.entrypoints.unix_socket import SocketInUseError
from orderflow_ingest.observability import logs

_MIN_PASSWORD_LENGTH = 12  # characters of a password
_DEADLINE = 30.0  # seconds, where a delivery has ORDERFLOW_DEADLINE: half of it is for one backend


@click.group(cls=CommandGroup, help="Show mail, documents and what is held in a browser.")
@click.version_option(__version__)
def cli() -> None:
    """See the module's header."""


@cli.command(epilog=examples("orderflow-console serve"))
@settings_option
def serve(settings_file: str | None) -> None:
    """Answer browsers at ORDERFLOW_CONSOLE until SIGTERM."""
    from .app import create_app
    from .users import Users, UsersFileError

    app = load_app(settings_file, deadline=_DEADLINE)
    settings = app.settings
    if settings.console_proxy_header and not settings.console.startswith("unix:"):
        raise click.ClickException(
            "ORDERFLOW_CONSOLE_PROXY_HEADER needs a socket that the proxy alone may open, ORDERFLOW_CONSOLE=unix:/path:"
            " at a port every user of this host could name himself"
        )
    logs.configure(settings.log, "console", settings.state_dir)
    users = Users(settings.console_users)
    try:
        known = users.all()
    except UsersFileError as error:
        raise click.ClickException(str(error)) from None
    if not known:
        click.echo("nobody can log in yet: orderflow-console user add NAME", err=True)
    signal.signal(signal.SIGTERM, _stop)
    log_start("console", "Console started.", settings, address=settings.console)
    _listen(create_app(app, users), settings.console)


@cli.group()
def user() -> None:
    """Manage the users who may log in."""


password_option = click.option(
    "--no-password", is_flag=True, help="No password: a reverse proxy, ORDERFLOW_CONSOLE_PROXY_HEADER, lets NAME in."
)


@user.command("add", epilog=examples("orderflow-console user add anna --org acme"))
@click.argument("name")
@click.option("--org", "slugs", multiple=True, help="NAME sees this organization alone; may be repeated.")
@click.option("--may-change", is_flag=True, help="NAME may replay, accept, discard and deliver again.")
@password_option
@settings_option
def add_user(
    name: str, slugs: tuple[str, ...], *, may_change: bool, no_password: bool, settings_file: str | None
) -> None:
    """Let NAME log in. Without --org, NAME sees every organization, dead letters and the queue."""
    from .users import User, Users, hash_password, is_valid_name

    if not is_valid_name(name):
        raise click.UsageError("a name is of letters, digits and . _ @ -, and begins with a letter or digit")
    app = load_app(settings_file)
    known = {org.slug for org in app.records.organizations.all()}
    if unknown := [slug for slug in slugs if slug not in known]:
        raise click.ClickException(f"no such organization: {unknown[0]}")
    users = Users(app.settings.console_users)
    with users_file_errors(), users.edit() as table:
        if name in table:
            raise click.ClickException(f"{name} is there already: orderflow-console user remove {name} first")
        password = None if no_password else hash_password(_read_password())
        table[name] = User(name, password, frozenset(slugs) if slugs else None, may_change)
    click.echo(f"added {name}")


@user.command("password", epilog=examples("orderflow-console user password anna"))
@click.argument("name")
@settings_option
def change_password(name: str, settings_file: str | None) -> None:
    """Change the password of NAME. Open logins of NAME end."""
    from dataclasses import replace

    from .users import Users, hash_password

    users = Users(load_app(settings_file).settings.console_users)
    with users_file_errors(), users.edit() as table:
        if name not in table:
            raise click.ClickException(f"no such user: {name}")
        table[name] = replace(table[name], password=hash_password(_read_password()))
    click.echo(f"changed the password of {name}")


@user.command("list", epilog=examples("orderflow-console user list"))
@json_option
@settings_option
def list_users(*, as_json: bool, settings_file: str | None) -> None:
    """Show who may log in, what they see, and whether they may change anything."""
    from .users import Users

    with users_file_errors():
        found = Users(load_app(settings_file).settings.console_users).all()
    rows = [
        {
            "name": one.name,
            "sees": "everything" if one.slugs is None else ", ".join(sorted(one.slugs)),
            "may_change": one.may_change,
            "password": one.password is not None,
        }
        for one in found
    ]
    print_rows(rows, as_json=as_json)


@user.command("remove", epilog=examples("orderflow-console user remove anna"))
@click.argument("name")
@settings_option
def remove_user(name: str, settings_file: str | None) -> None:
    """Let NAME in no more. A login that is open ends at once."""
    from .users import Users

    with users_file_errors(), Users(load_app(settings_file).settings.console_users).edit() as table:
        if table.pop(name, None) is None:
            raise click.ClickException(f"no such user: {name}")
    click.echo(f"removed {name}")


@contextmanager
def users_file_errors() -> Iterator[None]:
    """Report a users' file that cannot be used in one line."""
    from .users import UsersFileError

    try:
        yield
    except UsersFileError as error:
        raise click.ClickException(str(error)) from None


def _read_password() -> str:
    """Ask for a password on the terminal, twice, or take the first line of standard input."""
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    if len(password) < _MIN_PASSWORD_LENGTH:
        raise click.ClickException(f"a password has at least {_MIN_PASSWORD_LENGTH} characters")
    return str(password)


def _listen(app: Any, address: str) -> None:
    from orderflow_ingest.entrypoints.http_server import serve

    try:
        serve(app, address)
    except SocketInUseError as taken:
        raise click.ClickException(f"cannot listen at {address}: {taken}") from None
    except OSError as error:
        raise click.ClickException(f"cannot listen at {address}: {os_reason(error)}") from None


def _stop(*_: object) -> None:
    raise SystemExit(0)


def main() -> None:
    """Run the program."""
    try:
        import flask  # noqa: F401
        import waitress  # noqa: F401
    except ImportError as error:
        click.echo(f"error: {error.name} is missing: pip install 'orderflow-ingest[console]'", err=True)
        sys.exit(1)
    run_cli(cli)
