"""Mail for a database without any organization waits behind a real Postfix, and then comes."""

import sqlite3
from contextlib import closing

import pytest

from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch, wait_until
from tests.support.rcpt import row, say, status

ACME, NOBODY = f"orders+acme@{DOMAIN}", f"orders@{DOMAIN}"


@pytest.mark.parametrize("way", ["pipe", "lmtp", "before-queue"])
def test_behind_postfix_mail_waits_and_then_comes(way):
    with scratch() as place:
        deployment = Deployment(place, way=way, service=True, overrides="minimal_backoff_time = 1s\n")
        deployment.set_up("acme")
        with deployment:
            with closing(sqlite3.connect(deployment.state / "orderflow.db", timeout=30)) as database, database:
                database.execute("DELETE FROM organization")
            deployment.admin("init")  # keeps what Postfix knows
            checked = deployment.run("orderflow-admin", "check", "--no-postfix", check=False).stdout
            assert "orderflow.db has none, so all mail waits" in checked

            def waits() -> bool:
                """Return whether the service no longer remembers the organization of a second ago."""
                rcpt, reply = say(deployment, f"<{ACME}>", "waits")
                return status(deployment, reply or rcpt) in ("451", "deferred")

            assert wait_until(waits, 60)
            deployment.admin("org", "add", "acme")
            if way == "before-queue":
                assert wait_until(lambda: say(deployment, f"<{ACME}>", "waits")[1].startswith("250"), 60)
            deployment.postfix.flush()
            assert wait_until(lambda: row(deployment, "waits") is not None, 60)
