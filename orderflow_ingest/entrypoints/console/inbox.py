"""The inbox: messages, the newest first, searched and filtered, page by page.

A page goes on where the one before ended, by the time and id of its last message, so that the hundredth costs what the
first does.
"""

from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from flask import Blueprint, render_template, request

from orderflow_ingest.app import App
from orderflow_ingest.domain.ascii_case import ascii_lower
from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.states import UNFINISHED, Status
from orderflow_ingest.entrypoints.cli.options import whole_message_id
from orderflow_ingest.storage.database import Cursor, Filter, InboundMessage

from .scope import Scope, organizations

PAGE = 50
_LONGEST = 200
_STATUSES = {status.value: (status,) for status in Status} | {"unfinished": UNFINISHED}


@dataclass(frozen=True)
class Query:
    """The fields of the search form, as they were typed."""

    words: str = ""
    sender: str = ""
    document: str = ""
    message_id: str = ""
    org: str = ""
    status: str = ""
    since: str = ""
    until: str = ""

    @property
    def has_more(self) -> bool:
        """Return whether a field is used that is folded away."""
        return any((self.sender, self.document, self.message_id, self.since, self.until))


class InvalidQueryError(OrderflowError):
    """A field is invalid. The text says what it should be."""


def pages(app: App) -> Blueprint:
    """Return the page."""
    blueprint = Blueprint("inbox", __name__)

    @blueprint.get("/messages")
    def page() -> str:
        given = {field.name: request.args.get(field.name, "").strip()[:_LONGEST] for field in fields(Query)}
        query = replace(Query(**given), org=ascii_lower(given["org"]))
        found: list[InboundMessage] = []
        error_text, scope = "", None
        known = organizations(app)
        try:
            if query.org and query.org not in {org.slug for org in known}:
                raise InvalidQueryError(f"There is no organization {query.org}.")
            scope = Scope(app, query.org or None)
            found = scope.messages(parse_filter(query), PAGE + 1, _parse_cursor(request.args.get("after", "")))
        except InvalidQueryError as error:
            error_text = str(error)
        parameters = {name: value for name, value in vars(query).items() if value}
        return render_template(
            "inbox.html",
            query=query,
            parameters=parameters,
            orgs=known,
            statuses=_STATUSES,
            error=error_text,
            mails=[(scope.slug_of(message.org_id), message) for message in found[:PAGE] if scope],
            after=_format_cursor(found[PAGE - 1]) if len(found) > PAGE else None,
            is_first=not request.args.get("after"),
        )

    return blueprint


def parse_filter(query: Query) -> Filter:
    """Return the filter for a query. Raise InvalidQuery."""
    if query.status and query.status not in _STATUSES:
        raise InvalidQueryError("There is no such status.")
    until = _day(query.until)
    return Filter(
        statuses=_STATUSES.get(query.status, ()),
        since=_day(query.since),
        until=until + timedelta(days=1) if until else None,
        message_id=whole_message_id(query.message_id) or None,
        sender=query.sender or None,
        words=query.words or None,
        document_words=query.document or None,
    )


def _day(text: str) -> datetime | None:
    try:
        day = date.fromisoformat(text) if text else None
    except ValueError:
        day = None
    if text and (day is None or not 1970 <= day.year < 9000):
        raise InvalidQueryError("A day is written like 2026-11-30.")
    return datetime.combine(day, time(), UTC) if day else None


def _format_cursor(last: InboundMessage) -> str:
    return f"{last.received_at.isoformat()}~{last.id}"


def _parse_cursor(mark: str) -> Cursor | None:
    if not mark:
        return None
    at, _, id = mark.partition("~")
    try:
        received_at = datetime.fromisoformat(at)
        if received_at.tzinfo is None:
            raise ValueError
        return Cursor(received_at.astimezone(UTC), UUID(id))
    except (ValueError, OverflowError):
        raise InvalidQueryError("This page of the list is not there; begin with the newest.") from None
