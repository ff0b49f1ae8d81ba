"""Organizations, the tenants: who may receive mail, by the slug of their address.

For a Postfix that answers RCPT TO without the service (`postfix main --map database`) an SQLite database has a small
file of its own beside it, `recipients.db`, with the active slugs alone: Postfix's user need then not be able to read,
lock or write the database that mail is recorded in. It is derived, and rewritten whole in one transaction after every
change.
Postfix 3.7 does not answer 451 while it cannot read this file: its proxymap ends with an error, and smtpd, which opens
its maps before its greeting, asks again every second for ever. So the service and the worker look at the file and
write it again where it is gone, closed, damaged or old.
"""

import os
import re
import sqlite3
import time
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import exc

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.org_settings import OrgSettings, changed, read_settings
from orderflow_ingest.domain.os_errors import os_reason

from .connection import NO_TENANT, Database, DatabaseUnavailable
from .tables import organization

RECIPIENTS_FILE = "recipients.db"
_REMEMBERED = 1.0  # seconds
# Made once, and one statement each: an unknown recipient costs one round trip. NULL says that the table has rows.
_IS_FILLED = sa.select(sa.null()).where(sa.exists(sa.select(organization.c.id)))
_SLUGS = sa.select(organization.c.slug).where(organization.c.is_active)
_ACTIVE = sa.union_all(_SLUGS, _IS_FILLED)
_STANDBY = "/"  # no slug
_IS_STANDBY = sa.select(sa.literal(_STANDBY)).where(sa.func.pg_is_in_recovery())
# For the drivers: guesses at RCPT TO are asked for by these, see `Database.ask`. PostgreSQL answers by one row, which
# takes two thirds of the time that a UNION of the three takes it.
_ACTIVE_AMONG = "SELECT slug FROM organization WHERE is_active AND slug "
_EXISTS = "EXISTS (SELECT 1 FROM organization)"
_OF_POSTGRESQL = f"SELECT ARRAY({_ACTIVE_AMONG}= ANY(%s)), {_EXISTS}, pg_is_in_recovery()"
_OF_SQLITE = f"{_ACTIVE_AMONG}IN ({{}}) UNION ALL SELECT NULL WHERE {_EXISTS}"
_FILLED_OF_PRIMARY: sa.Executable = sa.union_all(_IS_FILLED, _IS_STANDBY)


class OrganizationExistsError(OrderflowError):
    """An organization of this slug is there already."""


@dataclass(frozen=True)
class Organization:
    """One tenant. `stored` are its settings as they are written."""

    id: int
    slug: str
    name: str
    is_active: bool
    stored: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def settings(self) -> OrgSettings:
        """Read the settings. Raise OrgSettingsError."""
        return read_settings(self.stored)


class Organizations:
    """The organization table."""

    def __init__(self, database: Database):
        self._database = database
        self._slugs: dict[int, str] = {}
        self._found: dict[str, tuple[float, Organization]] = {}
        self._by_id: dict[int, tuple[float, Organization]] = {}

    def find(self, slug: str) -> Organization | None:
        """Find an organization by its slug. What was found less than a second ago is not asked for again."""
        known = self.remembered(slug)
        if known is not None:
            return known
        found = self._select(organization.c.slug == slug)
        if found:
            self._found[slug] = (time.monotonic(), found[0])
        return found[0] if found else None

    def remembered(self, slug: str) -> Organization | None:
        """Return what find() would answer without asking the database, or None if it would ask."""
        at, org = self._found.get(slug, (0.0, None))
        return org if time.monotonic() - at < _REMEMBERED else None

    def get(self, id: int) -> Organization | None:
        """Get an organization by its id. What was found less than a second ago is not asked for again."""
        at, org = self._by_id.get(id, (0.0, None))
        if org is None or time.monotonic() - at >= _REMEMBERED:
            org = next(iter(self._select(organization.c.id == id)), None)
            if org:
                self._by_id[id] = (time.monotonic(), org)
        return org

    def all(self) -> list[Organization]:
        """List all organizations by slug."""
        return self._select(sa.true())

    def active_slugs(self, among: Collection[str] | None = None) -> set[str] | None:
        """Return the slugs of the active organizations, of all or of those named. None while the table is empty.

        Raise DatabaseUnavailable, also where a standby does not know one of those named.
        """
        if among is None:
            found = self._read(_ACTIVE)
            return {slug for slug in found if slug is not None} if None in found else None
        slugs, is_filled, is_standby = self._asked(list(among))
        if is_standby and not slugs.issuperset(among):
            raise self._of_standby()
        return slugs if is_filled else None

    def has_none(self) -> bool:
        """Return whether the table is empty: of a database that is another one than was meant, or is not set up yet.

        Raise DatabaseUnavailable, also where a standby answers: it may not know a new organization yet.
        """
        found = self._read(_IS_FILLED if self._database.is_sqlite else _FILLED_OF_PRIMARY)
        self._need_primary(found)
        return None not in found

    def _asked(self, among: list[str]) -> tuple[set[str], bool, bool]:
        """Return which are active, whether the table has rows at all, and whether a standby says so."""
        if self._database.is_sqlite:
            places = ", ".join("?" * len(among))
            found = {slug for (slug,) in self._database.ask(_OF_SQLITE.format(places), among)}
            return found - {None}, None in found, False
        ((slugs, is_filled, is_standby),) = self._database.ask(_OF_POSTGRESQL, (among,))
        return set(slugs), is_filled, is_standby

    def _read(self, statement: sa.Executable) -> set[str | None]:
        with self._database.read(NO_TENANT) as connection:
            return set(connection.execute(statement).scalars())

    def _need_primary(self, found: set[str | None]) -> None:
        if _STANDBY in found:
            raise self._of_standby()

    def _of_standby(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(f"database {self._database.name}: a standby answers, and may not know all yet")

    def add(self, slug: str, name: str) -> None:
        """Add an organization. Raise OrganizationExistsError by the unique slug."""
        try:
            with self._database.write(NO_TENANT) as connection:
                connection.execute(organization.insert().values(slug=slug, name=name))
        except exc.IntegrityError as error:
            raise OrganizationExistsError(slug) from error

    def set_active(self, slug: str, *, is_active: bool) -> bool:
        """Switch an organization on or off, or False if there is none of this slug."""
        self._found.pop(slug, None)
        with self._database.write(NO_TENANT) as connection:
            statement = organization.update().where(organization.c.slug == slug).values(is_active=is_active)
            return connection.execute(statement).rowcount == 1

    def change_settings(self, slug: str, changes: Mapping[str, str]) -> bool:
        """Change settings, and take out those whose new value is empty, or False if there is no such organization.

        What others change at the same time stays, and so do keys that a newer version has written. Raises
        OrgSettingsError.
        """
        mine = organization.c.slug == slug
        with self._database.write(NO_TENANT) as connection:
            found = connection.execute(sa.select(organization.c.settings).where(mine).with_for_update()).first()
            if found:
                values = {"settings": changed(found.settings, changes)}
                connection.execute(organization.update().where(mine).values(**values))
        self._found.pop(slug, None)
        return found is not None

    def publish(self, path: Path) -> None:
        """Write the active slugs where Postfix's sqlite: map reads them. See the module's header.

        While there is no organization at all, what the file has stays: Postfix would answer 550 for all of them.
        """
        try:
            with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                # Read behind the lock: of two that publish, the second one must not have the older list.
                organizations = self.all()
                connection.execute("CREATE TABLE IF NOT EXISTS recipient (slug TEXT PRIMARY KEY)")
                if organizations:
                    slugs = [(org.slug,) for org in organizations if org.is_active]
                    connection.execute("DELETE FROM recipient")
                    connection.executemany("INSERT INTO recipient VALUES (?)", slugs)
                connection.execute("COMMIT")
            os.chmod(path, 0o644)
        except (sqlite3.Error, OSError) as error:
            raise DatabaseUnavailable(f"{path} cannot be written: {os_reason(error)}") from error

    def keep_published(self, path: Path) -> bool:
        """Publish again where the file is not what Postfix can read and should. Return whether that was so.

        A file that is none of SQLite's is replaced. Any other is written in place: Postfix keeps it open. Raise
        DatabaseUnavailable.
        """
        organizations = self.all()
        active = {org.slug for org in organizations if org.is_active}
        try:
            if path.stat().st_mode & 0o444 != 0o444:
                path.chmod(0o644)
                is_open = False
            else:
                is_open = True
            if self.published(path) == active or not organizations:
                return not is_open
        except FileNotFoundError:
            self.publish(path)
            return True
        except OSError as error:
            raise DatabaseUnavailable(f"{path} cannot be read: {os_reason(error)}") from error
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, sqlite3.OperationalError) and "locked" in str(error.__cause__):
                raise
            self._replace(path)
            return True
        self.publish(path)
        return True

    def _replace(self, path: Path) -> None:
        fresh = path.with_name(f"{path.name}.new")
        try:
            fresh.unlink(missing_ok=True)
            self.publish(fresh)
            fresh.replace(path)
        except OSError as error:
            raise DatabaseUnavailable(f"{path} cannot be replaced: {os_reason(error)}") from error

    def published(self, path: Path) -> set[str]:
        """Read what publish() wrote."""
        try:
            with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
                return {slug for (slug,) in connection.execute("SELECT slug FROM recipient")}
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"{path} cannot be read: {os_reason(error)}") from error

    def slug(self, org_id: int) -> str:
        """Return the slug of an organization, which never changes, or "" if there is none of this id."""
        if org_id not in self._slugs:
            found = self._select(organization.c.id == org_id)
            if not found:
                return ""
            self._slugs[org_id] = found[0].slug
        return self._slugs[org_id]

    def _select(self, condition: sa.ColumnElement[bool]) -> list[Organization]:
        o = organization.c
        columns = (o.id, o.slug, o.name, o.is_active, o.settings)
        with self._database.read(NO_TENANT) as connection:
            rows = connection.execute(sa.select(*columns).where(condition).order_by(organization.c.slug))
            return [Organization(*row) for row in rows]


def recipients_path(database_url: str) -> Path | None:
    """Return the file that Postfix's sqlite: map reads, or None where the database is no SQLite file."""
    found = re.fullmatch(r"sqlite:///(/.+)", database_url)
    return Path(found[1]).with_name(RECIPIENTS_FILE) if found else None
