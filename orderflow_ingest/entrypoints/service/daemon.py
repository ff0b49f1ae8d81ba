"""orderflow-service: the warm delivery service.

    orderflow-service [--settings FILE]

It holds open what a delivery needs, and listens on unix sockets in ORDERFLOW_SOCKET_DIR:

    deliver.sock     for orderflow-deliver, see `pipe_protocol`; for this user and root
    lmtp.sock        for Postfix's lmtp(8), see `lmtp_smtp`; for ORDERFLOW_MAIL_USER too
    smtp.sock        for Postfix's smtpd_proxy_filter, the same
    recipients.sock  for Postfix's proxymap(8), which asks at each RCPT TO, see `socketmap`; the same

systemd may open the sockets, so that a client that comes while the service restarts waits for it. Else they
are made here, for this user and the mail user's group; what a killed service left is replaced, one that is
served is not. On SIGTERM and SIGINT nobody new is listened to, who is connected already gets 75 or 421 for what
is new, and what is in hand is finished and answered.
"""

import asyncio
import os
import pwd
import signal
import socket
import stat
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
from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.entrypoints.cli.terminal import loaded, log_start, run_cli, settings_option
from orderflow_ingest.entrypoints.health_client import LMTP_SOCKET, MAP_SOCKET, PIPE_SOCKET, SMTP_SOCKET, SOCKETS
from orderflow_ingest.observability import logs, metrics
from orderflow_ingest.storage.database import DatabaseUnavailable, recipients_path

from . import systemd
from .dispatcher import Dispatcher
from .known_recipients import KnownOrganizations
from .lmtp_smtp import MailListener, lmtp_door, smtp_door
from .peer_credentials import mail_uids, own_uids
from .pipe_protocol import PipeDoor
from .socketmap import MapDoor

BACKLOG = 1024
_GRACE = 5  # seconds
_KEEP = 5  # seconds
_READY_AGAIN = 1  # second
_M_MMAP_THRESHOLD = -3
# Our threads let go of the GIL at each system call; to be asked for it every 5 ms by all who wait costs more.
_SWITCH_INTERVAL = 0.05  # seconds


class SocketInUse(OrderflowError):
    """Another service listens here already."""


@click.command(help="Deliver messages that Postfix hands over, until SIGTERM; see the README on its three ways.")
@settings_option
@click.version_option(__version__)
def cli(settings_file: str | None) -> None:
    """See the module's header."""
    settings = loaded(settings_file)
    logs.configure(settings.log, "service", settings.state_dir)
    metrics.start(settings.metrics_dir)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _give_memory_back()
    try:
        asyncio.run(serve(open_app(settings)))
        os._exit(0)  # else a thread that hangs past its deadline would be waited for
    except SocketInUse as taken:
        raise click.ClickException(str(taken)) from None


async def serve(app: App) -> None:
    """Listen and deliver until a signal says that it is over."""
    loop, over, desk = asyncio.get_running_loop(), asyncio.Event(), Dispatcher(app)
    loop.set_exception_handler(_log_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    opened = systemd.activated_sockets() or _listen(app.settings)
    known = KnownOrganizations(app.records.organizations)
    doors = _doors(desk, known)
    servers = [await loop.create_server(doors[name], sock=one, backlog=BACKLOG) for name, one in opened.items()]
    log_start("service", "Service listens.", app.settings, sockets=", ".join(sorted(opened)))
    tasks = [asyncio.create_task(one) for one in (_watch(desk), _keep_recipients(app), known.keep_fresh())]
    await over.wait()
    for server in servers:
        server.close()
    desk.is_draining = True
    await _notify("STOPPING=1")
    with suppress(TimeoutError):
        async with asyncio.timeout(app.settings.deadline + _GRACE):
            for door in doors.values():
                if isinstance(door, MailListener | MapDoor):
                    await door.finish()
            await desk.drain()
    for task in tasks:
        task.cancel()
    logs.event("service", "Service ended.", deliveries=desk.health()["deliveries"])


def main() -> None:
    """Run the program."""
    run_cli(cli)


def _doors(desk: Dispatcher, known: KnownOrganizations) -> dict[str, Callable[[], asyncio.BaseProtocol]]:
    settings = desk.settings
    mail = mail_uids(settings.mail_user)
    relay = settings.relay and settings.relay.removeprefix("unix:")
    return {
        PIPE_SOCKET: partial(PipeDoor, desk, own_uids()),
        LMTP_SOCKET: lmtp_door(desk, mail),
        SMTP_SOCKET: smtp_door(desk, mail, relay=relay),
        MAP_SOCKET: MapDoor(known, settings.addresses, mail),
    }


def _give_memory_back() -> None:
    """Have the memory of each large message mapped by itself, and unmapped after it.

    glibc raises its threshold for that to the largest that was ever freed, and then keeps them in each thread's
    arena: 8 mails of 25 MB at a time left three times as much behind (mallopt(3), M_MMAP_THRESHOLD).
    """
    with suppress(ImportError, AttributeError, OSError, MemoryError):  # another libc, or one that is locked down
        import ctypes

        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _log_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody has caught, without its text."""
    error = context.get("exception")
    logs.event("service", "Unexpected error.", logs.ERROR, reason=logs.place(error) if error else context["message"])


async def _watch(desk: Dispatcher) -> None:
    """Tell systemd that the service listens, and then, again and again, that the loop runs and a place is left.

    Where it hears no more of that, it starts the service again.
    """
    while not await _notify("READY=1"):
        await asyncio.sleep(_READY_AGAIN)
    interval = systemd.watchdog_interval()
    while interval:
        if not desk.is_stuck:
            await _notify("WATCHDOG=1")
        await asyncio.sleep(interval)


async def _notify(state: str) -> bool:
    """Send systemd a notice and return whether it went; in a thread, since a busy systemd does not read it at once."""
    try:
        await asyncio.to_thread(systemd.notify, state)
    except OSError as error:
        logs.event("service", f"systemd did not take {state}.", logs.WARNING, reason=error)
        return False
    return True


async def _keep_recipients(app: App) -> None:
    """Keep the file for --map database, where there is one: without it smtpd does not even greet."""
    while recipients_path(app.settings.database_url):
        try:
            await asyncio.to_thread(keep_recipients, app)
        except DatabaseUnavailable as error:
            logs.event("recipients", "Postfix's recipient file could not be looked at.", logs.WARNING, reason=error)
        await asyncio.sleep(_KEEP)


def _listen(settings: Settings) -> dict[str, socket.socket]:
    directory = settings.socket_dir
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    return {name: _bound(directory / name, settings.mail_user) for name in SOCKETS}


def _bound(path: Path, mail_user: str) -> socket.socket:
    """Listen at a path, for this user alone or the mail user's group too. Raises SocketTaken."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(os.fspath(path)) == 0:
                raise SocketInUse(f"{path}: another service listens here")
        path.unlink()
    server = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        server.bind(os.fspath(path))
    finally:
        os.umask(before)
    if path.name != PIPE_SOCKET:
        with suppress(KeyError, PermissionError):  # not a member of that group: `orderflow-admin check` tells
            os.chown(path, -1, pwd.getpwnam(mail_user).pw_gid)
        path.chmod(0o660)
    server.listen(BACKLOG)
    return server
