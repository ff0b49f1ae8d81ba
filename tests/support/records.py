"""Rows for tests of the database."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from alembic import command
from alembic.config import Config

from orderflow_ingest.domain.automatic_mail import AutomaticMailSignal
from orderflow_ingest.parsing.documents.part import PartKind
from orderflow_ingest.storage.database import (
    NO_TENANT,
    Database,
    InboundMessage,
    NewDocument,
    NewMessage,
    Records,
    schema,
)

from .lab.postgres import Postgres

NOW = datetime(2026, 11, 20, 8, 30, 15, 123456, tzinfo=UTC)
LEASE, MINUTE = timedelta(minutes=15), timedelta(minutes=1)
KINDS = ["sqlite", "postgresql"]


class Server:
    """Databases of one kind; `new` gives the URL of an empty one, `set_up` of one with the tables and no row."""

    def __init__(self, directory: Path, postgres: Postgres | None):
        self._directory, self._postgres = directory, postgres
        self._url: str | None = None

    def new(self) -> str:
        name = f"records_{uuid4().hex}"
        return (
            f"sqlite:///{self._directory}/{name}.db" if self._postgres is None else self._postgres.create_database(name)
        )

    def set_up(self) -> str:
        if self._url is None:
            self._url = self.new()
            database = Database(self._url, create=True)
            schema.upgrade(database)
            database.close()
        if self._postgres is None:
            url = self.new()
            shutil.copy(path_of(self._url), path_of(url))
            return url
        with psycopg.connect(self._postgres.conninfo(self._url.rpartition("/")[2])) as connection:
            connection.execute("TRUNCATE organization RESTART IDENTITY CASCADE")
            connection.execute("UPDATE sweep_claim SET claimed_by = '', ends_at = '2000-01-01'")
        return self._url


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def new(**changes: Any) -> NewMessage:
    id = changes.pop("id", None) or uuid4()
    key = f"org/{changes.get('org_id', 1)}/raw/d.eml"
    message = NewMessage(
        org_id=1, id=id, source="EMAIL", source_message_id=f"<{id}@shop.example>", message_id_is_synthetic=False,
        envelope_sender="buyer@shop.example", envelope_recipient="orders+acme@orderflow.example.com",
        queue_id="4XYZ", client_address="192.0.2.1", from_email="buyer@shop.example", subject="Order 17",
        sent_at=NOW - MINUTE, received_at=NOW, raw_key=key, size=17, traits=[AutomaticMailSignal.BULK],
        digest="d" * 64, fingerprint="f" * 64,
    )  # fmt: skip
    return replace(message, **changes)


def inserted(records: Records, **changes: Any) -> NewMessage:
    message = new(**changes)
    assert records.messages.insert(message, NOW)
    return message


def claimed(records: Records, message: NewMessage, now: datetime = NOW, worker: str = "w") -> InboundMessage | None:
    return records.messages.claim(message.org_id, message.id, worker, now, LEASE)


def part(path: str = "2", **changes: Any) -> NewDocument:
    made = NewDocument(
        id=uuid4(), part_path=path, kind=PartKind.ATTACHMENT, filename="order.pdf", claimed_filename="../order.pdf",
        declared_type="application/octet-stream", detected_type="application/pdf", content_type="application/pdf",
        charset="cp1252", reason="named", defects=["noise in base64"], size=9, digest="a" * 64,
        object_key="org/1/documents/a",
    )  # fmt: skip
    return replace(made, **changes)


def at_version(database: Database, version: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[2] / "migrations"))
    with database.write(NO_TENANT) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)


def of_version(postgres: Postgres, version: str) -> tuple[Database, psycopg.Connection]:
    """Return a PostgreSQL database with the tables of an earlier version, and a connection of its own to it."""
    database = Database(postgres.create_database(f"records_{uuid4().hex}"))
    at_version(database, version)
    return database, psycopg.connect(postgres.conninfo(database.name.rpartition("/")[2]))
