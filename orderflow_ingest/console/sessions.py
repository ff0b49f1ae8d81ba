"""Who is logged in: sessions in this process's memory, and how often a password may be guessed.

A session ends by logging out, after so many seconds without a request, after twelve hours, when the user's line in the
file changes or goes, and with the process. Of its token only a digest is kept, and nothing lies on a disk.
"""

import hashlib
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass

from .users import User

_LONGEST = 12 * 3600.0  # seconds
_SESSIONS = 1000
_OF_NAME, _OF_ADDRESS = 5, 20
_REMEMBERED = 10_000
_WINDOW = 300.0  # seconds


@dataclass
class Session:
    """One login: as which user, and the token that each form of it carries."""

    user: User
    form_token: str
    began: float
    used: float


class Sessions:
    """The sessions of one process; a thread at a time."""

    def __init__(self, idle: float):
        self._idle = idle
        self._lock = threading.Lock()
        self._sessions: dict[bytes, Session] = {}

    def begin(self, user: User) -> str:
        """Begin a session and give its token, which none had before."""
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
        """End a session; one that is over already stays so."""
        with self._lock:
            self._sessions.pop(_digest(token), None)

    def _is_over(self, session: Session, now: float) -> bool:
        return now - session.used > self._idle or now - session.began > _LONGEST


class Guesses:
    """Counts the passwords tried in the last minutes, by name and by address, so that neither is a way round."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tried: deque[tuple[float, str, str]] = deque(maxlen=_REMEMBERED)

    def take(self, name: str, address: str) -> int:
        """Take a guess before it is looked at; or tell for how many seconds none is taken."""
        now = time.monotonic()
        with self._lock:
            while self._tried and now - self._tried[0][0] > _WINDOW:
                self._tried.popleft()
            for key, most in ((1, _OF_NAME), (2, _OF_ADDRESS)):
                times = [one[0] for one in self._tried if one[key] == (name, address)[key - 1]]
                if len(times) >= most:
                    return int(times[-most] + _WINDOW - now) + 1
            self._tried.append((now, name, address))
            return 0

    def forget(self, name: str, address: str) -> None:
        """Forget the guesses of one who knew the password after all."""
        with self._lock:
            kept = [one for one in self._tried if one[1:] != (name, address)]
            self._tried = deque(kept, maxlen=_REMEMBERED)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
