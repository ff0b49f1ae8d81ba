"""The names of errors that rows have."""

import pytest

from orderflow_ingest.domain.errors import stored_names
from orderflow_ingest.pipeline import retry


@pytest.mark.parametrize(
    ("current", "former"),
    [
        ("AttemptLost", "WorkersLost"),
        ("DatabaseUnavailable", "RecordsUnavailable"),
        ("MessageErased", "Erased"),
        ("TaskDeadlineReached", "TimeUp"),
    ],
)
def test_an_error_is_found_by_its_present_and_its_former_name(current, former):
    assert set(stored_names(current)) == set(stored_names(former)) == {current, former}


def test_an_error_that_kept_its_name_has_one():
    assert stored_names("KeyError") == ("KeyError",)


def test_an_error_with_a_former_name_still_exists():
    assert retry.MessageErased.__name__ in stored_names("Erased")
    assert retry.AttemptLost.__name__ in stored_names("WorkersLost")
    assert retry.TaskDeadlineReached.__name__ in stored_names("TimeUp")
    assert retry.DatabaseUnavailable.__name__ in stored_names("RecordsUnavailable")
