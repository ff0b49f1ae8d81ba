"""Open what mail programs and senders wrap files in: TNEF, Outlook messages, S/MIME, ZIP, gzip.

kinds        which attachments are opened, and by whom: a further format begins here
zip_archive  ZIP             gzip_file  gzip
tnef         winmail.dat     outlook    .msg            mapi, rtf  what both share
smime        S/MIME          ber        its encoding
guards       how failures are told, and how far anything may unpack

Guarantees: nothing but NotOpened leaves an opener, whatever the bytes; what is unpacked is bounded by one Budget for
the whole mail, counted while it is unpacked and not as the container claims. No I/O, no clock, no settings.

A container is opened member by member, so that the files of an archive need not lie in memory together. Who opens it
learns of a failure where it occurs: the members before it were good, and the container itself is then kept whole. A
message's body comes before its attachments, since it tells which pictures it shows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from .guards import Budget, NotOpened

__all__ = ["Budget", "Member", "NotOpened", "Role"]


class Role(Enum):
    """What a member is to its container."""

    FILE = "file"
    BODY = "body"  # the text of a message, as text/plain or text/html
    MESSAGE = "message"  # a message: its MIME bytes in `data`, or taken apart already, in `members`


@dataclass(frozen=True)
class Member:
    """One thing out of a container; `name` as it was written, `declared_type` in lower case, "" if none was given."""

    name: str | None
    data: bytes
    declared_type: str = ""
    role: Role = Role.FILE
    content_id: str = ""
    charset: str = ""
    members: "Iterable[Member]" = ()
    defects: tuple[str, ...] = ()
