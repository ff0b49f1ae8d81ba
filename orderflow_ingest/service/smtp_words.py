"""SMTP words: the arguments of MAIL, RCPT and XFORWARD (RFC 5321 section 4.1.2, XFORWARD_README).

Addresses come out as pipe(8) writes its macros: without angle brackets, quotes or a source route. Bytes
that are no UTF-8 pass as surrogates. A form that Postfix lets through, blanks after the colon or no
angle brackets, is read too: smtpd(8) passes its client's line on to a before-queue server as it came.
"""

import re
from collections.abc import Collection

_PATH = r'{}: *(?:<((?:"(?:\\.|[^"\\])*"|[^"<>])*)>|([^<> ]+))(?: +(.*))?'
_SENDER, _RECIPIENT = (re.compile(_PATH.format(word), re.IGNORECASE | re.DOTALL) for word in ("FROM", "TO"))
_PARAMETER = re.compile(r"([A-Z0-9][A-Z0-9-]*)(?:=([^=\s]+))?", re.IGNORECASE)
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_NEEDS_NO_QUOTES = re.compile(r'[^\s"(),:;<>@\[\]\\]+')
_UNAVAILABLE = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")


class BadSyntax(ValueError):
    """An argument that does not read as what its command takes."""


def read_sender(argument: str | None) -> tuple[str, dict[str, str]]:
    """Read `FROM:<address> parameters`; the address is empty for a bounce. Raises BadSyntax."""
    return _read_path(_SENDER, argument)


def read_recipient(argument: str | None) -> tuple[str, dict[str, str]]:
    """Read `TO:<address> parameters`. Raises BadSyntax."""
    address, parameters = _read_path(_RECIPIENT, argument)
    if not address:
        raise BadSyntax
    return address, parameters


def declared_size(parameters: dict[str, str]) -> int:
    """Give the SIZE of MAIL's parameters, 0 where there is none (RFC 1870). Raises BadSyntax."""
    size = parameters.get("SIZE", "0")
    if not re.fullmatch("[0-9]{1,20}", size):
        raise BadSyntax
    return int(size)


def read_attributes(argument: str | None, names: Collection[str]) -> dict[str, str]:
    """Read the attributes of XFORWARD; what is not available is empty. Raises BadSyntax."""
    found = {}
    for word in (argument or "").split():
        name, equals, value = word.partition("=")
        if not equals or name.upper() not in names:
            raise BadSyntax
        value = "" if value.upper() in _UNAVAILABLE else _decode_xtext(value)
        found[name.upper()] = value if value.isprintable() else ""
    if not found:
        raise BadSyntax
    return found


def path(address: str) -> str:
    """Write an address as the path that is read as it: in angle brackets, quotes where it needs them."""
    local, at, domain = address.rpartition("@")
    if at and not _NEEDS_NO_QUOTES.fullmatch(local):
        local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
    return f"<{local}{at}{domain}>"


def client_address(attribute: str) -> str:
    """Give the address in an ADDR attribute: IPv6 ones are marked there (RFC 5321, section 4.1.3)."""
    return attribute[5:] if attribute[:5].upper() == "IPV6:" else attribute


def _read_path(form: re.Pattern[str], argument: str | None) -> tuple[str, dict[str, str]]:
    found = form.fullmatch(argument or "")
    if not found:
        raise BadSyntax
    bracketed, bare, rest = found.groups()
    return _plain(bracketed if bare is None else bare), dict(_read_parameter(word) for word in (rest or "").split())


def _read_parameter(word: str) -> tuple[str, str]:
    found = _PARAMETER.fullmatch(word)
    if not found:
        raise BadSyntax
    return found[1].upper(), found[2] or ""


def _plain(path: str) -> str:
    """Take off a source route (RFC 5321, appendix C) and the quotes of a local part."""
    address = path.strip()
    if address.startswith("@"):
        address = address.partition(":")[2]
    local, at, domain = address.rpartition("@")
    if at and len(local) > 1 and local[0] == local[-1] == '"':
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return local + at + domain


def _decode_xtext(text: str) -> str:
    """Decode xtext (RFC 3461, section 4)."""
    return _XTEXT.sub(lambda found: chr(int(found[1], 16)), text)
