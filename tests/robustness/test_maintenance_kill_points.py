"""reconcile, retention and erasure that are killed at any line end the same when they run again."""

import shutil
from dataclasses import replace

import pytest

from orderflow_ingest.domain.states import Status
from orderflow_ingest.maintenance import erasure, retention
from orderflow_ingest.maintenance.reconcile import comparison, orphans
from orderflow_ingest.storage.database import Filter, Records
from orderflow_ingest.storage.database.tables import held_mail, message_event
from tests.support.crash import kill_at, points
from tests.support.fakes import ListQueue, embedded
from tests.support.lab.process import scratch
from tests.support.mails import order
from tests.support.maintenance import (
    MENDED,
    OLD,
    SENDER,
    count,
    delivered,
    documents,
    erased,
    everything_of,
    found,
    keep,
    objects,
    populated,
    put_orphan,
    spooled,
    work,
)


@pytest.fixture
def app(place):
    return embedded(place, ORDERFLOW_LEASE="30")


MENDS = {
    "orphan": lambda app: put_orphan(app, order(7)),
    "copy": lambda app: (delivered(app, order(7)), put_orphan(app, b"Received: x\n" + order(7))),
    "document": lambda app: app.archive.delete(documents(app, delivered(app, order(7)))[0].object_key),
}


def reopened(app):
    """Open the database again, as another process would."""
    return replace(app, records=Records(app.settings.database_url), queue=ListQueue())


def each_kill(modules, functions, set_up, work, draw=lambda points, _: points):
    """Yield the App after a kill at each line of these functions that the work reaches, each from the beginning.

    With `draw` some of the lines are drawn, see tests/support/drawn.py.
    """
    with scratch() as directory:
        template = embedded(directory)
        set_up(template)
        template.records.database.close()
        kept = directory.with_name(directory.name + ".kept")
        shutil.copytree(directory, kept)
        try:
            reached = {
                (p.function, p.line): p  # the last time it is reached: all but one thing is done
                for p in points(modules, lambda: work(reopened(template)))
                if p.function in functions
            }
            assert {function for function, _ in reached} == functions, "each of these functions is reached"
            for point in draw([*reached.values()], 10):
                shutil.rmtree(directory)
                shutil.copytree(kept, directory)
                kill_at(modules, point, lambda: work(reopened(template)))
                app = reopened(template)
                yield point, app
                app.records.database.close()
        finally:
            shutil.rmtree(kept)


@pytest.mark.parametrize("kind", MENDS)
def test_a_mend_killed_at_any_line_and_run_again_loses_and_doubles_nothing(kind):
    function = {"orphan": "record_orphan", "copy": "remove_copy", "document": "_extract_again"}[kind]
    killed = each_kill((comparison, orphans), {function}, MENDS[kind], lambda app: found(app, MENDED))
    for point, app in killed:
        found(app, MENDED)
        work(app)
        assert found(app) == [], point
        (message,) = app.records.messages.select(Filter(), 10)
        assert message.status is Status.PARSED and len(objects(app)) == 3


def test_a_retention_killed_at_any_line_and_run_again_ends_the_same(draw):
    def set_up(app):
        delivered(app, order(1), at=OLD)
        delivered(app, order(2))

    functions = {"_delete", "run"}
    for point, app in each_kill((retention,), functions, set_up, keep, draw):
        keep(app)
        assert len(objects(app)) == 3, point
        old, new = sorted(app.records.messages.select(Filter(), 10), key=lambda message: message.received_at)
        assert old.erased_at and not new.erased_at
        assert found(app) == [], point
        assert count(app, message_event) == 3 + 4 + 2, "each told once"


@pytest.mark.parametrize("of", [{}, {"sender": SENDER}], ids=["organization", "sender"])
def test_an_erasure_killed_at_any_line_and_run_again_ends_the_same(of, draw):
    functions = {"spool", "_delete", "rows"} if of else {"_delete", "rows", "rest"}
    other = None
    for point, app in each_kill((erasure,), functions, populated, lambda app: erased(app, **of), draw):
        other = other or everything_of(app, 2)
        assert erased(app, **of).is_complete, point
        left = app.records.messages.select(Filter(org_id=1), 9)
        assert [m.envelope_sender for m in left] == (["else@shop.example"] if of else []), point
        assert everything_of(app, 2) == other, point
        kept = {key for m in left for key in (m.raw_key, *(d.object_key for d in documents(app, m)))}
        assert everything_of(app, 1)[1] == kept and count(app, held_mail) == 0, point
        assert spooled(app) == ((6, 6) if of else (4, 4))
        assert found(app) == []
