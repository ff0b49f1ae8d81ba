"""Mails whose sender is judged: what stands above and below the Received field of our own Postfix."""

from orderflow_ingest.domain.sender_policy import Authenticator, Rejection, check_sender
from orderflow_ingest.parsing.mime.fields import read_mail_header

ALLOWED = ("@shop.example", "ann@other.example")
MX = "mx.example.com"
QUEUE_ID = "4bXyz1Kz2"
OURS = f"Received: from client (client [192.0.2.7])\n\tby mail (Postfix) with ESMTPS id {QUEUE_ID}\n\tfor <x>; now\n"


def fields(*results: str | None) -> str:
    """Write Authentication-Results fields."""
    return "".join(f"Authentication-Results: {one}\n" for one in results if one is not None)


def doubt_mail(
    above: str = "",
    below: str = "",
    source: str = "buyer@shop.example",
    received: str = OURS,
    queue_id: str | None = QUEUE_ID,
    authserv_id: str = MX,
) -> Rejection | None:
    """Judge a mail with these fields above and below the Received that our Postfix wrote."""
    flags = "Return-Path: <a@b>\nX-Original-To: orders+acme@orderflow.example.com\n"
    raw = f"{flags}{above}{received}{below}From: {source}\nSubject: x\n\n"
    header = read_mail_header(raw.encode("utf-8", "surrogateescape"))
    return check_sender(header, ALLOWED, Authenticator(authserv_id, queue_id))
