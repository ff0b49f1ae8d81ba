"""Receive: take a message in, deliver it, and make every end an outcome.

deliver_from_memory()  a message that its sender still has, so that it can come again
deliver_spooled()      a spool entry; Postfix waits for the answer, or the drain has taken it up
drain()                every entry that was left in the spool, the oldest first

deliver() says how a delivery ends. This module decides where the message stays then:

    outcome           from memory, or spooled with Postfix waiting   spooled, by the drain
    accepted          entry removed                                  removed
    bounces           removed                                        dead letter: nobody is left to tell
    backend, deadline removed: the sender's; accept: SPOOLED         kept for the next drain
    other temporary   removed: the sender's                          kept for the next drain
    INTERNAL, 3rd     dead letter: DEAD_LETTER                       dead letter: DEAD_LETTER

Each delivery is logged in one record, and counted.
"""

import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime

from orderflow_ingest.app import App
from orderflow_ingest.domain.addresses import ForeignDomainError
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.org_settings import OrgSettingsError
from orderflow_ingest.domain.outcomes import DeadlineReached, Outcome
from orderflow_ingest.observability import metrics
from orderflow_ingest.observability.logs import error_location, event
from orderflow_ingest.parsing.mime.words import storable
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import DatabaseUnavailable
from orderflow_ingest.storage.envelope_header import decode_envelope, encode_envelope
from orderflow_ingest.storage.spool import Entry, SpoolWriteError

from .deliver import Delivery, deliver

DEAD_LETTER_AFTER = 3
_OUTAGES = (Outcome.BACKEND_DOWN, Outcome.DEADLINE)


def deliver_from_memory(envelope: Envelope, raw: bytes, app: App) -> Delivery:
    """Deliver a message that its sender still has, and make every end an outcome.

    Nothing of it has to outlive a crash before its row does. So it goes into the spool only where it stays with us:
    in accept mode, or as a dead letter.
    """
    began, key = time.monotonic(), _content_key(encode_envelope(envelope), raw)
    delivery, why = _attempt(envelope, raw, app, key, "")
    outcome, entry = delivery.outcome, None
    keeps = app.settings.spool_accepts and outcome in _OUTAGES
    try:
        if outcome is Outcome.DEAD_LETTER or keeps:
            entry = app.spool.write(encode_envelope(envelope), io.BytesIO(raw).read, len(raw))
            delivery = _apply_spool_policy(entry, delivery, key, app, sender_waits=True)
        elif outcome.is_accepted:
            app.spool.forget_failures(key)
    except (SpoolWriteError, OSError) as error:
        event("spool", "Message was not spooled.", logging.ERROR, outcome=outcome.name, reason=error)
        delivery = Delivery(Outcome.INTERNAL if outcome is Outcome.DEAD_LETTER else outcome, delivery.org)
    _log_and_count(delivery, envelope, app, len(raw), entry.name if entry else "", why, began)
    return delivery


def deliver_spooled(
    entry: Entry,
    app: App,
    within: AbstractContextManager[object] | None = None,
    *,
    sender_waits: bool = True,
) -> Delivery:
    """Deliver a spool entry, make every end an outcome, and keep the entry, remove it or make it a dead letter.

    `within` bounds the time: it raises DeadlineReached inside deliver().
    """
    began, envelope, raw, key = time.monotonic(), None, b"", entry.name
    try:
        header, raw = entry.read()
        key = _content_key(header, raw)
        envelope = decode_envelope(header)
    except (Exception, SystemExit) as error:
        why = error_location(error)
        delivery = _count_failure(entry.name, key, why, app)
    else:
        delivery, why = _attempt(envelope, raw, app, key, entry.name, within)
    delivery = _apply_spool_policy(entry, delivery, key, app, sender_waits=sender_waits)
    _log_and_count(delivery, envelope, app, len(raw), entry.name, why, began)
    return delivery


def _attempt(
    envelope: Envelope,
    raw: bytes,
    app: App,
    key: str,
    entry: str,
    within: AbstractContextManager[object] | None = None,
) -> tuple[Delivery, str]:
    """Deliver, and return every end as an outcome, with the reason where the outcome does not say it."""
    try:
        with within or nullcontext():
            return deliver(envelope, raw, app), ""
    except DeadlineReached:
        return Delivery(Outcome.DEADLINE), ""
    except (DatabaseUnavailable, ArchiveUnavailable) as error:
        return Delivery(Outcome.BACKEND_DOWN), str(error)
    except (ForeignDomainError, OrgSettingsError) as error:
        return Delivery(Outcome.MISCONFIGURED), str(error)
    except ImportError as error:  # a broken deploy says nothing of this content
        return Delivery(Outcome.INTERNAL), error_location(error)
    except (Exception, SystemExit) as error:
        why = error_location(error)
        return _count_failure(entry, key, why, app), why


def _content_key(header: bytes, raw: bytes) -> str:
    """Return the key of a content for one recipient, under which its failures are counted."""
    return hashlib.sha256(header.partition(b"\n")[0] + hashlib.sha256(raw).digest()).hexdigest()


def drain(
    app: App, within: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[tuple[str, Delivery]]:
    """Deliver what was left in the spool, the oldest first. Stop at a backend that is away or hangs.

    An entry that another process works on is skipped. Old files that no delivery will ever finish are deleted from
    spool and archive first.
    """
    app.spool.clean()
    app.archive.clean()
    for name in app.spool.entries():
        entry = app.spool.claim(name)
        if entry is None:
            continue
        delivery = deliver_spooled(entry, app, within(), sender_waits=False)
        yield name, delivery
        if delivery.outcome in _OUTAGES:
            return


def _count_failure(entry: str, key: str, why: str, app: App) -> Delivery:
    """Count a failure of this content: after the last one it is a dead letter."""
    try:
        count = app.spool.record_failure(key, f"{_timestamp()} INTERNAL {why}")
    except OSError as error:
        event("spool", "Failure could not be recorded.", logging.ERROR, entry=entry, reason=error)
        return Delivery(Outcome.INTERNAL)
    return Delivery(Outcome.DEAD_LETTER if count >= DEAD_LETTER_AFTER else Outcome.INTERNAL)


def _apply_spool_policy(entry: Entry, delivery: Delivery, key: str, app: App, *, sender_waits: bool) -> Delivery:
    """Keep an entry, remove it, or make it a dead letter, as the table in this module's header says."""
    outcome, spool = delivery.outcome, app.spool
    try:
        if outcome is Outcome.DEAD_LETTER or not (sender_waits or outcome.is_accepted or outcome.is_temporary):
            spool.move_to_dead(entry, key, f"{_timestamp()} {outcome.name}")
        elif outcome.is_accepted:
            spool.finish(entry)
            spool.forget_failures(key)
        elif not sender_waits:
            entry.release()
        elif app.settings.spool_accepts and outcome in _OUTAGES:
            entry.release()
            return Delivery(Outcome.SPOOLED, delivery.org)
        else:
            spool.finish(entry)
    except OSError as error:
        event("spool", "Spool entry could not be moved.", logging.ERROR, entry=entry.name, reason=error)
        entry.release()
        return delivery if outcome is not Outcome.DEAD_LETTER else Delivery(Outcome.INTERNAL, delivery.org)
    return delivery


def _log_and_count(
    delivery: Delivery, envelope: Envelope | None, app: App, size: int, entry: str, why: str, began: float
) -> None:
    """Log a delivery in one record, since logging is part of what a message costs, and count it."""
    outcome = delivery.outcome
    level = logging.INFO if outcome.is_accepted and outcome is not Outcome.DEAD_LETTER else logging.WARNING
    if outcome in (Outcome.INTERNAL, Outcome.DEAD_LETTER):
        level = logging.ERROR
    event(
        "deliver",
        "Delivery ended.",
        level,
        outcome=outcome.name,
        org=delivery.org,
        org_id=delivery.org_id,
        message_id=delivery.message_id,
        source_message_id=delivery.source_message_id,
        queue_id=envelope and envelope.queue_id,
        extension=envelope and _extension(envelope.recipient, app),
        size=size,
        entry=entry,
        reason=why or delivery.reason,
    )
    metrics.count(metrics.DELIVERIES, delivery.org or "", outcome.name)
    metrics.observe(metrics.DELIVERY_SECONDS, time.monotonic() - began)
    metrics.observe(metrics.MESSAGE_BYTES, size)


def _extension(recipient: str, app: App) -> str:
    return storable(app.settings.addresses.divide(recipient.rpartition("@")[0])[1])[:80]


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
