"""Probes: mail that check waits for is handed back and goes no further; all other mail is delivered."""

import os
import stat
from datetime import UTC, datetime

import pytest

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.pipeline.deliver import BY_SMTP, Origin, deliver
from orderflow_ingest.storage.database import Filter
from orderflow_ingest.storage.probe_mail import is_probe, waiting
from tests.support.fakes import embedded
from tests.support.mails import mail

ACME = "orders+acme@orderflow.example.com"


@pytest.fixture
def app(place) -> App:
    return embedded(place)


def hand(app: App, raw: bytes, way: Origin = BY_SMTP) -> Outcome:
    return deliver(Envelope(recipient=ACME, received_at=datetime.now(UTC)), raw, app, way).outcome


def delivered(app: App) -> int:
    assert len(app.archive.objects()) == len(app.records.messages.select(Filter(), 100))
    return len(app.archive.objects())


def test_a_probe_is_handed_back_as_it_came_and_nothing_of_it_is_kept(app):
    with waiting(app.settings.probes_dir) as probes:
        message_id = probes.expect("orders.example")
        assert probes.header(message_id) is None
        raw = mail(Message_ID=message_id)
        assert hand(app, raw) is Outcome.DELIVERED
        assert probes.header(message_id) == raw.partition(b"\n\n")[0] + b"\n\n"
        assert hand(app, raw) is Outcome.DELIVERED, "sent again"
    assert delivered(app) == 0 and app.queue.extractions == []
    assert not app.settings.probes_dir.exists()


def test_of_a_longer_header_that_came_before_nothing_is_left(app):
    """A relay may send a probe twice, each time with other fields above it."""
    with waiting(app.settings.probes_dir) as probes:
        message_id = probes.expect("orders.example")
        assert hand(app, mail(Message_ID=message_id, X_Long="y" * 5000, X_Forged="dmarc=pass")) is Outcome.DELIVERED
        raw = mail(Message_ID=message_id)
        assert hand(app, raw) is Outcome.DELIVERED
        assert probes.header(message_id) == raw.partition(b"\n\n")[0] + b"\n\n"
    assert delivered(app) == 0


def test_a_probe_that_comes_late_is_mail(app):
    with waiting(app.settings.probes_dir) as probes:
        message_id = probes.expect("orders.example")
    assert hand(app, mail(Message_ID=message_id)) is Outcome.DELIVERED
    assert delivered(app) == 1


@pytest.mark.parametrize(
    "message_id",
    [
        "<orderflow-probe-{}@orders.example>",
        "<orderflow-probe-../probes/{}@orders.example>",
        "<orderflow-probe-{}/../link@orders.example>",
        "<orderflow-probe-link@orders.example>",
        "<orderflow-probe-@orders.example>",
        "<orderflow-probe-.@orders.example>",
        "<orderflow-probe-{}0@orders.example>",
        "<orderflow-probe-\u0661{}@orders.example>",
    ],
)
def test_who_knows_no_name_that_is_waited_for_makes_no_probe(app, place, message_id):
    kept = place / "kept"
    kept.write_text("what no mail may write to")
    with waiting(app.settings.probes_dir) as probes:
        probes.expect("orders.example")
        (app.settings.probes_dir / "link").symlink_to(kept)
        (app.settings.probes_dir / ("0" * 32)).symlink_to(kept)
        raw = mail(Message_ID="ID").replace(b"ID", message_id.format("0" * 32).encode(), 1)
        assert hand(app, raw) is Outcome.DELIVERED
        for link in ("link", "0" * 32):
            (app.settings.probes_dir / link).unlink()
    assert kept.read_text() == "what no mail may write to" and delivered(app) == 1


def test_a_name_that_was_left_ten_minutes_ago_is_waited_for_no_longer(app):
    directory = app.settings.probes_dir
    directory.mkdir()
    (directory / ("1" * 32)).touch()
    message_id, now = f"<orderflow-probe-{'1' * 32}@orders.example>", (directory / ("1" * 32)).stat().st_mtime
    assert not is_probe(message_id, mail(), directory, now + 601)
    assert is_probe(message_id, mail(), directory, now + 599)


def test_what_a_check_that_was_killed_has_left_is_taken_away_by_the_next(app):
    directory = app.settings.probes_dir
    directory.mkdir()
    for name, age in (("2" * 32, 601), ("3" * 32, 1)):
        (directory / name).touch()
        past = (directory / name).stat().st_mtime - age
        os.utime(directory / name, (past, past))
    with waiting(directory):
        assert [path.name for path in directory.iterdir()] == ["3" * 32], "another check may wait for it"


def test_a_probe_that_is_imported_is_mail(app):
    with waiting(app.settings.probes_dir) as probes:
        raw = mail(Message_ID=probes.expect("orders.example"))
        assert hand(app, raw, Origin(importer="operator")) is Outcome.DELIVERED
    assert delivered(app) == 1


def test_a_header_of_any_size_is_handed_back_bounded_and_with_one_kind_of_line_end(app):
    with waiting(app.settings.probes_dir) as probes:
        message_id = probes.expect("orders.example")
        raw = mail(Message_ID=message_id, X_Long="y" * 100_000).replace(b"\n", b"\r\n")
        assert hand(app, raw) is Outcome.DELIVERED
        header = probes.header(message_id)
        assert header is not None and len(header) <= 1 << 16 and b"\r" not in header
        assert stat.S_IMODE(app.settings.probes_dir.stat().st_mode) == 0o700


def test_a_probe_that_cannot_be_handed_back_is_mail(app):
    with waiting(app.settings.probes_dir) as probes:
        message_id = probes.expect("orders.example")
        (file,) = app.settings.probes_dir.iterdir()
        file.unlink()
        file.mkdir()
        assert hand(app, mail(Message_ID=message_id)) is Outcome.DELIVERED
        file.rmdir()
    assert delivered(app) == 1
