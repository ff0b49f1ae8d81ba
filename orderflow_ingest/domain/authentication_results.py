"""What an Authentication-Results field says (RFC 8601), read from the field's bytes.

Software writes into a field of its own what a sender chose, without quotes: OpenDKIM the decoded i= of a signature,
which may hold `;dmarc=pass header.from=victim.example`. OpenDMARC then reads that. So a field in which anything can be
read in two ways is unclear, and the mail is not to be believed. The grammar is that of RFC 8601, section 2.2, without
what leaves a choice:

    comments       stand before the first property: one behind it could begin in a sender's text, and hide what follows
    properties     those that OpenDKIM, OpenDMARC and verifiers of SPF write for this method, each once at the most;
                   header.i is an identity of header.d
    values         a token, a quoted string, an address or a domain, in ASCII; letter case is that of ASCII

A field speaks for a domain if it has one result. OpenDKIM writes one for each signature into one field, and what stands
behind the first may be a sender's, so mail with several is authenticated by OpenDMARC's field, which has one.
`dkim-atps`, which Debian's OpenDKIM puts behind its own result, does not count.

Everything here takes linear time.
"""

import re
from dataclasses import dataclass

from .errors import OrderflowError

# The property that names the domain that has passed, and the others that stand beside it, RFC 8601 section 2.7.
_PROPERTIES = {
    b"dmarc": (b"header.from",),
    b"dkim": (b"header.d", b"header.i", b"header.a", b"header.s", b"header.b"),
    b"spf": (b"smtp.mailfrom", b"smtp.helo"),
}
_LONGEST = 8192
_TOKEN = rb"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]++"
_KEYWORD = rb"[0-9A-Za-z][0-9A-Za-z-]*+"
_STRING = rb'"(?:[\t !#-\[\]-~]|\\[\t -~])*+"'
_DOMAIN = rb"[0-9A-Za-z_][0-9A-Za-z._-]*+"
_ATEXT = rb"[!#$%&'*+./0-9=?A-Z^_`a-z{|}~-]++"
_ID = re.compile(rb"%s|%s" % (_TOKEN, _STRING))
_SEMICOLON = re.compile(rb";")
_NONE = re.compile(rb";[ \t]*+none(?![^ \t(])", re.IGNORECASE)
_END = re.compile(rb"\Z")
_VERSION = re.compile(rb"[0-9]++(?![^ \t;(])")
_RESULT = re.compile(rb"(%s)(?:/[0-9]++)?[ \t]*+=[ \t]*+(%s)(?![^ \t;(])" % (_KEYWORD, _KEYWORD))
_REASON = re.compile(rb"reason[ \t]*+=[ \t]*+(?:%s|%s)(?![^ \t;(])" % (_STRING, _TOKEN), re.IGNORECASE)
_PROPERTY = re.compile(
    rb"(%s\.%s)[ \t]*+=[ \t]*+((?:%s|%s)?@%s|%s|%s)(?![^ \t;])"
    % (_KEYWORD, _KEYWORD, _ATEXT, _STRING, _DOMAIN, _STRING, _ATEXT)
)
_WHOLE_DOMAIN = re.compile(_DOMAIN)
_BLANKS = re.compile(rb"[ \t]*+")
_OF_COMMENT = re.compile(rb"[^()\\]*+(?:\\.[^()\\]*+)*+", re.DOTALL)
_PIECE = re.compile(rb'\\.?|[()"]|[^\\()"]++', re.DOTALL)
_NO_LETTERS = re.compile(rb"[^0-9a-z._-]++")


@dataclass(frozen=True)
class Verdict:
    """One result of a field, in lower case. `domain` is what it is about, empty where it names none."""

    method: str
    result: str
    domain: str


class UnclearFieldError(OrderflowError):
    """A field does not follow the grammar, or can be read in two ways."""


def read_verdicts(value: bytes, authserv_id: str) -> list[Verdict]:
    """Return the results of a field, none if it is of another authserv-id. Raise UnclearFieldError."""
    if len(value) > _LONGEST:
        raise UnclearFieldError
    return _read(_Cursor(value), authserv_id.encode().lower())


def read_verdict(value: bytes, authserv_id: str) -> Verdict | None:
    """Return the one result by which a field of this authserv-id speaks.

    None if it has more. Raise UnclearFieldError.
    """
    found = read_verdicts(value, authserv_id)
    if len(found) == 2 and (found[0].method, found[1].method) == ("dkim", "dkim-atps"):
        del found[1]
    return found[0] if len(found) == 1 else None


def may_name(value: bytes, authserv_id: str) -> bool:
    """Return whether any software could take this field for one of this authserv-id, in whatever way it reads.

    OpenDMARC drops comments, quotes, backslashes and blanks on its way to the id.
    """
    if len(value) > _LONGEST:
        return True
    bare = _without_comments(value)
    heads = [value] if bare is None else [value.partition(b"=")[0], bare.partition(b"=")[0]]
    return any(authserv_id.encode().lower() in _NO_LETTERS.sub(b"", head.lower()) for head in heads)


def _without_comments(value: bytes) -> bytes | None:
    """Return a value without comments, or None where one, or a quoted string, has no end."""
    kept: list[bytes] = []
    depth, is_quoted = 0, False
    for piece in _PIECE.findall(value):
        if piece == b'"' and not depth:
            is_quoted = not is_quoted
        elif piece == b"(" and not is_quoted:
            depth += 1
        elif piece == b")" and not is_quoted:
            depth = max(0, depth - 1)
        elif not depth:
            kept.append(piece)
    return None if depth or is_quoted else b"".join(kept)


class _Cursor:
    """A place in a field's value."""

    def __init__(self, value: bytes):
        self._value = value
        self._at = 0

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        """Read what has to stand here."""
        found = self.take_if(pattern)
        if found is None:
            raise UnclearFieldError
        return found

    def take_if(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Read what may stand here."""
        found = pattern.match(self._value, self._at)
        self._at = found.end() if found else self._at
        return found

    def is_at(self, text: bytes) -> bool:
        """Return whether this character comes next. B"" is the end."""
        return self._value[self._at : self._at + 1] == text

    def skip_blanks(self) -> None:
        """Read past blanks."""
        self.take(_BLANKS)

    def skip_comments(self) -> None:
        """Read past blanks and comments, nested ones too."""
        depth = 0
        self.skip_blanks()
        while depth or self.is_at(b"("):
            if not (self.is_at(b"(") or self.is_at(b")")):
                raise UnclearFieldError  # its end is missing
            depth += 1 if self.is_at(b"(") else -1
            self._at += 1
            self.take(_OF_COMMENT if depth else _BLANKS)


def _read(field: _Cursor, wanted: bytes) -> list[Verdict]:
    field.skip_comments()
    if field.take(_ID)[0].strip(b'"').lower() != wanted:
        return []
    field.skip_comments()
    if field.take_if(_VERSION):
        field.skip_comments()
    if field.take_if(_NONE):
        field.skip_comments()
        field.take(_END)
        return []
    found: list[Verdict] = []
    while not field.is_at(b"") or not found:
        field.take(_SEMICOLON)
        found.append(_read_result(field))
    return found


def _read_result(field: _Cursor) -> Verdict:
    field.skip_comments()
    result = field.take(_RESULT)
    method = result[1].lower()
    field.skip_comments()
    if field.take_if(_REASON):
        field.skip_comments()
    known: dict[bytes, bytes] = {}
    while not (field.is_at(b"") or field.is_at(b";")):
        found = field.take(_PROPERTY)
        name = found[1].lower()
        if name in known or name not in _PROPERTIES.get(method, ()):
            raise UnclearFieldError
        known[name] = found[2].lower()
        field.skip_blanks()
    return Verdict(method.decode("ascii"), result[2].decode("ascii").lower(), _domain(method, known).decode("ascii"))


def _domain(method: bytes, known: dict[bytes, bytes]) -> bytes:
    """Return the domain that a result is about, b"" if it names none."""
    if method == b"spf" and len(known) > 1:
        raise UnclearFieldError  # SPF is about one of them
    if not _WHOLE_DOMAIN.fullmatch(known.get(b"smtp.helo", b"none")):
        raise UnclearFieldError
    value = known.get(_PROPERTIES.get(method, (b"",))[0])
    if value is None:
        return b""
    if method == b"spf":
        value = value.rpartition(b"@")[2]
    signer = known.get(b"header.i", b"@" + value).rpartition(b"@")[2]
    if not _WHOLE_DOMAIN.fullmatch(value) or not (signer == value or signer.endswith(b"." + value)):
        raise UnclearFieldError
    return value
