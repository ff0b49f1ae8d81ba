"""Helpers for the tests of a document handler. They need no database, no archive, no queue and no Postfix.

from orderflow_ingest.testing import order_document, order_documents

def test_receive_stores_a_pdf():
    receive(order_document(b"%PDF-1.7 ...", filename="order.pdf"))

def test_receive_takes_what_a_real_mail_holds():
    for order in order_documents(Path("order.eml").read_bytes()):
        receive(order)

order_document    one document, as the worker hands it over
order_documents   the documents of a mail, in the order in which the worker hands them over
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

from orderflow_ingest.domain.automatic_mail import read_signals
from orderflow_ingest.domain.identity import read_mail
from orderflow_ingest.domain.object_keys import EMAIL, message_id, raw_key
from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.parsing.documents import PartKind, read_parts
from orderflow_ingest.pipeline.extract import new_document
from orderflow_ingest.pipeline.handler import OrderDocument
from orderflow_ingest.storage.archive import Archive, Description, Fetched, Listed, ObjectMissing
from orderflow_ingest.storage.archive.interface import verify_digest
from orderflow_ingest.storage.database import Document, InboundMessage
from orderflow_ingest.storage.database.rows import NewDocument, field_names

__all__ = ["order_document", "order_documents"]

_ORG_ID = 1


def order_document(
    data: bytes = b"item,quantity\nwidget,12\n",
    *,
    filename: str = "order.csv",
    content_type: str = "application/octet-stream",
    org: str = "acme",
    sender: str = "buyer@shop.example",
    subject: str = "Order 4711",
) -> OrderDocument:
    """Return an attachment of these bytes, in a mail of its own, as the worker hands it over.

    The document's `content_type` comes from its bytes, its name and `content_type`, as in a real mail. The same
    arguments give the same `document.id`, as a document that comes again.
    """
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, f"orders+{org}@orders.example.com", subject
    mail["Message-ID"] = "<order@shop.example>"
    mail.set_content("The order is attached.\n")
    main, _, sub = content_type.partition("/")
    mail.add_attachment(data, maintype=main, subtype=sub, filename=filename)
    mail.set_boundary("order")  # or each call would make another mail
    documents = order_documents(mail.as_bytes(), org=org, sender=sender)
    return next(one for one in documents if one.document.kind is PartKind.ATTACHMENT)


def order_documents(raw: bytes, *, org: str = "acme", sender: str = "buyer@shop.example") -> list[OrderDocument]:
    """Return the documents of a mail, as the worker hands them over. `sender` is that of the envelope.

    Raise ValueError if `raw` is no mail: a delivery would refuse it.
    """
    message = _message(raw, org, sender)
    archive = _MemoryArchive()
    found = []
    for part in read_parts(raw):
        if part.is_document:
            new = new_document(_ORG_ID, message.id, part)
            archive.put(new.object_key, part.data, new.digest)
            content: dict[str, Any] = {name: getattr(new, name) for name in field_names(NewDocument)}
            row = Document(
                **content,
                attempts=1,
                next_attempt_at=message.received_at,
                worker="test",
                error_json=None,
                erased_at=None,
                org_id=_ORG_ID,
                inbound_message_id=message.id,
                handover=HandOver.PENDING,
            )
            found.append(OrderDocument(org, message, row, archive))
    return found


def _message(raw: bytes, org: str, sender: str) -> InboundMessage:
    mail = read_mail(raw)
    if mail is None:
        raise ValueError("this is no mail: it has not one header field")
    now = datetime.now(UTC)
    key = raw_key(_ORG_ID, mail.message.digest, EMAIL)
    return InboundMessage(
        org_id=_ORG_ID,
        id=message_id(key),
        source=EMAIL,
        envelope_sender=sender,
        envelope_recipient=f"orders+{org}@orders.example.com",
        queue_id="",
        client_address="192.0.2.7",
        received_at=now,
        raw_key=key,
        traits=[str(signal) for signal in read_signals(mail.header, sender, lambda _: False)],
        status=Status.PARSED,
        attempts=1,
        next_attempt_at=now,
        worker=None,
        error_json=None,
        erased_at=None,
        created_at=now,
        updated_at=now,
        **mail.message.recorded(),
    )


class _MemoryArchive(Archive):
    """An archive in memory."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, dict[str, str]]] = {}

    def put(self, key: str, data: bytes, digest: str, metadata: Mapping[str, str] | None = None) -> None:
        self._objects[key] = verify_digest(data, key, digest), dict(metadata or {})

    def read(self, key: str, digest: str) -> bytes:
        return verify_digest(self.fetch(key).data, key, digest)

    def fetch(self, key: str) -> Fetched:
        if key not in self._objects:
            raise ObjectMissing(key)
        return Fetched(*self._objects[key])

    def delete(self, key: str) -> None:
        self._objects.pop(key, None)

    def describe(self, key: str) -> Description:
        found = self.fetch(key)
        return Description(len(found.data), found.metadata)

    def iterate(self, prefix: str = "", after: str = "") -> Iterator[Listed]:
        now = datetime.now(UTC)
        for key in sorted(self._objects):
            if key.startswith(prefix) and key > after:
                yield Listed(key, len(self._objects[key][0]), now)

    def keeps_versions(self) -> bool:
        return False

    def prepare(self) -> None:
        return

    def clean(self, older_than: float = 86400.0) -> None:
        return
