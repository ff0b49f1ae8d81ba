"""The readers that are measured side by side: our own, the standard library's, two peers.

Each is a function from a mail to (file name, content) pairs, which does for its parser what a program that stores
attachments must do: read names, decode contents to bytes. Contents are given one by one where the parser can do that,
and the caller drops each. Our own does more than that: it judges each part, tells types by content, and finds what
HTML bodies show.

A parser is imported when it is asked for, so that none counts for another's memory.
"""

import base64
import importlib.metadata
import logging
from collections.abc import Callable, Iterator

Found = Iterator[tuple[str | None, bytes]]
Reader = Callable[[bytes], Found]

OURS, STANDARD = "read_parts", "email"


def _read_parts() -> Reader:
    from orderflow_ingest.parsing.documents import read_parts

    def read(raw: bytes) -> Found:
        for part in read_parts(raw):
            yield part.filename, part.data

    return read


def _email() -> Reader:
    from email import message_from_bytes
    from email.policy import default

    def read(raw: bytes) -> Found:
        for part in message_from_bytes(raw, policy=default).walk():
            if not part.is_multipart():
                yield part.get_filename(), part.get_payload(decode=True)

    return read


def _mail_parser() -> Reader:
    from mailparser import parse_from_bytes

    logging.getLogger("mailparser").setLevel(logging.CRITICAL)  # it tells of each type that it does not know

    def read(raw: bytes) -> Found:
        mail = parse_from_bytes(raw)
        for text in (*mail.text_plain, *mail.text_html):
            yield None, text.encode("utf-8", "replace")
        for attachment in mail.attachments:
            payload = attachment["payload"]
            yield attachment["filename"], base64.b64decode(payload) if attachment["binary"] else payload.encode()

    return read


def _fast_mail_parser() -> Reader:
    from fast_mail_parser import parse_email

    def read(raw: bytes) -> Found:
        mail = parse_email(raw)
        for text in (*mail.text_plain, *mail.text_html):
            yield None, text.encode("utf-8", "replace")
        for attachment in mail.attachments:
            yield attachment.filename, attachment.content

    return read


PARSERS: dict[str, Callable[[], Reader]] = {
    OURS: _read_parts,
    STANDARD: _email,
    "mail-parser": _mail_parser,
    "fast-mail-parser": _fast_mail_parser,
}
_PEERS = ("mail-parser", "fast-mail-parser")
_MISSING = "not installed"


def versions() -> dict[str, str]:
    """Name the version of each peer, "not installed" for one that is not there."""
    return {name: _version(name) for name in _PEERS}


def installed() -> tuple[str, ...]:
    """Name the parsers that are there, ours first."""
    return tuple(name for name in PARSERS if name not in _PEERS or _version(name) != _MISSING)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _MISSING
