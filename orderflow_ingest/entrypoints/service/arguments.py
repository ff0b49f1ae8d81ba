"""The arguments of MAIL, RCPT and XFORWARD (RFC 5321 section 4.1.2, Postfix's XFORWARD_README).

Addresses are returned as pipe(8) writes its macros: without angle brackets, quotes, comments, blanks or a source route.
Bytes that are no UTF-8 pass as surrogates.

smtpd(8) passes its client's line on to a before-queue server unchanged, after it has answered 250. So a line is read
as smtpd reads it, by the same steps: smtpd_token.c finds the words, extract_addr() in smtpd.c the path, tok822_parse.c
the address (RFC 822), rewrite.c its domain. What smtpd accepts must not be refused here: the sender would get a bounce
for what was accepted at RCPT.
"""

import re
from collections.abc import Collection, Iterator
from itertools import pairwise

from orderflow_ingest.domain.errors import OrderflowError

_PARAMETER = re.compile(r"([A-Z0-9][A-Z0-9-]*)(?:=([^=\s]+))?", re.IGNORECASE)
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_NEEDS_NO_QUOTES = re.compile(r'[^\s"(),:;<>@\[\]\\]+')
_BLANKS = " \t\r\n\v\f"
_SPECIALS = '|%!()<>@,;:.[]"'  # tok822_opchar without the backslash, which takes the next character as it is
_UNAVAILABLE = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")


class SmtpSyntaxError(OrderflowError, ValueError):
    """An argument that its command does not accept."""


def read_sender(argument: str | None) -> tuple[str, dict[str, str]]:
    """Read `FROM:<address> parameters`. The address is empty for a bounce. Raise SmtpSyntaxError."""
    return _read_path("FROM:", argument)


def read_recipient(argument: str | None) -> tuple[str, dict[str, str]]:
    """Read `TO:<address> parameters`. Raise SmtpSyntaxError."""
    address, parameters = _read_path("TO:", argument)
    if not address:
        raise SmtpSyntaxError
    return address, parameters


def declared_size(parameters: dict[str, str]) -> int:
    """Return the SIZE of MAIL's parameters, 0 where there is none (RFC 1870). Raise SmtpSyntaxError."""
    size = parameters.get("SIZE", "0")
    if not re.fullmatch("[0-9]{1,20}", size):
        raise SmtpSyntaxError
    return int(size)


def read_attributes(argument: str | None, names: Collection[str]) -> dict[str, str]:
    """Read the attributes of XFORWARD. What is not available is empty. Raise SmtpSyntaxError."""
    found = {}
    for word in (argument or "").split():
        name, equals, value = word.partition("=")
        if not equals or name.upper() not in names:
            raise SmtpSyntaxError
        value = "" if value.upper() in _UNAVAILABLE else _decode_xtext(value)
        found[name.upper()] = value if value.isprintable() else ""
    if not found:
        raise SmtpSyntaxError
    return found


def path(address: str) -> str:
    """Return an address as a path: in angle brackets, with quotes where it needs them."""
    local, at, domain = address.rpartition("@")
    if at and not _NEEDS_NO_QUOTES.fullmatch(local):
        local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
    return f"<{local}{at}{domain}>"


def client_address(attribute: str) -> str:
    """Return the address of an ADDR attribute: IPv6 addresses have a prefix there (RFC 5321, section 4.1.3)."""
    return attribute[5:] if attribute[:5].upper() == "IPV6:" else attribute


def _read_path(word: str, argument: str | None) -> tuple[str, dict[str, str]]:
    text = (argument or "").lstrip(_BLANKS)
    if text[: len(word)].upper() != word:
        raise SmtpSyntaxError
    address, rest = _first_word(text[len(word) :].lstrip(_BLANKS))
    return _read_address(address), dict(_read_parameter(word) for word in rest.split())


def _first_word(text: str) -> tuple[str, str]:
    """Split off the first word. Blanks within <...> and quotes do not end it, nor does anything after a backslash."""
    closing: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
        elif closing and char == closing[-1]:
            closing.pop()
        elif char == '"':
            closing.append(char)
        elif char == "<" and closing in ([], [">"] * len(closing)):
            closing.append(">")
        elif char in _BLANKS and not closing:
            break
        at += 1
    if closing or not text:
        raise SmtpSyntaxError
    return text[:at], text[at:]


def _read_parameter(word: str) -> tuple[str, str]:
    found = _PARAMETER.fullmatch(word)
    if not found:
        raise SmtpSyntaxError
    return found[1].upper(), found[2] or ""


def _read_address(path: str) -> str:
    """Return the one address of a path. It is empty where there is none. Raise SmtpSyntaxError where there are more."""
    if path[0] == "<" and path[-1] == ">":
        path = path[1:-1]
    if path.startswith("@") and ":" in path:  # a source route (RFC 5321, appendix C)
        path = path.partition(":")[2]
    tokens = list(_tokens(path))
    for opening, end in ("<>", ":;"):  # phrase <address>, group: address;
        if (end, False) in tokens:
            last = _last(tokens, end)
            behind = [token for token in tokens[last + 1 :] if token != (";", False)]
            tokens = [*tokens[_last(tokens[:last], opening) + 1 : last], (",", False), *behind]
            break
    addresses = [address for address in _split(tokens) if address]
    are_words = [is_word for _, is_word in tokens]
    if len(addresses) > 1 or (True, True) in pairwise(are_words):
        raise SmtpSyntaxError
    return _with_domain(addresses[0]) if addresses else ""


def _with_domain(tokens: list[tuple[str, bool]]) -> str:
    """Return the address as Postfix rewrites it: without a source route, domain!user and user%domain as user@domain."""
    if tokens[0] == ("@", False) and (":", False) in tokens[:-1]:
        tokens = tokens[tokens.index((":", False)) + 1 :]
    if ("@", False) not in tokens:
        if ("!", False) in tokens:
            bang = tokens.index(("!", False))
            tokens = [*tokens[bang + 1 :], ("@", False), *tokens[:bang]]
        elif ("%", False) in tokens:
            tokens[_last(tokens, "%")] = ("@", False)
    address = "".join(text for text, _ in tokens)
    local, at, domain = address.rpartition("@")
    return local + at + (domain.removesuffix(".") if at and domain not in ("", ".") else domain)


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Yield operators, each a character, and words without their quotes. The flag is true for a word."""
    at = 0
    while at < len(text):
        char = text[at]
        if char in _BLANKS:
            at += 1
        elif char == "(":
            at = _after_comment(text, at)
        elif char == '"':
            word, at = _collected(text, at + 1, '"')
            at += 1
            yield word, True
        elif char == "[":
            word, at = _collected(text, at + 1, "]")
            at += 1
            yield f"[{word}]", True
        elif char in _SPECIALS:
            at += 1
            yield char, False
        else:
            word, at = _collected(text, at, _BLANKS + _SPECIALS)
            yield word, True


def _collected(text: str, at: int, ends: str) -> tuple[str, int]:
    """Collect characters up to one of `ends`. A backslash takes the one behind it as it is."""
    found = []
    while at < len(text) and text[at] not in ends:
        if text[at] == "\\":
            at += 1
        found.append(text[at : at + 1])
        at += 1
    return "".join(found), at


def _after_comment(text: str, at: int) -> int:
    """Return where a comment ends. Comments nest, and one without an end takes all the rest."""
    depth = 0
    while at < len(text):
        char = text[at]
        at += 2 if char == "\\" else 1
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth == 0:
            break
    return at


def _split(tokens: list[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Split at commas."""
    part: list[tuple[str, bool]] = []
    for token in tokens:
        if token == (",", False):
            yield part
            part = []
        else:
            part.append(token)
    yield part


def _last(tokens: list[tuple[str, bool]], operator: str) -> int:
    """Return where an operator stands last; -1 where it does not."""
    return max((number for number, token in enumerate(tokens) if token == (operator, False)), default=-1)


def _decode_xtext(text: str) -> str:
    """Decode xtext (RFC 3461, section 4)."""
    return _XTEXT.sub(lambda found: chr(int(found[1], 16)), text)
