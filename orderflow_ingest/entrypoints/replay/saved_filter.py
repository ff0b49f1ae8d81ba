"""The filter of a run, as its row saves it in JSON.

A run is resumed with the filter that it began with: by then `--since 2h` would mean another time, and mail that arrived
later must not be selected. The names in that JSON are fields of `Filter`. Runs of an earlier version are read.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from orderflow_ingest.domain.states import Status
from orderflow_ingest.storage.database import Filter


def filter_to_json(chosen: Filter) -> dict[str, Any]:
    """Return a Filter as JSON, without empty fields."""
    return {name: _plain(value) for name, value in vars(chosen).items() if value}


def filter_from_json(values: dict[str, Any]) -> Filter:
    """Return the Filter that filter_to_json() has written."""
    read = dict(values)
    for name in ("since", "until"):
        if name in read:
            read[name] = datetime.fromisoformat(read[name])
    for name in ("ids", "document_ids"):
        read[name] = tuple(UUID(id) for id in read.get(name, ()))
    read["statuses"] = tuple(Status(name) for name in read.get("statuses", ()))
    return Filter(**read)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [str(one) for one in value]
    return value.isoformat() if isinstance(value, datetime) else value
