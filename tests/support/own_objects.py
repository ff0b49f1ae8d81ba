"""Rows that name another tenant's object."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from orderflow_ingest.storage.database import ALL_TENANTS, NO_TENANT, Database
from orderflow_ingest.storage.database.tables import held_mail, inbound_message
from orderflow_ingest.storage.package_files import package_directory

# Keys of objects that are not those of organization 1, or are no keys.
KEYS = (
    "org/2/raw/" + "0" * 64 + ".eml",
    "org/1/raw/../../2/raw/0.eml",
    "org/10/raw/0.eml",
    "/org/1/raw/0",
    "",
    "x",
    "org/1/documents/../../2/documents/0",
    "org/2/documents/0",
    "ORG/1/raw/0.eml",
    "org/1/organization.json",
)


def written(database: Database, table: sa.Table, org_id: int, key: str) -> UUID:
    """Write a row with this key; the other columns hold what they must."""
    other = {"subject": "", "from_email": "", "queue_id": "", "client_address": "", "fingerprint": "f" * 64}
    mail = {"envelope_sender": "", "envelope_recipient": "", **other, "received_at": datetime.now(UTC)}
    made = uuid4()
    values: dict[str, Any] = {"org_id": org_id, "id": made, "digest": "0" * 64}
    if table is inbound_message:
        identity = {"source": "EMAIL", "source_message_id": str(uuid4()), "message_id_is_synthetic": False}
        values |= {**mail, **identity, "raw_key": key, "status": "PARSED", "size": 1}
        values["next_attempt_at"] = mail["received_at"]
    elif table is held_mail:
        values |= {**mail, "fingerprint": str(uuid4()), "raw_key": key}
    else:
        values |= {"object_key": key, "declared_type": "a/b", "size": 1, "part_path": str(uuid4())}
        values |= {"next_attempt_at": mail["received_at"]}
        with database.read(ALL_TENANTS) as connection:
            id = connection.scalar(sa.select(inbound_message.c.id).where(inbound_message.c.org_id == org_id).limit(1))
        values["inbound_message_id"] = id
    with database.write(ALL_TENANTS) as connection:
        connection.execute(table.insert().values(**values))
    return made


def at_version(database: Database, version: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(package_directory("migrations")))
    with database.write(NO_TENANT) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
