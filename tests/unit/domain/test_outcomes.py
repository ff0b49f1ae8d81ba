"""One table is the whole exit policy, and what is our fault defers."""

import re

import pytest

from orderflow_ingest.domain.outcomes import DeadlineReached, Outcome

ALL = list(Outcome)


@pytest.mark.parametrize(
    ("outcome", "exit_status", "dsn_code", "reply_code"),
    [
        ("DELIVERED", 0, "2.0.0", 250),
        ("DUPLICATE", 0, "2.0.0", 250),
        ("HELD", 0, "2.0.0", 250),
        ("SPOOLED", 0, "2.0.0", 250),
        ("DEAD_LETTER", 0, "2.0.0", 250),
        ("UNKNOWN_ORG", 67, "5.1.1", 550),
        ("ORG_DISABLED", 67, "5.2.1", 550),
        ("MALFORMED", 65, "5.6.0", 550),
        ("TOO_BIG", 65, "5.3.4", 552),
        ("BACKEND_DOWN", 75, "4.3.0", 451),
        ("SPOOL_FULL", 75, "4.3.1", 452),
        ("OVERLOADED", 75, "4.3.2", 451),
        ("DEADLINE", 75, "4.4.7", 451),
        ("TRUNCATED", 75, "4.4.2", 451),
        ("MISCONFIGURED", 75, "4.3.5", 451),
        ("INTERNAL", 75, "4.3.0", 451),
    ],
)
def test_an_outcome_says_the_same_to_every_door(outcome, exit_status, dsn_code, reply_code):
    found = Outcome[outcome]
    assert (found.exit_status, found.dsn_code, found.reply_code) == (exit_status, dsn_code, reply_code)


def test_no_outcome_is_another_name_of_one():
    assert len(Outcome.__members__) == len(ALL) == 16


@pytest.mark.parametrize("outcome", ALL, ids=lambda outcome: outcome.name)
def test_exit_status_dsn_code_and_reply_code_are_of_one_class(outcome):
    classes = {0: ("2", 2), 65: ("5", 5), 67: ("5", 5), 75: ("4", 4)}
    assert (outcome.dsn_code[0], outcome.reply_code // 100) == classes[outcome.exit_status]
    assert re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", outcome.dsn_code)


@pytest.mark.parametrize("outcome", ALL, ids=lambda outcome: outcome.name)
def test_the_line_for_pipe_begins_with_the_dsn_code_and_is_one_short_line(outcome):
    assert outcome.line == f"{outcome.dsn_code} {outcome.text}\n".encode("ascii")
    assert re.fullmatch(rb"[245]\.\d\.\d [ -~]{1,100}\n", outcome.line)


@pytest.mark.parametrize("outcome", ALL, ids=lambda outcome: outcome.name)
def test_an_outcome_is_accepted_or_temporary_or_a_bounce(outcome):
    assert (outcome.is_accepted, outcome.is_temporary) == (outcome.exit_status == 0, outcome.exit_status == 75)


def test_only_a_verdict_on_the_message_itself_bounces():
    bounces = {outcome.name for outcome in ALL if not (outcome.is_accepted or outcome.is_temporary)}
    assert bounces == {"UNKNOWN_ORG", "ORG_DISABLED", "MALFORMED", "TOO_BIG"}


def test_the_deadline_is_not_swallowed_where_a_library_catches_exception():
    assert not issubclass(DeadlineReached, Exception)
