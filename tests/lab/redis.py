"""A Redis server of our own on loopback, with its append-only file on.

Guarantees: every acknowledged write is synced first, so it is there when a killed server starts again.
"""

import socket
from pathlib import Path

from tests.lab.process import Process, Server, free_port


class Redis(Server):
    """A server with its files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = Path(directory).absolute(), free_port()
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        self._process = Process(
            ["redis-server"] + [word for name, value in options.items() for word in (f"--{name}", value)],
            self.directory / "redis.log",
            ready=self._answers,
        )

    def url(self, db: int = 0) -> str:
        """Give the URL of a numbered database."""
        return f"redis://127.0.0.1:{self.port}/{db}"

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
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False
