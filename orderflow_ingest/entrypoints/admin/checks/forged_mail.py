"""Mail as a stranger forges it, to see whether the sender policy believes it. `check` sends it to this host's Postfix.

All of it says that it is from postmaster of our own domain, and bears no signature of that domain. Its body is empty:
if it comes so late that it is delivered like all mail, it has no document.
"""

import re
from dataclasses import dataclass

STRANGER = "probe.invalid"
_ABOVE = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_FIELD = re.compile(rb"^authentication-results[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Forgery:
    """One trick: what it is, the lines above the header, the From's value, the envelope's sender, and what to do."""

    what: str
    top: str
    sender: str
    envelope: str = ""
    cure: str = "see docs/how-to/senders.md"

    def raw(self, recipient: str, message_id: str) -> bytes:
        """Return the mail's bytes. Its body is empty."""
        lines = f"{self.top}From: {self.sender}\nTo: {recipient}\nSubject: OrderFlow probe: no order\n"
        lines += f"Message-ID: {message_id}\nAuto-Submitted: auto-generated\n\n"
        return lines.encode().replace(b"\n", b"\r\n")


def plain(domain: str, envelope: str = "") -> Forgery:
    """Return a mail that lays claim to the domain, and forges nothing else."""
    return Forgery("its From alone", "", f"postmaster@{domain}", envelope)


def forgeries(domain: str, authserv_id: str) -> list[Forgery]:
    """List the tricks that rest on what a mail says of itself."""
    dmarc, dkim = f"dmarc=pass header.from={domain}", f"dkim=pass header.d={domain}"
    received = f"Received: from {domain} by {authserv_id} (Postfix) with ESMTP id 4X1\n"
    fields = {
        "a dmarc=pass of the sender's own": f"{authserv_id}; {dmarc}",
        "a dkim=pass of the sender's own": f"{authserv_id}; {dkim}",
        "an empty result, which OpenDKIM cannot read": f"{authserv_id};; {dmarc}",
        "words after the id, which OpenDKIM cannot read": f"{authserv_id} 1 2 3; {dmarc}",
        "a quote that does not end": f'{authserv_id}; {dmarc}; x="',
        "a letter that is no k": f"{authserv_id}; d\u212aim=pass header.d={domain}",
        "the id in capitals": f"{authserv_id.encode().upper().decode()}; {dmarc}",
    }
    tops = {what: f"Authentication-Results: {value}\n" for what, value in fields.items()}
    tops["a Received of the sender's own below it"] = tops["a dmarc=pass of the sender's own"] + received
    tops["a Received of the sender's own above it"] = received + tops["a dmarc=pass of the sender's own"]
    forged = [Forgery(what, top, f"postmaster@{domain}") for what, top in tops.items()]
    top = tops["a dmarc=pass of the sender's own"]
    forged.append(Forgery("From with two addresses", top, f"postmaster@{domain}, probe@{STRANGER}"))
    forged.append(Forgery("two From fields", top, f"postmaster@{domain}\nFrom: probe@{STRANGER}"))
    identities = {
        "a DKIM identity with a result in it": f"@{STRANGER}=3Bdkim=3Dpass=20header.d=3D{domain}=20header.x=3Dy",
        "a DKIM identity with a domain in it": f"a=20header.d=3D{domain}=20header.x=3Dy",
    }
    for what, identity in identities.items():
        signature = f"DKIM-Signature: v=1; a=rsa-sha256; d={STRANGER}; s=probe; i={identity}@{STRANGER}; h=from;\n"
        forged.append(Forgery(what, f"{signature}\tbh=AAAA; b=AAAA\n", f"postmaster@{domain}"))
    quoted = f'"postmaster@{domain}"@{STRANGER}'
    forged.append(Forgery("an envelope sender that quotes the domain", "", f"postmaster@{domain}", quoted))
    return forged


def spf_forgeries(domain: str, authserv_id: str) -> list[Forgery]:
    """List the tricks that say that SPF has passed. They tell nothing where SPF passes for this host anyway."""
    sender = f"postmaster@{domain}"
    received_spf = f'Received-SPF: pass identity=mailfrom; envelope-from="{sender}"; receiver={authserv_id}\n'
    field = f"Authentication-Results: {authserv_id}; spf=pass smtp.mailfrom={domain}\n"
    cure = "set SPFIgnoreResults true and SPFSelfValidate true in opendmarc.conf"
    return [
        Forgery("a Received-SPF of the sender's own", received_spf, sender, sender, cure),
        Forgery("an spf=pass of the sender's own", field, sender, sender, cure),
    ]


def is_looked_at(header: bytes, authserv_id: str) -> bool:
    """Return whether a server of this id has written a field above the Received of our own Postfix."""
    above = _ABOVE.split(header, maxsplit=1)[0]
    return any(authserv_id.encode().lower() in field[1].lower() for field in _FIELD.finditer(above))
