"""Whether Postfix's parameters agree with each other and with our settings, by the table that print uses too."""

from collections.abc import Iterator
from dataclasses import dataclass

from ...settings import Settings
from ..postfix_relations import RELATIONS, Place
from .findings import Said
from .postconf import Postconf, Service
from .postfix_probes import line


@dataclass(frozen=True)
class _InForce:
    """What is in force for a service, or in main.cf."""

    asked: Postconf
    of: Service | None

    def text(self, name: str) -> str:
        return self.asked.value(name, self.of)

    def seconds(self, name: str) -> float:
        return self.asked.seconds(name, self.of)

    def number(self, name: str) -> int:
        return int(self.text(name))

    @property
    def service(self) -> str:
        return self.of.name if self.of else ""

    @property
    def maxproc(self) -> int:
        given = self.of.maxproc if self.of else "-"
        return self.number("default_process_limit") if given == "-" else int(given)


def check_limits(settings: Settings, asked: Postconf, place: Place, service: Service | None = None) -> Iterator[Said]:
    """Compare what is in force at a place with each row of the table."""
    found = _InForce(asked, service)
    for relation in RELATIONS:
        if relation.place is place and not relation.holds(found, settings):
            is_own = relation.parameter.startswith("-o ") or relation.parameter == "maxproc"
            where = f"master.cf: {found.service}" if is_own else "main.cf"
            yield relation.level, line(relation.parameter, relation.printed(settings), relation.why, where)
