"""What a run does with each message: extract it again, or hand its documents over again.

An action previews an item and performs it, and describes both in the same words. So `--dry-run` prints what a real run
would print. Performing an item twice by one run does no harm: the event of the run that `pipeline.replay` writes makes
the second time do nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.pipeline import replay
from orderflow_ingest.storage.database import Document, Filter, InboundMessage, operator_name

REPLAYED, SKIPPED = "REPLAYED", "PASSED_OVER"
CHANGED_MEANWHILE = "it has moved meanwhile"


@dataclass(frozen=True)
class ReplayItem:
    """A message, its selected documents, and when they were read, by the database's clock."""

    message: InboundMessage
    documents: list[Document]
    read_at: datetime


@dataclass(frozen=True)
class ActionResult:
    """The outcome of an item, or its preview."""

    outcome: str
    detail: str


class Action(Protocol):
    """What a run does with each message."""

    name: str

    def count(self, chosen: Filter, app: App) -> tuple[int, str]:
        """Return how many messages are selected, and a text that says so."""

    def items(self, page: list[InboundMessage], chosen: Filter, app: App) -> list[ReplayItem]:
        """Return the items of a page of messages."""

    def preview(self, item: ReplayItem) -> ActionResult:
        """Return what performing an item would do."""

    def perform(self, item: ReplayItem, app: App, run_id: UUID) -> ActionResult:
        """Perform the action on an item. Idempotent within a run."""


class ExtractAction:
    """Extract a message again from its raw mail, and hand over its documents."""

    name = "message"

    def count(self, chosen: Filter, app: App) -> tuple[int, str]:
        """Return how many messages are selected, and a text that says so."""
        count = app.records.messages.count(chosen)
        return count, count_text(count, "message")

    def items(self, page: list[InboundMessage], chosen: Filter, app: App) -> list[ReplayItem]:
        """Return each message with all of its documents."""
        documents, now = app.records.documents.of_messages(page), app.records.database.now()
        return [ReplayItem(message, documents[message.id], now) for message in page]

    def preview(self, item: ReplayItem) -> ActionResult:
        """Return what a replay of a message would do."""
        if why := replay.skip_reason(item.message):
            return ActionResult(SKIPPED, why)
        again = f"; {count_text(len(item.documents), 'document')} handed over again" if item.documents else ""
        return ActionResult(REPLAYED, f"RECEIVED, extracted again{again}")

    def perform(self, item: ReplayItem, app: App, run_id: UUID) -> ActionResult:
        """Replay a message."""
        preview = self.preview(item)
        if preview.outcome == REPLAYED and not replay.replay_message(item.message, app, operator_name(), run_id):
            return ActionResult(SKIPPED, CHANGED_MEANWHILE)
        return preview


class HandOverAction:
    """Hand documents over again as they are in the archive."""

    name = "handover"

    def count(self, chosen: Filter, app: App) -> tuple[int, str]:
        """Return how many messages have selected documents, and a text that says so."""
        documents, messages = app.records.documents.count(chosen)
        return messages, f"{count_text(documents, 'document')} of {count_text(messages, 'message')}"

    def items(self, page: list[InboundMessage], chosen: Filter, app: App) -> list[ReplayItem]:
        """Return each message that has selected documents, with these."""
        documents, now = app.records.documents.of_messages(page, chosen), app.records.database.now()
        return [ReplayItem(message, documents[message.id], now) for message in page if documents[message.id]]

    def preview(self, item: ReplayItem) -> ActionResult:
        """Return what a new hand-over of a message's documents would do."""
        reasons = [(one.part_path, replay.why_not_handed_over(one, item.read_at)) for one in item.documents]
        skipped = "; ".join(f"part {path}: {why}" for path, why in reasons if why)
        free = [path for path, why in reasons if not why]
        if not free:
            return ActionResult(SKIPPED, skipped)
        detail = f"{count_text(len(free), 'document')} handed over again: part {', '.join(free)}"
        return ActionResult(REPLAYED, f"{detail}; not {skipped}" if skipped else detail)

    def perform(self, item: ReplayItem, app: App, run_id: UUID) -> ActionResult:
        """Enqueue a new hand-over of a message's documents."""
        preview = self.preview(item)
        if preview.outcome != REPLAYED:
            return preview
        done = replay.replay_handover(item.documents, app, operator_name(), run_id)
        if done == sum(not replay.why_not_handed_over(one, item.read_at) for one in item.documents):
            return preview
        return (
            ActionResult(REPLAYED, f"{count_text(done, 'document')} handed over again")
            if done
            else ActionResult(SKIPPED, CHANGED_MEANWHILE)
        )


ACTIONS: dict[str, Action] = {kind.name: kind for kind in (ExtractAction(), HandOverAction())}


def count_text(count: int, what: str) -> str:
    """Return a number and a noun, in the plural where the number is not 1."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
