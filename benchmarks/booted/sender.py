"""A client of the machine's Postfix, as a program of its own: it sends, and notes each answer before the next.

    python -m benchmarks.booted.sender mails|recipients TAG RATE SECONDS [NUMBER…]

It writes a line of JSON for each mail, or each question about a recipient. NUMBERs are sent again, the same bytes, as
a sender's queue does. It ends when standard output is closed, or by SIGTERM.
"""

import base64
import hashlib
import json
import random
import smtplib
import sys
import threading
import time
from collections.abc import Iterator

SENDER, KNOWN, UNKNOWN = "a@load.example", "orders+acme@orders.example.com", "orders+nope@orders.example.com"
THREADS = 8
PATIENCE = 60  # seconds
_LOCK = threading.Lock()


def mail(tag: str, number: int) -> tuple[str, bytes, str]:
    """Return the Message-ID, the bytes and the attachment's SHA-256 of a mail."""
    identity, rows = f"<{tag}-{number}@load.example>", random.Random(f"{tag} {number}")
    table = "".join(f"{row};ART-{rows.randrange(10**6)};{rows.randrange(99)}\r\n" for row in range(40)).encode()
    text = (
        f"From: {SENDER}\r\nTo: {KNOWN}\r\nSubject: Order {number}\r\nMessage-ID: {identity}\r\n"
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nOur order.\r\n--b\r\n"
        f"Content-Type: text/csv; name=order-{number}.csv\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    ).encode()
    return identity, text + base64.encodebytes(table) + b"--b--\r\n", hashlib.sha256(table).hexdigest()


def note(**line: object) -> None:
    """Write a line."""
    with _LOCK:
        print(json.dumps(line), flush=True)


def send(numbers: Iterator[tuple[int, float]], tag: str) -> None:
    """Send mail after mail over one connection, each when it is due; a broken one is made again."""
    client = None
    while True:
        with _LOCK:
            number, due = next(numbers, (-1, 0.0))
        if number < 0:
            return
        time.sleep(max(0.0, due - time.time()))
        began, answer = time.time(), ""
        try:
            client = client or smtplib.SMTP("127.0.0.1", 25, "load.example", PATIENCE)
            client.sendmail(SENDER, [KNOWN], mail(tag, number)[1])
            answer = "250"
        except (OSError, smtplib.SMTPException) as error:
            answer, client = _answer(error), None
        note(number=number, began=began, ended=time.time(), answer=answer)


def ask(rate: float, until: float) -> None:
    """Ask for a known and an unknown recipient in turn, over a connection each."""
    while time.time() < until:
        for recipient in (KNOWN, UNKNOWN):
            began = time.time()
            try:
                with smtplib.SMTP("127.0.0.1", 25, "load.example", PATIENCE) as client:
                    client.ehlo()
                    client.mail(SENDER)
                    answer = str(client.rcpt(recipient)[0])
            except (OSError, smtplib.SMTPException) as error:
                answer = _answer(error)
            note(recipient=recipient, began=began, ended=time.time(), answer=answer)
            time.sleep(max(0.0, began + 1 / rate - time.time()))


def _answer(error: Exception) -> str:
    """Return the code that was said, or how the connection ended."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return str(next(iter(error.recipients.values()))[0])
    return str(getattr(error, "smtp_code", type(error).__name__))


def main() -> None:
    """Run the command."""
    what, tag, rate, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    began, again = time.time(), [int(number) for number in sys.argv[5:]]
    if what == "recipients":
        ask(rate, began + seconds)
        return
    chosen = again or range(int(rate * seconds))
    numbers = ((number, began + place / rate) for place, number in enumerate(chosen))
    threads = [threading.Thread(target=send, args=(numbers, tag), daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
