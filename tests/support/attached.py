"""Mails with one attachment."""

from .mails import part


def attached(name: str, data: bytes, kind: str = "application/octet-stream") -> bytes:
    return part(f'Content-Type: {kind}; name="{name}"'.encode(), data)
