"""Postfix's log, read as it grows: which messages were put off, which bounced."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(rb"\]: (?P<id>\w+): to=<(?P<to>[^>]*)>.*? status=(?P<status>\w+) (?P<text>.*)")


@dataclass(frozen=True)
class Bounce:
    """A message that Postfix has given up for a recipient."""

    queue_id: str
    recipient: str
    text: str


class Maillog:
    """The log in `path`, from its beginning on."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._rest = path, 0, b""
        self.deferred: dict[str, int] = {}
        self.sent: set[str] = set()
        self.bounces: list[Bounce] = []

    def read(self) -> None:
        """Read what is new."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if b" status=" in line and (found := _LINE.search(line)):
                self._note(*(found[name].decode(errors="replace") for name in ("id", "to", "status", "text")))

    def count_deferred(self, of: Callable[[str], bool]) -> int:
        """Count the messages that were put off and then delivered."""
        return sum(1 for queue_id in self.deferred if queue_id in self.sent and of(queue_id))

    @property
    def attempts_deferred(self) -> int:
        """Count the attempts that were put off."""
        return sum(self.deferred.values())

    def _note(self, queue_id: str, recipient: str, status: str, text: str) -> None:
        if status == "sent":
            self.sent.add(queue_id)
        elif status == "deferred":
            self.deferred[queue_id] = self.deferred.get(queue_id, 0) + 1
        else:
            self.bounces.append(Bounce(queue_id, recipient, f"status={status} {text}"))
