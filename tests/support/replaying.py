"""Runs of a replay."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import HoldReason
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.database import HeldMail, NewMessage, Records
from orderflow_ingest.storage.database.rows import column_values
from orderflow_ingest.storage.database.tables import held_mail, inbound_message

from .lab.process import DOMAIN
from .mails import mail

ACME = f"orders+acme@{DOMAIN}"
NOW = datetime(2026, 11, 20, 8, 30, 15, tzinfo=UTC)


def fill(records: Records, count: int) -> None:
    """Insert messages that have FAILED, quickly."""
    values = [
        {
            **column_values(
                NewMessage(
                    org_id=1, id=uuid4(), source="EMAIL", source_message_id=f"<{number}@x>", queue_id="",
                    message_id_is_synthetic=False, envelope_sender="a@b.example", envelope_recipient=ACME,
                    client_address="",
                    from_email="a@b.example", subject=f"Order {number}", sent_at=None, size=1, traits=[],
                    received_at=NOW + timedelta(seconds=number // 3), raw_key="org/1/raw/0.eml",
                    digest="d" * 64, fingerprint="f" * 64,
                )
            ),
            "status": "FAILED",
            "next_attempt_at": NOW,
            "attempts": 4,
            "error_json": {"error": "KeyError"},
        }
        for number in range(count)
    ]  # fmt: skip
    with records.database.write(1) as connection:
        connection.execute(inbound_message.insert(), values)


def held(app: App, reason: HoldReason, *bodies: bytes) -> HeldMail:
    """Deliver mails of one Message-ID, and hold the last one for a reason."""
    envelope = Envelope(recipient=ACME, sender="a@b.example", received_at=NOW)
    ended = [deliver_from_memory(envelope, mail(1, body), app) for body in bodies]
    (held_row,) = app.records.held_mail.open()
    assert ended[-1].outcome is Outcome.HELD
    return held_row if reason is HoldReason.MESSAGE_ID_REUSED else alone(app, held_row)


def alone(app: App, held_row: HeldMail) -> HeldMail:
    """Make it one that is held for its sender."""
    with app.records.database.write(1) as connection:
        connection.execute(held_mail.update().values(reason="SENDER", inbound_message_id=None))
    (found,) = app.records.held_mail.open()
    return found
