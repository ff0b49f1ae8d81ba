"""The header of a spool entry: `name: value` lines with %, CR and LF escaped.

So an entry is readable with less(1), and no value can end its line. It imports nothing: it is on the path
of a program that is started per message.
"""


def encode_header(values: dict[str, str]) -> bytes:
    """Write header lines, without the blank line that ends them; bytes that are no UTF-8 come as surrogates."""
    lines = [f"{name}: {_escape(value)}\n" for name, value in values.items()]
    return "".join(lines).encode("utf-8", "surrogateescape")


def decode_header(header: bytes) -> dict[str, str]:
    """Read what encode_header() wrote."""
    pairs = (line.partition(": ") for line in header.decode("utf-8", "surrogateescape").split("\n"))
    return {name: _unescape(value) for name, _, value in pairs}


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")


def _unescape(text: str) -> str:
    return text.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")
