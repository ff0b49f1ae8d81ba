"""A standby of PostgreSQL may not know a new organization yet, so only its yes counts."""

from dataclasses import replace

import pytest

from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.pipeline.admission import check_recipient
from orderflow_ingest.storage.database import DatabaseUnavailable, Records
from orderflow_ingest.storage.database.connection import NO_TENANT
from tests.support.fakes import embedded
from tests.support.lab.deployment import DOMAIN

ACME, NOBODY = f"orders+acme@{DOMAIN}", f"orders@{DOMAIN}"


def test_of_a_standby_only_yes_counts_since_it_may_not_know_a_new_organization_yet(place, postgres):
    url = postgres.create_database("standby")
    app = embedded(place / "primary", ORDERFLOW_DOMAIN=DOMAIN, DATABASE_URL=url)
    with app.records.database.write(NO_TENANT) as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'"
        )
    assert check_recipient(f"orders+new@{DOMAIN}", app) is Outcome.UNKNOWN_ORG
    primary, standby = app.records, Records(f"{url}?options=-csearch_path%3Dpublic%2Cpg_catalog")
    app = replace(app, records=standby)
    assert check_recipient(ACME, app) is None and standby.organizations.active_slugs({"acme"}) == {"acme"}
    assert check_recipient(f"orders+new@{DOMAIN}", app) is Outcome.BACKEND_DOWN
    with pytest.raises(DatabaseUnavailable, match="a standby answers"):
        standby.organizations.active_slugs({"acme", "new"})
    for records in (primary, standby):
        records.database.close()
