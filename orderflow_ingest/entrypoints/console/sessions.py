"""Who is logged in: sessions in this process's memory.

A session ends by logging out, after so many seconds without a request, after twelve hours, when the user's line in the
file changes or goes, and with the process. Of its token only a digest is kept, and nothing lies on a disk.
"""

import hashlib
import secrets
import threading
import time
from dataclasses import dataclass

from .users import User

_LONGEST = 12 * 3600.0  # seconds
_SESSIONS = 1000


@dataclass
class Session:
    """One login: as which user, and the token that each form of it carries."""

    user: User
    form_token: str
    began: float
    used: float


class Sessions:
    """The sessions of one process. A thread at a time."""

    def __init__(self, idle: float):
        self._idle = idle
        self._lock = threading.Lock()
        self._sessions: dict[bytes, Session] = {}

    def begin(self, user: User) -> str:
        """Begin a session and return its token, which none had before."""
        token, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            for key in [key for key, session in self._sessions.items() if self._is_over(session, now)]:
                del self._sessions[key]
            while len(self._sessions) >= _SESSIONS:
                del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].used)]
            self._sessions[_digest(token)] = Session(user, secrets.token_urlsafe(32), now, now)
        return token

    def find(self, token: str) -> Session | None:
        """Find the session of a token, and note that it is used."""
        now = time.monotonic()
        with self._lock:
            session = self._sessions.get(_digest(token))
            if session is None or self._is_over(session, now):
                self._sessions.pop(_digest(token), None)
                return None
            session.used = now
            return session

    def end(self, token: str) -> None:
        """End a session. One that is over already stays so."""
        with self._lock:
            self._sessions.pop(_digest(token), None)

    def _is_over(self, session: Session, now: float) -> bool:
        return now - session.used > self._idle or now - session.began > _LONGEST


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
