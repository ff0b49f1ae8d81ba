"""Which messages an operator means: a Filter, and what it is in SQL, so that an index finds them.

Words are found at their beginning, letter case aside: `acme 47` finds "Order 4711" from orders@acme.example. A word
is a run of letters and digits; a mail must have all of them, in its sender's addresses and subject, or, for
`document_words`, in one document's file name. PostgreSQL has an index of them; SQLite reads the rows, and finds words
in their middle too.

A sender is a whole address, or a domain written @domain. Statuses are chosen in the words of the partial indexes, as
far as those reach.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from ..status import UNFINISHED, Status
from .tables import (
    DOCUMENT_TEXT,
    DOCUMENT_WORDS,
    FAILED,
    FAILED_HANDOVER,
    MESSAGE_TEXT,
    MESSAGE_WORDS,
    PENDING,
    SOURCES,
    document,
    inbound_message,
    of_any,
    owned,
)
from .tables import UNFINISHED as UNFINISHED_ROWS

_WORD = re.compile(r"[^\W_]+")
# In the words of the partial indexes, which are as small as what is not done.
_UNSEEN = sa.or_(sa.text(PENDING), sa.text(FAILED_HANDOVER))


@dataclass(frozen=True)
class Filter:
    """Which messages an operator means; an empty field leaves the choice open.

    `error` is the class that error_json names, of the message or of one of its documents; `document_type` a document's
    content type, all of a kind as `image/*`; `unseen`: the handler has not taken all of its documents. What is said of
    documents is met by one and the same document of the message.
    """

    org_id: int | None = None
    ids: tuple[UUID, ...] = ()
    statuses: tuple[Status, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    source: str | None = None
    message_id: str | None = None
    sender: str | None = None
    words: str | None = None
    document_words: str | None = None
    document_type: str | None = None
    error: str | None = None
    unseen: bool = False
    document_ids: tuple[UUID, ...] = ()

    @property
    def is_of_most(self) -> bool:
        """Tell whether nearly every message may be chosen, of some time, so that the first by time are soon found.

        Of words the database knows how frequent they are, and takes their own index for those that are not.
        """
        narrow = (self.org_id, self.ids, self.message_id, self.error)
        of_documents = (self.document_words, self.document_ids, self.unseen)
        return not any((*narrow, *of_documents)) and (not self.statuses or Status.PARSED in self.statuses)


@dataclass(frozen=True)
class Place:
    """A message's place among all, the newest first: up to where an operator's run has come."""

    received_at: datetime
    id: UUID


def condition(chosen: Filter, is_sqlite: bool) -> sa.ColumnElement[bool]:
    """Give what a message must be to be one of those that are meant."""
    t = inbound_message.c
    conditions: list[sa.ColumnElement[bool]] = [owned(inbound_message, chosen.org_id)]
    if chosen.ids:
        conditions.append(t.id.in_(chosen.ids))
    if chosen.message_id:
        conditions += [t.source_message_id == chosen.message_id, t.source.in_(SOURCES)]
    if chosen.org_id is None and (chosen.ids or chosen.message_id):
        conditions.append(of_any(inbound_message))
    if chosen.statuses:
        conditions.append(_of_statuses(chosen.statuses))
    if chosen.since:
        conditions.append(t.received_at >= chosen.since)
    if chosen.until:
        conditions.append(t.received_at < chosen.until)
    if chosen.source:
        conditions.append(t.source == chosen.source)
    if chosen.sender:
        whole = _has_words(MESSAGE_TEXT, MESSAGE_WORDS, chosen.sender, is_sqlite, are_whole=True)
        conditions += [whole, _is_from(chosen.sender)]
    if chosen.words:
        conditions.append(_has_words(MESSAGE_TEXT, MESSAGE_WORDS, chosen.words, is_sqlite))
    return sa.and_(*conditions, *_of_documents(chosen, is_sqlite))


def stands_at(statuses: Iterable[Status]) -> sa.ColumnElement[bool]:
    """Check the status of a message that is named by its key.

    Not in the words of the partial indexes: PostgreSQL, whose statistics may be of a quiet hour, takes what is
    unfinished for next to nothing, and would read the whole backlog for each message in it instead of the key.
    """
    return inbound_message.c.status.concat("").in_([status.value for status in statuses])


def _of_statuses(statuses: tuple[Status, ...]) -> sa.ColumnElement[bool]:
    """Choose by status, in the words of the partial indexes as far as they reach."""
    unfinished = [status.value for status in statuses if status in UNFINISHED]
    of_status = inbound_message.c.status
    either: list[sa.ColumnElement[bool] | sa.TextClause] = []
    if unfinished:
        either.append(sa.and_(sa.text(UNFINISHED_ROWS), of_status.in_(unfinished)))
    if Status.FAILED in statuses:
        either.append(sa.text(FAILED))
    if Status.PARSED in statuses:
        either.append(of_status == Status.PARSED.value)
    return sa.or_(*either)


def of_document(chosen: Filter, is_sqlite: bool) -> list[sa.ColumnElement[bool]]:
    """Give what a document must be to be one of those that are meant; nothing if any is."""
    d = document.c
    found: list[sa.ColumnElement[bool]] = []
    if chosen.document_ids:
        found.append(d.id.in_(chosen.document_ids))
    if chosen.document_words:
        found.append(_has_words(DOCUMENT_TEXT, DOCUMENT_WORDS, chosen.document_words, is_sqlite))
    if chosen.document_type:
        found.append(d.content_type.like(_pattern(chosen.document_type), escape="\\"))
    if chosen.unseen:
        found.append(_UNSEEN)
    if chosen.error:
        found.append(_UNSEEN & (d.error_json["error"].as_string() == chosen.error))
    return found


def _of_documents(chosen: Filter, is_sqlite: bool) -> list[sa.ColumnElement[bool]]:
    """Give the conditions on a message that are about its documents, or about an error of it or of one of them."""
    found: list[sa.ColumnElement[bool]] = []
    d, t = document.c, inbound_message.c
    if wanted := of_document(replace(chosen, error=None), is_sqlite):
        if chosen.org_id is None and chosen.document_ids:
            wanted.append(of_any(document))
        mine = sa.select(sa.literal(1)).where(d.org_id == t.org_id, d.inbound_message_id == t.id, *wanted)
        found.append(mine.correlate(inbound_message).exists())
    if chosen.error:
        found.append(_has_error(chosen))
    return found


def _has_error(chosen: Filter) -> sa.ColumnElement[bool]:
    """Tell whether a message or a document of it failed of an error: by the partial indexes of what is not done.

    As one set of keys: an OR over two tables would be asked of each message there is.
    """
    failed, d = inbound_message.alias("failed"), document.c
    own = sa.select(failed.c.org_id, failed.c.id).where(
        sa.true() if chosen.org_id is None else failed.c.org_id == chosen.org_id,
        sa.or_(sa.text(f"failed.{UNFINISHED_ROWS}"), sa.text(f"failed.{FAILED}")),
        failed.c.error_json["error"].as_string() == chosen.error,
    )
    of_document = sa.select(d.org_id, d.inbound_message_id).where(
        owned(document, chosen.org_id), _UNSEEN, d.error_json["error"].as_string() == chosen.error
    )
    return sa.tuple_(inbound_message.c.org_id, inbound_message.c.id).in_(sa.union_all(own, of_document))


def _has_words(text: str, words: str, wanted: str, is_sqlite: bool, are_whole: bool = False) -> sa.ColumnElement[bool]:
    """Tell whether a text has all these words, or words that begin so; a text without a word is in none.

    Whole words are cheaper: PostgreSQL reads the list of the rarest, and asks the others only for what stands in it.
    """
    found = _WORD.findall(wanted.lower())
    if not found:
        return sa.false()
    if is_sqlite:
        return sa.and_(*(sa.literal_column(f"lower({text})").contains(word, autoescape=True) for word in found))
    query = sa.func.to_tsquery(
        sa.text("'simple'::regconfig"), " & ".join(word if are_whole else f"{word}:*" for word in found)
    )
    return sa.literal_column(words).op("@@")(query)


def _is_from(sender: str) -> sa.ColumnElement[bool]:
    """Tell whether a mail is from an address, or from a domain written @domain: by its header or its envelope."""
    t, wanted = inbound_message.c, sender.lower()
    columns = (sa.func.lower(t.from_email), sa.func.lower(t.envelope_sender))
    if wanted.startswith("@"):
        return sa.or_(*(column.endswith(wanted, autoescape=True) for column in columns))
    return sa.or_(*(column == wanted for column in columns))


def _pattern(content_type: str) -> str:
    escaped = re.sub(r"([%_\\])", r"\\\1", content_type.lower())
    return escaped[:-1] + "%" if escaped.endswith("/*") else escaped
