"""Recognition: what a mail is to its organisation, before anything of it is written.

known already       its Message-ID and its content are: a duplicate. Or it is held, and nobody has decided yet
too big             larger than the organisation's own limit
of a stray sender   held, if the organisation names those whose mail it takes
known otherwise     its Message-ID is known with other content: held; or, where the organisation is set so, a message
                    of its own, under its Message-ID and its fingerprint

A delivery asks, and `orderflow-admin org test` asks the same without delivering. Nothing here writes.
"""

from dataclasses import dataclass, replace

from .message import Message, own_identity
from .outcomes import Outcome
from .records import Known, Organization, Records
from .senders import Doubt, doubt_sender
from .status import Held


@dataclass(frozen=True)
class Recognised:
    """What a mail is: over with `verdict`, to be held for `held`, or, with neither, a new message.

    `message` has the identity that it is to be recorded under, `known` is who has it, or what it clashes with.
    """

    message: Message
    known: Known | None = None
    verdict: Outcome | None = None
    held: Held | None = None
    doubt: Doubt | None = None


def recognise(
    source: str,
    message: Message,
    raw: bytes,
    org: Organization,
    records: Records,
    authserv_id: str,
    is_trusted: bool = False,
    is_filtered: bool = True,
) -> Recognised:
    """Tell what a mail is to an organisation. Raises RecordsUnavailable, BadOrgSettings.

    `is_trusted`: an operator brings it, so that neither its size nor its sender is judged. `is_filtered`: as in
    `senders`.
    """
    settings, fingerprint = org.settings, message.fingerprint
    known = records.messages.find_identity(org.id, source, message.source_message_id)
    if known and fingerprint in known.digests:
        return Recognised(message, known, Outcome.DUPLICATE)
    own, by_own = message, None
    if known:  # it may have been accepted as a message of its own
        own = replace(message, source_message_id=own_identity(message.source_message_id, fingerprint))
        by_own = records.messages.find_identity(org.id, source, own.source_message_id)
    if by_own and fingerprint in by_own.digests:
        return Recognised(own, by_own, Outcome.DUPLICATE)
    allowed = settings.allowed_senders if not is_trusted else ()
    if allowed and (held := records.conflicts.alone(org.id, fingerprint)):
        verdict = Outcome.DUPLICATE if held.resolution else Outcome.HELD
        return Recognised(message, Known.of_held(held.id, fingerprint, held.digest), verdict)
    if settings.max_message_size and len(raw) > settings.max_message_size and not is_trusted:
        return Recognised(message, verdict=Outcome.TOO_BIG)
    doubt = doubt_sender(raw, allowed, authserv_id, is_filtered) if allowed else None
    if doubt:
        return Recognised(message, held=Held.SENDER, doubt=doubt)
    if known and settings.accepts_conflicts and by_own is None:
        return Recognised(own)
    return Recognised(message, known, held=Held.IDENTITY if known else None)
