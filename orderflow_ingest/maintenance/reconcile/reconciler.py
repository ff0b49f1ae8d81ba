"""Reconcile: spool, rows, archive and queue held against each other; each finding told when it is found twice.

One organisation at a time: its rows are read, its objects listed, and both joined. Mail comes and goes meanwhile, so
that each finding is looked at once more before it is told. An object that is younger than `object_age` may be of mail
in flight and is no finding.

What `fix` does is what can be done twice and loses nothing:

    message or document overdue    is rung for once more
    document missing or damaged    its message is extracted again; documents that are handed over stay so
    document rows missing          the same
    raw mail without a row         see `orphans`: becomes a message or held mail, or, if a copy, is deleted
    erased, but there              is deleted
    document without a row         is deleted if `orphan_documents` says so: where rows were lost it may be all there is

All else is told alone: raw mail that is missing or damaged comes back from a backup or not at all.
"""

from collections.abc import Callable, Iterator
from itertools import islice

from orderflow_ingest.app import App
from orderflow_ingest.maintenance.reference_index import ReferenceIndex
from orderflow_ingest.storage.database import Area, Organization

from .comparison import Comparison
from .findings import Finding, Scope, Trouble
from .spool import left_in_spool


def reconcile_organization(
    org: Organization, scope: Scope, app: App, walked: Callable[[int], object] = lambda number: None
) -> Iterator[Finding]:
    """Go through what is wrong with an organisation, and mend it if the scope says so."""
    one = Comparison(org, scope, app)
    with ReferenceIndex() as ledger:
        ledger.read(app.records.holdings, org.id, walked, with_events=True)
        yield from one.odd_rows(ledger)
        for area in Area:
            yield from one.objects(ledger, area)
        yield from one.orphan_documents(ledger)
    yield from one.overdue()


def reconcile_host(slug: str | None, scope: Scope, app: App) -> Iterator[Finding]:
    """Go through what is wrong with this host's spool, of one organisation or all, and with the archive as a whole."""
    yield from left_in_spool(slug, scope.overdue, app)
    if slug is None:
        yield from _of_no_organisation(app)


def _of_no_organisation(app: App) -> Iterator[Finding]:
    """Tell what lies under the id of an organisation that no row knows; one object of each organisation is listed."""
    known = {str(org.id) for org in app.records.organizations.all()}
    after = "org/"
    while found := next(islice(app.archive.iterate("org/", after), 1), None):
        id = found.key.split("/")[1]
        if id not in known:
            says = "no organisation has this id: is this the database that belongs to the archive?"
            yield Finding(Trouble.NO_ORGANISATION, "", f"org/{id}/", says)
        after = f"org/{id}0"  # the character after /, so that the rest of this one is passed over
