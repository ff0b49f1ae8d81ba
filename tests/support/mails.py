"""Real mails, small, for the tests."""

import base64

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def mail(number: int = 1, body: bytes = b"12 widgets\n", **fields: str) -> bytes:
    """Write a plain mail; `number` makes its Message-ID; fields are added, an empty one is left out."""
    known = {
        "From": "Purchasing <buyer@shop.example>",
        "To": "orders@orderflow.example.com",
        "Subject": f"Order {number}",
        "Date": "Fri, 20 Nov 2026 10:00:00 +0000",
        "Message-ID": f"<order-{number}@shop.example>",
    }
    known |= {name.replace("_", "-"): value for name, value in fields.items()}
    head = "".join(f"{name}: {value}\n" for name, value in known.items() if value)
    return head.encode("utf-8", "surrogateescape") + b"\n" + body


def order(number: int = 1, attachments: int = 2) -> bytes:
    """Write a mail with PDF attachments, each with a content of its own, and an empty text body."""
    parts = [b"--b\nContent-Type: text/plain\n\n"]
    for index in range(attachments):
        content = base64.encodebytes(PDF + b"%% order %d part %d\n" % (number, index))
        parts.append(
            b'--b\nContent-Type: application/pdf; name="order-%d-%d.pdf"\nContent-Transfer-Encoding: base64\n'
            b"Content-Disposition: attachment\n\n%s" % (number, index, content)
        )
    body = b"\n".join(parts) + b"\n--b--\n"
    return mail(number, body, MIME_Version="1.0", Content_Type='multipart/mixed; boundary="b"')


def part(header: bytes, content: bytes = b"content") -> bytes:
    """Write a part of a multipart: its header, its content in base64."""
    return header + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(content)


def multipart(*parts: bytes, kind: bytes = b"mixed") -> bytes:
    """Write a mail of these parts."""
    head = b"From: a@example.com\r\nMIME-Version: 1.0\r\nContent-Type: multipart/" + kind + b"; boundary=bb\r\n\r\n"
    return head + b"".join(b"--bb\r\n" + one + b"\r\n" for one in parts) + b"--bb--\r\n"
