"""A handler that sends each document to a web service.

ORDERFLOW_HANDLER_URL names the service. It gets the document's id as Idempotency-Key: the same document can come again.
"""

import os
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from orderflow_ingest import OrderDocument, TryLater

TIMEOUT = 30  # seconds


def receive(order: OrderDocument) -> None:
    """Send the document. A service that is away or busy gets it later, which uses up no attempt."""
    headers = {
        "Content-Type": order.document.content_type,
        "Idempotency-Key": str(order.document.id),
        "X-Organization": order.org,
        "X-Filename": quote(order.document.filename or ""),
        "X-Sender": order.message.from_email,
    }
    request = Request(os.environ["ORDERFLOW_HANDLER_URL"], order.read(), headers, method="POST")
    try:
        with urlopen(request, timeout=TIMEOUT):
            return
    except HTTPError as error:
        if error.code not in (429, 503):
            raise
        after = error.headers.get("Retry-After", "")
        raise TryLater(f"the service answers {error.code}", after=int(after) if after.isdigit() else 300) from None
    except URLError:
        raise TryLater("the service cannot be reached", after=300) from None
