"""The only changes of a message's status that are allowed."""

import pytest

from orderflow_ingest.domain.states import UNFINISHED, Status, allowed_from

R, S, P, F = Status.RECEIVED, Status.STORED, Status.PARSED, Status.FAILED


@pytest.mark.parametrize(("target", "allowed"), [(S, {R}), (P, {S}), (F, {R, S}), (R, {R, S, P, F})])
def test_a_status_is_reached_from_these_alone(target, allowed):
    assert set(allowed_from(target)) == allowed


def test_every_status_has_its_sources():
    assert all(allowed_from(status) for status in Status)


def test_what_is_neither_parsed_nor_failed_is_unfinished():
    assert set(UNFINISHED) == set(Status) - {P, F}
