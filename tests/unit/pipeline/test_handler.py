"""The document handler: what it may raise, what is shown of its errors, and its own log records."""

import json
import logging
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from orderflow_ingest import TryLater
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.states import HandOver
from orderflow_ingest.observability import logs
from orderflow_ingest.pipeline import extract, retry
from orderflow_ingest.pipeline.hand_over import hand_over
from orderflow_ingest.pipeline.handler import HandlerUnavailable, load_handler
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.database.tables import document
from tests.support.fakes import embedded
from tests.support.mails import order
from tests.support.replaying import ACME, NOW

ORDERS = """
import json, logging
from datetime import timedelta
from orderflow_ingest import TryLater
from .prices import look_up

def receive(order):
    logging.getLogger(__name__).info("Order taken.", extra={"article": 4711})

def later(order):
    raise TryLater("the shop is \\x1b[2J closed", after=timedelta(hours=8))

def refuse(order):
    json.loads("{")

def deep(order):
    look_up(order)
"""


class Deployment:
    """A deployment with one message, whose handler is a function of the package shop."""

    def __init__(self, place: Any, function: str, **settings: str) -> None:
        self.app = embedded(place, ORDERFLOW_DOCUMENT_HANDLER=f"shop.orders:{function}", **settings)
        delivered = deliver_from_memory(Envelope(ACME, NOW), order(1), self.app)
        extract.extract(1, delivered.message_id, self.app)
        self.id = self.app.records.documents.of_message(1, delivered.message_id)[0].id

    def attempt(self) -> Any:
        """Take an attempt now, whenever it is due, and return the row after it."""
        with self.app.records.database.write(1) as connection:
            connection.execute(document.update().values(next_attempt_at=NOW))
        hand_over(1, self.id, self.app)
        return self.app.records.documents.get(1, self.id)


@pytest.fixture
def shop(place, monkeypatch) -> Iterator[Any]:
    package = place / "handlers" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "orders.py").write_text(ORDERS)
    (package / "prices.py").write_text("def look_up(order):\n    return {}['secret text']\n")
    monkeypatch.syspath_prepend(str(place / "handlers"))
    made: list[Deployment] = []
    yield lambda function, **settings: made.append(Deployment(place, function, **settings)) or made[-1]
    for one in made:
        one.app.records.database.close()
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        del sys.modules[name]
    logging.getLogger("shop").handlers = []


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        (None, None),
        (90, timedelta(seconds=90)),
        (timedelta(hours=8), timedelta(hours=8)),
        (-5, timedelta(seconds=1)),
        (timedelta(days=400), timedelta(days=30)),
        (float("inf"), timedelta(days=30)),
        (float("nan"), timedelta(seconds=1)),
    ],
)
def test_a_later_time_is_bounded_and_its_reason_is_short_and_printable(after, kept):
    error = TryLater("closed\n\x1b[2J" + "x" * 1000, after=after)
    assert error.after == kept
    assert str(error).isprintable() and str(error).startswith("closed") and len(str(error)) == 500


def test_a_handler_that_asks_for_later_uses_up_no_attempt_and_says_why(shop):
    deployment = shop("later")
    for _ in range(9):
        row = deployment.attempt()
        assert (row.handover, row.attempts, row.worker) == (HandOver.PENDING, 0, None)
        assert row.error_json["error"] == "TryLater" and row.error_json["detail"] == "the shop is  [2J closed"
        wait = row.next_attempt_at - deployment.app.records.database.now()
        assert timedelta(hours=7, minutes=59) < wait <= timedelta(hours=8)


def test_a_failing_document_is_tried_for_the_set_time_each_time_later_and_then_failed(shop):
    deployment = shop("refuse", ORDERFLOW_RETRY_DELAY="60", ORDERFLOW_HANDOVER_RETRY="100000")
    waits = []
    for number in range(1, 8):
        row = deployment.attempt()
        assert (row.handover, row.attempts) == (HandOver.PENDING, number)
        waits.append(round((row.next_attempt_at - deployment.app.records.database.now()).total_seconds() / 60))
    assert waits == [1, 4, 16, 64, 256, 360, 360], "in minutes; six hours at the most"
    began = {**row.error_json, "since": "2026-01-01T00:00:00+00:00"}
    with deployment.app.records.database.write(1) as connection:
        connection.execute(document.update().values(error_json=began))
    row = deployment.attempt()
    assert row.handover is HandOver.FAILED and row.error_json["since"] == began["since"]


def test_attempts_that_are_lost_without_a_word_end_after_three_however_many_were_recorded(shop):
    deployment = shop("refuse", ORDERFLOW_HANDOVER_RETRY="100000")
    for _ in range(6):
        row = deployment.attempt()
    with deployment.app.records.database.write(1) as connection:
        connection.execute(document.update().values(attempts=row.attempts + 3))
    row = deployment.attempt()
    assert (row.handover, row.error_json["error"]) == (HandOver.FAILED, "AttemptLost")


def lose(deployment: Deployment) -> Any:
    """Have an attempt end with its process, and note it as the next start of a worker does."""
    records = deployment.app.records
    with records.database.write(1) as connection:
        connection.execute(document.update().values(next_attempt_at=NOW))
    mark = f"{retry._host()}1/0"
    row = records.documents.claim(1, deployment.id, mark, records.database.now(), timedelta(seconds=60))
    assert row is not None
    lost = attempt_files.LostAttempt(attempt_files.DOCUMENT, 1, deployment.id, row.worker or "", None)
    assert retry._record_loss(lost, deployment.app)
    return records.documents.get(1, deployment.id)


def test_a_lost_worker_counts_as_a_failure_and_three_in_a_row_end_it(shop):
    deployment = shop("refuse", ORDERFLOW_HANDOVER_RETRY="100000")
    for _ in range(6):
        deployment.attempt()
    assert [lose(deployment).handover for _ in range(2)] == [HandOver.PENDING] * 2
    assert deployment.attempt().handover is HandOver.PENDING, "another error between them"
    ends = [lose(deployment) for _ in range(3)]
    assert [row.handover for row in ends] == [HandOver.PENDING, HandOver.PENDING, HandOver.FAILED]
    assert ends[-1].error_json["poison"] == 3


@pytest.mark.parametrize(
    ("function", "where"), [("refuse", "JSONDecodeError at orders.py:14"), ("deep", "KeyError at prices.py:2")]
)
def test_an_error_is_shown_by_the_deepest_line_of_the_handlers_own_package(shop, function, where):
    row = shop(function).attempt()
    assert row.error_json["where"] == where and "secret" not in json.dumps(row.error_json)


@pytest.mark.parametrize("is_wanted", [False, True])
def test_text_and_traceback_are_logged_only_where_a_setting_asks_for_them(shop, capsys, is_wanted):
    logs.configure("stderr", "worker", None)
    try:
        shop("deep", ORDERFLOW_LOG_TRACEBACKS=str(is_wanted).lower()).attempt()
    finally:
        logging.getLogger("orderflow_ingest").handlers = []
    logged = capsys.readouterr().err
    assert ("secret text" in logged and "Traceback" in logged) is is_wanted


def test_a_handlers_own_records_are_logged_as_ours_are(shop, capsys):
    logs.configure("stderr", "worker", None)
    try:
        row = shop("receive").attempt()
    finally:
        logging.getLogger("orderflow_ingest").handlers = []
    assert row.handover is HandOver.DONE

    (record,) = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "Order taken." in line]
    assert (record["level"], record["article"], record["program"]) == ("INFO", 4711, "worker")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shop.nothing:receive", "shop.nothing:receive cannot be loaded: no module is named shop.nothing"),
        ("shop.orders:nothing", "shop.orders:nothing cannot be loaded: shop.orders has no nothing"),
    ],
)
def test_a_handler_that_is_not_there_is_named(shop, target, said):
    with pytest.raises(HandlerUnavailable, match=f"^{said}$"):
        load_handler(target)
