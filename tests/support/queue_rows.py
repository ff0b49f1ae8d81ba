"""Rows of the queue, as Huey writes them."""

import json
import pickle
from pathlib import Path
from typing import Any
from uuid import UUID

from huey.registry import Message

SECRET = "not-for-any-log"
MESSAGE = UUID("0b5a3a52-7d0c-4c1e-8f64-0c6d5b1f2a17")


ID = "7b0f5cf4-6f5c-4f86-a0a4-8a4c4e1c1d11"
EXTRACT = "orderflow_ingest.queue.extract"


def row(
    id: Any = ID, name: Any = EXTRACT, priority: Any = None, args: tuple[Any, ...] = (7, str(MESSAGE)), **others: Any
) -> bytes:
    """Return a row as Huey's fields have it; `others` are by their names."""
    return json.dumps([*Message(id, name, priority=priority, args=list(args), kwargs={})._replace(**others)]).encode()


JUNK = {
    "a pickle": pickle.dumps(Path("secret-word")),
    "nothing": b"",
    "an empty list": b"[]",
    "null": b"null",
    "an object": b'{"secret-word": 1}',
    "numbers": b"[1, 2, 3, 4, 5, 6, 7]",
    "another program's": b'["a", "os.system", null, null, null, null, ["secret-word"]]',
    "no text": b"\xff" * 100,
    "deep nesting": b"[" * 1500,
    "very deep nesting": b"[" * 1_000_000,
    "ten megabytes": row(id="secret-word" * 1_000_000),
    "a number that is too long": b"[" + b"9" * 1900 + b"]",
    "an id that is none": row(id="secret-word"),
    "an id that is a list": row(id=["secret-word"]),
    "a name that is a number": row(name=1),
    "a name that is a list": row(name=[EXTRACT]),
    "a list for a name, and no arguments": row(name=["secret-word"], args=()),
    "an object for a name, and no arguments": row(name={"secret-word": 1}, args=()),
    "a name that nobody knows": row(name="orderflow_ingest.queue.secret-word"),
    "a name of the class above": row(name="huey.api.Task"),
    "no arguments": row(args=()),
    "one argument more": row(args=(7, str(MESSAGE), "secret-word")),
    "arguments by name": row(args=(), kwargs={"org_id": 7, "id": str(MESSAGE)}),
    "an organization that is a text": row(args=("7", str(MESSAGE))),
    "an organization that is true": row(args=(True, str(MESSAGE))),
    "an organization that is none": row(args=(0, str(MESSAGE))),
    "an organization that no database holds": row(args=(2**63, str(MESSAGE))),
    "an organization that is infinite": row(args=(float("inf"), str(MESSAGE))),
    "a message that is none": row(args=(7, "secret-word")),
    "a message that is an object": row(args=(7, {"int": 5})),
    "a priority above all": row(priority=10**9),
    "a priority that is no number": row(priority="secret-word"),
    "a priority that is not one": row(priority=float("nan")),
}
