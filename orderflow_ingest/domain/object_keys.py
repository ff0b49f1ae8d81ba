"""Keys and ids: how an object is named, and which row it stands for.

    org/<org>/organization.json                    the organization itself
    org/<org>/documents/<digest>                   a document
    org/<org>/raw/<digest>.eml                     a mail that came by SMTP: a message
    org/<org>/raw/held/<digest>.eml                one that is held, or was until an operator decided
    org/<org>/raw/held/<digest>.decision.json      what the operator decided
    org/<org>/raw/upload/…                         the same for mail that was imported: <digest>.eml, held/…

`digest` is the SHA-256 of the content, so that nothing a sender wrote is part of a key. The same bytes by SMTP and by
an import are two objects, since they are two messages. In the order of keys a message stands before what is held
because of it, and a decision before its mail: who rebuilds reads them once, in that order.

An id is made from the key (UUID version 5), and a document's from its message, its part and its content: who does
the same thing twice, or reads the archive again, makes the same id. Versions before named held mail as they did
messages, and their ids were random.
"""

import re
from dataclasses import dataclass
from uuid import UUID, uuid5

EMAIL, UPLOAD = "EMAIL", "UPLOAD"

_OURS = UUID("6f1d1ab4-0f3c-5a55-9d0a-5c1e7b0f2a11")
_PLACES = {EMAIL: "raw", UPLOAD: "raw/upload"}
_RAW = re.compile(r"org/([1-9][0-9]{0,17})/raw/(upload/)?(held/)?([0-9a-f]{64})(\.eml|\.decision\.json)")
_ORG = re.compile(r"org/([1-9][0-9]{0,17})/")


@dataclass(frozen=True)
class RawName:
    """What the key of a mail says of it. `is_decision`: it is the key of the decision on that mail."""

    org_id: int
    digest: str
    source: str
    is_held: bool
    is_decision: bool


def organization_key(org_id: int) -> str:
    """Return the key of an organization's own object."""
    return f"org/{org_id}/organization.json"


def raw_prefix(org_id: int) -> str:
    """Return what the keys of an organization's mail begin with."""
    return f"org/{org_id}/raw/"


def document_prefix(org_id: int) -> str:
    """Return what the keys of an organization's documents begin with."""
    return f"org/{org_id}/documents/"


def raw_key(org_id: int, digest: str, source: str = EMAIL, *, is_held: bool = False) -> str:
    """Return the key of a mail."""
    return f"org/{org_id}/{_PLACES[source]}/{'held/' if is_held else ''}{digest}.eml"


def decision_key(held: str) -> str:
    """Return the key of the decision on the mail of this key."""
    name = read_raw_key(held)
    if name is None:
        raise ValueError("this is no key of a mail")
    place = _PLACES[name.source]
    return f"org/{name.org_id}/{place}/held/{name.digest}.decision.json"


def document_key(org_id: int, digest: str) -> str:
    """Return the key of a document."""
    return f"org/{org_id}/documents/{digest}"


def read_raw_key(key: str) -> RawName | None:
    """Read the key of a mail, or of a decision on one, or None if it is neither."""
    found = _RAW.fullmatch(key)
    if found is None or (found[5] != ".eml" and not found[3]):
        return None
    return RawName(int(found[1]), found[4], UPLOAD if found[2] else EMAIL, bool(found[3]), found[5] != ".eml")


def is_decision(key: str) -> bool:
    """Return whether this is the key of a decision on a held mail."""
    name = read_raw_key(key)
    return name is not None and name.is_decision


def is_own(org_id: int, key: str) -> bool:
    """Return whether a key can be that of a mail or a document of this organization, and leads nowhere else."""
    return key.startswith((raw_prefix(org_id), document_prefix(org_id))) and ".." not in key.split("/")


def read_org_id(key: str) -> int | None:
    """Return the id of the organization that owns this object, or None if it has no owner."""
    found = _ORG.match(key)
    return int(found[1]) if found else None


def message_id(key: str) -> UUID:
    """Return the id of the message whose mail has this key."""
    return uuid5(_OURS, key)


def held_id(key: str) -> UUID:
    """Return the id of the mail of this key as one that is held. A message made of it has another id."""
    return uuid5(_OURS, f"held {key}")


def document_id(message: UUID, part_path: str, digest: str) -> UUID:
    """Return the id of a document: other content in the same part is another document."""
    return uuid5(message, f"{part_path} {digest}")
