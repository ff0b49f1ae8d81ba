"""Whether Postfix's parameters agree with each other and with our settings, by the table that print uses too.

And whether each entry of a PostgreSQL map's `hosts` is one server, which print sees to as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orderflow_ingest.config import Settings
from orderflow_ingest.entrypoints.admin.postfix.parameters import RELATIONS, Section
from orderflow_ingest.storage import postgresql_url

from .findings import CheckResult
from .postconf import Postconf, Service, map_servers
from .postfix_probes import line


@dataclass(frozen=True)
class _InForce:
    """What is in force for a service, or in main.cf."""

    postconf: Postconf
    of: Service | None

    def text(self, name: str) -> str:
        return self.postconf.value(name, self.of)

    def seconds(self, name: str) -> float:
        return self.postconf.seconds(name, self.of)

    def number(self, name: str) -> int:
        return int(self.text(name))

    @property
    def service(self) -> str:
        return self.of.name if self.of else ""

    @property
    def maxproc(self) -> int:
        given = self.of.maxproc if self.of else "-"
        return self.number("default_process_limit") if given == "-" else int(given)


def check_limits(
    settings: Settings, postconf: Postconf, place: Section, service: Service | None = None
) -> Iterator[CheckResult]:
    """Compare what is in force at a place with each row of the table."""
    found = _InForce(postconf, service)
    for relation in RELATIONS:
        if relation.place is place and not relation.holds(found, settings):
            is_own = relation.parameter.startswith("-o ") or relation.parameter == "maxproc"
            where = f"master.cf: {found.service}" if is_own else "main.cf"
            yield relation.level, line(relation.parameter, relation.printed(settings), relation.why, where)


def check_hosts(postconf: Postconf) -> Iterator[CheckResult]:
    """Look whether a map can go from one server of PostgreSQL to the next."""
    for table in postconf.tables("virtual_mailbox_maps"):
        file = Path(table.removeprefix("pgsql:"))
        try:
            text = file.read_text(errors="replace") if table.startswith("pgsql:") else ""
        except OSError:  # the look-up of a recipient says what may not be read
            continue
        if any(_is_several(entry) for entry in map_servers(text)):
            yield (
                "WARNING",
                f"{file}: an entry of hosts names several servers, or asks for the primary: a failover is 451 for "
                "a minute; print orderflow-admin postfix map again",
            )


def _is_several(entry: str) -> bool:
    try:
        target = postgresql_url.read(entry) if postgresql_url.is_postgresql(entry) else None
    except postgresql_url.PostgresqlUrlError:  # libpq says so at the look-up of a recipient
        return False
    return bool(target and (len(target.servers) > 1 or "target_session_attrs" in target.parameters))
