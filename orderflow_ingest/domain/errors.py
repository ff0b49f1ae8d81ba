"""The roots of our exceptions: what one `except` catches where every error of ours is meant, or every backend.

    OrderflowError                  every error of ours
      BackendUnavailable            a backend is away, slow, refusing, full or not set up: waiting helps
        ArchiveUnavailable          storage.archive
        DatabaseUnavailable         storage.database
        QueueUnavailable            storage.queue

A delivery catches the archive's and the database's by name: a queue that is away does not stop it.

What is derived from something else: DeadlineReached and TaskDeadlineReached are BaseException, so that nobody takes
them for a failure of what was tried. The errors of `parsing`, which knows no other room, and of the program that is
started per message (`entrypoints.pipe`, `storage.spool_entry`), which does not pay for this import, are Exception.
"""


class OrderflowError(Exception):
    """An error of OrderFlow ingest."""


class BackendUnavailable(OrderflowError):
    """A backend cannot be used now. `backend` is its name."""

    backend = "a backend"


# Rows keep the name of an error's class as it was when they were written.
_FORMER_NAMES = {
    "AttemptLost": "WorkersLost",
    "DatabaseUnavailable": "RecordsUnavailable",
    "MessageErased": "Erased",
    "TaskDeadlineReached": "TimeUp",
}


def stored_names(name: str) -> tuple[str, ...]:
    """Return every name that rows have for the error of this name, whichever of its names is given."""
    for current, former in _FORMER_NAMES.items():
        if name in (current, former):
            return current, former
    return (name,)
