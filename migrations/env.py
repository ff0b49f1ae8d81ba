"""How Alembic reaches the database: by the connection that `records.schema` hands in.

It is in a transaction, so that a step that fails leaves nothing behind, on both databases.
"""

from alembic import context

from orderflow_ingest.storage.database.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
