"""Whether a mail comes from a sender that its organisation takes mail from by itself.

Judged is the From field, which people see and DMARC is about; not the envelope, which names some service's bounce
address as often as not. So mail with a null sender is judged like any other. Whatever looks like an address in a From
field counts, in a display name too, and each has to be allowed: what is odd is held, and a person looks at it.

Anybody can write a From. Without an `authserv_id` this is a filter against strays, and no more. With one, the topmost
Authentication-Results field (RFC 8601) of that authserv-id has to say that the From's domain is authenticated: by
dmarc=pass, or by dkim=pass or spf=pass of that very domain or of one that it lies in. That field is as good as the
server that wrote it, which must take out those that a sender put in under its name (RFC 8601, section 5).

Where smtpd asks us before it queues a mail, no milter has seen header and body (smtpd shows them commands alone).
Whatever calls such a mail authenticated was written by its sender.
"""

import re
from collections.abc import Iterator
from enum import StrEnum

from .mime.fields import Field, find_sender_header, read_header

_NO_ADDRESS = re.compile(r'[\s<>,;:"()\[\]\\]+')
# Which property of a result names the domain that has passed.
_PROPERTIES = {"dmarc": "header.from", "dkim": "header.d", "spf": "smtp.mailfrom"}


class Doubt(StrEnum):
    """Why a mail is not taken by itself."""

    NO_ADDRESS = "no address in From"
    NOT_ALLOWED = "From is not among allowed_senders"
    NOT_AUTHENTICATED = "From is not authenticated"


def doubt_sender(raw: bytes, allowed: tuple[str, ...], authserv_id: str, is_filtered: bool = True) -> Doubt | None:
    """Tell what speaks against taking a mail for one of these addresses and @domains; None if nothing does.

    `is_filtered`: it has passed the server that authenticates.
    """
    addresses = _senders(raw)
    if not addresses:
        return Doubt.NO_ADDRESS
    if not all(address in allowed or f"@{domain_of(address)}" in allowed for address in addresses):
        return Doubt.NOT_ALLOWED
    if authserv_id:
        passed = _passed(raw, authserv_id) if is_filtered else []
        if not all(_is_authenticated(domain_of(address), passed) for address in addresses):
            return Doubt.NOT_AUTHENTICATED
    return None


def domain_of(address: str) -> str:
    """Give the domain of an address."""
    return address.rpartition("@")[2]


def _senders(raw: bytes) -> set[str]:
    words: list[str] = []
    for field in _fields(raw, find_sender_header(raw), "from"):
        words += _NO_ADDRESS.split(field.value.decode("utf-8", "replace").lower())
    return {word for word in words if "@" in word}


def _fields(raw: bytes, start: int, name: str) -> Iterator[Field]:
    fields, _ = read_header(raw, start)
    return (field for field in fields if field.name == name)


def _passed(raw: bytes, authserv_id: str) -> list[tuple[str, str]]:
    """List what the topmost field of this authserv-id says has passed: method and domain."""
    for field in _fields(raw, 0, "authentication-results"):
        name, *results = _plain(field.value.decode("utf-8", "replace")).lower().split(";")
        if name.split()[:1] == [authserv_id.lower()]:
            return [passed for result in results if (passed := _read_result(result))]
    return []


def _read_result(text: str) -> tuple[str, str] | None:
    """Read one result, `method=pass property=value …`; None if it has not passed or names no domain."""
    verdict, *words = re.sub(r"\s*=\s*", "=", text).split() or [""]
    method, _, result = verdict.partition("=")
    method = method.partition("/")[0]
    properties = dict(word.partition("=")[::2] for word in reversed(words))
    domain = domain_of(properties.get(_PROPERTIES.get(method, ""), ""))
    return (method, domain) if result == "pass" and domain else None


def _is_authenticated(domain: str, passed: list[tuple[str, str]]) -> bool:
    return any(domain == by or (method != "dmarc" and "." in by and domain.endswith(f".{by}")) for method, by in passed)


def _plain(text: str) -> str:
    """Take comments out, nested ones too, and of quoted strings whatever could be taken for the field's own form."""
    kept: list[str] = []
    depth, quoted, escaped = 0, False, False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\" and (quoted or depth):
            escaped = True
        elif quoted:
            quoted = character != '"'
            kept.append(character if character.isalnum() or character in ".@-_" else "")
        elif character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
            kept.append(" ")
        elif not depth:
            quoted = character == '"'
            kept.append("" if quoted else character)
    return "".join(kept)
