"""Forms of a PostgreSQL URL."""

from orderflow_ingest.config import load

SECRET = "pw-of-db"
LOGIN = f"of:{SECRET}@"


def loaded(**given):
    return load("/dev/null", given)
