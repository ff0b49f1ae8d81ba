"""A PostgreSQL cluster of our own, over TCP on loopback; postgres is trusted, all others need a password (scram).

Guarantees: fsync is on unless asked otherwise, so a killed server comes back with all it had committed.
With an `authority` it has a certificate as 127.0.0.1, and demands TLS of all but postgres. start() returns when it
accepts queries, after any recovery. The cluster belongs to the user postgres, since PostgreSQL refuses root.
"""

import shutil
import signal
from pathlib import Path

import psycopg
from psycopg import sql

from .certificates import Authority
from .family import family, send_signal
from .process import LabError, Process, Server, free_port, run


def _newest_programs() -> Path:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        raise LabError("PostgreSQL is not installed: apt-get install postgresql")
    return max(found, key=lambda path: float(path.parent.name))


_HBA = """\
host all,replication postgres 127.0.0.1/32 trust
{} all all 127.0.0.1/32 scram-sha-256
"""


class Postgres(Server):
    """A cluster in `directory`, made at the first start and kept after stop(); `more` are settings of the server."""

    def __init__(self, directory: Path, *, fsync: bool = True, authority: Authority | None = None, **more: str) -> None:
        self.directory, self.port = Path(directory).absolute(), free_port()
        self._authority = authority
        self._programs = _newest_programs()
        self._data = self.directory / "data"
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "300",
            "fsync": "on" if fsync else "off",
            "ssl": "on" if authority else "off",
            **more,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = Process(
            [self._programs / "postgres", "-D", self._data, *options, "-c", f"port={self.port}"],
            self.directory / "postgres.log",
            ready=self._answers,
            user="postgres",
            stop_signal=signal.SIGINT,  # "fast": ends sessions instead of waiting for them
        )

    def start(self) -> None:
        """Make the cluster if there is none, and start it."""
        if not self._data.exists():
            self._create()
        self._process.start()

    def stop(self) -> None:
        """Shut down, ending the sessions there are."""
        self._process.stop()

    def kill(self) -> None:
        """Kill the server and its sessions without warning."""
        self._process.kill()

    @property
    def is_running(self) -> bool:
        """Return whether the server has not ended."""
        return self._process.running

    def processes(self) -> list[int]:
        """Return the server's processes, those of its sessions too."""
        return list(family(self._process.pid))

    def create_database(self, name: str) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def create_owned_database(self, name: str, owner: str) -> str:
        """Create an empty database of a plain role of its own, and return that role's URL."""
        self.create_role(owner)
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            statement = "CREATE DATABASE {} OWNER {}"
            connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Identifier(owner)))
        return self.url(name, owner)

    def create_role(self, role: str, group: str | None = None) -> None:
        """Create a role that logs in with `password(role)`, in a group."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), self.password(role))
            connection.execute(statement)
            if group:
                connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role)))

    @staticmethod
    def password(role: str) -> str:
        """Return the password of a role that create_role() made."""
        return f"pass-of-{role}"

    def url(self, name: str, role: str) -> str:
        """Return the SQLAlchemy URL of a database for a role that create_role() made."""
        return f"postgresql+psycopg://{role}:{self.password(role)}@127.0.0.1:{self.port}/{name}"

    def run_script(self, name: str, script: str) -> None:
        """Run an SQL script by psql, as a superuser would."""
        file = self.directory / "script.sql"
        file.write_text(script)
        run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.conninfo(name), "-f", file])

    def conninfo(self, name: str) -> str:
        """Return the libpq connection string of a database."""
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={name}"

    def standby(self, directory: Path) -> "Standby":
        """Return a standby of this running server, not started yet."""
        return Standby(directory, self)

    def pause(self) -> None:
        """Stop all its processes as they are: it acknowledges, and answers nothing. kill() ends it."""
        send_signal(family(self._process.pid), signal.SIGSTOP)

    def _create(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        shutil.chown(self.directory, "postgres")
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        run([self._programs / "initdb", *options, "-D", self._data], user="postgres")
        (self._data / "pg_hba.conf").write_text(_HBA.format("hostssl" if self._authority else "host"))
        if self._authority:
            files = self._authority.issue("postgres", "IP:127.0.0.1")
            for source, name in zip(files, ("server.crt", "server.key"), strict=True):
                shutil.copy(source, self._data / name)
                (self._data / name).chmod(0o600)
                shutil.chown(self._data / name, "postgres")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.conninfo("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class Standby(Postgres):
    """A streaming standby; the primary must run when it starts for the first time."""

    def __init__(self, directory: Path, primary: Postgres) -> None:
        super().__init__(directory, fsync=False)
        self._primary = primary

    def promote(self) -> None:
        """Make it the primary, and return when it takes writes."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def _create(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        shutil.chown(self.directory, "postgres")
        source = self._primary.conninfo("postgres")
        options: list[str | Path] = ["-D", self._data, "-R", "--no-sync", "--checkpoint=fast"]
        run([self._programs / "pg_basebackup", "-d", source, *options], user="postgres")
