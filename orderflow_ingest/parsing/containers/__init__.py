"""Open what mail programs and senders wrap files in: TNEF, Outlook messages, S/MIME, archives, compressed files.

kinds        which attachments are opened, and by whom: a further format begins here
zip_archive  ZIP             tar_archive  tar            seven_zip  7z             rar_archive  why RAR is not opened
gzip_file    gzip            one_file     bzip2, xz      names      names of members, where nothing says their charset
tnef         winmail.dat     outlook      .msg           mapi, rtf  what both share
smime        S/MIME          ber          its encoding
encryption   documents that are encrypted
guards       how failures are raised, and how much work one mail may cause

Guarantees: nothing but ContainerError leaves an opener, whatever the bytes. What is unpacked is bounded by one
UnpackBudget for the whole mail, counted while it is unpacked and not as the container claims, and so is work that
unpacks nothing. No member's path touches a file system. No I/O, no clock but the one that a caller gives to the budget,
no settings.

A container is opened member by member, so that the files of an archive need not lie in memory together. Who opens it
learns of a failure where it occurs: the members before it were good, and the container itself is then kept whole. A
message's body comes before its attachments, since the pictures that it shows depend on it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from .guards import ContainerError, UnpackBudget

__all__ = ["ContainerError", "Member", "Role", "UnpackBudget"]


class Role(Enum):
    """What a member is to its container."""

    FILE = "file"
    BODY = "body"  # the text of a message, as text/plain or text/html
    LINK = "link"  # a link or a device in an archive: it is listed, and has no data
    MESSAGE = "message"  # a message: its MIME bytes in `data`, or taken apart already, in `members`


@dataclass(frozen=True)
class Member:
    """One thing out of a container. `name` as it was written, `declared_type` in lower case, "" if none was given."""

    name: str | None
    data: bytes
    declared_type: str = ""
    role: Role = Role.FILE
    content_id: str = ""
    charset: str = ""
    members: "Iterable[Member]" = ()
    defects: tuple[str, ...] = ()
