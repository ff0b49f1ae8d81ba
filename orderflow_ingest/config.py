"""The settings of a deployment: one file in KEY=value form, the environment over it, safe defaults.

The file is `--settings F`, else $ORDERFLOW_SETTINGS, else /etc/orderflow/ingest.env if it exists. The
form is that of systemd's EnvironmentFile, so that units and programs read the same one. With no
settings at all everything lives under one state directory: SQLite database and queue, archive as
files, spool.

An unknown ORDERFLOW_ key or a bad value stops every program: orderflow-deliver answers 75, so that
Postfix keeps the mail, and nothing bounces. To pass over a misspelt key would be worse: a deployment
would believe every From, or write elsewhere, and nobody would know. The error names file, line and key,
and the known key that is nearest, never a value, which may be a secret.

Keys that begin with ORDERFLOW_HANDLER_ are the document handler's own, and any such key is taken. They,
and the AWS_ keys, are put from the file into this process's environment, where the handler and the AWS
SDK look for them: pipe(8) starts programs with an almost empty environment. Existing variables stay.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orderflow_ingest.domain.addresses import DELIMITERS, Addresses, ascii_domain
from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.storage import postgresql_url
from orderflow_ingest.storage.resilience.timeouts import LONGEST_BACKOFF

SYSTEM_FILE = "/etc/orderflow/ingest.env"
HANDLER_PREFIX = "ORDERFLOW_HANDLER_"
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PREFIX = "ORDERFLOW_"
# A backslash begins an escape or goes on in the next line; a quote at the beginning has to be closed by one like it.
_SYSTEMD_READS_OTHERWISE = re.compile(r"""\\|^["']""")
# Of difflib's ratio: for a key that is meant to be ours, and for one that may be another program's.
_LIKE, _VERY_LIKE = 0.6, 0.8
TASK_SHARE = 0.8  # of a lease; a task has no more
_LEAST_TIME = 2.0  # seconds of CPU time for a mail; the imports of the first one take up to one


class SettingsError(OrderflowError):
    """Settings that cannot be read or used. The text names the key and what it should be."""


@dataclass(frozen=True)
class Settings:
    """Everything that a deployment can choose, and the file it was read from. Times in seconds, sizes in bytes."""

    file: Path | None
    state_dir: Path
    domains: tuple[str, ...]
    local_part: str
    recipient_delimiter: str
    max_message_size: int
    require_tls: bool
    spool_accepts: bool
    deadline: float
    document_handler: str
    log: str
    retry_delay: float
    handover_retry: float
    log_tracebacks: bool
    lease: float
    part_time: float
    mail_time: float
    max_documents: int
    task_memory: int
    sweep_after: float
    max_queue: int
    max_lag: float
    socket_dir: Path
    mail_user: str
    concurrency: int
    max_in_flight: int
    relay: str | None
    metrics: str
    authserv_id: str
    database_url: str = field(repr=False)
    queue_url: str = field(repr=False)
    map_database_url: str = field(repr=False)
    archive_url: str
    s3_endpoint_url: str | None
    s3_encryption: str
    s3_checksum: str
    s3_addressing: str
    console: str
    console_users: Path
    console_proxy_header: str
    console_timeout: float

    @cached_property
    def addresses(self) -> Addresses:
        """Return how the organizations' addresses are spelled."""
        return Addresses(self.local_part, self.recipient_delimiter, self.domains)

    @property
    def source(self) -> str:
        """Return which settings file is in force, for people: an error can come of the wrong one."""
        none = f"none (no --settings, no $ORDERFLOW_SETTINGS, no {SYSTEM_FILE}), the defaults are in force"
        return str(self.file) if self.file else none

    @property
    def spool_dir(self) -> Path:
        return self.state_dir / "spool"

    @property
    def circuits_dir(self) -> Path:
        return self.state_dir / "circuits"

    @property
    def probes_dir(self) -> Path:
        """Return the directory in which check finds the header of mail that it has sent itself."""
        return self.state_dir / "probes"

    @property
    def workers_dir(self) -> Path:
        return self.state_dir / "workers"

    @property
    def attempts_dir(self) -> Path:
        return self.state_dir / "in_hand"

    @property
    def metrics_dir(self) -> Path:
        return self.state_dir / "metrics"

    @property
    def longest_delay(self) -> float:
        """Return the longest that a row may have to wait, in seconds, and a minute for clocks that differ."""
        return max(self.lease, self.sweep_after, self.retry_delay * LONGEST_BACKOFF) + 60

    @property
    def task_time_limit(self) -> float:
        """Return how long a task may run: it ends before its lease does, or another worker would join it."""
        return TASK_SHARE * self.lease

    @property
    def task_end(self) -> float:
        """Return when the process of a task is ended that does not come back to Python: between its time and its lease.

        A task that was ended by its time limit has this long to note that.
        """
        return (1 + TASK_SHARE) / 2 * self.lease


@dataclass(frozen=True)
class Key:
    """One settings key. `default` is text as it would stand in the file, or made from the keys before it."""

    name: str
    field: str
    default: str | Callable[[dict[str, Any]], str]
    read: Callable[[str], Any]
    expected: str
    meaning: str
    default_meaning: str = ""


def _default_state_dir(_: dict[str, Any]) -> str:
    system = "/var/lib/orderflow"
    return system if os.access(system, os.W_OK) else os.path.expanduser("~/.local/state/orderflow")


def _default_socket_dir(found: dict[str, Any]) -> str:
    system = "/run/orderflow"
    return system if os.path.isdir(system) else f"{found['state_dir']}/run"


def _below_state(form: str) -> Callable[[dict[str, Any]], str]:
    return lambda found: form.format(found["state_dir"])


def _default_queue(found: dict[str, Any]) -> str:
    database = str(found["database_url"])
    return database if database.startswith("postgresql") else f"sqlite:///{found['state_dir']}/queue.db"


def _default_mail_time(found: dict[str, Any]) -> str:
    return f"{min(120.0, _longest_mail_time(found['lease'])):g}"


def _longest_mail_time(lease: float) -> float:
    """Return how much CPU time a mail may have at the most: an attempt must end before its task does."""
    return max(TASK_SHARE * lease, _LEAST_TIME)


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError
    return path


def _matching(pattern: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return read


def _word(**meanings: bool) -> Callable[[str], bool]:
    def read(text: str) -> bool:
        if text.lower() not in meanings:
            raise ValueError
        return meanings[text.lower()]

    return read


def _number(kind: Callable[[str], Any], least: float, most: float = 1e12) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        number = kind(text)
        if not least <= number <= most:
            raise ValueError
        return number

    return read


def _domains(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ascii_domain(part.strip()) for part in text.split(",")))


def _delimiters(text: str) -> str:
    if not set(text) <= set(DELIMITERS) or len(set(text)) != len(text):
        raise ValueError
    return text


def _database_url(text: str) -> str:
    return text if re.fullmatch(r"sqlite:////.+", text) else postgresql_url.checked(text)


def _queue_url(text: str) -> str:
    if not re.match(r"rediss?://.", text):
        return _database_url(text)
    _ = urlsplit(text).port  # raises ValueError for one that is none
    return text


def _endpoint(text: str) -> str | None:
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.netloc):
        raise ValueError
    return text or None


def _relay(text: str) -> str | None:
    if text and not re.fullmatch(r"unix:/.+", text):
        host, _, port = text.rpartition(":")
        if not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]", host):
            raise ValueError
        _number(int, 1, 65535)(port)
    return text or None


def _listener(text: str) -> str:
    if _relay(text) is None:
        raise ValueError
    return text


def _local(text: str) -> str:
    """Return a unix socket or a loopback address: any other one could be read by everybody."""
    port = re.fullmatch(r"(?:127(?:\.\d{1,3}){3}|\[::1\]|localhost):(\d+)", text)
    if port:
        _number(int, 1, 65535)(port[1])
    elif not re.fullmatch(r"unix:/.+", text):
        raise ValueError
    return text


_seconds = _number(float, 0.1, 1e6)


def _task_memory(text: str) -> int:
    return 0 if text == "0" else int(_number(int, 1 << 28)(text))


_archive_url = _matching(r"file:///.+|s3://[a-z0-9][a-z0-9.-]{2,62}(?:/[A-Za-z0-9._/-]*)?")

KEYS = (
    Key("ORDERFLOW_STATE_DIR", "state_dir", _default_state_dir, _absolute, "an absolute path",
        "Directory of the spool, and of the embedded database, queue and archive.",
        "/var/lib/orderflow if writable, else ~/.local/state/orderflow"),
    Key("ORDERFLOW_DOMAIN", "domains", "orderflow.example.com", _domains,
        "domain names, comma separated; one with ß, ς, a joiner or a newer script in its ASCII form, xn--…",
        "Recipient domains, comma separated. One beyond ASCII may be written as `bücher.example` or `xn--bcher- "
        "kva.example`."),
    Key("ORDERFLOW_LOCAL_PART", "local_part", "orders", _matching(r"[a-z0-9._-]{1,64}"),
        "lower case letters, digits, . _ or -", "What stands before the delimiter of a recipient."),
    Key("ORDERFLOW_RECIPIENT_DELIMITER", "recipient_delimiter", "+", _delimiters,
        f"different characters of {DELIMITERS}",
        "What divides local part and organization, as Postfix's recipient_delimiter: one or more of `+-=_.`. The "
        "first one is shown, and all are read."),
    Key("ORDERFLOW_MAX_MESSAGE_SIZE", "max_message_size", "26214400", _number(int, 1), "a number of bytes",
        "The largest mail, in bytes. It is Postfix's message_size_limit too."),
    Key("ORDERFLOW_REQUIRE_TLS", "require_tls", "false",
        _word(true=True, yes=True, false=False, no=False), "true or false",
        "Whether Postfix refuses senders without TLS (smtpd_tls_security_level)."),
    Key("ORDERFLOW_SPOOL_MODE", "spool_accepts", "defer", _word(defer=False, accept=True), "defer or accept",
        "Who keeps a mail while a backend is away. defer: Postfix does. accept: our spool does, and Postfix hears "
        "250."),
    Key("ORDERFLOW_DEADLINE", "deadline", "60", _seconds, "a number of seconds",
        "Seconds for one delivery. Postfix's time limit is ten times as long. TimeoutStopSec of the service must "
        "be above it."),
    Key("ORDERFLOW_DOCUMENT_HANDLER", "document_handler", "orderflow_ingest.pipeline.handler:log_document",
        _matching(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"), "of the form package.module:function",
        "The function that the worker calls once for each document, as package.module:function.", "logs the document"),
    Key("ORDERFLOW_LOG", "log", "auto", _matching(r"auto|stderr|syslog|/.+"),
        "auto, stderr, syslog or an absolute path",
        "Where log records go. auto is stderr for the service and the worker, else syslog, else "
        "`STATE_DIR/log/deliver.log`."),
    Key("ORDERFLOW_RETRY_DELAY", "retry_delay", "60", _seconds, "a number of seconds",
        "Seconds before the first retry of an extraction or hand-over. Each next one waits four times as long."),
    Key("ORDERFLOW_HANDOVER_RETRY", "handover_retry", "259200", _seconds, "a number of seconds",
        "Seconds for which a failed hand-over is tried again, each time later, at most 6 hours. Then the document is "
        "FAILED."),
    Key("ORDERFLOW_LOG_TRACEBACKS", "log_tracebacks", "false",
        _word(true=True, yes=True, false=False, no=False), "true or false",
        "Whether the log has text and traceback of a handler's exceptions. They may hold message content."),
    Key("ORDERFLOW_LEASE", "lease", "600", _seconds, "a number of seconds",
        "Seconds after which another worker takes over the work of a lost one. A task ends after 0.8 of it."),
    Key("ORDERFLOW_MAIL_TIME", "mail_time", _default_mail_time, _seconds, "a number of seconds",
        "Seconds of CPU time to read a mail, at most 0.8 of ORDERFLOW_LEASE. Further parts are then documents as a "
        "whole.", "120, or 0.8 of a shorter lease"),
    Key("ORDERFLOW_PART_TIME", "part_time", lambda found: f"{min(30.0, found['mail_time']):g}", _seconds,
        "a number of seconds",
        "Seconds of CPU time to read a part of a mail, at most ORDERFLOW_MAIL_TIME. The part is then a document as "
        "a whole.", "30, or a shorter ORDERFLOW_MAIL_TIME"),
    Key("ORDERFLOW_MAX_DOCUMENTS", "max_documents", "500", _number(int, 1, 10_000), "a number from 1 to 10000",
        "The most documents of one mail. The others are skipped parts, and stay in the raw mail."),
    Key("ORDERFLOW_TASK_MEMORY", "task_memory", "2147483648", _task_memory,
        "a number of bytes from 268435456 on, which a worker needs for itself, or 0 for no limit",
        "Bytes of memory (address space) of a worker process. A task that needs more fails. 0 is no limit."),
    Key("ORDERFLOW_SWEEP_AFTER", "sweep_after", "120", _seconds, "a number of seconds",
        "Seconds after which the sweep enqueues work that no worker has begun."),
    Key("ORDERFLOW_MAX_QUEUE", "max_queue", "100000", _number(int, 0), "a number of tasks, 0 for no limit",
        "If so many tasks wait, new mail is deferred. 0 is no limit."),
    Key("ORDERFLOW_MAX_LAG", "max_lag", "86400", _number(float, 0), "a number of seconds, 0 for no limit",
        "If a message is so many seconds overdue, new mail is deferred. 0 is no limit."),
    Key("ORDERFLOW_SOCKET_DIR", "socket_dir", _default_socket_dir, _absolute, "an absolute path",
        "Directory of the service's sockets: deliver.sock, lmtp.sock, smtp.sock and recipients.sock.",
        "/run/orderflow if it is there, else run/ in the state directory"),
    Key("ORDERFLOW_MAIL_USER", "mail_user", "postfix", _matching(r"[a-z_][a-z0-9_-]*"), "a user's name",
        "The user of Postfix's programs. This user may connect to lmtp.sock, smtp.sock and recipients.sock."),
    Key("ORDERFLOW_CONCURRENCY", "concurrency", "20", _number(int, 1, 1000), "a number of deliveries",
        "How many deliveries an instance of the service runs at a time."),
    Key("ORDERFLOW_MAX_IN_FLIGHT", "max_in_flight", "134217728", _number(int, 1), "a number of bytes",
        "Bytes of memory for the mails in an instance of the service. Mail beyond them is deferred."),
    Key("ORDERFLOW_RELAY", "relay", "", _relay, "of the form host:port or unix:/path",
        "Where the service relays mail that is no order, before the queue: an smtpd of Postfix without a filter.",
        "none"),
    Key("ORDERFLOW_METRICS", "metrics", "127.0.0.1:9464", _listener, "of the form host:port or unix:/path",
        "Where orderflow-metrics listens: host:port on this host, or unix:/path."),
    Key("ORDERFLOW_AUTHSERV_ID", "authserv_id", "", _matching(r"[A-Za-z0-9._-]*"), "a name such as mx.example.com",
        "The name under which your mail server writes Authentication-Results. Organizations with allowed_senders "
        "then take only authenticated mail.", "none: a From is believed"),
    Key("DATABASE_URL", "database_url", _below_state("sqlite:///{}/orderflow.db"), _database_url,
        "a sqlite:////path or postgresql://user:password@host/name URL, special characters as %xx",
        "The database: postgresql://user:password@host/name, or sqlite:////path.",
        "SQLite in the state directory"),
    Key("QUEUE_URL", "queue_url", _default_queue, _queue_url,
        "a sqlite:, postgresql: or redis: URL, special characters as %xx",
        "The queue: a sqlite:, postgresql: or redis: URL, such as redis://host:port/0.",
        "SQLite beside a SQLite database; the same database if that is PostgreSQL"),
    Key("MAP_DATABASE_URL", "map_database_url", lambda found: str(found["database_url"]), _database_url,
        "a sqlite:////path or postgresql://user:password@host/name URL, special characters as %xx",
        "The same database, for the role of Postfix's recipient map.", "DATABASE_URL"),
    Key("ARCHIVE_URL", "archive_url", _below_state("file://{}/archive"), _archive_url,
        "file:///directory or s3://bucket/prefix",
        "The archive: s3://bucket/prefix, or file:///directory.", "files in the state directory"),
    Key("S3_ENDPOINT_URL", "s3_endpoint_url", "", _endpoint, "an http: or https: URL",
        "URL of an S3-compatible store other than AWS.", "AWS"),
    Key("ORDERFLOW_S3_ENCRYPTION", "s3_encryption", "", _matching(r"(?:AES256|aws:kms(?::[A-Za-z0-9:/_.-]{1,2048})?)?"),
        "AES256, aws:kms or aws:kms:KEY",
        "The encryption of each object: AES256, aws:kms, or aws:kms:KEY with the key's id, ARN or alias.",
        "what the bucket is set to"),
    Key("ORDERFLOW_S3_CHECKSUM", "s3_checksum", "sha256", _matching(r"sha256|crc32|md5|none"),
        "sha256, crc32, md5 or none",
        "The checksums that each put sends: sha256, crc32, md5 or none. The first two send MD5 too."),
    Key("ORDERFLOW_S3_ADDRESSING", "s3_addressing", "", _matching(r"(?:path|virtual)?"), "path or virtual",
        "Where the bucket's name stands: in the path (path), or before the host name (virtual).",
        "path with S3_ENDPOINT_URL, else as AWS wants it"),
    Key("ORDERFLOW_CONSOLE", "console", "127.0.0.1:8025", _local, "a loopback address and port or unix:/path",
        "Where the web console listens: a loopback address and port, or unix:/path."),
    Key("ORDERFLOW_CONSOLE_USERS", "console_users", _below_state("{}/console-users.json"), _absolute,
        "an absolute path", "The file of the console's users, which `orderflow-console user` writes.",
        "console-users.json in the state directory"),
    Key("ORDERFLOW_CONSOLE_PROXY_HEADER", "console_proxy_header", "", _matching(r"(?:[A-Za-z][A-Za-z0-9-]{1,63})?"),
        "the name of a header",
        "The header in which a reverse proxy names the user. The console then asks for no password.",
        "the console asks for a password"),
    Key("ORDERFLOW_CONSOLE_TIMEOUT", "console_timeout", "1800", _number(float, 1, 86400),
        "a number of seconds up to 86400",
        "Seconds without a request after which the console asks for the password again."),
)  # fmt: skip

_NAMES = frozenset(key.name for key in KEYS)


def load(file: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raise SettingsError."""
    environment = os.environ if environ is None else environ
    if file == "":  # of a variable that is not set, say: the defaults are another deployment
        raise SettingsError("--settings names no file: its value is empty")
    path = file or environment.get("ORDERFLOW_SETTINGS") or (SYSTEM_FILE if os.path.exists(SYSTEM_FILE) else None)
    given = {name: (value, f"settings file {path}, line {line}") for name, value, line in _lines(path)} if path else {}
    if environ is None:
        for name, (value, _) in given.items():
            if name.startswith(("AWS_", HANDLER_PREFIX)):
                os.environ.setdefault(name, value)
    for name, value in environment.items():
        if name in _NAMES or name.startswith(_PREFIX):
            given[name] = value, "environment"
    given.pop("ORDERFLOW_SETTINGS", None)
    return _settings(given, path)


def read_file(path: str) -> dict[str, str]:
    """Read KEY=value lines; # and . Begin a comment line, quotes around a value are taken off. Raise SettingsError."""
    return {name: value for name, value, _ in _lines(path)}


def doubtful_lines(path: str) -> Iterator[str]:
    """Yield a warning for each line of a settings file that may not mean what it says. Raise SettingsError.

    A key that is no program's of ours is skipped, since the file may hold what others read, but `DATABSE_URL`
    leaves the embedded database in force.
    """
    lines: dict[str, int] = {}
    for name, value, number in _lines(path):
        if _SYSTEMD_READS_OTHERWISE.search(value):
            yield f"line {number}: systemd reads the value of {name} in another way: take out backslash and lone quote"
        if name in lines:
            yield f"line {number}: {name} stands in line {lines[name]} too, and the last one counts"
        elif (
            name not in _NAMES
            and not name.startswith((_PREFIX, "AWS_"))
            and (meant := _nearest(name.upper(), _NAMES, _VERY_LIKE))
        ):
            yield f"line {number}: {name} is no key of these programs: is {meant} meant?"
        lines[name] = number


def sets_nothing(path: str) -> bool:
    """Return whether a settings file holds no key of these programs. Raise SettingsError."""
    return _NAMES.isdisjoint(read_file(path))


def _lines(path: str) -> list[tuple[str, str, int]]:
    """Read a file's keys, values and line numbers."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # also a path that is none, and bytes that are no UTF-8
        why = os_reason(error)
        raise SettingsError(f"settings file {path} cannot be read: {why}") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _KEY.fullmatch(name) or "\0" in value:
            raise SettingsError(f"settings file {path}, line {number}: not of the form KEY=value")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found.append((name, value, number))
    return found


def _settings(given: dict[str, tuple[str, str]], path: str | None) -> Settings:
    unknown = [
        f"{place}: unknown key {name}{_meant(name)}"
        for name, (_, place) in sorted(given.items())
        if name.startswith(_PREFIX) and name not in _NAMES and not name.startswith(HANDLER_PREFIX)
    ]
    if unknown:
        raise SettingsError(f"{'; '.join(unknown)}; keys of your document handler begin with {HANDLER_PREFIX}")
    found: dict[str, Any] = {}
    for key in KEYS:
        default = key.default if isinstance(key.default, str) else key.default(found)
        value, place = given.get(key.name, ("", "default"))
        try:
            found[key.field] = key.read(value or default)
        except ValueError as error:
            why = str(error) if isinstance(error, postgresql_url.PostgresqlUrlError) else ""
            raise SettingsError(f"{place}: {key.name} {why or f'must be {key.expected}'}") from None
    for name, bound, most in (
        ("ORDERFLOW_MAIL_TIME", _longest_mail_time(found["lease"]), f"{TASK_SHARE:g} of ORDERFLOW_LEASE"),
        ("ORDERFLOW_PART_TIME", found["mail_time"], "ORDERFLOW_MAIL_TIME"),
    ):
        if found[name.removeprefix(_PREFIX).lower()] > bound:
            raise SettingsError(f"{given.get(name, ('', 'default'))[1]}: {name} must be at most {most}")
    if set(found["local_part"]) & set(found["recipient_delimiter"]):
        place = given.get("ORDERFLOW_RECIPIENT_DELIMITER", given.get("ORDERFLOW_LOCAL_PART", ("", "default")))[1]
        raise SettingsError(
            f"{place}: ORDERFLOW_LOCAL_PART must not hold a character of ORDERFLOW_RECIPIENT_DELIMITER, which ends it"
        )
    return Settings(file=Path(path).absolute() if path else None, **found)


def _meant(name: str) -> str:
    known = {key.name.removeprefix(_PREFIX): key.name for key in KEYS}
    meant = _nearest(name.removeprefix(_PREFIX), known, _LIKE)
    return f", {known[meant]} is meant?" if meant else ""


def _nearest(name: str, names: Iterable[str], least: float) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, names, n=1, cutoff=least)), "")
