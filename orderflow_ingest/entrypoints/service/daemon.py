"""orderflow-service: the daemon that delivers the messages that Postfix hands over.

    orderflow-service [--settings FILE]

It keeps open what a delivery needs, and listens on unix sockets in ORDERFLOW_SOCKET_DIR:

    deliver.sock     orderflow-deliver, see `pipe_protocol`; this user and root may connect
    lmtp.sock        Postfix's lmtp(8), see `lmtp_smtp`; ORDERFLOW_MAIL_USER may connect too
    smtp.sock        Postfix's smtpd_proxy_filter, see `lmtp_smtp`; the same users
    recipients.sock  Postfix's proxymap(8), one question for each RCPT TO, see `socketmap`; the same users

systemd may open the sockets: clients that connect during a restart then wait. Otherwise they are created here, for
this user and the mail user's group. The socket of a killed service is replaced. One that a running service listens
on is not: SocketInUseError.

On SIGTERM and SIGINT no new connection is accepted. Clients that are connected get 75 or 421 for new messages.
Messages that were taken already are delivered and answered.
"""

import asyncio
import os
import pwd
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from orderflow_ingest import __version__
from orderflow_ingest.app import App, keep_recipients, open_app
from orderflow_ingest.config import Settings
from orderflow_ingest.entrypoints.cli.terminal import loaded, log_start, run_cli, settings_option
from orderflow_ingest.entrypoints.health_client import LMTP_SOCKET, MAP_SOCKET, PIPE_SOCKET, SMTP_SOCKET, SOCKETS
from orderflow_ingest.entrypoints.unix_socket import SocketInUseError, remove_stale_socket
from orderflow_ingest.observability import logs, metrics
from orderflow_ingest.storage.database import DatabaseUnavailable, recipients_path

from . import systemd
from .dispatcher import Dispatcher
from .known_recipients import KnownOrganizations
from .lmtp_smtp import MailListener, lmtp_listener, smtp_listener
from .peer_credentials import mail_uids, own_uids
from .pipe_protocol import PipeConnection
from .socketmap import MapListener

BACKLOG = 1024
_GRACE = 5  # seconds
_RECIPIENTS_INTERVAL = 5  # seconds
_READY_RETRY = 1  # second
_M_MMAP_THRESHOLD = -3
# Our threads release the GIL at each system call; a request for it every 5 ms by each thread that waits costs more.
_SWITCH_INTERVAL = 0.05  # seconds


@click.command(help="Deliver messages that Postfix hands over, until SIGTERM; see docs/how-to/ways.md.")
@settings_option
@click.version_option(__version__)
def cli(settings_file: str | None) -> None:
    """See the module's header."""
    settings = loaded(settings_file)
    logs.configure(settings.log, "service", settings.state_dir)
    metrics.start(settings.metrics_dir)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _lower_mmap_threshold()
    try:
        asyncio.run(serve(open_app(settings)))
        os._exit(0)  # does not wait for threads that hang past their deadline
    except SocketInUseError as error:
        raise click.ClickException(str(error)) from None


async def serve(app: App) -> None:
    """Listen and deliver until SIGTERM or SIGINT."""
    loop, stop, dispatcher = asyncio.get_running_loop(), asyncio.Event(), Dispatcher(app)
    loop.set_exception_handler(_log_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    opened = systemd.activated_sockets() or _listen(app.settings)
    known = KnownOrganizations(app.records.organizations)
    listeners = _listeners(dispatcher, known)
    servers = [await loop.create_server(listeners[name], sock=sock, backlog=BACKLOG) for name, sock in opened.items()]
    log_start("service", "Service started.", app.settings, sockets=", ".join(sorted(opened)))
    tasks = [
        asyncio.create_task(task) for task in (_notify_watchdog(dispatcher), _keep_recipients(app), known.keep_fresh())
    ]
    await stop.wait()
    for server in servers:
        server.close()
    dispatcher.is_draining = True
    await _notify("STOPPING=1")
    with suppress(TimeoutError):
        async with asyncio.timeout(app.settings.deadline + _GRACE):
            for listener in listeners.values():
                if isinstance(listener, MailListener | MapListener):
                    await listener.finish()
            await dispatcher.drain()
    for task in tasks:
        task.cancel()
    logs.event("service", "Service stopped.", deliveries=dispatcher.health()["deliveries"])


def main() -> None:
    """Run the program."""
    run_cli(cli)


def _listeners(dispatcher: Dispatcher, known: KnownOrganizations) -> dict[str, Callable[[], asyncio.BaseProtocol]]:
    settings = dispatcher.settings
    mail = mail_uids(settings.mail_user)
    relay = settings.relay and settings.relay.removeprefix("unix:")
    return {
        PIPE_SOCKET: partial(PipeConnection, dispatcher, own_uids()),
        LMTP_SOCKET: lmtp_listener(dispatcher, mail),
        SMTP_SOCKET: smtp_listener(dispatcher, mail, relay=relay),
        MAP_SOCKET: MapListener(known, settings.addresses, mail),
    }


def _lower_mmap_threshold() -> None:
    """Have the memory of each large message mapped by itself, so that it is unmapped after the delivery.

    glibc raises its threshold for that to the largest that was ever freed, and then keeps them in each thread's
    arena: 8 mails of 25 MB at a time left three times as much behind (mallopt(3), M_MMAP_THRESHOLD).
    """
    with suppress(ImportError, AttributeError, OSError, MemoryError):  # another libc, or one that is locked down
        import ctypes

        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _log_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that nothing has caught, without its text."""
    error = context.get("exception")
    logs.event(
        "service", "Unexpected error.", logs.ERROR, reason=logs.error_location(error) if error else context["message"]
    )


async def _notify_watchdog(dispatcher: Dispatcher) -> None:
    """Notify systemd that the service is ready, then regularly that its loop runs and a worker is not stuck.

    Without these notifications systemd restarts the service.
    """
    while not await _notify("READY=1"):
        await asyncio.sleep(_READY_RETRY)
    interval = systemd.watchdog_interval()
    while interval:
        if not dispatcher.is_stuck:
            await _notify("WATCHDOG=1")
        await asyncio.sleep(interval)


async def _notify(state: str) -> bool:
    """Notify systemd and return whether it succeeded, in a thread, since a busy systemd does not read it at once."""
    try:
        await asyncio.to_thread(systemd.notify, state)
    except OSError as error:
        logs.event("service", f"systemd could not be notified of {state}.", logs.WARNING, reason=error)
        return False
    return True


async def _keep_recipients(app: App) -> None:
    """Keep the file for --map database up to date, where there is one: without it smtpd does not even greet."""
    while recipients_path(app.settings.database_url):
        try:
            await asyncio.to_thread(keep_recipients, app)
        except DatabaseUnavailable as error:
            logs.event("recipients", "Postfix's recipient file could not be updated.", logs.WARNING, reason=error)
        await asyncio.sleep(_RECIPIENTS_INTERVAL)


def _listen(settings: Settings) -> dict[str, socket.socket]:
    directory = settings.socket_dir
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    return {name: _bind(directory / name, settings.mail_user) for name in SOCKETS}


def _bind(path: Path, mail_user: str) -> socket.socket:
    """Listen at a path, for this user alone or the mail user's group too. Raise SocketInUseError."""
    remove_stale_socket(path)
    server = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        server.bind(os.fspath(path))
    finally:
        os.umask(before)
    if path.name != PIPE_SOCKET:
        with suppress(KeyError, PermissionError):  # not a member of that group: `orderflow-admin check` reports it
            os.chown(path, -1, pwd.getpwnam(mail_user).pw_gid)
        path.chmod(0o660)
    server.listen(BACKLOG)
    return server
