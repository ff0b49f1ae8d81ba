"""Forms of a PostgreSQL URL."""

from orderflow_ingest.config import Settings, load

SECRET = "pw-of-db"
LOGIN = f"of:{SECRET}@"


def loaded(**given: str) -> Settings:
    return load("/dev/null", given)
