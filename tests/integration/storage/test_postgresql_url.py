"""PostgreSQL URLs: every form is read by libpq, for rows and queue alike, or refused by name."""

import subprocess
import sys
from uuid import uuid4

import pytest

from orderflow_ingest.storage.database import NO_TENANT, DatabaseUnavailable, Records, schema
from orderflow_ingest.storage.queue import Queue, QueueUnavailable
from tests.support.lab.process import free_port
from tests.support.postgresql_urls import LOGIN, SECRET, loaded


def test_no_program_that_reads_settings_imports_a_driver():
    code = (
        "import sys; from orderflow_ingest.config import load; "
        "load('/dev/null', {'DATABASE_URL': 'postgresql://u:p@a:1,b:2/d?sslmode=require'}); "
        "print([name for name in sys.modules if name.startswith(('psycopg', 'sqlalchemy'))])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


FORMS = ("127.0.0.1:{dead},127.0.0.1:{port}/{name}", "/{name}?host=127.0.0.1,127.0.0.1&port={dead},{port}")


@pytest.mark.parametrize("form", FORMS)
def test_tables_rows_and_queue_are_found_on_the_second_host(postgres, form):
    name = f"hosts_{uuid4().hex}"
    postgres.create_owned_database(name, name)
    login = f"postgresql://{name}:{postgres.password(name)}@"
    settings = loaded(DATABASE_URL=login + form.format(dead=free_port(), port=postgres.port, name=name))
    records, queue = Records(settings.database_url), Queue(settings.queue_url)
    schema.upgrade(records.database)
    queue.create_tables()
    records.organizations.add("acme", "Acme")
    assert records.organizations.get(1).slug == "acme" and queue.depth() == 0
    records.database.close()
    queue.huey.storage.close()


def test_a_parameter_that_libpq_does_not_know_is_told_and_nothing_of_the_url(postgres):
    url = loaded(
        DATABASE_URL=f"postgresql://{LOGIN}127.0.0.1:{postgres.port}/d?{SECRET.replace('-', '_')}=x"
    ).database_url
    with pytest.raises(DatabaseUnavailable, match="DATABASE_URL has a parameter that libpq does not know") as refused:
        Records(url).organizations.all()
    with pytest.raises(QueueUnavailable, match="QUEUE_URL has a parameter that libpq does not know") as refused_too:
        Queue(url).depth()
    assert "pw" not in f"{refused.value}{refused_too.value}"


def test_options_of_the_url_hold_beside_ours(postgres):
    url = f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres?options=-c%20work_mem%3D5MB"
    database = Records(url).database
    with database.read(NO_TENANT) as connection:
        shown = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ("work_mem", "TimeZone")]
    assert shown == ["5MB", "UTC"]
    database.close()
