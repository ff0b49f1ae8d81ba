"""A TCP proxy on loopback that can fail: between a program and a server, in a process of its own.

    pass     bytes go both ways
    refuse   nothing listens; connections that are there are reset
    hang     connections are accepted and read, and nothing is ever answered
    slow     each answer comes so many seconds late
    reset    an answer breaks off in the middle, by RST
    answer   each HTTP request gets this status and an S3 error of this code, as 503 SlowDown

turn() changes the mode for new connections and those that are there, and tells how much the mode before has hit:
connections, answers or requests; of `refuse` only the connections that were there, since the kernel answers new ones.
What was swallowed while it hung is lost, so those connections are reset when that ends, as by the restart of a server;
`hang for good` leaves them silent for ever. The server behind may come and go; while it is away, who connects is reset.
"""

import asyncio
import contextlib
import re
import socket
import struct
import sys
from collections import deque
from pathlib import Path

from .process import Process, Server, free_port, listening

MODES = ("pass", "refuse", "hang", "hang for good", "slow", "reset", "answer")
_HIGH, _LINGER = 1 << 20, 2.0  # bytes that wait for the other end; seconds to read what a refused request still sends
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>by the lab</Message>'
    "<RequestId>lab</RequestId><HostId>lab</HostId></Error>"
)


class Wire(Server):
    """A proxy from a port of its own to the loopback port `target`; `directory` takes its log."""

    def __init__(self, directory: Path, target: int) -> None:
        self.port, self._control = free_port(), free_port()
        self._process = Process(
            [sys.executable, "-m", "tests.support.lab.wire", str(self.port), str(target), str(self._control)],
            Path(directory) / f"wire-{target}.log",
            ready=lambda: listening(self._control),
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3])},
        )

    def start(self) -> None:
        """Start it; it passes."""
        self._process.start()

    def stop(self) -> None:
        """End it, and every connection."""
        self._process.kill()

    def kill(self) -> None:
        """End it, and every connection."""
        self._process.kill()

    def turn(self, mode: str, detail: str = "") -> int:
        """Change the mode and return how much the one before has hit; `detail`: seconds, or status and code."""
        if mode not in MODES:
            raise ValueError(mode)
        return self._ask(f"{mode}|{detail}")

    def hits(self) -> int:
        """Return how much the mode has hit so far."""
        return self._ask("")

    def _ask(self, line: str) -> int:
        with (
            socket.create_connection(("127.0.0.1", self._control), timeout=30) as control,
            control.makefile("rw") as io,
        ):
            io.write(line + "\n")
            io.flush()
            return int(io.readline())


class _Proxy:
    """The mode, the connections, and the listening socket."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target
        self.mode, self.detail, self.hits = "pass", "", 0
        self.ends: set[_End] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Listen, unless it does."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", self.port, backlog=1024)

    async def turn(self, mode: str, detail: str) -> int:
        """Change the mode; return the hits of the one before."""
        before, self.mode, self.detail, self.hits = (self.mode, self.hits), mode, detail, 0
        if before[0] == "hang" or mode in ("refuse", "answer"):
            cut = [end for end in self.ends if not end.is_silent]
            for end in cut:
                end.abort()
            self.hits = sum(isinstance(end, _Client) for end in cut) if mode == "refuse" else 0
        if mode == "refuse" and self._server:
            self._server.close()
            self._server = None
        elif mode != "refuse":
            await self.listen()
        return before[1]

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one line of Wire's."""
        mode, bar, detail = (await reader.readline()).decode().rstrip("\n").partition("|")
        hits = await self.turn(mode, detail) if bar else self.hits
        writer.write(b"%d\n" % hits)
        writer.close()


class _End(asyncio.Protocol):
    """One end of a connection."""

    transport: asyncio.Transport | None = None
    other: "_End | None" = None
    is_silent = False

    def __init__(self, proxy: _Proxy) -> None:
        self.proxy = proxy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(_HIGH)
        self.proxy.ends.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.proxy.ends.discard(self)
        if self.other and not (self.is_silent and isinstance(self, _Server)):
            (self.other.abort if error else self.other.close)()

    def pause_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other and self.other.transport and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def swallows(self) -> bool:
        """Return whether what came is to be lost."""
        if self.proxy.mode.startswith("hang") and not self.is_silent:
            self.proxy.hits += 1
            for end in filter(None, (self, self.other)):
                end.is_silent = self.proxy.mode == "hang for good"
        return self.is_silent or self.proxy.mode == "hang"

    def send(self, data: bytes) -> None:
        """Write, where that can be done."""
        if self.transport and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close when all is written."""
        if self.transport:
            self.transport.close()

    def abort(self) -> None:
        """Reset."""
        if self.transport:
            with contextlib.suppress(OSError):
                own = self.transport.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class _Client(_End):
    """The end of who has connected to us."""

    _head, _connecting = b"", None
    _is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._waiting: list[bytes] = []
        if self.proxy.mode not in ("hang", "hang for good", "answer"):
            self._connecting = asyncio.ensure_future(self._connect())

    def data_received(self, data: bytes) -> None:
        if self.swallows() or self._is_answered:
            return
        if self.proxy.mode == "answer":
            self._answer(data)
        elif self.other is not None:
            self.other.send(data)
        elif self._connecting is not None:
            self._waiting.append(data)
        else:
            self.abort()

    async def _connect(self) -> None:
        try:
            _, server = await asyncio.get_running_loop().create_connection(
                lambda: _Server(self.proxy), "127.0.0.1", self.proxy.target
            )
        except OSError:
            self.abort()
            return
        if self.transport is None or self.transport.is_closing():
            server.abort()
            return
        self.other, server.other = server, self
        for data in self._waiting:
            server.send(data)
        self._waiting.clear()

    def _answer(self, data: bytes) -> None:
        """Answer a request as soon as its head is there: its body is not wanted."""
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        status, _, code = self.proxy.detail.partition(" ")
        body = b"" if self._head.startswith(b"HEAD") else _ERROR.format(code=code).encode()
        head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        self.send(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.proxy.hits += 1
        self._is_answered = True
        if self.transport and self.transport.can_write_eof():
            self.transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER, self.close)


class _Server(_End):
    """The end of the server behind us."""

    def __init__(self, proxy: _Proxy) -> None:
        super().__init__(proxy)
        self._late: deque[bytes] = deque()

    def data_received(self, data: bytes) -> None:
        if self.swallows() or self.other is None:
            return
        if self.proxy.mode == "reset":
            self.proxy.hits += 1
            self.other.send(data[: len(data) // 2])
            self.other.abort()
        elif self.proxy.mode == "slow" or self._late:
            self.proxy.hits += 1
            self._late.append(data)
            asyncio.get_running_loop().call_later(float(self.proxy.detail or 0), self._send_late)
        else:
            self.other.send(data)

    def connection_lost(self, error: Exception | None) -> None:
        while self._late:
            self._send_late()
        super().connection_lost(error)

    def _send_late(self) -> None:
        if self._late and self.other is not None:
            self.other.send(self._late.popleft())


async def _main(port: int, target: int, control: int) -> None:
    proxy = _Proxy(port, target)
    await proxy.listen()
    server = await asyncio.start_server(proxy.control, "127.0.0.1", control)
    await server.serve_forever()


if __name__ == "__main__":
    assert re.fullmatch(r"\d+ \d+ \d+", " ".join(sys.argv[1:]))
    asyncio.run(_main(*map(int, sys.argv[1:])))
