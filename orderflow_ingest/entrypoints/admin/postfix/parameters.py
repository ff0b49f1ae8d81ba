"""What one parameter of Postfix must be for another, or for a setting of ours: one table, for print and `check`.

`orderflow-admin postfix` fills the fragments' @NAMES@ from it, and `check` compares what is in force, defaults and
lines of other authors too: what we print depends on parameters that we do not print. Each row was seen with Postfix
3.7, in its behavior or its source:

    queue_run_delay         deferred mail is looked at so often: a shorter minimal_backoff_time does nothing
    bounce_queue_lifetime   how long mail of a null sender is kept; then it is thrown away, and nobody hears of it
    mailbox_size_limit      below message_size_limit local(8) does not start: mail for postmaster waits, and the queue
                            manager ends when daemon_timeout is over. virtual(8) is the same
    header_size_limit       of a longer field the rest is cut off without a word, what a sender has signed too
    daemon_timeout          the queue manager waits so long for a delivery, then it ends itself, and all mail waits
    anvil_rate_time_unit    what smtpd_client_*_rate_limit count within
    maxproc                 of master.cf, against the limits of one organization and of one client

Without a relation are smtpd_timeout, which is of the client's side alone (smtpd_proxy_timeout counts for itself),
ipc_timeout (the queue manager waits daemon_timeout for a delivery), line_length_limit (cut lines are joined again),
queue_minfree (smtpd wants room for 1.5 times message_size_limit in any case), qmgr_message_active_limit and
in_flow_delay (they bound what is in work, and lose nothing).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from orderflow_ingest.config import Settings

TIME_LIMIT_FACTOR = 10
_DAY = 86400
_LONGEST_PAUSE = 120  # seconds
_SENDERS_PATIENCE = 600  # seconds after the end of the content, RFC 5321, 4.5.3.2.6
_LEAST_PROXY = 100  # seconds, Postfix's own default of smtpd_proxy_timeout


class Section(Enum):
    """Whose value counts: main.cf's, or that of a service of master.cf."""

    MAIN = "main.cf"
    PIPE = "the transport orderflow"
    LMTP = "the transport orderflow-lmtp"
    PROXIED = "an smtpd that asks the service"


class InForce(Protocol):
    """The parameters that are in force at one place."""

    def text(self, name: str) -> str:
        """Return a parameter's value."""

    def seconds(self, name: str) -> float:
        """Return a time."""

    def number(self, name: str) -> int:
        """Return a number."""

    @property
    def service(self) -> str:
        """Return the name of the service."""

    @property
    def maxproc(self) -> int:
        """Return how many processes the service may have, or 0 for no limit."""


@dataclass(frozen=True)
class Relation:
    """One row: `holds` says whether the parameter is right, `printed` what it is set to by what we print.

    A parameter that begins with `-o ` is an option of its service.
    """

    place: Section
    parameter: str
    level: str
    holds: Callable[[InForce, Settings], bool]
    printed: Callable[[Settings], object]
    why: str

    @property
    def name(self) -> str:
        """Return the name under which a fragment has the value."""
        return self.parameter.removeprefix("-o ").replace("-", "_").upper()


def time_limit(settings: Settings) -> int:
    """Return Postfix's time limit for a delivery in seconds, which stands far above our deadline."""
    return max(600, int(TIME_LIMIT_FACTOR * settings.deadline))


def org_concurrency(settings: Settings) -> int:
    """Return how many of one organization's messages are delivered at a time: half of the places."""
    return (settings.concurrency + 1) // 2


def proxy_timeout(settings: Settings) -> int:
    """Return how long smtpd waits for the service: above our deadline, and within a sender's patience if it can be."""
    return max(_LEAST_PROXY, min(int(2 * settings.deadline), _SENDERS_PATIENCE - 30), int(settings.deadline) + 10)


def _mailbox_limit(settings: Settings) -> int:
    return max(51200000, 2 * settings.max_message_size)


def _covers_message(name: str) -> Callable[[InForce, Settings], bool]:
    """Return whether a limit of a mailbox is none, or lets every mail in."""

    def covers(found: InForce, _: Settings) -> bool:
        limit, message = found.number(name), found.number("message_size_limit")
        return limit == 0 or 0 < message <= limit

    return covers


def _is_short(name: str) -> Callable[[InForce, Settings], bool]:
    return lambda found, _: found.seconds(name) <= _LONGEST_PAUSE


def _is_empty(name: str) -> Callable[[InForce, Settings], bool]:
    return lambda found, _: not found.text(name)


def _is_within(name: str, bound: str) -> Callable[[InForce, Settings], bool]:
    """Return whether a time is no longer than another."""
    return lambda found, _: found.seconds(name) <= found.seconds(bound)


def _counts_in_minutes(found: InForce, _: Settings) -> bool:
    limits = ("connection", "message", "recipient")
    counted = any(found.number(f"smtpd_client_{what}_rate_limit") for what in limits)
    return not counted or found.seconds("anvil_rate_time_unit") <= 60


def _may_read_maps(found: InForce, _: Settings) -> bool:
    """Return whether proxymap(8) reads each recipient map that is asked by it. It refuses all others."""
    allowed = set(re.split(r"[\s,]+", found.text("proxy_read_maps")))
    asked = re.findall(r"(?<!\S)proxy:[^\s,{]+(?!\S*\{)", found.text("virtual_mailbox_maps").replace(",", " "))
    return all(table in allowed for table in asked)


def _outlives(limit: str) -> Callable[[InForce, Settings], bool]:
    return lambda found, _: found.seconds("daemon_timeout") > found.seconds(limit)


def _leaves_places(found: InForce, _: Settings) -> bool:
    """Return whether one organization's mail leaves places for the others'."""
    own = found.number(f"{found.service}_destination_concurrency_limit")
    return found.maxproc == 1 or (own > 0 and (found.maxproc == 0 or own < found.maxproc))


def _is_within_places(found: InForce, settings: Settings) -> bool:
    return 0 < found.maxproc <= settings.concurrency


def _leaves_sessions(found: InForce, _: Settings) -> bool:
    own = found.number("smtpd_client_connection_count_limit")
    return found.maxproc == 0 or own < found.maxproc


def _transport(place: Section, transport: str, limit: str) -> Iterator[Relation]:
    """Return what is the same for both transports. `limit` is how long one may take for a delivery."""
    option = "" if place == Section.PIPE else "-o "
    yield Relation(
        place, option + limit, "TROUBLE",
        lambda found, settings: found.seconds(limit) >= 2 * settings.deadline,
        lambda settings: f"{time_limit(settings)}s",
        "at it Postfix kills the program" if place == Section.PIPE else "Postfix gives up before our deadline",
    )  # fmt: skip
    yield Relation(
        place, "daemon_timeout", "TROUBLE", _outlives(limit),
        lambda settings: f"{max(18000, 2 * time_limit(settings))}s",
        "the queue manager ends when a delivery takes longer, and all mail waits",
    )  # fmt: skip
    yield Relation(
        place, f"{transport}_destination_concurrency_limit", "WARNING", _leaves_places, org_concurrency,
        "one organization can take every place",
    )  # fmt: skip
    yield Relation(
        place, "maxproc", "WARNING", _is_within_places, lambda settings: settings.concurrency,
        "ORDERFLOW_CONCURRENCY: the service has no more places, and more is deferred",
    )  # fmt: skip


RELATIONS: tuple[Relation, ...] = (
    Relation(
        Section.MAIN, "message_size_limit", "TROUBLE",
        lambda found, settings: 0 < found.number("message_size_limit") <= settings.max_message_size,
        lambda settings: settings.max_message_size,
        "larger mail is accepted and then bounces",
    ),
    Relation(
        Section.MAIN, "message_size_limit", "WARNING",
        lambda found, settings: not 0 < found.number("message_size_limit") < settings.max_message_size,
        lambda settings: settings.max_message_size,
        "mail is refused that ORDERFLOW_MAX_MESSAGE_SIZE allows",
    ),
    Relation(
        Section.MAIN, "mailbox_size_limit", "TROUBLE", _covers_message("mailbox_size_limit"), _mailbox_limit,
        "below message_size_limit local(8) does not start: mail for postmaster waits",
    ),
    Relation(
        Section.MAIN, "virtual_mailbox_limit", "WARNING", _covers_message("virtual_mailbox_limit"), _mailbox_limit,
        "below message_size_limit virtual(8) does not start: mail of other domains waits",
    ),
    Relation(
        Section.MAIN, "header_size_limit", "WARNING",
        lambda found, _: found.number("header_size_limit") >= 1 << 20, lambda _: 1 << 20,
        "the rest of a longer field is cut off, what its sender has signed too",
    ),
    Relation(
        Section.MAIN, "maximal_queue_lifetime", "WARNING",
        lambda found, _: found.seconds("maximal_queue_lifetime") >= _DAY, lambda _: "10d",
        "an outage that is longer bounces mail",
    ),
    Relation(
        Section.MAIN, "bounce_queue_lifetime", "WARNING",
        _is_within("maximal_queue_lifetime", "bounce_queue_lifetime"), lambda _: "10d",
        "mail of a null sender is thrown away after it, and nobody hears of it",
    ),
    Relation(
        Section.MAIN, "minimal_backoff_time", "WARNING", _is_short("minimal_backoff_time"), lambda _: "60s",
        "so long does mail wait at least after the shortest outage",
    ),
    Relation(
        Section.MAIN, "queue_run_delay", "WARNING",
        _is_within("queue_run_delay", "minimal_backoff_time"), lambda _: "30s",
        "deferred mail is looked at no sooner, whatever minimal_backoff_time says",
    ),
    Relation(
        Section.MAIN, "transport_retry_time", "WARNING", _is_short("transport_retry_time"), lambda _: "60s",
        "so long does all mail wait after a transport has failed once",
    ),
    Relation(
        Section.MAIN, "maximal_backoff_time", "WARNING",
        lambda found, _: found.seconds("minimal_backoff_time") <= found.seconds("maximal_backoff_time") <= 4000,
        lambda _: "1800s",
        "mail waits so long after a long outage; it must not be below minimal_backoff_time",
    ),
    Relation(
        Section.MAIN, "anvil_rate_time_unit", "WARNING", _counts_in_minutes, lambda _: "60s",
        "smtpd_client_…_rate_limit count within it: senders are put off",
    ),
    Relation(
        Section.MAIN, "local_header_rewrite_clients", "WARNING", _is_empty("local_header_rewrite_clients"),
        lambda _: "",
        "Postfix makes up Message-IDs, each another one",
    ),
    Relation(
        Section.MAIN, "always_add_missing_headers", "WARNING",
        lambda found, _: found.text("always_add_missing_headers") == "no", lambda _: "no",
        "Postfix makes up Message-IDs for all mail, each another one",
    ),
    Relation(
        Section.MAIN, "remote_header_rewrite_domain", "WARNING", _is_empty("remote_header_rewrite_domain"),
        lambda _: "",
        "Postfix rewrites addresses in headers that their sender has signed",
    ),
    Relation(
        Section.MAIN, "proxy_read_maps", "TROUBLE", _may_read_maps, lambda _: "$virtual_mailbox_maps …",
        "proxymap(8) reads no other map: RCPT TO is answered with 451",
    ),
    Relation(
        Section.MAIN, "smtpd_forbid_bare_newline", "WARNING",
        lambda found, _: found.text("smtpd_forbid_bare_newline") in ("normalize", "reject", "yes"),
        lambda _: "normalize",
        "SMTP smuggling: a sender can put a second mail into one, under another's name",
    ),
    *_transport(Section.PIPE, "orderflow", "orderflow_time_limit"),
    *_transport(Section.LMTP, "orderflow-lmtp", "lmtp_data_done_timeout"),
    Relation(
        Section.PROXIED, "-o smtpd_proxy_timeout", "TROUBLE",
        lambda found, settings: found.seconds("smtpd_proxy_timeout") > settings.deadline,
        lambda settings: f"{proxy_timeout(settings)}s",
        "Postfix gives up before our deadline",
    ),
    Relation(
        Section.PROXIED, "-o smtpd_proxy_timeout", "TROUBLE",
        lambda found, _: found.seconds("smtpd_proxy_timeout") < _SENDERS_PATIENCE,
        lambda settings: f"{proxy_timeout(settings)}s",
        "a sender waits ten minutes, then it sends the mail again; ORDERFLOW_DEADLINE must be far below that",
    ),
    Relation(
        Section.PROXIED, "-o smtpd_client_connection_count_limit", "WARNING", _leaves_sessions, lambda _: 20,
        "one client can take all sessions that maxproc allows",
    ),
)  # fmt: skip


def values(settings: Settings) -> dict[str, object]:
    """Return what the fragments are filled with, by name."""
    return {relation.name: relation.printed(settings) for relation in RELATIONS}
