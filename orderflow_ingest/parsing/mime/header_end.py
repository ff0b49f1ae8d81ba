"""Find the content that a header block swallowed, since the empty line between them is missing or holds blanks.

A block of lines up to an empty line or a boundary is given. Content in it begins at a line that can be no field:

- one that begins a document (PDF, ZIP, XML …), as it is or in base64, wherever it stands
- one without a field name, one after a line of blanks, or in a part one with a name that no header has ("Order: 12",
  "Order-No: 12"), unless a field follows that describes content, or, in a message, one that it lacks: then the line
  was only odd. So is a line that begins as a field does ("X-A/B: 1")
- in a part behind which nothing stands, one below the fields that describe it: any other field, or an indented line
- the first field of an attached message below the fields of the part that holds it

What stands behind the empty line has a say: an odd line is no content where a document follows, or a boundary, or where
base64 follows and the line is none. Where nothing follows, the line is all the content that there is. Where text
follows the header of a message, a line as "Order: 12" above it stays header: programs put fields of any name into a
message, and nothing distinguishes them from a text of which the empty line is missing. `entities` reports it as a
defect.

Guarantees: never raises, takes linear time. A block without such a line costs one look at each line.
"""

import binascii
import re
from functools import lru_cache

from .fields import field_name, is_parameter

_LINE = re.compile(rb"[^\r\n]++")
_BLANKS = b" \t\v\f\0"
_TOKEN = re.compile(r"[a-z][a-z0-9_.]*+-[a-z0-9_.-]++")
_ANY_PARAMETER = re.compile(rb"[ \t]*+[A-Za-z][\w.*-]{0,40}[ \t]*+=[ \t]*+[^\s=]", re.ASCII)
_ODD_FIELD = re.compile(rb"(?:X|Content|MIME)-[^:\r\n]{1,200}:", re.IGNORECASE)
_DESCRIBING = ("content-type", "content-transfer-encoding", "content-disposition")
_REGISTERED = """
apparently-to approved autocrypt bcc cc comments date distribution encoding encrypted envelope expires face followup-to
from importance in-reply-to keywords language lines mailer mime-version message-id newsgroups organization organization
path precedence priority received references reply-to return-path sender sensitivity status subject summary supersedes
thread to xref
"""
_KNOWN = frozenset(_REGISTERED.split())
# With what the names begin that programs and servers give to fields, for a part is not as free in them as a message.
_PROGRAMS = """
accept amq apple arc archived authentication auto bimi cms content delivered delivery disposition dkim domainkey
envelope errors exchange feedback generated google importance in ironport jabber list mail mailing message mime
ms msip nntp old openpgp original originating precedence received references reply require resent return sensitivity
sent spam thread ui user x
"""
_FIRST_WORDS = frozenset(_PROGRAMS.split())
_LATER_IN_PART = re.compile(rb"[\r\n]((?:Content|X|MIME)-[A-Za-z0-9-]{1,60})[ \t]*+:", re.IGNORECASE)
_LATER_IN_MESSAGE = re.compile(
    rb"[\r\n]((?:Content|X|MIME|List|Resent|DKIM|ARC|Received|Return|Authentication|Message|Reply|Delivered|In-Reply|Thread)"
    rb"-[A-Za-z0-9-]{1,60}|From|To|Cc|Subject|Date|Sender|References|Received|Organization)[ \t]*+:",
    re.IGNORECASE,
)
_ALWAYS = ("content-", "x-", "mime-")
_DOCUMENT = re.compile(
    rb"%PDF-|%!PS|PK\x03\x04|\x89PNG\r?\n|GIF8[79]a|\xff\xd8\xff|\xd0\xcf\x11\xe0|\x1f\x8b\x08|\x78\x9f\x3e\x22|II\*\0"
    rb"|MM\0\*|Rar!\x1a|7z\xbc\xaf|\{\\rtf|UNA.{6}|UNB\+|ISA\*|(?:\xef\xbb\xbf)?<(?:\?xml\s|!doctype\s|html\b)",
    re.IGNORECASE | re.DOTALL,
)
_BASE64 = re.compile(rb"[ \t]*+([A-Za-z0-9+/]{2,2000}={0,2})[ \t]*+(?=[\r\n]|\Z)")
_DIGITS = re.compile(rb"[A-Za-z0-9+/]{16,24}")
_BOUNDARY = re.compile(rb"--[^\r\n]{1,200}[\r\n]{1,2}Content-[A-Za-z-]{2,40}[ \t]*+:", re.IGNORECASE)
_CONTENT_FIELD = re.compile(rb"Content-[A-Za-z-]{2,40}[ \t]*+:", re.IGNORECASE)
_MESSAGE_START = re.compile(
    rb">?From |(?:From|To|Cc|Subject|Date|Received|Return-Path|Message-ID|MIME-Version|Content-Type|DKIM-Signature"
    rb"|X-[A-Za-z0-9-]{1,60})[ \t]*+:",
    re.IGNORECASE,
)
_LONG_ENOUGH = 24


@lru_cache(maxsize=1024)
def is_usual(name: str, *, is_message: bool) -> bool:
    """Return whether a field has a name that headers have: a registered one, or words joined by hyphens.

    Of those in a part the first word must be one that programs and servers use.
    """
    if name in _KNOWN:
        return True
    return _TOKEN.fullmatch(name) is not None and (is_message or name.partition("-")[0] in _FIRST_WORDS)


def find_content(block: bytes, follows: bytes, kind: str, encoding: str, *, is_message: bool) -> int | None:
    """Return the offset in a header block at which content begins, None if all of it is header.

    follows is the beginning of what stands behind the empty line, "" if only blanks do. Kind and encoding are the type
    and transfer encoding that the block declares. Is_message says that it is no part of a multipart.
    """
    return _Search(block, follows.lstrip(), kind, encoding, is_message=is_message).run()


class _Search:
    def __init__(self, block: bytes, follows: bytes, kind: str, encoding: str, *, is_message: bool) -> None:
        self.block = block
        self.follows = follows
        self.encoding = encoding
        self.is_message = is_message
        self.holds_fields = kind.startswith(("message/", "text/rfc822-headers"))
        self.is_typed = kind == "message/"  # by default, in a digest
        self.is_text = not kind or kind.startswith(("text/plain", "text/html"))
        self.follows_document = (
            _begins_document(follows, 0) or _BOUNDARY.match(follows) or _CONTENT_FIELD.match(follows)
        )
        self.seen: set[str] = set()
        self.later = 0
        self.name = ""
        self.started = self.is_open = self.after_blanks = False

    def run(self) -> int | None:
        """Return where content begins, if it does."""
        position = 0
        while line := _LINE.search(self.block, position):
            position = line.end()
            text = line[0]
            if not text.strip(_BLANKS):
                self.after_blanks = self.started
                continue
            if suspicion := self._suspect(text):
                if self._is_content(line.start(), suspicion):
                    return line.start()
                position = max(position, self.later)
            self.after_blanks = False
        return None

    def _suspect(self, text: bytes) -> str:
        """Return what a line may be instead of header: "odd", "foreign", "message", or "" for an ordinary line."""
        is_open, self.is_open = self.is_open, text.rstrip().endswith(b";")
        if self.started and text[:1] in (b" ", b"\t"):
            ends = self.after_blanks or (not self.follows and not self.is_message and self.name in _DESCRIBING)
            is_fold = not ends or is_open or text.lstrip().startswith(b"(") or _ANY_PARAMETER.match(text)
            return "" if is_fold else "odd"
        name = field_name(text if self.started else text.lstrip())
        if name is not None:
            return self._suspect_field(name, text)
        if self.holds_fields and self.is_typed and text.startswith((b"From ", b">From ")):
            return "message"
        continues = (is_open and _ANY_PARAMETER.match(text)) or (self.name[:8] == "content-" and is_parameter(text))
        return "odd" if self.started and not continues and not _ODD_FIELD.match(text) else ""

    def _suspect_field(self, name: str, text: bytes) -> str:
        if not is_usual(name, is_message=self.is_message) or self._is_last_field(name):
            self.started = True
            return "odd" if self.after_blanks else "foreign"
        if self.holds_fields and self.is_typed and self._begins_inner(name):
            return "message"
        self.is_typed = self.is_typed or name == "content-type"
        self.started, self.name = True, name
        self.seen.add(name)
        self.is_open = self.is_open or text.rstrip().endswith(b":")
        return ""

    def _is_last_field(self, name: str) -> bool:
        """Return whether a field stands below those that describe a part behind which nothing stands."""
        is_part = not self.is_message and not self.holds_fields and not self.follows
        return is_part and self.name.startswith("content-") and not name.startswith(_ALWAYS)

    def _begins_inner(self, name: str) -> bool:
        if self.is_message:
            return name in self.seen and name in ("from", "to", "subject", "date", "content-type", "mime-version")
        return not name.startswith(("content-", "x-")) or name == "content-type"

    def _is_content(self, start: int, suspicion: str) -> bool:
        if suspicion == "message":
            return _MESSAGE_START.match(self.follows) is None
        if _begins_document(self.block, start):
            return True
        if self._find_later(start) > start:
            return False
        if not self.follows:
            return suspicion == "odd" or not self.is_message or self.name.startswith("content-") or self.is_text
        if self.encoding == "base64":
            return _is_base64(self.block, start) or not _is_base64(self.follows, 0)
        if self.follows_document or (suspicion == "foreign" and self.is_message):
            return False
        return bool(self.seen)

    def _find_later(self, start: int) -> int:
        """Return where a field begins that shows the header to go on, 0 if none does. Looked for once for all lines."""
        if self.later > start or self.later < 0:
            return max(self.later, 0)
        pattern = _LATER_IN_MESSAGE if self.is_message else _LATER_IN_PART
        for found in pattern.finditer(self.block, start):
            name = found[1].decode("ascii").lower()
            if name.startswith(_ALWAYS) or name not in self.seen:
                self.later = found.start(1)
                return self.later
        self.later = -1
        return 0


def _begins_document(text: bytes, start: int) -> bool:
    if _DOCUMENT.match(text, start):
        return True
    digits = _DIGITS.match(text, start)
    # Whole groups of four, so that nothing is missing of them.
    return digits is not None and _DOCUMENT.match(binascii.a2b_base64(digits[0][: len(digits[0]) // 4 * 4])) is not None


def _is_base64(text: bytes, start: int) -> bool:
    """Return whether a line of base64 stands here, rather than a word of prose."""
    line = _BASE64.match(text, start)
    return line is not None and (len(line[1]) % 4 == 0 or len(line[1]) >= _LONG_ENOUGH)
