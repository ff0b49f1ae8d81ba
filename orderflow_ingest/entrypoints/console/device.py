"""A browser that a user has logged in with before is known by a cookie, so that strangers' guesses do not keep it out.

The cookie holds a time, a random mark and their HMAC by the user's name and stored password hash. So nothing is kept
of it here, it outlives the process, it is worth nothing for another user, and a new password ends it. It lets nobody
in: it only says by which count the next password is throttled.
"""

import hmac
import secrets
import time
from hashlib import sha256

DEVICE_AGE = 90 * 86400  # seconds


def new_device(name: str, password_hash: str) -> str:
    """Return the cookie of a browser that has just logged in."""
    marked = f"{int(time.time())}.{secrets.token_urlsafe(16)}"
    return f"{marked}.{_sign(marked, name, password_hash)}"


def known_device(cookie: str, name: str, password_hash: str | None) -> str:
    """Return the mark of a known browser of a user, or "". A name that nobody has takes the same time."""
    marked, _, signature = cookie[:200].rpartition(".")
    is_ours = hmac.compare_digest(
        _sign(marked, name, password_hash or "").encode(), signature.encode("utf-8", "replace")
    )
    issued = marked.partition(".")[0]
    is_fresh = issued.isascii() and issued.isdigit() and 0 <= time.time() - int(issued) <= DEVICE_AGE
    return marked if is_ours and is_fresh and password_hash else ""


def _sign(marked: str, name: str, password_hash: str) -> str:
    return hmac.new(password_hash.encode(), f"{name}\0{marked}".encode("utf-8", "replace"), sha256).hexdigest()
