"""Letter case of names that protocols compare: domains, addresses, ids of servers and organizations.

RFC 5321 (section 2.4), RFC 4343 and RFC 8601 fold the letters A to Z and no others. str.lower() and str.casefold() fold
all of Unicode, and make ASCII letters of some that are none: U+212A, the Kelvin sign, becomes k. A domain of a stranger
would so become the domain of a customer. What such names are compared by is folded here and nowhere else.
"""

_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def ascii_lower(text: str) -> str:
    """Return the text with A to Z in lower case, and every other character as it is."""
    return text.lower() if text.isascii() else text.translate(_LOWER)
