"""What a handler's own tests are given is what a worker hands over."""

import pytest

from orderflow_ingest import ObjectMissing, PartKind
from orderflow_ingest.pipeline import extract, hand_over
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.testing import order_document, order_documents
from tests.support.fakes import embedded
from tests.support.mails import order
from tests.support.replaying import ACME, NOW


def test_a_document_has_its_bytes_its_name_and_the_type_that_the_bytes_show():
    one = order_document(b"%PDF-1.7\n", filename="order.pdf", org="beta", subject="Order 1")
    assert (one.read(), one.open().read(), one.org) == (b"%PDF-1.7\n", b"%PDF-1.7\n", "beta")
    assert (one.document.filename, one.document.content_type) == ("order.pdf", "application/pdf")
    assert (one.document.kind, one.message.subject) == (PartKind.ATTACHMENT, "Order 1")
    assert one.message.from_email == one.message.envelope_sender == "buyer@shop.example"
    assert order_document().document.content_type == "text/csv"


def test_what_is_no_mail_is_refused():
    with pytest.raises(ValueError, match="not one header field"):
        order_documents(b"\n")


def test_an_object_that_a_test_deletes_is_missing():
    one = order_document()
    one._archive.delete(one.document.object_key)
    with pytest.raises(ObjectMissing):
        one.read()


def test_the_documents_of_a_mail_are_those_that_a_worker_hands_over(place, monkeypatch):
    app = embedded(place)
    taken = []
    monkeypatch.setattr(hand_over, "load_handler", lambda _: lambda order: taken.append(order))
    envelope_of_test = {"recipient": ACME, "sender": "buyer@shop.example", "received_at": NOW}
    from orderflow_ingest.domain.envelope import Envelope

    delivered = deliver_from_memory(Envelope(**envelope_of_test), order(1), app)
    extract.extract(1, delivered.message_id, app)
    for _, document_id in app.queue.hand_overs:
        hand_over.hand_over(1, document_id, app)
    mine = order_documents(order(1))
    assert len(mine) == len(taken) == 2
    for one, real in zip(mine, sorted(taken, key=lambda one: one.document.part_path), strict=True):
        for name in ("id", "part_path", "kind", "filename", "claimed_filename", "content_type", "size", "digest"):
            assert getattr(one.document, name) == getattr(real.document, name), name
        for name in ("id", "from_email", "subject", "source_message_id", "traits", "digest", "envelope_sender"):
            assert getattr(one.message, name) == getattr(real.message, name), name
        assert one.read() == real.read()
    app.records.database.close()
