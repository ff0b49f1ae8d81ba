"""How often a password may be tried, and how many are checked at a time.

Wrong passwords are counted for each pair of a name and an address, for each address, for each name, and for each known
browser. Beyond a number of free tries the next one has to wait: 5 s, then twice as long each time, up to five minutes.

    name and address   5 free tries     a stranger makes the user wait at the stranger's own address, nowhere else
    address           20 free tries     many names from one address
    name             100 free tries     many addresses; a known browser is not counted here and does not wait for it
    known browser     10 free tries     by its own count alone, see `device`

So a stranger's guesses keep nobody out who has logged in before. An address of IPv6 counts by its first 64 bits, which
one customer has. A refused try is not counted. Counts end after an hour without a try, and with the process.

A check by scrypt takes 32 MB and a tenth of a second. Two run at a time. Six threads of the server's eight at most are
in a check or wait for one: three with passwords of strangers, three with those of known browsers. Who comes beyond that
hears 503. So pages load while passwords are tried, and a known browser logs in while strangers try theirs.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from orderflow_ingest.domain.errors import OrderflowError

_FREE = {"name and address": 5, "address": 20, "name": 100, "device": 10}
_FIRST, _LONGEST = 5.0, 300.0  # seconds
_FORGOTTEN = 3600.0  # seconds
_REMEMBERED = 20_000
_MAX_CHECKS = 3

Key = tuple[str, ...]


class TooManyLoginsError(OrderflowError):
    """So many passwords are being checked that one more would keep pages from loading."""


@dataclass
class _Tries:
    """What is counted for one key. `until` is when the next try is taken."""

    number: int = 0
    until: float = 0.0
    last: float = 0.0


class LoginThrottle:
    """Counts wrong passwords. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tries: OrderedDict[Key, _Tries] = OrderedDict()
        self._checks = {known: threading.BoundedSemaphore(_MAX_CHECKS) for known in (False, True)}

    @contextmanager
    def password_check(self, device: str) -> Iterator[None]:
        """Take a place for the check of a password. Raise TooManyLoginsError if none is free."""
        checks = self._checks[bool(device)]
        if not checks.acquire(blocking=False):
            raise TooManyLoginsError
        try:
            yield
        finally:
            checks.release()

    def take(self, name: str, address: str, device: str) -> int:
        """Count a try before its password is looked at, or return for how many seconds none is taken.

        `device` is a known browser's mark, "" for every other one.
        """
        now = self._clock()
        with self._lock:
            self._forget_old(now)
            found = [(key, self._tries.get(key, _Tries())) for key in _keys(name, address, device)]
            wait = max(tries.until - now for _, tries in found)
            if wait > 0:
                return int(wait) + 1
            for key, tries in found:
                tries.number, tries.last = tries.number + 1, now
                tries.until = now + _delay(tries.number - _FREE[key[0]])
                self._tries[key] = tries
                self._tries.move_to_end(key)
            return 0

    def forget(self, name: str, address: str, device: str) -> None:
        """Take back the tries of a client that knew the password after all."""
        keys = _keys(name, address, device)
        with self._lock:
            known = self._tries.pop(keys[0], None)
            for key in keys[1:]:
                if known and (tries := self._tries.get(key)):
                    tries.number = max(0, tries.number - known.number)
                    tries.until = tries.until if tries.number >= _FREE[key[0]] else 0.0

    def _forget_old(self, now: float) -> None:
        while self._tries:
            key, oldest = next(iter(self._tries.items()))
            if now - oldest.last <= _FORGOTTEN and len(self._tries) < _REMEMBERED:
                return
            del self._tries[key]


def _keys(name: str, address: str, device: str) -> list[Key]:
    """Return what a try is counted for, the most certain first."""
    if device:
        return [("device", device)]
    network = _network(address)
    return [("name and address", name, network), ("address", network), ("name", name)]


def _network(address: str) -> str:
    try:
        found = ip_address(address.strip("[]"))
    except ValueError:  # the client of a unix socket; what a proxy wrote that is no address
        return ""
    return str(ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


def _delay(beyond: int) -> float:
    return min(_LONGEST, _FIRST * 2.0 ** min(beyond, 10)) if beyond >= 0 else 0.0
