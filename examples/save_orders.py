"""A handler that writes each document into a folder, one for each organization.

ORDERFLOW_HANDLER_FOLDER names the folder. Add it to ReadWritePaths= of the worker's unit.
"""

import os
from pathlib import Path

from orderflow_ingest import OrderDocument


def receive(order: OrderDocument) -> None:
    """Write the document under its id, so that one that comes again replaces itself."""
    folder = Path(os.environ["ORDERFLOW_HANDLER_FOLDER"]) / order.org
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{order.document.id}-{order.document.filename or 'text.txt'}"
    unfinished = folder / f".{order.document.id}"
    unfinished.write_bytes(order.read())
    unfinished.replace(folder / name[:200])
