"""How Alembic reaches the database.

`orderflow-admin init` hands in a connection in a transaction of its own, so that a step that fails
leaves nothing behind, on both databases. For a developer's `alembic revision --autogenerate` the
settings' database is opened instead.
"""

from alembic import context

from orderflow_ingest.records.tables import metadata


def run(connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


if connection := context.config.attributes.get("connection"):
    run(connection)
else:
    from orderflow_ingest.records import Database
    from orderflow_ingest.settings import load

    with Database(load().database_url, create=True).write() as connection:
        run(connection)
