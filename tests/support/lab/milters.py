"""OpenDKIM and OpenDMARC as docs/how-to/senders.md sets them up, on loopback ports, with keys and DNS of their own.

Guarantees: nothing is asked of the network. OpenDKIM has its public keys from a file (TestPublicKeys), OpenDMARC its
records from another (resolv_wrapper(1) answers in place of libresolv). Each runs as the user that its package made,
and ends with us. What the page says is what runs here: its examples are read, and only the places are put in.
"""

import base64
import hashlib
import re
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from .process import Process, Server, free_port, listening, run

_PAGE = Path(__file__).parents[3] / "docs/how-to/senders.md"
_SELECTOR = "lab"
# Each needs what it would ask of the DNS, and must stay in the foreground and out of the system's log.
_KEEPS_TO_ITSELF = "Background no\nSyslog no\n"


def example(file: str) -> str:
    """Return the example of a configuration file that the page shows, as it stands there."""
    found = re.search(rf"^```\n# {re.escape(file)}\n(.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{_PAGE.name} shows no {file}"
    return found[1]


class Domain:
    """A domain of a sender: its DMARC record, who may send for it by SPF, and the key that signs its mail."""

    def __init__(self, directory: Path, name: str, dmarc: str = "v=DMARC1; p=reject", spf: str = "v=spf1 -all") -> None:
        self.name, self.dmarc, self.spf = name, dmarc, spf
        self._key = directory / f"{name}.key"
        run(["openssl", "genrsa", "-out", self._key, "2048"])
        command: list[str | Path] = ["openssl", "rsa", "-in", self._key, "-pubout", "-outform", "DER"]
        self.public = base64.b64encode(subprocess.run(command, capture_output=True, check=True).stdout).decode()

    def sign(self, raw: bytes, identity: bytes = b"", names: Sequence[bytes] = (b"from", b"subject")) -> bytes:
        """Put a DKIM signature on a mail (RFC 6376, simple/simple); `identity` is its i=, encoded as it has to be."""
        head, _, body = raw.replace(b"\n", b"\r\n").partition(b"\r\n\r\n")
        fields = re.split(rb"\r\n(?![ \t])", head)
        signed = b""
        for name in names:
            field = next(field for field in reversed(fields) if field.lower().startswith(name + b":"))
            fields.remove(field)
            signed += field + b"\r\n"
        digest = base64.b64encode(hashlib.sha256(body.rstrip(b"\r\n") + b"\r\n").digest())
        tags = [b"v=1", b"a=rsa-sha256", b"c=simple/simple", b"d=" + self.name.encode(), b"s=" + _SELECTOR.encode()]
        tags += [b"i=" + identity] if identity else []
        tags += [b"h=" + b":".join(names), b"bh=" + digest, b"b="]
        field = b"DKIM-Signature: " + b"; ".join(tags)
        command: list[str | Path] = ["openssl", "dgst", "-sha256", "-sign", self._key]
        value = subprocess.run(command, input=signed + field, capture_output=True, check=True).stdout
        return field + base64.b64encode(value) + b"\n" + raw


class Milters(Server):
    """Both milters for mail of these domains, set up as the page shows or by other texts."""

    def __init__(
        self, directory: Path, domains: Iterable[Domain], opendkim: str | None = None, opendmarc: str | None = None
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        self._ports = {8891: free_port(), 8893: free_port()}
        self._write_dns(list(domains))
        keys = f"TestPublicKeys {self.directory}/keys\n"
        opendkim = keys + (example("/etc/opendkim.conf") if opendkim is None else opendkim)
        opendmarc = example("/etc/opendmarc.conf") if opendmarc is None else opendmarc
        self._milters = [
            self._process("opendkim", "-x", 8891, opendkim),
            self._process("opendmarc", "-c", 8893, opendmarc),
        ]

    @property
    def main(self) -> str:
        """Return the lines of main.cf that put the milters behind Postfix."""
        return self._placed(example("/etc/postfix/main.cf"))

    def start(self) -> None:
        """Start both."""
        for milter in self._milters:
            milter.start()

    def stop(self) -> None:
        """Stop both."""
        for milter in self._milters:
            milter.stop()

    def kill(self) -> None:
        """Kill both."""
        for milter in self._milters:
            milter.kill()

    def _process(self, name: str, option: str, port: int, text: str) -> Process:
        file = self.directory / f"{name}.conf"
        file.write_text(self._placed(text) + _KEEPS_TO_ITSELF)
        env = {"LD_PRELOAD": "libresolv_wrapper.so", "RESOLV_WRAPPER_HOSTS": f"{self.directory}/dns"}
        return Process(
            [f"/usr/sbin/{name}", "-f", option, file],
            self.directory / f"{name}.log",
            ready=lambda: listening(self._ports[port]),
            user=name,
            stop_signal=signal.SIGKILL,  # it has nothing to keep, and ends five seconds after SIGTERM
            env={} if name == "opendkim" else env,
        )

    def _placed(self, text: str) -> str:
        """Put our ports in the place of those of an example."""
        return re.sub(r"\b889[13]\b", lambda port: str(self._ports[int(port[0])]), text)

    def _write_dns(self, domains: list[Domain]) -> None:
        keys = (f"{_SELECTOR}._domainkey.{one.name} v=DKIM1; k=rsa; p={one.public}\n" for one in domains)
        (self.directory / "keys").write_text("".join(keys))
        records = [(f"_dmarc.{one.name}", one.dmarc) for one in domains] + [(one.name, one.spf) for one in domains]
        # resolv_wrapper 1.1.8 puts a text into its answer as it is, so the byte that tells its length stands before it.
        lines = (f"TXT {name} {chr(len(text))}{text}\n" for name, text in records)
        (self.directory / "dns").write_text("".join(lines))
