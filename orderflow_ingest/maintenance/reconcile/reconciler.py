"""Reconcile: compare spool, rows, archive and queue. Report a difference only when it is found twice.

One organization at a time: its rows are loaded, its objects listed, and both joined. Mail arrives and leaves meanwhile,
so each finding is checked once more before it is reported. An object younger than `object_age` may belong to mail in
flight, and is no finding.

With `fix` the run repairs what can be repaired twice without loss:

    message or document overdue    is enqueued again
    document missing or damaged    its message is extracted again; documents that were handed over stay so
    document rows missing          the same
    raw mail without a row         see `orphans`: becomes a message or held mail, or, if a copy, is deleted
    erased, but there              is deleted
    document without a row         is deleted if `orphan_documents` says so: where rows were lost it may be all there is

Everything else is only reported. Raw mail that is missing or damaged comes back from a backup or not at all.
"""

from collections.abc import Callable, Iterator
from itertools import islice

from orderflow_ingest.app import App
from orderflow_ingest.maintenance.reference_index import ReferenceIndex
from orderflow_ingest.storage.database import Area, Organization

from .comparison import Comparison
from .findings import Finding, FindingKind, ReconcileOptions
from .spool import spool_findings


def reconcile_organization(
    org: Organization, scope: ReconcileOptions, app: App, on_progress: Callable[[int], object] = lambda number: None
) -> Iterator[Finding]:
    """Yield what is wrong with an organization, and repair it if `scope.fix` is set."""
    one = Comparison(org, scope, app)
    with ReferenceIndex() as index:
        index.load(app.records.holdings, org.id, on_progress, with_events=True)
        yield from one.impossible_rows(index)
        for area in Area:
            yield from one.objects(index, area)
        yield from one.orphan_documents(index)
    yield from one.overdue()


def reconcile_host(slug: str | None, scope: ReconcileOptions, app: App) -> Iterator[Finding]:
    """Yield what is wrong with this host's spool, for one organization or all, and with the archive as a whole."""
    yield from spool_findings(slug, scope.overdue, app)
    if slug is None:
        yield from _of_no_organization(app)


def _of_no_organization(app: App) -> Iterator[Finding]:
    """Yield ids in the archive that no organization has. One object of each is listed."""
    known = {str(org.id) for org in app.records.organizations.all()}
    after = "org/"
    while found := next(islice(app.archive.iterate("org/", after), 1), None):
        id = found.key.split("/")[1]
        if id not in known:
            says = "no organization has this id: is this the database that belongs to the archive?"
            yield Finding(FindingKind.NO_ORGANIZATION, "", f"org/{id}/", says)
        after = f"org/{id}0"  # the character after /, so that the rest of this one is skipped
