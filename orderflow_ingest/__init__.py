"""OrderFlow ingest: purchase orders by e-mail, from Postfix to stored documents.

What a document handler imports is here. Every other module is internal, and may change with any version.

    from orderflow_ingest import OrderDocument, PartKind

    def receive(order: OrderDocument) -> None:
        if order.document.kind is PartKind.ATTACHMENT:
            store(order.org, order.document.id, order.document.filename, order.read())

    OrderDocument         what a handler is called with
    Handler               the type of a handler
    InboundMessage        OrderDocument.message: the mail that the document came in
    Document              OrderDocument.document: the document itself
    PartKind              Document.kind: an attachment, or the text of a mail
    Reason                the values of Document.reason: why the part is a document
    AutomaticMailSignal   the values of InboundMessage.traits: signs that no person wrote the mail

    TryLater              what a handler raises to get a document again later, without using up an attempt

    OrderflowError        every error that this package raises
      BackendUnavailable  a database, archive or queue cannot be used now: another attempt helps
        ArchiveUnavailable  the same of the archive; raised by OrderDocument.read()
      ObjectMissing       the archive has no object of this document; raised by OrderDocument.read()
      ObjectDamaged       the object's content is not what was archived; raised by OrderDocument.read()

A name is imported when it is first used, since Postfix starts a program of this package for each message.
"""

TYPE_CHECKING = False  # typing's own would more than double the start of that program (measured)
if TYPE_CHECKING:
    from orderflow_ingest.domain.automatic_mail import AutomaticMailSignal
    from orderflow_ingest.domain.errors import BackendUnavailable, OrderflowError
    from orderflow_ingest.parsing.documents.part import PartKind, Reason
    from orderflow_ingest.pipeline.handler import Handler, OrderDocument, TryLater
    from orderflow_ingest.storage.archive import ArchiveUnavailable, ObjectDamaged, ObjectMissing
    from orderflow_ingest.storage.database import Document, InboundMessage

__version__ = "0.1.0"

__all__ = [
    "ArchiveUnavailable",
    "AutomaticMailSignal",
    "BackendUnavailable",
    "Document",
    "Handler",
    "InboundMessage",
    "ObjectDamaged",
    "ObjectMissing",
    "OrderDocument",
    "OrderflowError",
    "PartKind",
    "Reason",
    "TryLater",
    "__version__",
]

_MODULES = {
    "ArchiveUnavailable": "storage.archive",
    "AutomaticMailSignal": "domain.automatic_mail",
    "BackendUnavailable": "domain.errors",
    "Document": "storage.database",
    "Handler": "pipeline.handler",
    "InboundMessage": "storage.database",
    "ObjectDamaged": "storage.archive",
    "ObjectMissing": "storage.archive",
    "OrderDocument": "pipeline.handler",
    "OrderflowError": "domain.errors",
    "PartKind": "parsing.documents.part",
    "Reason": "parsing.documents.part",
    "TryLater": "pipeline.handler",
}

# Where no module has the name, one of a former version may: master.cf and handlers outlive an upgrade.
__path__.append(f"{__path__[0]}/entrypoints/former_names")

if not TYPE_CHECKING:

    def __getattr__(name):
        """Import a public name when it is first used (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value

    def __dir__():
        """List the public names, those that are not imported yet included."""
        return sorted({*globals(), *__all__})
