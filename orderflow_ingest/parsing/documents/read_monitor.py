"""Limits the CPU time to read one mail, and reports which part is being read.

A mail has `mail_time` seconds of CPU time, and each part that lies in the mail itself has `part_time`, with all that is
inside it. check() is called between members and blocks of containers and between the parts of an attached message, and
raises ContainerError when the time is over. Code in C is not limited here: the caller limits the process.

`on_change` is called with the path of the part that is being read, "" for the structure of the mail itself, and None
while the caller works. A caller that writes the path down knows after a crash at which part it happened. In the next
attempt it gives the path in `kept`: such a part is given out whole and not read. With a path in `kept` twice, even its
transfer encoding stays. `keeps_all` gives out every part whole.

Guarantees: time is CPU time of this thread, so that a busy machine changes no result.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

from orderflow_ingest.parsing.containers import ContainerError

TOOK_TOO_LONG = "took too long"
FAILED_BEFORE = "an attempt failed at it"
ATTEMPTS_FAILED = "earlier attempts failed"


def _ignore(_: str | None) -> None:
    pass


class ReadMonitor:
    """Limits the time to read one mail, and reports which part is being read. Without arguments it limits nothing."""

    def __init__(
        self,
        part_time: float = math.inf,
        mail_time: float = math.inf,
        kept: Sequence[str] = (),
        on_change: Callable[[str | None], None] = _ignore,
        on_part: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.thread_time,
        *,
        keeps_all: bool = False,
    ) -> None:
        self.current_part: str | None = None
        self._part_time = part_time
        self._kept = Counter(kept) if kept else {}
        self._keeps_all = keeps_all
        self._on_change = on_change
        self._on_part = on_part
        self._clock = clock if mail_time < math.inf or part_time < math.inf else lambda: 0.0
        self._mail_end = self._clock() + mail_time
        self._end = self._mail_end

    def begin_part(self, path: str) -> str:
        """Begin with a part of the mail itself, and return reason_to_keep() of it.

        `on_part` is called, which may bound what runs in C.
        """
        now = self._clock()
        self._end = min(now + self._part_time, self._mail_end)
        self._on_part()
        self.set_current(path)
        return self._reason_to_keep(path, now)

    def set_current(self, path: str) -> None:
        """Set the part that is being read, and report it."""
        if path != self.current_part:
            self.current_part = path
            self._on_change(path)

    def clear_current(self) -> None:
        """Report that no part is being read."""
        self.current_part = None
        self._on_change(None)

    def reason_to_keep(self, path: str) -> str:
        """Return why a part must be given out whole, or "" if it may be read."""
        return self._reason_to_keep(path, self._clock())

    def _reason_to_keep(self, path: str, now: float) -> str:
        if path in self._kept:
            return FAILED_BEFORE
        if self._keeps_all:
            return ATTEMPTS_FAILED
        return TOOK_TOO_LONG if now >= self._end else ""

    def reason_to_keep_mail(self) -> str:
        """Return why the whole mail must be given out as one part, or "" if it may be read."""
        return FAILED_BEFORE if "" in self._kept else ""

    def may_decode(self, path: str) -> bool:
        """Return whether the transfer encoding of a part may be taken off."""
        return self._kept.get(path, 0) < 2

    def check(self) -> None:
        """Raise ContainerError if the time of the current part, or of the mail, is over."""
        if self._clock() >= self._end:
            raise ContainerError(TOOK_TOO_LONG)
