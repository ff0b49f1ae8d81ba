"""The lab's failing wire: each mode does what it says, to connections that are there and to new ones."""

import contextlib
import socket
import threading
import time

import pytest

from tests.support.lab.process import free_port, wait_until
from tests.support.lab.wire import Wire


class Echo:
    """A server that sends back what it gets, in a thread; it can be taken away and come back."""

    def __init__(self) -> None:
        self.port = free_port()
        self._open: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(self._server,), daemon=True).start()

    def stop(self) -> None:
        for one in (self._server, *self._open):
            with contextlib.suppress(OSError):  # it has ended already
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            self._open.append(one)
            threading.Thread(target=self._echo, args=(one,), daemon=True).start()

    def _echo(self, one: socket.socket) -> None:
        try:
            while data := one.recv(1 << 16):
                one.sendall(data)
        except OSError:
            return
        one.close()


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.stop()


@pytest.fixture
def wire(place, echo):
    with Wire(place, echo.port) as started:
        yield started


def connect(wire: Wire) -> socket.socket:
    return socket.create_connection(("127.0.0.1", wire.port), timeout=10)


def talk(one: socket.socket, text: bytes = b"hello\n") -> bytes:
    one.sendall(text)
    got = b""
    while len(got) < len(text) and (data := one.recv(1 << 16)):
        got += data
    return got


def is_silent(one: socket.socket) -> bool:
    one.settimeout(0.5)
    try:
        one.sendall(b"hello\n")
        return not one.recv(1)
    except TimeoutError:
        return True


def test_bytes_go_both_ways_and_whole(wire):
    with connect(wire) as one:
        assert talk(one) == b"hello\n"
        large = bytes(range(256)) * 20_000
        reader: list[bytes] = []
        thread = threading.Thread(target=lambda: reader.append(talk(one, large)))
        thread.start()
        thread.join(20)
        assert reader == [large]
    assert wire.turn("pass") == 0


def test_an_end_is_passed_on(wire):
    with connect(wire) as one:
        assert talk(one) == b"hello\n"
        one.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""


def test_refused_is_who_connects_and_who_is_there(wire):
    with connect(wire) as there:
        talk(there)
        wire.turn("refuse")
        with pytest.raises(ConnectionError):
            talk(there)
            talk(there)
    with pytest.raises(ConnectionRefusedError):
        connect(wire)
    assert wire.turn("pass") == 1
    with connect(wire) as one:
        assert talk(one) == b"hello\n"


@pytest.mark.parametrize("mode", ["hang", "hang for good"])
def test_a_hang_answers_nobody(wire, mode):
    with connect(wire) as there:
        talk(there)
        wire.turn(mode)
        with connect(wire) as new:
            assert is_silent(there) and is_silent(new)
            assert wire.turn("pass") == 2
            if mode == "hang":
                with pytest.raises(ConnectionError):
                    talk(there)
                    talk(there)
            else:
                assert is_silent(there) and is_silent(new)
    with connect(wire) as one:
        assert talk(one) == b"hello\n"


def test_slow_answers_come_late_and_whole(wire):
    wire.turn("slow", "0.5")
    began = time.monotonic()
    with connect(wire) as one:
        assert talk(one) == b"hello\n"
        assert time.monotonic() - began >= 0.5
    assert wire.turn("pass") == 1


def test_a_reset_breaks_an_answer_off(wire):
    with connect(wire) as one:
        wire.turn("reset")
        one.sendall(b"hello\n")
        with pytest.raises(ConnectionResetError):
            while one.recv(100):
                pass
    assert wire.turn("pass") == 1


def test_a_request_is_answered_with_an_error_before_its_body(wire):
    wire.turn("answer", "503 SlowDown")
    with connect(wire) as one:
        one.sendall(b"PUT /bucket/key HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        answer = b""
        while data := one.recv(1000):
            answer += data
    assert answer.startswith(b"HTTP/1.1 503 SlowDown\r\n") and b"<Code>SlowDown</Code>" in answer
    assert wire.turn("pass") == 1


def answers(wire: Wire) -> bool:
    try:
        with connect(wire) as one:
            return talk(one) == b"hello\n"
    except ConnectionError:
        return False


def test_it_outlives_what_is_behind_it(wire, echo):
    assert answers(wire)
    echo.stop()
    assert not answers(wire)
    echo.start()
    assert wait_until(lambda: answers(wire), 60)


def test_an_unknown_mode_is_refused(wire):
    with pytest.raises(ValueError, match="melt"):
        wire.turn("melt")
