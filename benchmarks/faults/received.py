"""The campaign's document handler: reads each document, and notes that it was called, in one line for each call."""

import hashlib
import os

_FILE = os.environ.get("FAULT_RECEIVED", "")


def receive(order):
    """Note a document: its id, its message, its part, the digest of what was read, and whose it is."""
    digest = hashlib.sha256(order.read()).hexdigest()
    line = f"{order.document.id} {order.message.id} {order.document.part_path} {digest} {order.org}\n"
    fd = os.open(_FILE, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
