"""A deployment on PostgreSQL under its real roles."""

from contextlib import closing
from uuid import uuid4

import psycopg

from orderflow_ingest.storage.database import Records

from .lab.deployment import Deployment
from .lab.postgres import Postgres

GROUPS = ("map", "deliver", "worker", "metrics", "operator")


class Tenants:
    """A database of a plain owner's, set up as the README says; a login role in each group."""

    def __init__(self, postgres: Postgres):
        self.postgres, self.name = postgres, f"tenants_{uuid4().hex}"
        self.owner = f"owner_{self.name}"
        self.owner_url = postgres.create_owned_database(self.name, self.owner)

    def set_up(self, deployment: Deployment) -> None:
        """Make tables and organizations as the owner, then the roles as a superuser."""
        deployment.write_settings({"DATABASE_URL": self.owner_url})
        deployment.admin("init")
        self.make_roles(deployment)
        for group in GROUPS:
            self.postgres.create_role(self.role(group), f"orderflow_{group}")
        for slug in ("acme", "bolt"):
            deployment.admin("org", "add", slug)

    def make_roles(self, deployment: Deployment) -> None:
        self.postgres.run_script(self.name, deployment.admin("roles", "postgresql"))

    def role(self, group: str) -> str:
        return f"{group}_{self.name}"

    def url(self, group: str) -> str:
        return self.owner_url if group == "owner" else self.postgres.url(self.name, self.role(group))

    def connect(self, group: str) -> closing[psycopg.Connection]:
        """Connect by psycopg alone, in autocommit."""
        return closing(psycopg.connect(self.url(group).replace("+psycopg", ""), autocommit=True))

    def records(self, group: str) -> Records:
        return Records(self.url(group))
