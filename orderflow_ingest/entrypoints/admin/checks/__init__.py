"""What `orderflow-admin check` looks at: every part is really used, and each finding says what to change.

Each part is a generator of findings in a module of its own. Docs/reference/check.md lists what they find. What mail
goes through is looked at as the user that delivers, since root would find everything in order.
"""

import os
from collections.abc import Callable, Iterator

from orderflow_ingest.app import App, open_app
from orderflow_ingest.config import HANDLER_PREFIX, Settings, SettingsError, doubtful_lines, read_file, sets_nothing
from orderflow_ingest.domain.errors import BackendUnavailable
from orderflow_ingest.entrypoints.cli.run_as import as_owner
from orderflow_ingest.observability.logs import error_location
from orderflow_ingest.pipeline.handler import HandlerUnavailable, load_handler
from orderflow_ingest.storage.database import DatabaseUnavailable, recipients_path
from orderflow_ingest.storage.queue import QueueUnavailable
from orderflow_ingest.storage.resilience.circuit_breaker import unavailable_organizations

from .database import check_database, check_schema
from .findings import CheckResult, Finding, Level, run_init
from .forgery import check_forgeries
from .openness import check_openness
from .postconf import Postconf
from .postfix import check_postfix, open_postfix
from .postfix_daemon import check_daemon
from .postfix_ways import way_of
from .s3 import check_archive
from .service import check_service
from .snapshots import check_snapshots
from .spool import check_spool, user
from .worker import check_worker


def check_all(settings: Settings, postfix_config: str | None, *, with_postfix: bool = True) -> Iterator[Finding]:
    """Look at every part. One that fails does not hide the next."""
    _take_handler_keys(settings)
    app = _opened(settings)
    postfix = open_postfix(postfix_config) if with_postfix else None
    way = way_of(postfix) if isinstance(postfix, Postconf) else None
    if isinstance(app, Finding):
        yield app
    else:
        with as_owner(settings.spool_dir):
            for part, check_part in _PARTS:
                yield from _findings(part, check_part(app))
    yield from _findings("service", check_service(settings, way))
    if isinstance(postfix, Postconf):
        if isinstance(app, App):
            yield from _findings("postfix", check_postfix(app, postfix))
        yield from _findings("mail", check_daemon(postfix))
        if isinstance(app, App):
            yield from _findings("forged mail", check_forgeries(app, postfix))
    elif postfix:
        yield from _findings("postfix", iter((postfix,)))


def _take_handler_keys(settings: Settings) -> None:
    """Put the handler's keys of worker.env into the environment, as the worker's unit does over the settings file.

    The handler may read them when it is imported, which `check` tries.
    """
    if settings.file is None:
        return
    try:
        found = read_file(str(settings.file.parent / "worker.env"))
    except SettingsError:  # it is not there, or root's alone
        return
    os.environ.update({name: value for name, value in found.items() if name.startswith(HANDLER_PREFIX)})


def _opened(settings: Settings) -> App | Finding:
    """Open the parts. What cannot even be opened is a finding."""
    try:
        return open_app(settings, guarded=False)
    except BackendUnavailable as error:
        return Finding(error.backend, Level.TROUBLE, str(error))


def _findings(part: str, results: Iterator[CheckResult]) -> Iterator[Finding]:
    try:
        for level, text in results:
            yield Finding(part, Level[level], text)
    except Exception as error:
        yield Finding(part, Level.TROUBLE, f"could not be checked: {error_location(error)}")


def _settings(app: App) -> Iterator[CheckResult]:
    file = app.settings.file
    if file is None:
        yield "OK", app.settings.source
        return
    try:
        for text in doubtful_lines(str(file)):
            yield "WARNING", f"{file}, {text}"
        if sets_nothing(str(file)):
            yield "WARNING", f"{file} sets no key of these programs, so the defaults are in force"
    except SettingsError as error:
        yield (
            "TROUBLE",
            f"{error}; {user()}, who delivers, must read it: chgrp it to that user's group, chmod 640 {file}",
        )
        return
    if file.stat().st_mode & 0o007 and file.is_file():
        yield "TROUBLE", f"{file} can hold passwords and is open to every user: chmod 640 {file}"
    else:
        yield "OK", str(file)


def _breaker(app: App) -> Iterator[CheckResult]:
    """Look whether deliveries of this host know a backend to be away, and could tell each other."""
    directory = app.settings.circuits_dir
    if not app.settings.state_dir.is_dir():
        yield "TROUBLE", f"{app.settings.state_dir} is not there: {run_init(app.settings)}"
        return
    if not os.access(directory if directory.exists() else directory.parent, os.W_OK, effective_ids=True):
        yield "TROUBLE", f"{directory} cannot be written by {user()}, who delivers: chown it"
        return
    away = [name for name in ("archive", "database") if (directory / name).exists()]
    of_some = {
        name: unavailable_organizations(directory / name) for name in ("archive", "database") if name not in away
    }
    if away:
        yield "TROUBLE", f"{' and '.join(away)}: deliveries here have found it away, and are deferred while it is"
    for name, number in of_some.items():
        if number:
            yield (
                "TROUBLE",
                f"{name}: deliveries here have found it away for {number} organizations, and defer their mail",
            )
    if not away and not any(of_some.values()):
        yield "OK", "no backend is known to be unavailable"


def _queue(app: App) -> Iterator[CheckResult]:
    try:
        depth, is_heard, held = app.queue.depth(), app.queue.notify_works(), [*check_snapshots(app)]
    except QueueUnavailable as error:
        yield "TROUBLE", str(error)
        return
    if not is_heard:
        yield (
            "WARNING",
            "NOTIFY is not heard by who LISTENs, so each task waits for the worker's next look: a transaction pooler? "
            "set QUEUE_URL to the server itself",
        )
    yield from held
    yield "OK", f"answers, {depth} tasks waiting"


def _organizations(app: App) -> Iterator[CheckResult]:
    organizations = app.records.organizations
    try:
        known = organizations.all()
    except DatabaseUnavailable as error:
        yield "TROUBLE", f"they cannot be read: {error}"
        return
    published = recipients_path(app.settings.database_url)
    active = {org.slug for org in known if org.is_active}
    if not known:
        yield (
            "TROUBLE",
            f"database {app.records.database.name} has none, so all mail waits: if it is the one that was meant, run "
            "orderflow-admin org add SLUG",
        )
    elif not active:
        yield "TROUBLE", "none is active, so no mail is accepted: run orderflow-admin org add SLUG"
    elif published and organizations.published(published) != active:
        yield "TROUBLE", f"{published}, which Postfix reads, differs from the table: run orderflow-admin init"
    else:
        yield "OK", f"{len(active)} active"


def _handler(app: App) -> Iterator[CheckResult]:
    target = app.settings.document_handler
    try:
        load_handler(target)
    except HandlerUnavailable as error:
        yield "TROUBLE", f"ORDERFLOW_DOCUMENT_HANDLER {error}; documents wait until it can be used"
        return
    yield "OK", target


_PARTS: list[tuple[str, Callable[[App], Iterator[CheckResult]]]] = [
    ("settings", _settings),
    ("spool", check_spool),
    ("breaker", _breaker),
    ("archive", check_archive),
    ("database", check_database),
    ("schema", check_schema),
    ("queue", _queue),
    ("organizations", _organizations),
    ("document handler", _handler),
    ("worker", check_worker),
    ("openness", check_openness),
]
