"""Which messages an operator means: a Filter, and what it is in SQL, so that an index finds them.

Words are found at their beginning, letter case aside: `acme 47` finds "Order 4711" from orders@acme.example. A word
is a run of letters and digits. A mail must have all of them, in its sender's addresses and subject, or, for
`document_words`, in one document's file name. PostgreSQL has an index of them. SQLite reads the rows, and finds words
in their middle too.

The newest mail with certain words can be sought from either end: by the index of words, where they are rare, or by
going through the mail as it came, where so much of it has them that the first ones are soon found. PostgreSQL knows too
little of words that are cut short to choose well, so that they are counted first: in the newest mail, and then, where
few of it has them, by the index, as far as COMMON (see `plan_word_search`).

A sender is a whole address, or a domain written @domain. Statuses are chosen in the words of the partial indexes, as
far as those reach.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from orderflow_ingest.domain.errors import stored_names
from orderflow_ingest.domain.states import UNFINISHED, Status

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
    held_mail,
    inbound_message,
    of_any,
    owned,
)
from .tables import UNFINISHED as UNFINISHED_ROWS

COMMON = 4000
NEWEST, MANY = 2000, 100  # of so many mails so many have the words: more of them are soon found


class WordSearchIndex(Enum):
    """From which end mail is sought."""

    PLANNED = "as the database thinks best"
    WORDS_FIRST = "by the index of words"
    AS_IT_CAME = "by the order in which it came"


@dataclass(frozen=True)
class WordSearchPlan:
    """From which end mail is sought by its own words, and by those of its documents."""

    messages: WordSearchIndex = WordSearchIndex.PLANNED
    documents: WordSearchIndex = WordSearchIndex.PLANNED

    @property
    def is_as_it_came(self) -> bool:
        """Return whether nothing that is sought is rare."""
        return WordSearchIndex.WORDS_FIRST not in (self.messages, self.documents)


_PLANNED = WordSearchPlan()
_WORD = re.compile(r"[^\W_]+")
# In the words of the partial indexes, which are as small as what is not done.
_UNSEEN = sa.or_(sa.text(PENDING), sa.text(FAILED_HANDOVER))


@dataclass(frozen=True)
class Filter:
    """Which messages an operator means. An empty field leaves the choice open.

    `error` is the class that error_json names, by its present or its former name, of the message or of one of its
    documents. `document_type` a document's content type, all of a kind as `image/*`. `unseen`: the handler has not
    taken all of its documents. What is said of documents is met by one and the same document of the message.
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
        """Return whether nearly every message may be chosen, of some time, so that the newest are soon found.

        Of words that may be so: PostgreSQL has counted them, and takes the index of words where they are rare.
        """
        narrow = (self.org_id, self.ids, self.message_id, self.error, self.document_ids, self.unseen)
        return not any(narrow) and (not self.statuses or Status.PARSED in self.statuses)


@dataclass(frozen=True)
class Cursor:
    """A message's place among all, the newest first: up to where an operator's run has come."""

    received_at: datetime
    id: UUID


def plan_word_search(chosen: Filter, connection: sa.Connection) -> WordSearchPlan:
    """Ask PostgreSQL how common the words are, and choose from which end to look for the newest mail."""
    newest = _newest(chosen)

    def count(counted: sa.Select[Any]) -> int:
        return connection.scalar(sa.select(sa.func.count()).select_from(counted.subquery())) or 0

    def way(table: sa.Table, words: list[sa.ColumnElement[bool]], in_newest: sa.ColumnElement[bool]) -> WordSearchIndex:
        if not words:
            return WordSearchIndex.PLANNED
        # To the end of the transaction: a scan that is to find the first few stops late where they lie at its end.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        if count(sa.select(newest.c.id).where(in_newest)) >= MANY:
            return WordSearchIndex.AS_IT_CAME
        named = sa.select(sa.literal(1)).select_from(table).where(owned(table, chosen.org_id), *words)
        return WordSearchIndex.AS_IT_CAME if count(named.limit(COMMON + 1)) > COMMON else WordSearchIndex.WORDS_FIRST

    of_messages, of_documents = _words_of_messages(chosen), _words_of_documents(chosen)
    has_document = _any_document(sa.and_(sa.true(), *of_documents), is_asked_each=True, of=newest)
    return WordSearchPlan(
        way(inbound_message, of_messages, sa.and_(sa.true(), *map(_passed_by_index, of_messages))),
        way(document, of_documents, has_document),
    )


def _newest(chosen: Filter) -> sa.Subquery:
    """Choose the newest mail of those and of that time that are meant."""
    t = inbound_message.c
    latest = t.received_at.desc() if chosen.org_id is not None else t.received_at.desc().nulls_last()
    mine = sa.select(t.org_id, t.id, t.from_email, t.envelope_sender, t.subject)
    of_time = mine.where(owned(inbound_message, chosen.org_id), *_of_time(chosen))
    return of_time.order_by(latest).limit(NEWEST).subquery("newest")


def _of_time(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    t = inbound_message.c
    since = [t.received_at >= chosen.since] if chosen.since else []
    return [*since, t.received_at < chosen.until] if chosen.until else since


def condition(chosen: Filter, by: WordSearchPlan = _PLANNED, *, is_sqlite: bool) -> sa.ColumnElement[bool]:
    """Return what a message must be to be one of those that are meant. `by` is PostgreSQL's alone."""
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
    conditions += _of_time(chosen)
    if chosen.source:
        conditions.append(t.source == chosen.source)
    words = _words_of_messages(chosen, is_sqlite=is_sqlite)
    if words and by.messages is WordSearchIndex.WORDS_FIRST:
        conditions.append(_of_named(inbound_message, t.id, chosen.org_id, words))
    elif words:
        conditions += [_passed_by_index(one) for one in words] if by.messages is WordSearchIndex.AS_IT_CAME else words
    if chosen.sender:
        conditions.append(_is_from(chosen.sender))
    return sa.and_(*conditions, *_of_documents(chosen, by.documents, is_sqlite=is_sqlite))


def begins(id: sa.ColumnElement[UUID], digits: str) -> sa.ColumnElement[bool]:
    """Return whether an id begins with these hexadecimal digits."""
    first, last = (UUID(digits.ljust(32, digit)) for digit in "0f")
    return (id >= first) & (id <= last)


def held_condition(chosen: Filter, *, is_sqlite: bool) -> sa.ColumnElement[bool]:
    """Return what a held mail must be to be one of those that are meant: by time, sender, words and Message-ID."""
    c = held_mail.c
    conditions = [owned(held_mail, chosen.org_id), *_words_of_messages(chosen, is_sqlite=is_sqlite)]
    if chosen.since:
        conditions.append(c.received_at >= chosen.since)
    if chosen.until:
        conditions.append(c.received_at < chosen.until)
    if chosen.message_id:
        conditions.append(c.source_message_id == chosen.message_id)
    if chosen.sender:
        conditions.append(_is_from(chosen.sender, held_mail))
    return sa.and_(*conditions)


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


def of_document(chosen: Filter, *, is_sqlite: bool) -> list[sa.ColumnElement[bool]]:
    """Return what a document must be to be one of those that are meant, or nothing if any is."""
    d = document.c
    found: list[sa.ColumnElement[bool]] = []
    if chosen.document_ids:
        found.append(d.id.in_(chosen.document_ids))
    if chosen.document_words:
        found += _words_of_documents(chosen, is_sqlite=is_sqlite)
    if chosen.document_type:
        found.append(d.content_type.like(_pattern(chosen.document_type), escape="\\"))
    if chosen.unseen:
        found.append(_UNSEEN)
    if chosen.error:
        found.append(_UNSEEN & (d.error_json["error"].as_string().in_(stored_names(chosen.error))))
    return found


def _of_documents(chosen: Filter, by: WordSearchIndex, *, is_sqlite: bool) -> list[sa.ColumnElement[bool]]:
    """Return the conditions on a message that are about its documents, or about an error of it or of one of them."""
    found: list[sa.ColumnElement[bool]] = []
    if wanted := of_document(replace(chosen, error=None), is_sqlite=is_sqlite):
        if chosen.org_id is None and chosen.document_ids:
            wanted.append(of_any(document))
        if by is WordSearchIndex.WORDS_FIRST:
            found.append(_of_named(document, document.c.inbound_message_id, chosen.org_id, wanted))
        else:
            found.append(_any_document(sa.and_(*wanted), is_asked_each=by is WordSearchIndex.AS_IT_CAME))
    if chosen.error:
        found.append(_has_error(chosen, stored_names(chosen.error)))
    return found


def _has_error(chosen: Filter, names: tuple[str, ...]) -> sa.ColumnElement[bool]:
    """Return whether a message or a document of it failed of an error: by the partial indexes of what is not done.

    As one set of keys: an OR over two tables would be asked of each message there is.
    """
    failed, d = inbound_message.alias("failed"), document.c
    own = sa.select(failed.c.org_id, failed.c.id).where(
        sa.true() if chosen.org_id is None else failed.c.org_id == chosen.org_id,
        sa.or_(sa.text(f"failed.{UNFINISHED_ROWS}"), sa.text(f"failed.{FAILED}")),
        failed.c.error_json["error"].as_string().in_(names),
    )
    of_document = sa.select(d.org_id, d.inbound_message_id).where(
        owned(document, chosen.org_id), _UNSEEN, d.error_json["error"].as_string().in_(names)
    )
    return sa.tuple_(inbound_message.c.org_id, inbound_message.c.id).in_(sa.union_all(own, of_document))


def _any_document(
    wanted: sa.ColumnElement[bool], of: sa.FromClause = inbound_message, *, is_asked_each: bool = False
) -> sa.ColumnElement[bool]:
    """Return whether a message has such a document. `is_asked_each`: of one message after the other."""
    d, t = document.c, of.c
    mine = sa.select(sa.literal(1)).where(d.org_id == t.org_id, d.inbound_message_id == t.id, wanted)
    if is_asked_each:
        mine = mine.offset(0)  # or PostgreSQL would make a join of it, and might begin at the other end
    return mine.correlate(of).exists()


def _words_of_messages(chosen: Filter, *, is_sqlite: bool = False) -> list[sa.ColumnElement[bool]]:
    found = []
    if chosen.sender:
        found.append(_has_words(MESSAGE_TEXT, MESSAGE_WORDS, chosen.sender, is_sqlite=is_sqlite, are_whole=True))
    if chosen.words:
        found.append(_has_words(MESSAGE_TEXT, MESSAGE_WORDS, chosen.words, is_sqlite=is_sqlite))
    return found


def _words_of_documents(chosen: Filter, *, is_sqlite: bool = False) -> list[sa.ColumnElement[bool]]:
    wanted = chosen.document_words
    return [_has_words(DOCUMENT_TEXT, DOCUMENT_WORDS, wanted, is_sqlite=is_sqlite)] if wanted else []


def _of_named(
    table: sa.Table, id: sa.Column[Any], org_id: int | None, words: list[sa.ColumnElement[bool]]
) -> sa.ColumnElement[bool]:
    """Choose the messages of the rows that have these words, which are found first."""
    t = inbound_message.c
    named = sa.select(table.c.org_id, id.label("message_id")).where(owned(table, org_id), *words)
    found = named.cte(f"named_{table.name}").prefix_with("MATERIALIZED")
    return sa.tuple_(t.org_id, t.id).in_(sa.select(found.c.org_id, found.c.message_id))


def _passed_by_index(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Write a condition in a form that no index is asked for, and that is taken for true as often as not."""
    return sa.func.coalesce(condition, sa.false())


def _has_words(
    text: str, words: str, wanted: str, *, is_sqlite: bool, are_whole: bool = False
) -> sa.ColumnElement[bool]:
    """Return whether a text has all these words, or words that begin so. A text without a word is in none.

    Whole words are cheaper: PostgreSQL reads the list of the rarest, and asks the others only for what stands in it.
    """
    found = _WORD.findall(wanted.lower())
    if not found:
        return sa.false()
    if is_sqlite:
        return sa.and_(*(sa.literal_column(f"lower({text})").contains(word, autoescape=True) for word in found))
    query = sa.func.to_tsquery(
        sa.text("'simple'::regconfig"), " & ".join(found if are_whole else [f"{word}:*" for word in found])
    )
    return sa.literal_column(words).op("@@")(query)


def _is_from(sender: str, table: sa.Table = inbound_message) -> sa.ColumnElement[bool]:
    """Return whether a mail is from an address, or from a domain written @domain: by its header or its envelope.

    Its words are asked for besides. PostgreSQL would take both for independent, and the sender for a rare one.
    """
    t, wanted = table.c, sender.lower()
    columns = (sa.func.lower(t.from_email), sa.func.lower(t.envelope_sender))
    if wanted.startswith("@"):
        return _passed_by_index(sa.or_(*(column.endswith(wanted, autoescape=True) for column in columns)))
    return _passed_by_index(sa.or_(*(column == wanted for column in columns)))


def _pattern(content_type: str) -> str:
    escaped = re.sub(r"([%_\\])", r"\\\1", content_type.lower())
    return escaped[:-1] + "%" if escaped.endswith("/*") else escaped
