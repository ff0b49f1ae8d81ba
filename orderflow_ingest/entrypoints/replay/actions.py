"""Kinds of runs over messages: extraction again, or the hand-over of their documents alone.

Each says what it would do with a message, in the words in which it tells afterwards what it has done.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.pipeline import replay
from orderflow_ingest.storage.database import Document, Filter, InboundMessage, operator_name

REPLAYED, PASSED_OVER = "REPLAYED", "PASSED_OVER"
MOVED = "it has moved meanwhile"


@dataclass(frozen=True)
class Item:
    """A message, those of its documents that are meant, and when they were read, by the database's clock."""

    message: InboundMessage
    documents: list[Document]
    read_at: datetime


@dataclass(frozen=True)
class Ending:
    """What became, or would become, of an item."""

    outcome: str
    says: str


class Kind(Protocol):
    """What a run does with each message."""

    name: str

    def count(self, chosen: Filter, app: App) -> tuple[int, str]:
        """Count the messages that are meant, and say what of them."""

    def items(self, page: list[InboundMessage], chosen: Filter, app: App) -> list[Item]:
        """Give the items of a page of messages."""

    def foresee(self, item: Item) -> Ending:
        """Say what would become of an item."""

    def act(self, item: Item, app: App, run_id: UUID) -> Ending:
        """Put an item through again, once by one run."""


class Extraction:
    """Extraction again: everything is taken out of the raw mail anew, and handed over again."""

    name = "message"

    def count(self, chosen: Filter, app: App) -> tuple[int, str]:
        """Count the messages."""
        count = app.records.messages.count(chosen)
        return count, number(count, "message")

    def items(self, page: list[InboundMessage], chosen: Filter, app: App) -> list[Item]:
        """Give each message with all of its documents."""
        documents, now = app.records.documents.of_messages(page), app.records.database.now()
        return [Item(message, documents[message.id], now) for message in page]

    def foresee(self, item: Item) -> Ending:
        """Say what would become of a message."""
        if why := replay.skip_reason(item.message):
            return Ending(PASSED_OVER, why)
        again = f"; {number(len(item.documents), 'document')} handed over again" if item.documents else ""
        return Ending(REPLAYED, f"RECEIVED, extracted again{again}")

    def act(self, item: Item, app: App, run_id: UUID) -> Ending:
        """Replay a message."""
        foreseen = self.foresee(item)
        if foreseen.outcome == REPLAYED and not replay.replay_message(item.message, app, operator_name(), run_id):
            return Ending(PASSED_OVER, MOVED)
        return foreseen


class HandOver:
    """The hand-over alone: documents as they are in the archive go to the handler again."""

    name = "handover"

    def count(self, chosen: Filter, app: App) -> tuple[int, str]:
        """Count the messages with documents that are meant."""
        documents, messages = app.records.documents.count(chosen)
        return messages, f"{number(documents, 'document')} of {number(messages, 'message')}"

    def items(self, page: list[InboundMessage], chosen: Filter, app: App) -> list[Item]:
        """Give each message with its documents that are meant; one without is none."""
        documents, now = app.records.documents.of_messages(page, chosen), app.records.database.now()
        return [Item(message, documents[message.id], now) for message in page if documents[message.id]]

    def foresee(self, item: Item) -> Ending:
        """Say what would become of a message's documents."""
        hindrances = [(one.part_path, replay.why_not_handed_over(one, item.read_at)) for one in item.documents]
        not_told = "; ".join(f"part {path}: {why}" for path, why in hindrances if why)
        free = [path for path, why in hindrances if not why]
        if not free:
            return Ending(PASSED_OVER, not_told)
        says = f"{number(len(free), 'document')} handed over again: part {', '.join(free)}"
        return Ending(REPLAYED, f"{says}; not {not_told}" if not_told else says)

    def act(self, item: Item, app: App, run_id: UUID) -> Ending:
        """Have a message's documents handed over again."""
        foreseen = self.foresee(item)
        if foreseen.outcome != REPLAYED:
            return foreseen
        done = replay.replay_handover(item.documents, app, operator_name(), run_id)
        if done == sum(not replay.why_not_handed_over(one, item.read_at) for one in item.documents):
            return foreseen
        return Ending(REPLAYED, f"{number(done, 'document')} handed over again") if done else Ending(PASSED_OVER, MOVED)


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Extraction(), HandOver())}


def number(count: int, what: str) -> str:
    """Write so many of something."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
