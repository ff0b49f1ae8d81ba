"""A delivery without Postfix."""

from contextlib import AbstractContextManager
from datetime import UTC, datetime

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.pipeline.deliver import Delivery
from orderflow_ingest.pipeline.receive import deliver_spooled
from orderflow_ingest.storage.envelope_header import encode_envelope

ACME = "orders+acme@orderflow.example.com"


def post(
    app: App,
    raw: bytes,
    recipient: str = ACME,
    sender_waits: bool = True,
    within: AbstractContextManager[object] | None = None,
) -> Delivery:
    """Spool a message and settle it."""
    blocks = iter((raw, b""))
    envelope = Envelope(recipient=recipient, received_at=datetime.now(UTC), sender="buyer@shop.example", queue_id="Q1")
    entry = app.spool.write(encode_envelope(envelope), lambda _: next(blocks), limit=1 << 30)
    return deliver_spooled(entry, app, within=within, sender_waits=sender_waits)
