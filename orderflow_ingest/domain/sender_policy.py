"""Whether a mail comes from a sender that its organization takes mail from by itself.

Judged is the From field, which people see and DMARC is about, not the envelope, which names some service's bounce
address as often as not. So mail with a null sender is judged like any other. Whatever looks like an address in a From
field counts, in a display name too, and each has to be allowed: what is odd is held, and a person looks at it.
A domain beyond ASCII is the same in both its spellings, see `addresses`.

Anybody can write a From. Without an `authserv_id` this is a filter against strays, and no more. With one, our mail
server must have authenticated the one address of the one From field, by Authentication-Results of that authserv-id
(see `authentication_results`): dmarc=pass for its domain, or dkim=pass or spf=pass for it or a domain that it lies in.

What our server wrote, and what the sender did, is distinguished by place. Postfix's cleanup(8) gives a milter's new
fields the place above all others, and writes its own Received above all that the client sent (measured with OpenDKIM
2.11, OpenDMARC 1.4.2 and Postfix 3.7, by pipe and by LMTP. PREPEND of an access table goes there, too). So:

    above our Received    the fields of our server
    below                 the sender's. A field there that could be read as one of our authserv-id is forged, and the
                          mail is not authenticated: OpenDMARC believes such a field, and then dmarc=pass is genuine
                          and false
    a Received-SPF below  is believed by OpenDMARC's defaults too. dmarc=pass alone is then no proof; dkim=pass or
                          spf=pass beside it is

The milters themselves can be made to write what is false (measured, too). OpenDKIM writes the identity of a signature
into its field as its sender wrote it, cut at 255 bytes, and OpenDMARC reads more results there than there are.
OpenDMARC takes for the envelope's domain what stands behind its first @. So nothing is believed of a mail

    with a field of our server that is unclear      see `authentication_results`
    with a DKIM-Signature whose i= is no address     of letters, digits and signs that have no meaning there
    whose envelope sender is quoted, or has two @

Our Received is the topmost one of the mail, and names the queue id under which Postfix delivers it: nobody outside can
know that. Where it does not, header_checks may have taken it out, and the topmost one may be the sender's: nothing then
is authenticated. Nor is what has passed our Postfix twice, through a content filter or by `postsuper -r`, or came from
another host of ours, unless milters see it at the last passage: the verdict of the first stands below. Such mail is
held, not lost. `org test` takes the topmost Received for ours where it does not know the queue id.

A CR that ends no line, above our Received, is a sender's text that was written as it was: nothing there is believed.

Where smtpd asks us before it queues a mail, no milter has seen header and body (smtpd shows them commands alone).
Whatever calls such a mail authenticated was written by its sender. A header over the bound of `mime.fields` is read in
part, and nobody is judged by a part: such mail is held.

We do not verify DKIM ourselves. With dkimpy each delivery would ask the sender's DNS server, and wait where that is
away. A mail that waits for days, or is replayed, meets keys that are gone. SPF, DMARC's policy and alignment would be
ours to write, too, and the import of dkimpy alone takes 0.15 s. The milters have asked already, once, when it came.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from orderflow_ingest.parsing.mime.fields import Field, MailHeader, read_mail_header

from .addresses import ascii_spelling
from .ascii_case import ascii_lower
from .authentication_results import UnclearFieldError, Verdict, may_name, read_verdict

_NO_ADDRESS = re.compile(r'[\s<>,;:"()\[\]\\]+')
_FROM_LIMIT = 65536
_RECEIVED = re.compile(rb"(?<![^\n])received[ \t]*+:", re.IGNORECASE)
_IDENTITY = re.compile(rb"(?:^|;)[ \t]*+i[ \t]*+=([^;]*+)", re.IGNORECASE)
_ADDRESS = re.compile(rb"[0-9A-Za-z!#$%&*+/?^_`{|}~.-]{0,64}@[0-9A-Za-z._-]{1,180}")
_ODD_SENDER = re.compile(r'["\\(),:;<>\s]|@.*@')
_RESULTS, _SPF, _SIGNATURE = "authentication-results", "received-spf", "dkim-signature"


class Rejection(StrEnum):
    """Why a mail is held instead of accepted. The texts are shown to operators."""

    NO_ADDRESS = "no address in From"
    NOT_ALLOWED = "From is not among allowed_senders"
    NOT_AUTHENTICATED = "From is not authenticated"
    FORGED_RESULTS = "it brings forged Authentication-Results of our server"
    AMBIGUOUS_RESULTS = "it may have made our server write false Authentication-Results"
    RECEIVED_SPF = "it brings a Received-SPF, and dmarc=pass alone may rest on that"
    HEADER_TOO_LONG = "its header is too long to be judged"


@dataclass(frozen=True)
class Authenticator:
    """The server of ours that authenticates senders, and what proves that it has seen a mail.

    `authserv_id`: the name in its fields, "" if none authenticates. `queue_id`: what Postfix's own Received names;
    None where that is not known. `sender`: that of the envelope. `is_filtered`: the mail has passed its milters.
    """

    authserv_id: str = ""
    queue_id: str | None = None
    sender: str = ""
    is_filtered: bool = True


def check_raw_sender(
    raw: bytes, allowed: tuple[str, ...], authserv_id: str, *, is_filtered: bool = True
) -> Rejection | None:
    """Return why a raw mail without a known queue id is rejected, as check_sender() does."""
    return check_sender(read_mail_header(raw), allowed, Authenticator(authserv_id, is_filtered=is_filtered))


def check_sender(header: MailHeader, allowed: tuple[str, ...], authenticator: Authenticator) -> Rejection | None:
    """Return why a mail is not accepted as one of these addresses and @domains, or None if it is."""
    sources = [field.value for field in header.fields if field.name == "from"]
    if not header.is_whole or sum(map(len, sources)) > _FROM_LIMIT:
        return Rejection.HEADER_TOO_LONG
    addresses = {address for source in sources for address in _addresses(source)}
    if not addresses:
        return Rejection.NO_ADDRESS
    if not all(_is_allowed(address, allowed) for address in addresses):
        return Rejection.NOT_ALLOWED
    if not authenticator.authserv_id:
        return None
    if len(addresses) > 1 or len(sources) > 1:
        return Rejection.NOT_AUTHENTICATED
    return _check_results(header, ascii_spelling(domain_of(addresses.pop())), authenticator)


def domain_of(address: str) -> str:
    """Return the domain of an address."""
    return address.rpartition("@")[2]


def _is_allowed(address: str, allowed: tuple[str, ...]) -> bool:
    local, _, domain = address.rpartition("@")
    domain = ascii_spelling(domain)
    return f"{local}@{domain}" in allowed or f"@{domain}" in allowed


def _addresses(source: bytes) -> list[str]:
    words = _NO_ADDRESS.split(ascii_lower(source.decode("utf-8", "replace")))
    return [word for word in words if "@" in word]


def _check_results(header: MailHeader, domain: str, authenticator: Authenticator) -> Rejection | None:
    """Return why this domain counts as not authenticated by our server, or None if it is authenticated."""
    at, id = _find_received(header, authenticator.queue_id), authenticator.authserv_id
    if at is None or not authenticator.is_filtered:
        return Rejection.NOT_AUTHENTICATED
    above, below = header.top[:at], header.top[at:]
    if header.top is not header.fields:
        below += header.fields
    if any(field.name == _RESULTS and may_name(field.value, id) for field in below):
        return Rejection.FORGED_RESULTS
    try:
        verdicts = [
            read_verdict(field.value, id) for field in above if field.name == _RESULTS and may_name(field.value, id)
        ]
    except UnclearFieldError:
        return Rejection.AMBIGUOUS_RESULTS
    if _ODD_SENDER.search(authenticator.sender) or not all(map(_is_plain, below)):
        return Rejection.AMBIGUOUS_RESULTS
    if any(_has_passed(found, domain) for found in verdicts if found and found.method in ("dkim", "spf")):
        return None
    by_dmarc = [found for found in verdicts if found and found.method == "dmarc"]
    if not by_dmarc or not all(_has_passed(found, domain) for found in by_dmarc):
        return Rejection.NOT_AUTHENTICATED
    return Rejection.RECEIVED_SPF if any(field.name == _SPF for field in below) else None


def _find_received(header: MailHeader, queue_id: str | None) -> int | None:
    """Return which of the topmost fields is our Postfix's Received, or None if none is for certain."""
    at = next((at for at, field in enumerate(header.top) if field.name == "received"), None)
    line = _RECEIVED.search(header.top_block)
    if at is None or line is None or b"\r" in header.top_block[: line.start()].replace(b"\r\n", b""):
        return None
    return at if _names(header.top[at].value, queue_id) else None


def _names(received: bytes, queue_id: str | None) -> bool:
    """Return whether a Received names this queue id, as Postfix writes it: `… id 4bXyz;` or `… id 4bXyz for …`."""
    words = received.split()
    named = {word.partition(b";")[0] for before, word in pairwise(words) if before == b"id"}
    return queue_id is None or (queue_id != "" and queue_id.encode("utf-8", "replace") in named)


def _is_plain(field: Field) -> bool:
    """Return whether nothing in a field can have made OpenDKIM write more than an address."""
    if field.name != _SIGNATURE:
        return True
    identities = (b"".join(found.split()) for found in _IDENTITY.findall(field.value))
    return all(_ADDRESS.fullmatch(one) for one in identities)


def _has_passed(found: Verdict, domain: str) -> bool:
    is_above = found.method != "dmarc" and "." in found.domain and domain.endswith(f".{found.domain}")
    return found.result == "pass" and found.domain != "" and (domain == found.domain or is_above)
