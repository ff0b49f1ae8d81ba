"""RCPT TO behind a real Postfix: 250 or 550 where that is known, 451 where nobody can say; never a silent greeting."""

import pytest
import sqlalchemy as sa

from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch, wait_until
from tests.support.rcpt import POSTMASTER, STRANGER, row, say, status

BOOKS, BOOKS_ASCII = "bücher.example", "xn--bcher-kva.example"


def rcpt(deployment: Deployment, slug: str) -> str:
    """Return the code that RCPT TO is answered with."""
    return say(deployment, f"<orders+{slug}@{DOMAIN}>", "nobody reads this")[0][:3]


class Rows:
    """The database of a deployment, changed from elsewhere."""

    def __init__(self, server, name):
        self.url, self._name = server.create_database(name), name
        self._outside = sa.create_engine(
            server.create_database(f"{name}_outside").replace("postgresql:", "postgresql+psycopg:"),
            isolation_level="AUTOCOMMIT", poolclass=sa.NullPool,
        )  # fmt: skip
        self._engine = sa.create_engine(
            self.url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )

    def run(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(sa.text(statement))

    def be_away(self, is_away: bool) -> None:
        """Send everybody away who connects, and who is connected."""
        with self._outside.connect() as connection:
            connection.execute(sa.text(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS {not is_away}"))
            if is_away:
                ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'"
                connection.execute(sa.text(ended))


@pytest.fixture(scope="module")
def mapped(postgres):
    rows = Rows(postgres, "mapped")
    with scratch() as place:
        deployment = Deployment(place, {"DATABASE_URL": rows.url}, service=True, overrides=STRANGER)
        deployment.set_up("acme", "beta")
        with deployment:
            yield deployment, rows


def test_the_service_answers_and_knows_at_once_what_was_added_elsewhere(mapped):
    deployment, rows = mapped
    assert [rcpt(deployment, slug) for slug in ("acme", "nope", "late")] == ["250", "550", "550"]
    rows.run("INSERT INTO organization (slug, name) VALUES ('late', 'Late')")
    assert rcpt(deployment, "late") == "250"
    rows.run("UPDATE organization SET is_active = false WHERE slug = 'late'")
    assert wait_until(lambda: rcpt(deployment, "late") == "550", 60)


def test_while_the_database_is_away_known_organizations_are_taken_and_no_other_is_refused(mapped):
    deployment, rows = mapped
    rows.be_away(True)
    try:
        assert (rcpt(deployment, "acme"), rcpt(deployment, "nope")) == ("250", "451")
    finally:
        rows.be_away(False)
    assert wait_until(lambda: rcpt(deployment, "nope") == "550", 60)


def test_an_empty_table_refuses_nobody_and_neither_does_the_check_call_it_right(mapped):
    deployment, rows = mapped
    config = str(deployment.postfix.config_directory)
    rows.run("ALTER TABLE organization RENAME TO kept; CREATE TABLE organization (LIKE kept INCLUDING ALL)")
    try:
        assert (rcpt(deployment, "acme"), rcpt(deployment, "nope")) == ("250", "451")
        deployment.service.stop()
        deployment.service.start()
        assert (rcpt(deployment, "acme"), rcpt(deployment, "nope")) == ("451", "451")
        said = deployment.run("orderflow-admin", "check", "--postfix-config", config, check=False).stdout
        assert "no organization is in the database, so all unknown recipients hear 451" in said
    finally:
        rows.run("DROP TABLE organization; ALTER TABLE kept RENAME TO organization")
    assert wait_until(lambda: rcpt(deployment, "acme") == "250", 60)


def test_without_the_service_or_its_socket_all_hear_451(mapped):
    deployment, _ = mapped
    config = str(deployment.postfix.config_directory)
    deployment.service.kill()
    try:
        assert (rcpt(deployment, "acme"), rcpt(deployment, "nope")) == ("451", "451")
        (deployment.sockets / "recipients.sock").unlink()
        assert (rcpt(deployment, "acme"), rcpt(deployment, "nope")) == ("451", "451")
        said = deployment.run("orderflow-admin", "check", "--postfix-config", config, check=False).stdout
        assert "recipients.sock is not there, so all recipients hear 451: " in said
    finally:
        deployment.service.start()
    assert (rcpt(deployment, "acme"), rcpt(deployment, "nope")) == ("250", "550")


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_by_map_database_an_empty_table_is_451_too(where, request):
    url = {}
    if where == "postgresql":
        url["DATABASE_URL"] = request.getfixturevalue("postgres").create_database("no_organization")
    with scratch() as place:
        deployment = Deployment(place, url, overrides=STRANGER, map_by="database")
        deployment.set_up()
        with deployment.postfix:
            assert (rcpt(deployment, "acme"), rcpt(deployment, "nope")) == ("451", "451")
            deployment.admin("org", "add", "acme")
            assert wait_until(lambda: rcpt(deployment, "acme") == "250", 100)
            assert rcpt(deployment, "nope") == "550"


SPELLED = {
    f"<orders-acme-shop@{BOOKS}>": "acme-shop",
    f"<orders-acme-shop@{BOOKS_ASCII}>": "acme-shop",
    f"<Orders=ACME@{BOOKS.upper()}>": "acme",
    f"<orders-acme@{BOOKS_ASCII.upper()}.>": "acme",
    f"<orders-acme@{DOMAIN}>": "acme",
    f"<orders-request@{DOMAIN}>": "request",
    f"<postmaster@{BOOKS}>": POSTMASTER,
    f"<abuse-x@{BOOKS_ASCII}>": POSTMASTER,
    f"<orders+acme@{BOOKS}>": None,
    f"<orders-acme=shop@{BOOKS}>": None,
    f"<orders-nope@{BOOKS}>": None,
    f"<orders@{BOOKS_ASCII}>": None,
    "<orders-acme@bucher.example>": None,
}


@pytest.mark.parametrize("way", ["pipe, database", "lmtp", "before-queue"])
def test_other_delimiters_and_both_spellings_of_a_domain_by_each_way(way):
    way, _, map_by = way.partition(", ")
    settings = {"ORDERFLOW_DOMAIN": f"{BOOKS},{DOMAIN}", "ORDERFLOW_RECIPIENT_DELIMITER": "-="}
    with scratch() as place:
        deployment = Deployment(place, settings, way=way, service=True, overrides=STRANGER, map_by=map_by)
        deployment.set_up("acme", "request")
        added = deployment.admin("org", "add", "acme-shop")
        assert f"orders-acme-shop@{BOOKS_ASCII}" in added
        with deployment:
            for number, (form, owner) in enumerate(SPELLED.items()):
                code, reply = say(deployment, form, f"spelled-{number}")
                if owner is None:
                    assert code.startswith("5"), (form, code)
                    continue
                assert code.startswith("250"), (form, code)
                assert status(deployment, reply) in ("250", "sent"), (form, reply)
                found = row(deployment, f"spelled-{number}")
                assert (found and found[0]) == (None if owner == POSTMASTER else owner), form
            config = str(deployment.postfix.config_directory)
            said = deployment.run("orderflow-admin", "check", "--postfix-config", config, check=False).stdout
            assert "settings agree" in said, said
