"""Look up what is recorded of a mail: by its Message-ID, by its content, or by reading it beside another one.

Two mails are the same where their fingerprints are. Where a Message-ID is known with another fingerprint, the mails are
compared as they are read: three recorded ones at the most, of the same From and Subject (see `mail_comparison`).

Earlier versions recorded other fingerprints. Such a row is found by the former fingerprint. Those versions took more
mails for the same, so the raw mail in the archive is compared before the row counts. Where that raw mail is gone, the
row does not count: the mail is then held, and not lost.

Nothing here writes. Every method raises DatabaseUnavailable, and ArchiveUnavailable where it reads a recorded mail.
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
from orderflow_ingest.domain.sender_policy import Authenticator, check_sender
from orderflow_ingest.storage.archive import Archive, ObjectDamaged, ObjectMissing, read_object
from orderflow_ingest.storage.database import ExistingMessage, HeldMail, Mail, Records

_MOST_COMPARED = 3


@dataclass(frozen=True)
class RecordedIdentity:
    """What is recorded of a mail: under which identity, in which rows, and by which of its fingerprints."""

    message: MessageIdentity
    existing: ExistingMessage
    fingerprint: str


class IdentityLookup:
    """Looks up what one organization has of one mail. Each identity is asked for once."""

    def __init__(self, org_id: int, records: Records, archive: Archive):
        self._org_id = org_id
        self._records = records
        self._archive = archive
        self._found: dict[tuple[str, str], ExistingMessage | None] = {}

    def find(self, source: str, identity: str) -> ExistingMessage | None:
        """Return the message that has an identity."""
        key = (source, identity)
        if key not in self._found:
            self._found[key] = self._records.messages.find_identity(self._org_id, source, identity)
        return self._found[key]

    def find_same(self, message: MessageIdentity, source: str) -> RecordedIdentity | None:
        """Return what is recorded of this very mail: a message, or else a mail held because of its Message-ID."""
        held = None
        for identity in self._identities(message, source):
            existing = self.find(source, identity)
            fingerprint = self._fingerprint_in(existing, message) if existing else ""
            if existing and fingerprint:
                same = RecordedIdentity(replace(message, source_message_id=identity), existing, fingerprint)
                if not existing.is_held(fingerprint):
                    return same
                held = held or same
        return held

    def compare(self, mail: ReadMail, existing: ExistingMessage) -> tuple[RecordedIdentity | None, str]:
        """Return the recorded mail of an identity that reads the same as this one. If none does, None and why."""
        message, difference = mail.message, ""
        rows: list[Mail | None] = []
        if existing.is_message:
            rows.append(self._records.messages.get(self._org_id, existing.id))
        rows += reversed(self._records.held_mail.of_message(self._org_id, existing.id))
        for row in [row for row in rows if row][:_MOST_COMPARED]:
            if (row.from_email, row.subject) != (message.from_email, message.subject):
                found = "From or Subject differs"
            elif (recorded := self._read(row)) is None:
                found = "the recorded mail is not in the archive to be compared"
            else:
                found = find_difference(recorded, mail)
            if not found:
                return RecordedIdentity(message, existing, row.fingerprint), ""
            difference = difference or found
        return None, difference

    def held_alone(self, message: MessageIdentity) -> HeldMail | None:
        """Return the held mail with this content that clashes with no message, whether it is decided or not."""
        held = self._records.held_mail.alone(self._org_id, message.fingerprint)
        if held is None and message.former_fingerprint:
            held = self._records.held_mail.alone(self._org_id, message.former_fingerprint)
            held = held if held and self._is_of(held, message) else None
        return held

    def is_held_for_a_stranger(self, same: RecordedIdentity, allowed: tuple[str, ...], server: Authenticator) -> bool:
        """Return whether that is a held mail which does not pass the sender policy, or can no longer be checked."""
        if not same.existing.is_held(same.fingerprint):
            return False
        row = self._row(same.existing, same.fingerprint)
        mail = self._read(row) if row else None
        if row is None or mail is None:
            return True
        authenticator = Authenticator(server.authserv_id, row.queue_id, row.envelope_sender)
        return check_sender(mail.header, allowed, authenticator) is not None

    def _identities(self, message: MessageIdentity, source: str) -> Iterator[str]:
        yield message.source_message_id
        if former := former_message_id(message):
            yield former
        if self.find(source, message.source_message_id):  # it may have been accepted as a message of its own
            for fingerprint in filter(None, (message.fingerprint, message.former_fingerprint)):
                yield disambiguated_message_id(message.source_message_id, fingerprint)

    def _fingerprint_in(self, existing: ExistingMessage, message: MessageIdentity) -> str:
        if message.fingerprint in existing.digests:
            return message.fingerprint
        former = message.former_fingerprint
        row = self._row(existing, former) if former in existing.digests else None
        return former if row and self._is_of(row, message) else ""

    def _row(self, existing: ExistingMessage, fingerprint: str) -> Mail | None:
        if not existing.is_held(fingerprint):
            return self._records.messages.get(self._org_id, existing.id)
        held = self._records.held_mail.of_message(self._org_id, existing.id)
        return next((one for one in held if one.fingerprint == fingerprint), None)

    def _is_of(self, row: Mail, message: MessageIdentity) -> bool:
        """Return whether a row of an earlier version is about this very mail."""
        mail = self._read(row)
        return mail is not None and mail.message.fingerprint == message.fingerprint

    def _read(self, row: Mail) -> ReadMail | None:
        try:
            return read_mail(read_object(row.org_id, row.raw_key, row.digest, self._archive))
        except (ObjectMissing, ObjectDamaged):
            return None
