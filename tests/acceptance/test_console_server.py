"""The console's HTTP server, as the real program over sockets: hanging clients, floods of logins, smuggled requests."""

import contextlib
import copy
import re
import resource
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

from orderflow_ingest.entrypoints.console.users import User, Users, hash_password
from tests.support.fakes import embedded
from tests.support.lab.process import Process, free_port, scratch, wait_until

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery"
SERVE = "from orderflow_ingest.entrypoints.console.main import main; main()"
TWO = "ask(host, *more) + (ask('127.0.0.2', *more) if host == '127.0.0.1' else [])"
IMPATIENT = f"from orderflow_ingest.entrypoints import http_server; http_server.REQUEST_TIME = 1.0; {SERVE}"


class Console:
    """A running console at an address; `code` is what its Python runs, `files` the limit of its open files."""

    def __init__(self, place: Path, address: str, code: str = SERVE, files: int = 1024):
        embedded(place).records.database.close()
        with Users(place / "console-users.json").edit() as table:
            table["anna"] = User("anna", hash_password(PASSWORD), None, True)
        self.address = address
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
        }
        environment |= {"ORDERFLOW_STATE_DIR": str(place), "ORDERFLOW_SETTINGS": "/dev/null"}
        environment |= {"ORDERFLOW_CONSOLE": address, "ORDERFLOW_LOG": "stderr"}
        command = ["prlimit", f"--nofile={files}:{files}", sys.executable, "-c", code, "serve"]
        self.process = Process(command, place / "log", env=environment, ready=self.is_ready)

    def connect(self) -> socket.socket:
        if self.address.startswith("unix:"):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(60)
            client.connect(self.address.removeprefix("unix:"))
            return client
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=60)

    def is_ready(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def ask(self, request: bytes) -> bytes:
        """Send bytes and return all that comes until the other end closes."""
        with self.connect() as client:
            client.sendall(request)
            return rest_of(client)

    def get(self, path: str = "/login", *headers: str) -> bytes:
        lines = [f"GET {path} HTTP/1.1", "Host: console", "Connection: close", *headers, "", ""]
        return self.ask("\r\n".join(lines).encode())

    def login(self, name: str, password: str, *headers: str) -> bytes:
        """Log in as a browser does: by the form's token, in a cookie and in the form."""
        token = re.search(rb'name="token" value="([^"]+)"', self.get())[1].decode()
        body = urlencode({"token": token, "name": name, "password": password})
        more = (
            "POST /login HTTP/1.1",
            "Host: console",
            "Connection: close",
            f"Cookie: orderflow_console_login={token}",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
            *headers,
        )
        return self.ask("\r\n".join((*more, "", body)).encode())


def rest_of(client: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while block := client.recv(65536):
            found += block
    return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def addresses(place: Path) -> dict[str, str]:
    return {"tcp": f"127.0.0.1:{free_port()}", "unix": f"unix:{place}/console.sock"}


@contextlib.contextmanager
def hanging(console: Console, number: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Open so many connections that begin a request and do not end it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, number + 512)), hard))
    clients: list[socket.socket] = []
    try:
        for _ in range(number):
            clients.append(console.connect())
            with contextlib.suppress(OSError):  # closed already, for one that came later
                clients[-1].sendall(sent)
        yield clients
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def console() -> Iterator[Console]:
    with scratch() as place:
        running = Console(place, addresses(place)["tcp"])
        with running.process:
            yield running


HALF_OPEN = {
    "nothing": b"",
    "half a header": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "half a body": b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\ntoken=",
}


@pytest.mark.parametrize("number", [200, 700])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_pages_load_while_hundreds_of_half_open_requests_hang(place, kind, number):
    running = Console(place, addresses(place)[kind])
    with running.process, contextlib.ExitStack() as stack:
        for sent in HALF_OPEN.values():
            stack.enter_context(hanging(running, number // 3 + 1, sent))
        for _ in range(5):
            assert status(running.get()) == 200
        assert status(running.get("/static/console.css")) == 200


def test_few_open_files_are_enough_for_a_page(place):
    """With 300 files 44 connections may be open: the longest waiting ones are closed for new ones."""
    running = Console(place, addresses(place)["tcp"], files=300)
    with running.process, hanging(running, 100, HALF_OPEN["half a header"]) as clients:
        for _ in range(5):
            assert status(running.get()) == 200
        assert [client.recv(1) for client in clients[:40]] == [b""] * 40
        clients[-1].sendall(b"Connection: close\r\n\r\n")
        assert status(rest_of(clients[-1])) == 303  # one that came late is still served


def test_the_bound_is_for_all_addresses_of_a_name_together(place):
    """localhost has two of them, as a rule."""
    port = free_port()
    code = f"import socket; ask = socket.getaddrinfo; socket.getaddrinfo = lambda host, *more: {TWO}; {SERVE}"
    first = Console(place, f"127.0.0.1:{port}", code=code, files=300)
    second = copy.copy(first)
    second.address = f"127.0.0.2:{port}"
    with first.process, hanging(first, 44, HALF_OPEN["nothing"]) as older:
        assert status(first.get()) == 200  # all that came before it are accepted
        with hanging(second, 44, HALF_OPEN["nothing"]):
            assert [client.recv(1) for client in older] == [b""] * 44
        assert status(first.get()) == status(second.get()) == 200


def test_a_request_that_only_drips_is_ended(place):
    running = Console(place, addresses(place)["tcp"], code=IMPATIENT)
    with running.process, running.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n")

        def is_closed() -> bool:
            try:
                client.sendall(b"X")
                client.setblocking(False)
                return client.recv(1) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True
            finally:
                client.setblocking(True)

        assert wait_until(is_closed, 60, interval=0.3)
        assert status(running.get()) == 200


POST = b"POST /login HTTP/1.1\r\nHost: x\r\n"
BEHIND = b"GET /logged-out HTTP/1.1\r\nHost: x\r\n\r\n"
UNCERTAIN = {
    "both": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, the other way round": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "both, in HTTP/1.0": b"POST /login HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /login HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two fields": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an empty coding": POST + b"Transfer-Encoding:\r\nContent-Length: 0\r\n\r\n",
    "a coding that is no word": POST + b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "a blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a chunk size with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "a chunk size in another form": POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk size of many digits": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n",
    "no chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
    "the same length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a length in another form": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length of other digits": POST + "Content-Length: \u0665\r\n\r\nhello".encode(),
    "a length of many digits": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nhello",
    "a length with zeros before it": POST + b"Content-Length: " + b"0" * 40 + b"5\r\n\r\nhello",
    "a folded length": POST + b"Content-Length: 5\r\n 0\r\n\r\nhello",
    "an empty length": POST + b"Content-Length:\r\n\r\nhello",
    "a target that is no URI": b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("request_", UNCERTAIN.values(), ids=UNCERTAIN.keys())
def test_a_request_whose_length_is_not_certain_is_refused_and_its_connection_closed(console, request_):
    answer = console.ask(request_ + BEHIND)
    assert (status(answer), answer.count(b"HTTP/1.")) in ((400, 1), (501, 1)), answer
    assert b"logged out" not in answer


def test_requests_whose_length_is_certain_are_answered_one_after_the_other(console):
    body = b"token=x"
    length = f"Content-Length: {len(body)}\r\n\r\n".encode()
    last = BEHIND.replace(b"Host: x", b"Host: x\r\nConnection: close")
    answer = console.ask(POST + length + body + BEHIND + last)
    assert answer.count(b"HTTP/1.1 400") == 1 and answer.count(b"You are logged out") == 2


def test_forty_logins_at_a_time_leave_the_pages_to_load(console):
    """Each is answered 403 or, beyond the places, 503; pages load meanwhile, and the right password lets in after."""

    def guess(number: int) -> int:
        return status(console.login("anna", "a wrong password", f"X-Forwarded-For: 192.0.2.{number}"))

    with ThreadPoolExecutor(48) as pool:
        guesses = [pool.submit(guess, number) for number in range(40)]
        pages = [pool.submit(console.get) for _ in range(40)]
        assert {status(page.result()) for page in pages} == {200}
        assert {one.result() for one in guesses} <= {403, 503}
    answer = console.login("anna", PASSWORD, "X-Forwarded-For: 192.0.2.200")
    assert status(answer) == 303
    device = re.search(rb"orderflow_console_device=([^;]+); [^\r]*Max-Age=7776000; HttpOnly; Path=/login", answer)
    assert device
    for _ in range(6):
        console.login("anna", "a wrong password", "X-Forwarded-For: 192.0.2.201")
    assert status(console.login("anna", PASSWORD, "X-Forwarded-For: 192.0.2.201")) == 429


@pytest.mark.parametrize("address", ["<script>", "a" * 9000, '"', ", ,", "[::1", "\x00"])
def test_a_client_address_that_is_none_is_an_answer_all_the_same(console, address):
    assert status(console.login("anna", "a wrong password", f"X-Forwarded-For: {address}")) in (403, 429, 503, 400)
    assert status(console.get()) == 200
