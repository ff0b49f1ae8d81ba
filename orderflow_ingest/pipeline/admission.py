"""Recognition: what a mail is to its organisation, before anything of it is written.

Its sender is judged first, where the organisation names those whose mail it takes: whatever a stranger sends can then
neither tell nor change what becomes of an allowed sender's mail.

of a stranger       too big, for the organisation's own limit; else held, once for each content. Nothing is said of what
                    the organisation has, and what it has does not matter
known already       its Message-ID and its content are: a duplicate
too big             larger than the organisation's own limit
the same, changed   its Message-ID is known, and the mail in the archive reads the same, though a gateway has written
                    one of them in another way: a duplicate, see `mail_comparison`
known otherwise     its Message-ID is known with other content: held, with what differs; or, where the organisation is
                    set so, a message of its own, under its Message-ID and its fingerprint
new                 all other mail. That a copy by a stranger is held, or was discarded, does not matter: the mail
                    becomes a message, and the copy stays. Who accepts the copy later is told that it is a message

A message is a message, whoever sent it: where an operator has accepted a stranger's copy, or the copy came before the
organisation named its senders, the order is in hand, and the allowed sender's own mail is a duplicate of it. Only what
is held because of its Message-ID is looked at again: if that copy does not pass the policy, by its raw mail in the
archive, the mail that does is a message of its own.

What earlier versions recorded is found by the former fingerprint, where that differs. They took more for the same than
it is, so the raw mail in the archive is compared then. Where it is gone the mail is held, and not lost. One case stays
as it was: a mail without anything of the kind, that an earlier version would have taken for another one with it, which
that version recorded under the same Message-ID, is a duplicate of that.

A mail is compared as it is read only where its Message-ID is known with another fingerprint, and with three recorded
mails at the most, of the same From and Subject.

A delivery asks, and `orderflow-admin org test` and an import ask the same without delivering. Nothing here writes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from orderflow_ingest.domain.identity import (
    MessageIdentity,
    ReadMail,
    disambiguated_message_id,
    former_message_id,
    read_mail,
)
from orderflow_ingest.domain.mail_comparison import find_difference
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.sender_policy import Authenticator, Rejection, check_sender
from orderflow_ingest.domain.states import HoldReason
from orderflow_ingest.storage.archive import Archive, ObjectDamaged, ObjectMissing, read_object
from orderflow_ingest.storage.database import ExistingMessage, HeldMail, Mail, Organization, Records

_MOST_COMPARED = 3


@dataclass(frozen=True)
class Admission:
    """What a mail is: over with `verdict`, to be held for `held`, or, with neither, a new message.

    `message` has the identity that it is to be recorded under, `known` is who has it, or what it clashes with, and
    `fingerprint` that by which `known` has it. `difference` tells in what the mail differs from that.
    """

    message: MessageIdentity
    known: ExistingMessage | None = None
    verdict: Outcome | None = None
    held: HoldReason | None = None
    doubt: Rejection | None = None
    fingerprint: str = ""
    difference: str = ""


def classify(
    mail: ReadMail, org: Organization, source: str, server: Authenticator | None, records: Records, archive: Archive
) -> Admission:
    """Tell what a mail is to an organisation. Raises DatabaseUnavailable, ArchiveUnavailable, OrgSettingsError.

    `server` is who authenticates senders; None where an operator brings the mail, so that neither its size nor its
    sender is judged.
    """
    message, settings, look_up = mail.message, org.settings, IdentityLookup(org.id, records, archive)
    allowed = settings.allowed_senders if server else ()
    is_too_big = bool(server and settings.max_message_size and message.size > settings.max_message_size)
    if server and allowed and (doubt := check_sender(mail.header, allowed, server)):
        if is_too_big:
            return Admission(message, verdict=Outcome.TOO_BIG)
        if held := look_up.held_alone(message):
            verdict = Outcome.DUPLICATE if held.resolution else Outcome.HELD
            of_copy = ExistingMessage.from_held(held.id, held.fingerprint, held.digest)
            return Admission(message, of_copy, verdict, doubt=doubt, fingerprint=held.fingerprint)
        return Admission(message, held=HoldReason.SENDER_NOT_ALLOWED, doubt=doubt)
    same, difference = look_up.find_same(message, source), ""
    known = look_up.find(source, message.source_message_id)
    if same is None and known:
        same, difference = look_up.compare(mail, known)
    is_by_copy = bool(same and server and allowed and look_up.is_held_for_a_stranger(same, allowed, server))
    if same and not is_by_copy:
        return Admission(same.message, same.known, Outcome.DUPLICATE, fingerprint=same.fingerprint)
    if is_too_big:
        return Admission(message, verdict=Outcome.TOO_BIG)
    if known is None:
        return Admission(message)
    own = replace(message, source_message_id=disambiguated_message_id(message.source_message_id, message.fingerprint))
    if (settings.accepts_reused_message_id or is_by_copy) and look_up.find(source, own.source_message_id) is None:
        return Admission(own)
    return Admission(message, known, held=HoldReason.MESSAGE_ID_REUSED, difference=difference)


@dataclass(frozen=True)
class RecordedIdentity:
    """What is recorded of a mail: under which identity, by whom, and by which of its fingerprints."""

    message: MessageIdentity
    known: ExistingMessage
    fingerprint: str


class IdentityLookup:
    """Looks for what is recorded of one mail in one organisation; each identity is asked for once."""

    def __init__(self, org_id: int, records: Records, archive: Archive):
        self._org_id = org_id
        self._records = records
        self._archive = archive
        self._found: dict[tuple[str, str], ExistingMessage | None] = {}

    def find(self, source: str, identity: str) -> ExistingMessage | None:
        """Return who has an identity."""
        key = (source, identity)
        if key not in self._found:
            self._found[key] = self._records.messages.find_identity(self._org_id, source, identity)
        return self._found[key]

    def find_same(self, message: MessageIdentity, source: str) -> RecordedIdentity | None:
        """Return what is recorded of this very mail: a message, or else what is held because of its Message-ID.

        Raises DatabaseUnavailable, ArchiveUnavailable.
        """
        held = None
        for identity in self._identities(message, source):
            known = self.find(source, identity)
            fingerprint = self._fingerprint_in(known, message) if known else ""
            if known and fingerprint:
                same = RecordedIdentity(replace(message, source_message_id=identity), known, fingerprint)
                if not known.is_held(fingerprint):
                    return same
                held = held or same
        return held

    def compare(self, mail: ReadMail, known: ExistingMessage) -> tuple[RecordedIdentity | None, str]:
        """Return which recorded mail of an identity reads the same as this one; None, and what differs, if none does.

        Raises DatabaseUnavailable, ArchiveUnavailable.
        """
        message, difference = mail.message, ""
        rows: list[Mail | None] = [self._records.messages.get(self._org_id, known.id)] if known.is_message else []
        rows += reversed(self._records.held_mail.of_message(self._org_id, known.id))
        for row in [row for row in rows if row][:_MOST_COMPARED]:
            if (row.from_email, row.subject) != (message.from_email, message.subject):
                found = "From or Subject differs"
            elif (recorded := self._read(row)) is None:
                found = "the recorded mail is not in the archive to be compared"
            else:
                found = find_difference(recorded, mail)
            if not found:
                return RecordedIdentity(message, known, row.fingerprint), ""
            difference = difference or found
        return None, difference

    def held_alone(self, message: MessageIdentity) -> HeldMail | None:
        """Return what is held of this very mail and clashes with no message, whether it is decided or not."""
        held = self._records.held_mail.alone(self._org_id, message.fingerprint)
        if held is None and message.former_fingerprint:
            held = self._records.held_mail.alone(self._org_id, message.former_fingerprint)
            held = held if held and self._is_of(held, message) else None
        return held

    def is_held_for_a_stranger(self, same: RecordedIdentity, allowed: tuple[str, ...], server: Authenticator) -> bool:
        """Tell whether that is a held mail which does not pass the policy, or of which nothing is left to judge by."""
        if not same.known.is_held(same.fingerprint):
            return False
        row = self._row(same.known, same.fingerprint)
        mail = self._read(row) if row else None
        if row is None or mail is None:
            return True
        judge = Authenticator(server.authserv_id, row.queue_id, row.envelope_sender)
        return check_sender(mail.header, allowed, judge) is not None

    def _identities(self, message: MessageIdentity, source: str) -> Iterator[str]:
        yield message.source_message_id
        if former := former_message_id(message):
            yield former
        if self.find(source, message.source_message_id):  # it may have been accepted as a message of its own
            for fingerprint in filter(None, (message.fingerprint, message.former_fingerprint)):
                yield disambiguated_message_id(message.source_message_id, fingerprint)

    def _fingerprint_in(self, known: ExistingMessage, message: MessageIdentity) -> str:
        if message.fingerprint in known.digests:
            return message.fingerprint
        former = message.former_fingerprint
        row = self._row(known, former) if former in known.digests else None
        return former if row and self._is_of(row, message) else ""

    def _row(self, known: ExistingMessage, fingerprint: str) -> Mail | None:
        if not known.is_held(fingerprint):
            return self._records.messages.get(self._org_id, known.id)
        held = self._records.held_mail.of_message(self._org_id, known.id)
        return next((one for one in held if one.fingerprint == fingerprint), None)

    def _is_of(self, row: Mail, message: MessageIdentity) -> bool:
        """Tell whether a row of an earlier version is about this very mail."""
        mail = self._read(row)
        return mail is not None and mail.message.fingerprint == message.fingerprint

    def _read(self, row: Mail) -> ReadMail | None:
        try:
            return read_mail(read_object(row.org_id, row.raw_key, row.digest, self._archive))
        except (ObjectMissing, ObjectDamaged):
            return None
