"""OrderFlow ingest: purchase orders by e-mail, from Postfix to stored documents. See README.md."""

__version__ = "0.1.0"
