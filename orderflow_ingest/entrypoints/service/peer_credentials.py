"""The user at the other end of a unix socket, as the kernel reports it (SO_PEERCRED, unix(7)).

The kernel notes the user at connect(2). Nothing that a client sends can change it. Behind a user namespace
(PrivateUsers= of a systemd unit) users other than one's own appear as 65534, and none of them is allowed.

It does not decide what a user may do: each listener compares the user with its own list.
"""

import asyncio
import os
import pwd
import socket
import struct

_UCRED = struct.Struct("3i")  # pid, uid, gid


def peer_uid(transport: asyncio.BaseTransport) -> int:
    """Return the user id of the process that connected."""
    connection = transport.get_extra_info("socket")
    return int(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])


def own_uids() -> frozenset[int]:
    """Return the users that may hand over spool entries: this user, whose spool it is, and root."""
    return frozenset({0, os.geteuid()})


def mail_uids(mail_user: str) -> frozenset[int]:
    """Return the users that may connect by LMTP and SMTP: those, and Postfix's user."""
    try:
        return own_uids() | {pwd.getpwnam(mail_user).pw_uid}
    except KeyError:
        return own_uids()
