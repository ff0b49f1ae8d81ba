"""The settings of one organization: what an operator may choose for a tenant, kept as JSON in organization.settings.

Each is stored under its key in KEYS: a number as such, all else as the text that was typed. What is not stored is as
for everybody. A key that a newer version has written is ignored here, and kept by who changes another one.

A value that does not read is OrgSettingsError, by its key: mail is then deferred, since its meaning is not known.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .addresses import ascii_spelling
from .ascii_case import ascii_lower
from .errors import OrderflowError

MOST_DAYS = 36500
_A_NUMBER_OF_DAYS = f"a number of days, at most {MOST_DAYS}"
_ADDRESS = re.compile(r"[^\s@,<>]*@[^\s@,<>.]+(?:\.[^\s@,<>.]+)*")
_CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9.+_-]*/(?:\*|[a-z0-9][a-z0-9.+_-]*)")


class OrgSettingsError(OrderflowError, ValueError):
    """A setting that there is not, or a value that does not read. The text names the key and what it should be."""


@dataclass(frozen=True)
class OrgSettings:
    """What is chosen for an organization. None and an empty tuple: no limit of its own."""

    allowed_senders: tuple[str, ...]
    accepts_reused_message_id: bool
    document_types: tuple[str, ...]
    max_message_size: int | None
    keep_raw_days: int | None
    keep_documents_days: int | None


@dataclass(frozen=True)
class OrgKey:
    """One key. `default` is text as an operator would type it. For an empty one `default_meaning` is shown.

    `former_name` is what an earlier version stored it under: it is read, and accepted from an operator, for ever.
    """

    name: str
    field: str
    default: str
    read: Callable[[str], Any]
    expected: str
    meaning: str
    default_meaning: str = ""
    former_name: str = ""


def _list_of(pattern: re.Pattern[str]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(re.split(r"[\s,]+", ascii_lower(text.strip(" ,"))))) if text.strip(" ,") else ()
        if not all(pattern.fullmatch(one) for one in found):
            raise ValueError
        return found

    return read


def _senders(text: str) -> tuple[str, ...]:
    """Read addresses and @domains, domains in their ASCII spelling."""
    found = (one.rpartition("@") for one in _list_of(_ADDRESS)(text))
    return tuple(dict.fromkeys(f"{local}@{ascii_spelling(domain)}" for local, _, domain in found))


def _number(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text) or int(text) < 1:
        raise ValueError
    return int(text)


def _days(text: str) -> int | None:
    days = _number(text)
    if days is not None and days > MOST_DAYS:
        raise ValueError
    return days


def _policy(text: str) -> bool:
    return {"hold": False, "accept": True}[text.lower()]


KEYS = (
    OrgKey("allowed_senders", "allowed_senders", "", _senders,
        "addresses or @domains, comma separated",
        "Addresses and @domains whose mail is taken, comma separated. Mail from others is held.", "everybody's"),
    OrgKey("reused_message_id", "accepts_reused_message_id", "hold", _policy, "hold or accept",
        "What to do with mail whose Message-ID is known with other content: hold it, or accept it as a new message.",
        former_name="conflicts"),
    OrgKey("document_types", "document_types", "", _list_of(_CONTENT_TYPE),
        "content types such as application/pdf or image/*, comma separated",
        "Content types of attachments that become documents, comma separated. image/* is every image.", "all"),
    OrgKey("max_message_size", "max_message_size", "", _number, "a number of bytes",
        "The largest mail in bytes. A larger one is refused.", "ORDERFLOW_MAX_MESSAGE_SIZE alone"),
    OrgKey("keep_raw_days", "keep_raw_days", "", _days, _A_NUMBER_OF_DAYS,
        "Days after which a retention deletes raw mail.", "for ever"),
    OrgKey("keep_documents_days", "keep_documents_days", "", _days, _A_NUMBER_OF_DAYS,
        "Days after which a retention deletes documents.", "for ever"),
)  # fmt: skip
_BY_NAME = {key.name: key for key in KEYS}
_FORMER_NAMES = {key.former_name: key.name for key in KEYS if key.former_name}


def read_settings(stored: Mapping[str, Any]) -> OrgSettings:
    """Read what is stored for an organization. Raise OrgSettingsError."""
    stored = with_current_names(stored)
    return OrgSettings(**{key.field: _read(key, stored.get(key.name, key.default)) for key in KEYS})


def current_name(name: str) -> str:
    """Return the name that a key has today."""
    return _FORMER_NAMES.get(name, name)


def with_current_names(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is stored, each key under the name of today. One that is stored under both has its value of today."""
    if _FORMER_NAMES.keys().isdisjoint(stored):
        return stored
    return {current_name(name): stored.get(current_name(name), value) for name, value in stored.items()}


def changed(stored: Mapping[str, Any], changes: Mapping[str, str]) -> dict[str, Any]:
    """Return what is to be stored after these changes. An empty value takes a key out. Raise OrgSettingsError."""
    changes = {current_name(name): text for name, text in changes.items()}
    for name in changes:
        if name not in _BY_NAME:
            raise OrgSettingsError(f"no setting is named {name}; there are {', '.join(_BY_NAME)}")
    kept = {name: value for name, value in with_current_names(stored).items() if name not in changes}
    return kept | {name: _stored(_BY_NAME[name], text) for name, text in changes.items() if text.strip()}


def _stored(key: OrgKey, text: str) -> str | int:
    value = _read(key, text)
    return value if isinstance(value, int) and not isinstance(value, bool) else text.strip()


def _read(key: OrgKey, stored: Any) -> Any:
    text = str(stored) if isinstance(stored, int) and not isinstance(stored, bool) else stored
    try:
        return key.read(text.strip())
    except (ValueError, KeyError, AttributeError):
        raise OrgSettingsError(f"{key.name} must be {key.expected}") from None
