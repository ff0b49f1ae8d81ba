"""The addresses of organizations: `local_part`, a delimiter, the organization's slug, `@` and one of our domains.

Every way and the recipient map read a recipient here, so that what RCPT TO has accepted is delivered. As Postfix does,
the first delimiter divides (postconf(5), recipient_delimiter), so a slug may hold one: with the delimiter `-`,
`orders-acme-shop` names acme-shop. The local part holds none, which the settings see to.

A domain beyond ASCII has two spellings, `bücher.example` (U-label) and `xn--bcher-kva.example` (A-label, RFC 5890), and
both are ours. Postfix compares names as they were sent, so both are printed for it. Here the spellings are made once
from the settings and then compared as text: a recipient costs no conversion, and plain domains import nothing.

The standard library converts, by IDNA 2003 and Unicode 3.2. A name that IDNA 2008 reads otherwise (ß, ς, the joiners)
and one in a script that is newer is refused, and can be written as its A-label: that is only decoded, and never mapped.
"""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from .errors import OrderflowError

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ASCII_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_READ_OTHERWISE = "ßς\u200c\u200d"  # by IDNA 2003 and IDNA 2008
_ALSO_IN_NAMES = "\u200c\u200d\u00b7\u0375\u05f3\u05f4\u30fb"  # RFC 5892, appendix A
DELIMITERS = "+-=_."
_LONGEST_LABEL = 63  # a bound: Python's punycode takes quadratic time
POSTMASTERS = ("postmaster", "abuse")  # local parts of no organization: RFC 5321 section 4.5.1, RFC 2142


class ForeignDomainError(OrderflowError, ValueError):
    """A recipient in a domain that is not ours: Postfix's settings and ours disagree."""


@dataclass(frozen=True)
class Addresses:
    """How a deployment's addresses are spelled. `domains` are in ASCII, each character of `delimiters` divides."""

    local_part: str
    delimiters: str
    domains: tuple[str, ...]

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """Return all domains in both spellings, as Postfix has to know them."""
        return tuple(dict.fromkeys(name for domain in self.domains for name in (domain, unicode_domain(domain))))

    def of(self, slug: str, domain: str = "") -> str:
        """Return the address of an organization, in the first domain where none is named."""
        return f"{self.local_part}{self.delimiters[0]}{slug}@{domain or self.domains[0]}"

    def slug(self, recipient: str) -> str | None:
        """Return the organization's slug in a recipient address, or None if it names none.

        The address is in internal form, without quotes, as pipe(8) and `smtp_words` give it. Letter case does not
        matter, nor does a dot at the end. Letters are folded as Postfix folds its maps' keys: its map finds acme for
        what folds to it, and that has then been accepted. Raise ForeignDomainError, which is a fault of ours and not
        the sender's.
        """
        user, slug, domain = self.split(recipient)
        if domain not in self._folded_domains:
            raise ForeignDomainError("recipient's domain is not in ORDERFLOW_DOMAIN")
        return slug if user == self.local_part and is_slug(slug) else None

    def is_postmaster(self, recipient: str) -> bool:
        """Return whether mail is for the postmaster or the like. One without a domain is ours (RFC 5321, 4.5.1)."""
        user, _, domain = self.split(recipient if "@" in recipient else f"{recipient}@")
        return user in POSTMASTERS and (not domain or domain in self._folded_domains)

    def split(self, address: str) -> tuple[str, str, str]:
        """Return user, extension and domain of an address, folded."""
        local, _, domain = address.rpartition("@")
        user, extension = self.divide(local)
        return _folded(user), _folded(extension), _folded(domain.removesuffix("."))

    def divide(self, local: str) -> tuple[str, str]:
        """Return what stands before and behind the first delimiter."""
        at = next((at for at, letter in enumerate(local) if letter in self.delimiters), len(local))
        return local[:at], local[at + 1 :]

    @cached_property
    def _folded_domains(self) -> frozenset[str]:
        return frozenset(map(_folded, self.spellings))


def is_slug(text: str) -> bool:
    """Return whether `text` can name an organization: lower case, [a-z0-9] and inner -, at most 63."""
    return _SLUG.fullmatch(text) is not None


def ascii_domain(text: str) -> str:
    """Return a domain's name in ASCII, in lower case. Raise ValueError."""
    if not text.isascii():
        if any(letter in _READ_OTHERWISE for letter in text):
            raise ValueError("IDNA 2003 and IDNA 2008 read this name differently")
        text = text.encode("idna").decode("ascii")
    text = text.lower()
    if not _ASCII_DOMAIN.fullmatch(text):
        raise ValueError("not the name of a domain")
    unicode_domain(text)
    return text


def unicode_domain(domain: str) -> str:
    """Return the other spelling of a domain in ASCII, which is the same where it has none. Raise ValueError."""
    return ".".join(map(_unicode_label, domain.split(".")))


def ascii_spelling(domain: str) -> str:
    """Return a domain that a stranger wrote, in its ASCII spelling. A label that has none stays as it is.

    Nothing is mapped, not even by letter case: both spellings are the same name in DNS, and no other one is.
    """
    if domain.isascii():
        return domain
    labels = domain.split(".")
    return ".".join(one if one.isascii() or len(one) > _LONGEST_LABEL else _ascii_label(one) for one in labels)


@lru_cache(maxsize=256)
def _ascii_label(label: str) -> str:
    found = "xn--" + _punycode(label)
    try:
        _unicode_label(found)
    except ValueError:
        return label
    return found


def _unicode_label(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    from unicodedata import category, is_normalized

    text = label.removeprefix("xn--").encode("ascii").decode("punycode")
    ours = all(category(one)[0] in "LMN" or one in _ALSO_IN_NAMES for one in text if not one.isascii())
    if text.isascii() or not ours or not is_normalized("NFC", text) or "xn--" + _punycode(text) != label:
        raise ValueError("not an A-label")
    return text


def _punycode(text: str) -> str:
    return text.encode("punycode").decode("ascii")


def _folded(text: str) -> str:
    """Return a text as Postfix folds it for its maps and lists: by Unicode, not by A to Z alone as everywhere else.

    The Kelvin sign is a k for it. What it has accepted for acme must not bounce here.
    """
    return text.casefold()
