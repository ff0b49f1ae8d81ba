"""A Redis server of our own on loopback, with its append-only file on; with an `authority` it speaks TLS alone.

Guarantees: every acknowledged write is synced first, so it is there when a killed server starts again.
"""

import socket
from pathlib import Path

from .certificates import Authority
from .process import Process, Server, free_port


class Redis(Server):
    """A server with its files in `directory`."""

    def __init__(self, directory: Path, authority: Authority | None = None) -> None:
        self.directory, self.port = Path(directory).absolute(), free_port()
        self._has_tls = authority is not None
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        if authority:
            certificate, key = (str(file) for file in authority.issue("redis", "IP:127.0.0.1"))
            options |= {"port": "0", "tls-port": str(self.port), "tls-auth-clients": "no"}
            options |= {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": str(authority.file)}
        self._process = Process(
            ["redis-server"] + [word for name, value in options.items() for word in (f"--{name}", value)],
            self.directory / "redis.log",
            ready=self._answers,
        )

    def url(self, db: int = 0) -> str:
        """Return the URL of a numbered database."""
        return f"redis{'s' if self._has_tls else ''}://127.0.0.1:{self.port}/{db}"

    def start(self) -> None:
        """Start the server and wait until it has loaded its file."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process.start()

    def stop(self) -> None:
        """Shut down."""
        self._process.stop()

    def kill(self) -> None:
        """Kill the server without warning."""
        self._process.kill()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                if self._has_tls:
                    return True
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False
