"""The users of the console, and deployments that it shows."""

import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flask.testing import FlaskClient
from werkzeug.security import generate_password_hash
from werkzeug.test import TestResponse

from orderflow_ingest.app import App
from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.console.app import create_app
from orderflow_ingest.entrypoints.console.users import User, Users
from orderflow_ingest.storage.database import Filter, InboundMessage, Records
from orderflow_ingest.storage.spool import Spool

from .fakes import FaultyArchive, ListQueue, embedded
from .mailroom import Mailroom

PASSWORD = "correct horse battery"
_HASH = generate_password_hash(PASSWORD, method="pbkdf2:sha256:1")  # quick


def made_users(path: Path) -> Users:
    """Make one who may do all, one who looks, and one who sees acme alone."""
    users = Users(path)
    with users.edit() as table:
        table["anna"] = User("anna", _HASH, None, True)
        table["looker"] = User("looker", _HASH, None, False)
        table["ben"] = User("ben", _HASH, frozenset({"acme"}), True)
        table["cleo"] = User("cleo", _HASH, frozenset({"acme", "lindner", "gone"}), False)
    return users


def filled_with_an_hour(place: Path) -> Path:
    """Fill a directory with a deployment that has an hour of mail and users, and return it."""
    app = embedded(place, ORDERFLOW_MAX_LAG="0")
    Mailroom(app, datetime.now(UTC)).fill(12)
    app.records.database.close()
    made_users(place / "users.json")
    return place


def opened(place: Path) -> SimpleNamespace:
    """Open the files of a deployment, and the console over them."""
    environ = {"ORDERFLOW_STATE_DIR": str(place), "ORDERFLOW_SETTINGS": "/dev/null", "ORDERFLOW_MAX_LAG": "0"}
    settings = load(environ=environ)
    archive, records = FaultyArchive(place / "archive"), Records(settings.database_url)
    app, users = (
        App(settings, Spool(settings.spool_dir), archive, records, ListQueue()),
        Users(place / "users.json"),
    )
    return SimpleNamespace(app=app, users=users, flask=create_app(app, users))


def login(
    client: FlaskClient, name: str, password: str = PASSWORD, where: str = "/login", **options: Any
) -> TestResponse:
    found = re.search(r'name="token" value="([^"]+)"', client.get("/login").text)
    assert found
    token = found[1]
    return client.post(where, data={"token": token, "name": name, "password": password}, **options)


def as_user(room: SimpleNamespace, name: str) -> FlaskClient:
    client: FlaskClient = room.flask.test_client()
    assert login(client, name).status_code == 303
    return client


def message_of(app: App, slug: str, **wanted: Any) -> InboundMessage:
    org = app.records.organizations.find(slug)
    assert org
    return app.records.messages.select(Filter(org_id=org.id, **wanted), 1)[0]


def url_of(app: App, message: InboundMessage) -> str:
    return f"/messages/{app.records.organizations.slug(message.org_id)}/{message.id}"


# The inbox


def found(client: FlaskClient, **query: str) -> list[str]:
    page = client.get("/messages", query_string=query)
    assert page.status_code == 200
    return re.findall(r'class="subject" href="/messages/\w+/([0-9a-f-]{36})"', page.text)
