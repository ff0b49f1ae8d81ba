"""An hour of varied mail for three organizations, delivered and extracted for real: what the console is looked at with.

Orders come as PDF, Excel, CSV and pictures; three are FAILED, one document was refused, two mails are held, two are
dead letters, one has not been extracted yet, and one is as hostile as mail can be. The times of rows and events are
then put back to where they belong: all of it has just been made.
"""

import io
import math
import random
import struct
import zlib
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime

import sqlalchemy as sa
from openpyxl import Workbook

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.states import HoldReason
from orderflow_ingest.pipeline import deliver as delivery
from orderflow_ingest.pipeline import extract, hand_over, receive
from orderflow_ingest.storage.envelope_header import encode_envelope

from .fakes import ListQueue
from .order_pdf import PDF

ORGANIZATIONS = {"acme": "Acme Corp.", "nordwind": "Nordwind Handels GmbH", "lindner": "Lindner & Söhne"}
BUYERS = {
    "acme": ("einkauf@baumarkt-sued.example", "orders@hillside-tools.example", "p.larsen@fjord-supply.example"),
    "nordwind": ("bestellung@cafe-mohn.example", "achats@boulangerie-petit.example", "buyer@greenleaf.example"),
    "lindner": ("mika@tammer-wood.example", "zamowienia@stolarnia-nowak.example"),
}
GOODS = (
    "hinges, brass",
    "oak boards 22 mm",
    "screws 4 x 40",
    "wood oil 2.5 l",
    "espresso beans 1 kg",
    "rye flour 25 kg",
)
HOSTILE_SUBJECT = "<script>alert('subject')</script> \u202ecod.exe \x1b[31m order & <b>more</b>"
HOSTILE_NAME = "\u202e<img src=x onerror=alert(1)>gpj.csv"
HOSTILE_HTML = (
    "<html><head><title>t</title></head><body><script>alert('body')</script><h1>Order 666</h1>"
    "<img src='https://tracker.example/pixel.gif'><p onclick='alert(2)'>12 pieces, please</p></body></html>"
)
HOLE, EDGE = b"\x30\x38\x48", b"\xf4\xf5\xf7"  # pixels of a picture
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(3)'><script>alert(4)</script></svg>"


class Mailroom:
    """Delivers mail into `app` as if it had come in the hour before `now`."""

    def __init__(self, app: App, now: datetime, seed: int = 4711):
        self.app, self.now, self.lots, self.number = app, now, random.Random(seed), 4700

    def fill(self, messages: int = 60) -> None:
        """Deliver the hour."""
        for slug, name in ORGANIZATIONS.items():
            if self.app.records.organizations.find(slug) is None:
                self.app.records.organizations.add(slug, name)
        for minute in sorted(self.lots.triangular(1, 59, 38) for _ in range(messages)):
            slug = self.lots.choices(tuple(ORGANIZATIONS), (6, 4, 2))[0]
            self.deliver(self.order(slug), slug, minute)
        self.deliver(self.hostile(), "acme", 52)
        self.work()
        self.fail()
        self.hold()
        self.set_aside()
        self.deliver(self.order("nordwind"), "nordwind", 60)  # nobody has extracted it yet
        self.date_back()

    def order(self, slug: str) -> EmailMessage:
        """Write a purchase order."""
        self.number += self.lots.randint(1, 9)
        mail, buyer = EmailMessage(), self.lots.choice(BUYERS[slug])
        goods = self.lots.sample(GOODS, self.lots.randint(2, 5))
        rows = [("item", "goods", "quantity")] + [
            (str(10 * n), name, str(self.lots.randint(1, 40))) for n, name in enumerate(goods, 1)
        ]
        mail["From"], mail["To"] = buyer, f"orders+{slug}@orderflow.example.com"
        mail["Subject"] = self.lots.choice(
            ("Purchase order {}", "Bestellung {}", "PO-{}, please confirm", "Order {}, urgent")
        )
        mail.replace_header("Subject", mail["Subject"].format(self.number))
        mail["Message-ID"] = f"<{self.number}.{slug}@{buyer.partition('@')[2]}>"
        mail["Date"] = format_datetime(self.now)
        text = "\n".join("  ".join(row) for row in rows[1:])
        mail.set_content(
            f"Good morning,\n\nplease deliver as follows, order {self.number}:\n\n{text}\n\nKind regards\n{buyer}\n"
        )
        self.attach(mail, rows)
        return mail

    def attach(self, mail: EmailMessage, rows: list[tuple[str, str, str]]) -> None:
        """Attach an order in one or two of the forms that orders have."""
        table = "".join(";".join(row) + "\r\n" for row in rows).encode()
        name = f"order-{self.number}"
        for kind in self.lots.sample(("pdf", "csv", "xlsx", "png"), self.lots.choice((1, 1, 2))):
            if kind == "pdf":
                mail.add_attachment(PDF, maintype="application", subtype="pdf", filename=f"{name}.pdf")
            if kind == "csv":
                mail.add_attachment(table, maintype="text", subtype="csv", filename=f"{name}.csv")
            if kind == "png":
                mail.add_attachment(
                    picture(self.number), maintype="image", subtype="png", filename=f"{name}-sketch.png"
                )
            if kind == "xlsx":
                excel = "vnd.openxmlformats-officedocument.spreadsheetml.sheet"
                mail.add_attachment(workbook(rows), maintype="application", subtype=excel, filename=f"{name}.xlsx")

    def hostile(self) -> bytes:
        """Write a mail that tries everything on who looks at it."""
        mail = EmailMessage()
        mail["From"], mail["To"] = '"<i>Mallory</i>" <mallory@evil.example>', "orders+acme@orderflow.example.com"
        mail["Subject"], mail["Message-ID"] = "SUBJECT", "<666@evil.example>"
        mail.set_content(HOSTILE_HTML, subtype="html")
        mail.add_attachment(b"a;b\r\n=cmd|' /C calc'!A0;<script>alert(5)</script>\r\n", maintype="text", subtype="csv",
                            filename=HOSTILE_NAME)  # fmt: skip
        mail.add_attachment(SVG, maintype="image", subtype="svg+xml", filename="drawing.svg")
        mail.add_attachment(HOSTILE_HTML.encode(), maintype="text", subtype="html", filename="order.html")
        mail.add_attachment(HOSTILE_HTML.encode(), maintype="image", subtype="png", filename="no-picture.png")
        return mail.as_bytes().replace(b"SUBJECT", HOSTILE_SUBJECT.encode() + b"A" * 100_000)

    def deliver(self, mail: EmailMessage | bytes, slug: str, minute: float) -> delivery.Delivery:
        """Deliver a mail that came in a minute of the hour."""
        raw = mail if isinstance(mail, bytes) else mail.as_bytes()
        at = self.now - timedelta(hours=1) + timedelta(minutes=minute)
        sender = "" if isinstance(mail, bytes) else str(mail["From"])
        recipient, client = f"orders+{slug}@orderflow.example.com", f"192.0.2.{self.lots.randint(2, 250)}"
        envelope = Envelope(recipient, at, sender, recipient, f"4X{self.lots.randrange(16**8):08X}", client)
        blocks = iter((raw, b""))
        entry = self.app.spool.write(encode_envelope(envelope), lambda _: next(blocks), limit=1 << 30)
        return receive.deliver_spooled(entry, self.app)

    def queue(self) -> ListQueue:
        """Return the queue, which keeps its tasks in lists."""
        assert isinstance(self.app.queue, ListQueue)
        return self.app.queue

    def work(self) -> None:
        """Extract and hand over all that is due, as a worker does."""
        queue = self.queue()
        for org_id, id in queue.extractions:
            extract.extract(org_id, id, self.app)
        for org_id, id in queue.hand_overs:
            hand_over.hand_over(org_id, id, self.app)
        queue.extractions.clear()
        queue.hand_overs.clear()

    def fail(self) -> None:
        """Let one message fail for good, and one document."""
        lease, messages, documents = timedelta(seconds=60), self.app.records.messages, self.app.records.documents
        why = {
            "error": "MemoryError",
            "where": "MemoryError at zip_archive.py:118",
            "attempt": 3,
            "at": self.now.isoformat(),
        }
        for slug, minute in (("acme", 21), ("acme", 40), ("lindner", 44)):
            self.deliver(self.order(slug), slug, minute)
            (org_id, id), *_ = self.queue().extractions
            self.queue().extractions.clear()
            attempt = messages.claim(org_id, id, "mail1:4117", self.now, lease)
            assert attempt is not None and messages.give_up(attempt, why)
        self.deliver(self.order("acme"), "acme", 50)
        (org_id, id), *_ = self.queue().extractions
        extract.extract(org_id, id, self.app)
        org_id, id = self.queue().hand_overs[0]
        refused = documents.claim(org_id, id, "mail1:4117", self.now, lease)
        error = {"error": "ValueError", "where": "ValueError at orders.py:81", "attempt": 4, "at": self.now.isoformat()}
        assert refused is not None and documents.give_up(refused, error)
        self.queue().hand_overs.pop(0)
        self.work()

    def hold(self) -> None:
        """Let two mails be held: one that clashes with another, and one of a sender who is not known."""
        first = self.order("acme")
        self.deliver(first, "acme", 30)
        second = self.order("acme")
        second.replace_header("Message-ID", str(first["Message-ID"]))
        second.replace_header("Subject", str(first["Subject"]))
        self.deliver(second, "acme", 33)
        stranger = self.deliver(self.order("nordwind"), "nordwind", 47)
        self.work()
        nordwind = self.app.records.organizations.find("nordwind")
        assert nordwind is not None and stranger.message_id is not None
        message = self.app.records.messages.get(nordwind.id, stranger.message_id)
        assert message is not None and self.app.records.held_mail.insert(None, message, HoldReason.SENDER_NOT_ALLOWED)

    def set_aside(self) -> None:
        """Set two deliveries aside, as a bug would."""
        for slug in ("acme", "lindner"):
            recipient = f"orders+{slug}@orderflow.example.com"
            envelope = Envelope(recipient, self.now - timedelta(minutes=11), f"buyer@{slug}-customer.example")
            read = io.BytesIO(self.order(slug).as_bytes()).read
            entry = self.app.spool.write(encode_envelope(envelope), read, limit=1 << 30)
            for _ in range(2):
                self.app.spool.record_failure(entry.name, "KeyError at message.py:88")
            self.app.spool.move_to_dead(entry, entry.name, "KeyError at message.py:88")

    def date_back(self) -> None:
        """Put the times of rows and events back to just after the mail came."""
        with self.app.records.database.engine.begin() as connection:
            triggers = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
            for name, _ in triggers:
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
            rows = connection.exec_driver_sql("SELECT org_id, id, received_at FROM inbound_message").all()
            for org_id, id, received in rows:
                came, took = datetime.fromisoformat(received), self.lots.lognormvariate(1, 1.1)
                self._shift(connection, org_id, id, came, took)
            for _, statement in triggers:
                connection.exec_driver_sql(statement)

    def _shift(self, connection: sa.Connection, org_id: int, id: str, came: datetime, took: float) -> None:
        key = {"org": org_id, "id": id, "created": _text(came + timedelta(seconds=0.3))}
        key["updated"] = _text(came + timedelta(seconds=took))
        times = "SET created_at = :created, updated_at = :updated"
        connection.execute(sa.text(f"UPDATE inbound_message {times} WHERE org_id = :org AND id = :id"), key)
        events = sa.text(
            "SELECT id FROM message_event WHERE org_id = :org AND inbound_message_id = :id ORDER BY at, id"
        )
        for number, (event,) in enumerate(connection.execute(events, key).all()):
            at = _text(came + timedelta(seconds=took * (1 + number / 9)))
            connection.execute(
                sa.text("UPDATE message_event SET at = :at WHERE id = :event"), {"at": at, "event": event}
            )


def workbook(rows: list[tuple[str, str, str]]) -> bytes:
    """Write an Excel file."""
    book, file = Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(list(row))
    book.save(file)
    return file.getvalue()


def picture(number: int, width: int = 360, height: int = 220) -> bytes:
    """Write a PNG: a board with holes, of which no two are alike."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lots = random.Random(number)
    holes = [(lots.randrange(40, width - 40), lots.randrange(40, height - 40), lots.randrange(6, 22)) for _ in range(7)]
    board = b"".join(bytes((200 + n % 12, 168, 118)) for n in range(width + 12))
    rows = bytearray()
    for y in range(height):
        shift = y * 3 % 12
        row = bytearray(EDGE * width)
        if 14 < y < height - 14:
            row[3 * 15 : 3 * (width - 14)] = board[3 * (shift + 15) : 3 * (shift + width - 14)]
        for cx, cy, r in holes:
            room = r * r - (y - cy) ** 2  # what the square of a hole's half width stays below
            if room > 0:
                half = math.isqrt(room - 1)
                row[3 * (cx - half) : 3 * (cx + half + 1)] = HOLE * (2 * half + 1)
        rows += b"\0" + row
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")
    )


def _text(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
