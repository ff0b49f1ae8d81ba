"""What an unknown recipient costs at RCPT TO: the service beside Postfix's own map of the same database, in one run.

    python -m benchmarks.throughput.recipients [--names 4000] [--stacks embedded postgresql]

As root. Names that are all different and nobody's are asked for by RCPT TO, over one SMTP connection in the quiet case,
over 20 in an attack. A process of proxymap answers one smtpd after the other, so the service is asked few questions at
a time; 20 connections of our own to recipients.sock show what those cost that come together. CPU is that of proxymap,
the service and PostgreSQL, per recipient; smtpd's is the same for both.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path

from benchmarks.harness.measure import cpu
from orderflow_ingest.entrypoints.health_client import MAP_SOCKET
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.family import family
from tests.support.lab.postfix import Postfix
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import scratch

STACKS = ("embedded", "postgresql")
ATTACKERS = 20
_PATIENT = """
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 1000000
smtpd_hard_error_limit = 1000000
smtpd_client_connection_count_limit = 0
"""
_OURS, _OWN = "service", "database"
_numbers = iter(range(10**9))


def names(count: int) -> list[str]:
    """Return addresses that were never asked for."""
    return [f"orders+guess{next(_numbers)}@{DOMAIN}" for _ in range(count)]


class Asked:
    """One Postfix whose RCPT TO is answered by the service, and one that reads the database."""

    def __init__(self, deployment: Deployment, postgres: Postgres | None):
        self._deployment, self._postgres = deployment, postgres
        self.postfixes = {}
        for which in (_OURS, _OWN):
            deployment.map_by, deployment.postfix = which, Postfix(deployment.directory / which)
            deployment.configure_postfix(overrides=_PATIENT)
            self.postfixes[which] = deployment.postfix

    def used(self) -> dict[str, float]:
        """Return the CPU seconds that each part has taken."""
        members = [one for postfix in self.postfixes.values() for one in family(postfix.pid)]
        return {
            "proxymap": sum(cpu(one) for one in members if _is_proxymap(one)),
            "service": cpu(self._deployment.service.pid),
            "database": sum(cpu(one) for one in self._postgres.processes()[:1]) if self._postgres else 0.0,
        }

    def measure(self, what: str, count: int, asked: Awaitable[object]) -> float:
        """Ask, print and return the milliseconds of CPU per question."""

        async def timed() -> float:
            began = time.monotonic()
            await asked
            return time.monotonic() - began

        before, seconds, after = self.used(), asyncio.run(timed()), self.used()
        cost = {part: 1000 * (after[part] - before[part]) / count for part in before}
        parts = "  ".join(f"{part} {value:.3f}" for part, value in cost.items())
        print(f"    {what:<24} {sum(cost.values()):.3f} ms: {parts}  {count / seconds:.0f} per s", flush=True)
        return sum(cost.values())

    async def by_smtp(self, which: str, count: int, clients: int) -> None:
        """Ask by RCPT TO."""

        async def one() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.postfixes[which].smtp_port)

            async def say(line: str, code: bytes) -> None:
                writer.write(f"{line}\r\n".encode())
                said = await reader.readline()
                assert said.startswith(code), said

            assert (await reader.readline()).startswith(b"220")
            await say("HELO client.example", b"250")
            await say("MAIL FROM:<a@b.example>", b"250")
            for name in names(count // clients):
                await say(f"RCPT TO:<{name}>", b"550")
            writer.close()

        await asyncio.gather(*(one() for _ in range(clients)))

    async def at_the_socket(self, count: int, clients: int) -> None:
        """Ask the service without Postfix."""

        async def one() -> None:
            reader, writer = await asyncio.open_unix_connection(str(self._deployment.sockets / MAP_SOCKET))
            for name in names(count // clients):
                key = f"recipients {name}".encode()
                writer.write(b"%d:%b," % (len(key), key))
                assert await reader.readuntil(b",") == b"9:NOTFOUND ,"
            writer.close()

        await asyncio.gather(*(one() for _ in range(clients)))


def _is_proxymap(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == "proxymap"


def run(stack: str, count: int) -> None:
    """Measure one stack and print the ratios."""
    with scratch() as directory, Postgres(directory / "postgres") as postgres:
        url = {"DATABASE_URL": postgres.create_database("asked")} if stack == "postgresql" else {}
        deployment = Deployment(directory / "deployment", url, way="lmtp", service=True)
        deployment.set_up("acme", *(f"org{number}" for number in range(20)))
        asked = Asked(deployment, postgres if url else None)
        print(stack)
        with deployment.service, asked.postfixes[_OURS], asked.postfixes[_OWN]:
            for which in (_OURS, _OWN):
                asyncio.run(asked.by_smtp(which, 200, ATTACKERS))
            for clients in (1, ATTACKERS):
                case = f"{clients} at a time"
                own = asked.measure(f"{_OWN}, {case}", count, asked.by_smtp(_OWN, count, clients))
                ours = asked.measure(f"{_OURS}, {case}", count, asked.by_smtp(_OURS, count, clients))
                alone = asked.measure(f"socket, {case}", count, asked.at_the_socket(count, clients))
                print(f"    ratio, {case}: {ours / own:.2f}; at the socket {alone / own:.2f}", flush=True)


def main() -> None:
    """Measure what the options name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=4000)
    parser.add_argument("--stacks", nargs="+", choices=STACKS, default=STACKS)
    options = parser.parse_args()
    for stack in options.stacks:
        run(stack, options.names)


if __name__ == "__main__":
    main()
