"""Why a TLS connection was refused, in our words.

libpq, Python's ssl and the AWS SDK tell it in the text of an error alone, and such a text may hold more than a log
should: addresses, paths, what a server sent. So it is searched for the known reasons, and nothing of it is passed on.
Verification itself is theirs; nothing here or elsewhere switches it off.
"""

import re

# Of two that a text holds the first counts: a wrong host name is also said to be a failed verification.
_REASONS = (
    (
        r"does not match host name|hostname mismatch|ip address mismatch|hostname .* doesn't match",
        "its certificate is for another host name",
    ),
    ("certificate has expired", "its certificate has expired"),
    ("root certificate file|could not read root cert", "the file of sslrootcert cannot be read"),
    (
        "could not open certificate file|private key file",
        "the file of sslcert or sslkey, by default below ~/.postgresql, cannot be used",
    ),
    (r"ca certificate bundle|ssl validation failed.*no such file", "the file of AWS_CA_BUNDLE cannot be read"),
    ("certificate.verify.failed", "its certificate is not signed by an authority that we trust"),
    ("server does not support ssl", "it does not offer TLS"),
)


def explain_tls_error(error: BaseException | None) -> str:
    """Tell why TLS was refused, to be put behind the error's name; "" if it was something else."""
    text = str(error).lower()
    return next((f": {ours}" for theirs, ours in _REASONS if re.search(theirs, text, re.DOTALL)), "")
