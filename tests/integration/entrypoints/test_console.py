"""The console by HTTP: who gets in, who sees what, what hostile mail does to its pages, and what a decision leaves."""

import json
import os
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from orderflow_ingest.app import App
from orderflow_ingest.config import SettingsError, load
from orderflow_ingest.domain.states import EventKind, Status
from orderflow_ingest.entrypoints.console import device, sessions
from orderflow_ingest.entrypoints.console import main as console_main
from orderflow_ingest.entrypoints.console.app import CSP, create_app
from orderflow_ingest.entrypoints.console.downloads import SANDBOX, disposition
from orderflow_ingest.entrypoints.console.preview import COLUMNS, ROWS, TEXT_LIMIT, Kind, picture_type, preview
from orderflow_ingest.entrypoints.console.throttle import LoginThrottle
from orderflow_ingest.entrypoints.console.users import User, Users, UsersFileError, hash_password
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import Filter, InboundMessage, tables
from tests.support.console import (
    PASSWORD,
    as_user,
    filled_with_an_hour,
    found,
    login,
    message_of,
    opened,
    url_of,
)
from tests.support.fakes import embedded
from tests.support.mailroom import picture


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """Return the directory of a deployment with an hour of mail."""
    return filled_with_an_hour(tmp_path_factory.mktemp("console"))


@pytest.fixture(scope="module")
def room(filled) -> SimpleNamespace:
    """Return the deployment for tests that only look."""
    return opened(filled)


@pytest.fixture
def own(filled, place) -> SimpleNamespace:
    """Return a copy of the deployment, to be changed."""
    shutil.copytree(filled, place, dirs_exist_ok=True)
    return opened(place)


def guess(client: FlaskClient, name: str) -> int:
    return login(client, name, "a wrong password").status_code


def token_of(page: str) -> str:
    return re.search(r'name="token" value="([0-9A-Za-z_-]+)"', page)[1]


def form_of(page: str) -> dict[str, str]:
    """Return what the replay's form on a message's page sends."""
    return {"token": token_of(page), "seen": re.search(r'name="seen" value="([^"]+)"', page)[1]}


def hostile(app: App) -> InboundMessage:
    return message_of(app, "acme", message_id="<666@evil.example>")


def hrefs(page: str) -> set[str]:
    return {href.replace("&amp;", "&") for href in re.findall(r'(?:href|src|action)="(/[^"]*)"', page)}


# Who gets in


def test_nobody_gets_an_answer_but_the_way_to_the_login(room):
    client = room.flask.test_client()
    for path in ("/", "/messages", "/held", "/dead-letters", "/no/such/page", f"/messages/acme/{uuid4()}/raw"):
        answer = client.get(path)
        assert (answer.status_code, answer.location.partition("?")[0]) == (303, "/login"), path
    assert client.post(f"/messages/acme/{uuid4()}/replay").location == "/login"


def test_the_right_password_lets_in_and_leads_on_to_what_was_asked_for(room):
    client = room.flask.test_client()
    assert login(client, "anna", "wrong password").status_code == 403
    assert login(client, "nobody-of-this-name").status_code == 403
    assert client.get("/messages").status_code == 303
    answer = login(client, "anna", where="/login?next=/messages?status%3DFAILED")
    assert (answer.status_code, answer.location) == (303, "/messages?status=FAILED")
    cookie = next(c for c in answer.headers.getlist("Set-Cookie") if c.startswith("orderflow_console="))
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Secure" not in cookie
    assert client.get("/messages").status_code == 200


def test_the_cookie_is_secure_where_the_proxy_says_https(room):
    client = room.flask.test_client()
    token = token_of(client.get("/login", base_url="https://localhost").text)
    form = {"token": token, "name": "anna", "password": PASSWORD}
    answer = client.post("/login", data=form, base_url="https://localhost")
    assert all("Secure" in c or "Max-Age=0" in c for c in answer.headers.getlist("Set-Cookie"))


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:1", "/\na"]
)
def test_a_login_leads_nowhere_else(room, target):
    client = room.flask.test_client()
    token = token_of(client.get("/login").text)
    form = {"token": token, "name": "anna", "password": PASSWORD}
    assert client.post("/login", query_string={"next": target}, data=form).location == "/"


def test_a_login_form_of_another_site_is_refused(room):
    client = room.flask.test_client()
    form = {"name": "anna", "password": PASSWORD}
    assert client.post("/login", data=form).status_code == 400
    token = token_of(client.get("/login").text)
    assert client.post("/login", data={**form, "token": "x" + token}).status_code == 400
    crossing = {"Sec-Fetch-Site": "cross-site"}
    assert client.post("/login", data={**form, "token": token}, headers=crossing).status_code == 403


def test_a_strangers_guesses_make_the_stranger_wait_and_no_user(own):
    stranger, anna = own.flask.test_client(), as_user(own, "anna")
    assert [guess(stranger, "anna") for _ in range(6)] == [403] * 5 + [429]
    refused = login(stranger, "anna")
    assert refused.status_code == 429 and 0 < int(refused.headers["Retry-After"]) <= 6
    assert anna.get("/").status_code == 200  # who is logged in stays so
    elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
    assert login(own.flask.test_client(), "anna", environ_base=elsewhere).status_code == 303
    assert login(stranger, "looker").status_code == 303  # another name at the same address


def test_a_browser_that_was_logged_in_before_logs_in_again_whatever_strangers_at_its_address_try(own):
    anna, stranger = as_user(own, "anna"), own.flask.test_client()
    anna.post("/logout", data={"token": token_of(anna.get("/").text)})
    assert anna.get("/").status_code == 303
    assert [guess(stranger, "anna") for _ in range(6)][-1] == 429
    assert login(anna, "anna").status_code == 303
    anna.delete_cookie("orderflow_console")
    assert [guess(anna, "anna") for _ in range(11)] == [403] * 10 + [429]  # it has a count of its own
    other = as_user(own, "looker")
    other.delete_cookie("orderflow_console")
    assert login(other, "anna").status_code == 429  # a known browser of another user is a stranger's


def test_the_cookie_of_a_known_browser_is_of_one_user_one_password_and_ninety_days(own, monkeypatch):
    cookie = device.new_device("anna", "scrypt:hash")
    assert device.known_device(cookie, "anna", "scrypt:hash")
    for name, known in (("ben", "scrypt:hash"), ("anna", "scrypt:other"), ("anna", None), ("anna", "")):
        assert device.known_device(cookie, name, known) == ""
    for forged in ("", ".", "..", "x" * 9000, cookie[:-1], "9" * 190 + ".x.y", "\udcff.\udcff." + cookie):
        assert device.known_device(forged, "anna", "scrypt:hash") == ""
    now = time.time()
    monkeypatch.setattr(device.time, "time", lambda: now + device.DEVICE_AGE + 1)
    assert device.known_device(cookie, "anna", "scrypt:hash") == ""


def test_each_wrong_password_beyond_the_free_ones_makes_the_next_wait_twice_as_long():
    now = [1000.0]
    throttle = LoginThrottle(clock=lambda: now[0])
    waits = []
    assert [throttle.take("anna", "192.0.2.1", "") for _ in range(4)] == [0] * 4
    for _ in range(9):
        assert throttle.take("anna", "192.0.2.1", "") == 0
        waits.append(throttle.take("anna", "192.0.2.1", ""))  # refused, hence not counted
        assert throttle.take("anna", "192.0.2.1", "") == waits[-1]
        now[0] += waits[-1]
    assert waits == [6, 11, 21, 41, 81, 161, 301, 301, 301]
    now[0] += 3601
    assert [throttle.take("anna", "192.0.2.1", "") for _ in range(6)] == [0, 0, 0, 0, 0, 6]


@pytest.mark.parametrize(
    ("tries", "free"),
    [
        (lambda n: (f"name-{n}", "192.0.2.1"), 20),
        (lambda n: (f"name-{n}", f"2001:db8::{n:x}"), 20),  # one network
        (lambda n: ("anna", f"192.0.2.{n}"), 100),
        (lambda n: ("anna", f"2001:db8:0:{n:x}::1"), 100),
        (lambda n: ("anna", "192.0.2.1"), 5),
        (lambda n: ("anna", f"no address {n}"), 5),
    ],
)
def test_neither_many_names_nor_many_addresses_are_a_way_round(tries, free):
    throttle = LoginThrottle(clock=lambda: 1000.0)
    assert [throttle.take(*tries(n), "") > 0 for n in range(free + 1)] == [False] * free + [True]
    assert throttle.take("anna", "192.0.2.1", "known") == 0


def test_the_tries_of_one_who_knew_the_password_are_forgotten():
    throttle = LoginThrottle(clock=lambda: 1000.0)
    for _ in range(50):
        assert throttle.take("anna", "192.0.2.3", "") == 0
        throttle.forget("anna", "192.0.2.3", "")


def test_passwords_in_check_leave_threads_for_pages_and_places_for_known_browsers(own):
    """While three strangers are in a check a fourth hears 503 at once; a known browser has a place, pages load."""
    known = as_user(own, "anna")
    began, go_on = threading.Semaphore(0), threading.Event()

    class Slow(Users):
        def check(self, name: str, password: str) -> User | None:
            if name != "anna":
                began.release()
                assert go_on.wait(60)
            return super().check(name, password)

    slow = SimpleNamespace(flask=create_app(own.app, Slow(own.users._path)))
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(guess, slow.flask.test_client(), f"stranger-{n}") for n in range(3)]
        for _ in waiting:
            assert began.acquire(timeout=60)
        refused = login(slow.flask.test_client(), "looker")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert "Wait a moment" in refused.text
        fresh = slow.flask.test_client()
        assert fresh.get("/login").status_code == 200
        cookie = known.get_cookie("orderflow_console_device", path="/login")
        fresh.set_cookie(cookie.key, cookie.value, path="/login")
        assert login(fresh, "anna").status_code == 303
        go_on.set()
        assert [one.result() for one in waiting] == [403] * 3
    assert login(slow.flask.test_client(), "looker").status_code == 303, "a refused one was not counted"


def test_a_name_that_nobody_has_takes_as_much_work_as_a_wrong_password(place):
    """By counted CPU time of this thread: scrypt runs for both, and nothing else counts beside it."""
    users = Users(place / "users.json")
    with users.edit() as table:
        table["anna"] = User("anna", hash_password(PASSWORD), None, True)
        table["robot"] = User("robot", None, None, False)
    took = {}
    for name in ("anna", "nobody", "robot") * 3:
        before = time.thread_time()
        assert users.check(name, "wrong password") is None
        took.setdefault(name, []).append(time.thread_time() - before)
    quickest = {name: min(times) for name, times in took.items()}
    assert max(quickest.values()) < 1.5 * min(quickest.values()), quickest


def test_logging_out_ends_the_session_and_not_just_the_cookie(room):
    client = as_user(room, "anna")
    kept = client.get_cookie("orderflow_console").value
    assert client.post("/logout").status_code == 400  # another site cannot log anybody out
    answer = client.post("/logout", data={"token": token_of(client.get("/").text)})
    assert answer.location == "/logged-out"
    assert "You are logged out" in client.get("/logged-out").text
    client.set_cookie("orderflow_console", kept)
    assert client.get("/").status_code == 303


def test_a_session_ends_when_its_time_is_over_and_when_its_user_changes(own):
    client = as_user(own, "looker")
    with own.users.edit() as table:
        table["looker"] = replace(table["looker"], slugs=frozenset({"beta"}))
    assert client.get("/").status_code == 303
    ended = sessions.Sessions(idle=-1.0)
    assert ended.find(ended.begin(own.users.find("anna"))) is None
    lasting = sessions.Sessions(idle=60.0)
    token = lasting.begin(own.users.find("anna"))
    assert lasting.find(token).user.name == "anna" and lasting.find(token + "x") is None
    lasting.find(token).began -= 13 * 3600
    assert lasting.find(token) is None


def test_a_proxy_is_believed_where_the_settings_name_its_header_and_nowhere_else(own):
    headers = {"X-Forwarded-User": "ben"}
    assert own.flask.test_client().get("/", headers=headers).status_code == 303
    app = replace(own.app, settings=replace(own.app.settings, console_proxy_header="X-Forwarded-User"))
    client = create_app(app, own.users).test_client()
    assert client.get("/").status_code == 403
    assert client.get("/", headers={"X-Forwarded-User": "stranger"}).status_code == 403
    page = client.get("/messages", headers=headers)
    assert page.status_code == 200 and "Log out" not in page.text and not page.headers.getlist("Set-Cookie")
    assert client.post("/login", headers=headers, data={"token": "x"}).status_code in (302, 400)
    url = url_of(app, message_of(app, "acme", statuses=(Status.FAILED,)))
    assert client.post(f"{url}/replay", headers=headers).status_code == 400
    form = form_of(client.get(url, headers=headers).text)
    other = {"X-Forwarded-User": "anna"}
    assert client.post(f"{url}/replay", headers=other, data=form).status_code == 400
    assert client.post(f"{url}/replay", headers=headers, data=form).status_code == 303


@pytest.mark.parametrize("address", ["0.0.0.0:80", "192.0.2.1:80", "localhost", "[::]:80", "127.0.0.1:70000", "unix:x"])
def test_the_console_listens_nowhere_but_here(address):
    with pytest.raises(SettingsError, match="ORDERFLOW_CONSOLE must be a loopback address"):
        load(environ={"ORDERFLOW_SETTINGS": "/dev/null", "ORDERFLOW_CONSOLE": address})


# Who sees what


def every_url_of(app: App, slug: str) -> list[str]:
    """Return every address that is about something of an organization."""
    org = app.records.organizations.find(slug)
    urls = []
    for message in app.records.messages.select(Filter(org_id=org.id), 100):
        url = f"/messages/{slug}/{message.id}"
        urls += [url, f"{url}/raw", f"{url}/source"]
        for document in app.records.documents.of_message(org.id, message.id):
            urls += [f"{url}/documents/{document.id}{end}" for end in ("", "/preview", "/picture")]
    for mail in app.records.held_mail.open(org.id):
        urls += [f"/held/{slug}/{mail.id}{end}" for end in ("", "/raw", "/source")]
    return [*urls, f"/?org={slug}"]


def test_what_is_anothers_is_to_a_user_as_if_it_were_not_there(room):
    ben, strange = as_user(room, "ben"), uuid4()
    never = ben.get(f"/messages/nowhere/{strange}")
    urls = every_url_of(room.app, "nordwind")
    assert len(urls) > 10
    for url in (*urls, "/dead-letters", f"/messages/acme/{strange}"):
        answer = ben.get(url)
        text = answer.text.replace(' aria-current="page"', "")
        assert (answer.status_code, text) == (404, never.text.replace(' aria-current="page"', "")), url
    assert not {url for url in every_url_of(room.app, "acme") if ben.get(url).status_code == 500}


def test_a_message_of_another_tenant_is_not_found_under_ones_own_name(room):
    ben = as_user(room, "ben")
    for message in (message_of(room.app, "nordwind"), message_of(room.app, "lindner")):
        assert ben.get(f"/messages/acme/{message.id}").status_code == 404
    theirs = message_of(room.app, "nordwind")
    document = room.app.records.documents.of_message(theirs.org_id, theirs.id)
    mine = url_of(room.app, message_of(room.app, "acme"))
    for one in document:
        assert ben.get(f"{mine}/documents/{one.id}").status_code == 404


@pytest.mark.parametrize(
    "path", ["/", "/?period=7d", "/messages", "/messages?words=example", "/held", "/messages?org=nordwind"]
)
def test_no_page_of_a_user_says_a_word_of_another_organization(room, path):
    pages = as_user(room, "ben").get(path).text, as_user(room, "anna").get(path).text
    said = pages[0].replace("no organization nordwind", "").replace('value="nordwind"', "")  # what he asked for
    assert not re.search("nordwind|lindner|cafe-mohn|tammer", said)
    assert "nordwind" in pages[1]


def test_counts_and_plots_of_a_user_are_of_his_organizations(room):
    def received(name: str, path: str = "/?period=24h") -> int:
        page = as_user(room, name).get(path).text
        return sum(map(int, re.findall(r'data-label="Received">([\d\u202f]+)<', page.partition("By organization")[2])))

    def recorded(slug: str) -> int:
        org = room.app.records.organizations.find(slug)
        return len(room.app.records.messages.select(Filter(org_id=org.id), 999))

    acme, lindner = recorded("acme"), recorded("lindner")
    assert (received("ben"), received("cleo"), received("cleo", "/?org=lindner")) == (acme, acme + lindner, lindner)
    assert received("anna") > acme + lindner


def test_several_organizations_are_one_list_in_the_order_of_time(room):
    pages = as_user(room, "cleo").get("/messages").text
    times = re.findall(r'class="when"><time datetime="([^"]+)"', pages)
    assert len(times) > 3 and times == sorted(times, reverse=True)
    assert {"acme", "lindner"} <= set(re.findall(r'class="org">(\w+)<', pages)) and "nordwind" not in pages


def test_who_may_not_change_is_not_offered_it_and_is_refused(room):
    looker, message = as_user(room, "looker"), message_of(room.app, "acme", statuses=(Status.FAILED,))
    url = url_of(room.app, message)
    page = looker.get(url).text
    assert "Replay" not in page and "read only" in page
    token = token_of(page)
    held = room.app.records.held_mail.open(message.org_id)[0]
    dead = room.app.spool.dead()[0][0]
    for path in (f"{url}/replay", f"/held/acme/{held.id}/accept", f"/dead-letters/{dead}/deliver"):
        assert looker.post(path, data={"token": token, "why": "x"}).status_code == 403
    assert room.app.records.messages.get(message.org_id, message.id).status is Status.FAILED


def test_mail_is_found_by_words_sender_document_id_status_and_day(room):
    anna, message = as_user(room, "anna"), message_of(room.app, "nordwind", statuses=(Status.PARSED,))
    name = next(d.filename for d in room.app.records.documents.of_message(message.org_id, message.id) if d.filename)
    number = re.search(r"\d+", message.subject)[0]
    today = datetime.now(UTC).date()
    for query in (
        {"words": number},
        {"words": f"{number} {message.from_email}"},
        {"sender": message.from_email, "words": number},
        {"sender": "@" + message.from_email.partition("@")[2], "document": name},
        {"document": name},
        {"message_id": message.source_message_id},
        {"message_id": message.source_message_id.strip("<>")},
        {"org": "nordwind", "status": "PARSED", "words": number},
        {"words": number, "since": str(today - timedelta(days=1)), "until": str(today)},
    ):
        assert str(message.id) in found(anna, **query), query
        assert str(message.id) not in found(as_user(room, "ben"), **query), query
    for query in ({"words": f"{number} nobody"}, {"status": "FAILED", "words": number}, {"until": "2020-01-01"}):
        assert str(message.id) not in found(anna, **query), query
    assert len(found(anna, status="FAILED")) == 3 and len(found(anna, status="unfinished")) == 1


@pytest.mark.parametrize("query", [
    {"since": "yesterday"}, {"until": "9999-12-31"}, {"status": "LOST"}, {"after": "x~y"}, {"org": "<script>"},
    {"after": "2026-01-01T00:00:00~" + str(uuid4())}, {"words": "\ud800"}, {"words": "'; DROP TABLE"},
    {"org": "a" * 5000},
])  # fmt: skip
def test_what_does_not_read_is_told_and_never_fails(room, query):
    page = as_user(room, "anna").get(
        "/messages", query_string={k: v.encode("utf-8", "surrogatepass") for k, v in query.items()}
    )
    assert page.status_code == 200 and "<script>" not in page.text
    assert 'role="alert"' in page.text or "No message is like that." in page.text


def test_pages_of_the_inbox_go_on_where_the_one_before_ended(room, monkeypatch):
    monkeypatch.setattr("orderflow_ingest.entrypoints.console.inbox.PAGE", 5)
    for name in ("anna", "cleo"):
        client, ids, path = as_user(room, name), [], "/messages"
        while path:
            page = client.get(path).text
            ids += re.findall(r'class="subject" href="/messages/\w+/([0-9a-f-]{36})"', page)
            older = re.search(r'rel="next" href="([^"]+)"', page)
            path = older and older[1].replace("&amp;", "&")
        slugs = ("acme", "lindner") if name == "cleo" else ("acme", "lindner", "nordwind")
        orgs = [room.app.records.organizations.find(slug).id for slug in slugs]
        wanted = [m.id for o in orgs for m in room.app.records.messages.select(Filter(org_id=o), 999)]
        assert len(ids) == len(set(ids)) and set(ids) == set(map(str, wanted))


# Hostile mail


def test_a_hostile_mail_is_harmless_on_every_page(room):
    anna, message = as_user(room, "anna"), hostile(room.app)
    url = url_of(room.app, message)
    documents = room.app.records.documents.of_message(message.org_id, message.id)
    assert len(documents) == 5 and message.size > 100_000
    pages = ["/", "/messages", url, f"{url}/source", *(f"{url}/documents/{d.id}/preview" for d in documents)]
    for path in pages:
        answer = anna.get(path)
        text = answer.text
        assert answer.status_code == 200 and len(text) < 400_000, path
        assert not re.search(r"<(?:script|img src=.?x|svg xmlns|i>|b>|iframe|p onclick)", text), path
        assert "\u202e" not in text and "\x1b" not in text, path
        assert not re.search(r'\s(?:on\w+|style)="', text) and "<style" not in text, path
        assert "tracker.example" not in "".join(re.findall(r'(?:src|href)="([^"]*)"', text))
        assert answer.headers["Content-Security-Policy"] == CSP
    assert "12 pieces, please" in anna.get(url).text
    assert "&lt;script&gt;alert(&#39;subject&#39;)" in anna.get(url).text


def test_a_document_is_saved_and_never_opened(room):
    anna, message = as_user(room, "anna"), hostile(room.app)
    url = url_of(room.app, message)
    documents = room.app.records.documents.of_message(message.org_id, message.id)
    paths = [f"{url}/raw", *(f"{url}/documents/{document.id}" for document in documents)]
    for path in paths:
        answer = anna.get(path)
        assert answer.status_code == 200
        assert answer.content_type == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == SANDBOX
    for document in documents:
        assert anna.get(f"{url}/documents/{document.id}/picture").status_code == 404
        data = anna.get(f"{url}/documents/{document.id}").data
        assert data == room.app.archive.read(document.object_key, document.digest)
    assert b"<script>" in anna.get(f"{url}/raw").data


def test_a_picture_is_drawn_and_a_table_is_a_table(room):
    anna, seen = as_user(room, "anna"), set()
    for message in room.app.records.messages.select(Filter(), 99):
        for document in room.app.records.documents.of_message(message.org_id, message.id):
            url = f"{url_of(room.app, message)}/documents/{document.id}"
            if document.content_type == "image/png":
                drawn = anna.get(f"{url}/picture")
                assert (drawn.content_type, drawn.headers["Content-Security-Policy"]) == ("image/png", SANDBOX)
                assert f'src="{url}/picture"' in anna.get(f"{url}/preview").text
            elif document.content_type == "text/csv":
                assert "<td><bdi>" in anna.get(f"{url}/preview").text
            elif document.content_type == "application/pdf":
                assert anna.get(f"{url}/preview").status_code == 404
            seen.add(document.content_type)
    assert {"image/png", "text/csv", "application/pdf"} <= seen


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("order.pdf", "attachment; filename=\"order.pdf\"; filename*=UTF-8''order.pdf"),
        ("für Söhne.pdf", "attachment; filename=\"f_r S_hne.pdf\"; filename*=UTF-8''f%C3%BCr%20S%C3%B6hne.pdf"),
        ('a"; b\\c\r\nSet-Cookie: x', "attachment; filename=\"c Set-Cookie_ x\"; filename*=UTF-8''c%20Set-Cookie_%20x"),
        ("../../etc/passwd", "attachment; filename=\"passwd\"; filename*=UTF-8''passwd"),
        ("\u202egpj.exe", "attachment; filename=\"gpj.exe\"; filename*=UTF-8''gpj.exe"),
        ("\x00", "attachment; filename=\"document\"; filename*=UTF-8''document"),
    ],
)  # fmt: skip
def test_a_file_name_travels_whole_and_harmless(name, header):
    assert disposition(name) == header


def test_a_preview_is_bounded():
    wide = preview((";".join(["x" * 300] * 99) + "\n").encode(), "text/csv", None)
    assert (len(wide.rows[0]), max(map(len, wide.rows[0])), wide.is_cut) == (COLUMNS, 201, True)
    high = preview(b"a;b\n" * (ROWS + 1), "text/csv", None)
    assert (high.kind, len(high.rows), high.is_cut) == (Kind.TABLE, ROWS, True)
    long = preview(b"x" * (TEXT_LIMIT + 1), "text/plain", None)
    assert (long.kind, len(long.text), long.is_cut) == (Kind.TEXT, TEXT_LIMIT, True)


@pytest.mark.parametrize(
    ("data", "content_type", "kind"),
    [
        (b"a;b\n\x00;" + b"\xff" * 9, "text/csv", Kind.TABLE),
        (b"one column\nonly\n", "text/csv", Kind.TEXT),
        (b'"never closed;x\n' * 9, "text/csv", Kind.TABLE),
        (b'a;"' + b"x" * 200_000, "text/csv", Kind.TEXT),  # over the reader's limit of a field
        (b"<svg onload=x>", "image/svg+xml", Kind.TEXT),
        (b"<svg onload=x>", "image/png", Kind.NONE),
        (b"%PDF", "application/pdf", Kind.NONE),
        (b"", "text/plain", Kind.TEXT),
        ("größer".encode("latin-1"), "text/plain", Kind.TEXT),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_document_depends_on_its_bytes(data, content_type, kind):
    assert preview(data, content_type, None).kind is kind


def test_pictures_are_known_by_their_bytes_alone():
    assert picture_type(picture(1)) == "image/png"
    assert picture_type(b"RIFF\0\0\0\0WEBPVP8 ") == "image/webp"
    assert picture_type(b"<svg/>") is None and picture_type(b"BM6") is None
    assert picture_type(b"GIF89a" + b"\0" * (8 << 20)) is None


# Decisions


def test_a_replay_leads_back_to_received_and_names_who_did_it(own):
    anna, message = as_user(own, "anna"), message_of(own.app, "acme", statuses=(Status.FAILED,))
    url = url_of(own.app, message)
    own.app.queue.extractions.clear()
    assert anna.post(f"{url}/replay").status_code == 400
    assert own.app.records.messages.get(message.org_id, message.id).status is Status.FAILED
    form = form_of(anna.get(url).text)
    answer = anna.post(f"{url}/replay", data=form)
    assert answer.location == f"{url}?done=replayed"
    assert "a worker takes it up" in anna.get(answer.location).text
    assert own.app.records.messages.get(message.org_id, message.id).status is Status.RECEIVED
    assert own.app.queue.extractions == [(message.org_id, message.id)]
    assert anna.post(f"{url}/replay", data=form).location == f"{url}?done=moved", "a second click changes nothing"
    assert own.app.queue.extractions == [(message.org_id, message.id)]
    told = own.app.records.events.of(message.org_id, message.id)[-1]
    assert (told.kind, told.actor) == (EventKind.REPLAYED, "anna (console)")


@pytest.mark.parametrize(("decision", "kind"), [("accept", EventKind.ACCEPTED), ("discard", EventKind.DISCARDED)])
def test_a_held_mail_is_decided_once_with_a_reason_and_a_name(own, decision, kind):
    ben = as_user(own, "ben")
    acme = own.app.records.organizations.find("acme").id
    (mail,) = own.app.records.held_mail.open(acme)
    url = f"/held/acme/{mail.id}"
    assert url in ben.get("/held").text
    page = ben.get(url).text
    assert "Known before" in page
    form = {"token": token_of(page), "why": "  "}
    assert ben.post(f"{url}/{decision}", data=form).location == f"{url}?done=reason"
    assert "Say why" in ben.get(f"{url}?done=reason").text and own.app.records.held_mail.count_open(acme) == 1
    before = len(own.app.records.messages.select(Filter(org_id=acme), 999))
    form["why"] = "asked the buyer,\nit is a new one"
    assert ben.post(f"{url}/{decision}", data=form).location == f"/held?done={decision}ed"
    (told,) = own.app.records.events.of(acme, mail.id)
    assert (told.kind, told.actor) == (kind, "ben (console)")
    assert told.details["why"] == "asked the buyer, it is a new one"
    after = len(own.app.records.messages.select(Filter(org_id=acme), 999))
    assert after - before == (decision == "accept")
    assert ben.post(f"{url}/{decision}", data=form).status_code == 404
    assert own.app.records.held_mail.count_open(acme) == 0


def test_what_is_erased_is_neither_replayed_nor_accepted_nor_offered(own):
    anna, message = as_user(own, "anna"), message_of(own.app, "acme", statuses=(Status.FAILED,))
    url, token = url_of(own.app, message), token_of(anna.get("/").text)
    (mail,) = own.app.records.held_mail.open(message.org_id)
    with own.app.records.database.write(message.org_id) as connection:
        for table in (tables.inbound_message, tables.held_mail):
            connection.execute(table.update().values(erased_at=datetime.now(UTC)))
    page = anna.get(url).text
    assert "was erased on" in page and "Replay" not in page and ".eml" not in page
    seen = message_of(own.app, "acme", ids=(message.id,)).updated_at.isoformat()
    assert anna.post(f"{url}/replay", data={"token": token, "seen": seen}).location == f"{url}?done=erased"
    form = {"token": token, "why": "x"}
    assert anna.post(f"/held/acme/{mail.id}/accept", data=form).location == f"/held/acme/{mail.id}?done=erased"
    assert anna.post(f"/held/acme/{mail.id}/discard", data=form).location == "/held?done=discarded"
    assert own.app.records.messages.get(message.org_id, message.id).status is Status.FAILED


def test_a_dead_letter_is_delivered_again_or_saved_and_never_thrown_away(own):
    anna = as_user(own, "anna")
    (name, _), (other, _) = own.app.spool.dead()
    page = anna.get("/dead-letters").text
    assert page.count("KeyError at message.py:88") == 6 and "orders+acme@" in page and "discard" not in page.lower()
    saved = anna.get(f"/dead-letters/{name}/raw")
    assert saved.data == own.app.spool.read_dead(name)[1] and "attachment" in saved.headers["Content-Disposition"]
    form = {"token": token_of(page)}
    assert anna.post(f"/dead-letters/{name}/deliver", data=form).location == "/dead-letters?outcome=DELIVERED"
    assert "DELIVERED" in anna.get("/dead-letters?outcome=DELIVERED").text
    assert [left for left, _ in own.app.spool.dead()] == [other]
    assert anna.post(f"/dead-letters/{name}/deliver", data=form).status_code == 404
    Path(own.app.spool.directory, "dead", other).write_bytes(b"damaged")
    assert "unreadable" in anna.get("/dead-letters").text
    assert anna.get(f"/dead-letters/{other}/raw").status_code == 404
    assert anna.get("/dead-letters/..%2f..%2forderflow.db/raw").status_code == 404


# Trouble


def test_a_backend_that_is_away_is_a_page_that_says_so(own):
    anna, message = as_user(own, "anna"), message_of(own.app, "acme", statuses=(Status.PARSED,))
    url = url_of(own.app, message)
    own.app.archive.fault = ArchiveUnavailable("archive: ConnectTimeout at secret.example")
    assert "The archive does not answer just now." in anna.get(url).text
    answer = anna.get(f"{url}/raw")
    assert answer.status_code == 503 and "The archive is away" in answer.text and "secret" not in answer.text
    own.app.archive.fault = None
    own.app.queue.is_away = True
    assert ">away<" in anna.get("/").text
    assert anna.post(f"{url}/replay", data=form_of(anna.get(url).text)).location == f"{url}?done=replayed"
    own.app.records.database.close()
    Path(own.app.settings.state_dir, "orderflow.db").rename(Path(own.app.settings.state_dir, "elsewhere.db"))
    for path in ("/", "/messages", url, "/held"):
        answer = anna.get(path)
        assert answer.status_code == 503 and "The database is away" in answer.text, path
    assert anna.get("/dead-letters").status_code == 200


def test_an_object_that_is_gone_is_told_where_it_is_missed(own):
    anna, message = as_user(own, "anna"), message_of(own.app, "acme", statuses=(Status.PARSED,))
    own.app.archive.delete(message.raw_key)
    answer = anna.get(f"{url_of(own.app, message)}/raw")
    assert answer.status_code == 404 and "does not have this any more" in answer.text


def test_a_bug_tells_nothing_of_itself(own):
    anna = as_user(own, "anna")

    def broken() -> str:
        raise RuntimeError("the password is hunter2")

    own.flask.view_functions["inbox.page"] = broken
    answer = anna.get("/messages")
    assert answer.status_code == 500 and "fault of this program" in answer.text
    assert "hunter2" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/messages", "/held", "/dead-letters", "/login", "/nothing", "/static/console.css"]
)
def test_every_answer_is_closed(room, path):
    answer = as_user(room, "anna").get(path)
    policy = answer.headers["Content-Security-Policy"]
    for rule in (
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "style-src 'self'",
    ):
        assert rule in policy
    assert "script-src" not in policy and "unsafe" not in policy
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == ("public, max-age=3600" if "static" in path else "no-store")
    assert "Server" not in answer.headers


def test_every_link_of_every_page_leads_somewhere(room):
    anna, known, todo = as_user(room, "anna"), set(), {"/"}
    while todo:
        path = todo.pop()
        known.add(path)
        if path.endswith(("/replay", "/accept", "/discard", "/deliver", "/logout")):
            continue
        answer = anna.get(path)
        assert answer.status_code in (200, 302), path
        if len(known) < 150 and answer.content_type.startswith("text/html"):
            todo |= hrefs(answer.text) - known
    assert len(known) > 40


# Users, by the program


def ran(place: Path, *arguments: str, answer: str = "") -> tuple[int, str]:
    environment = {"ORDERFLOW_STATE_DIR": str(place), "ORDERFLOW_SETTINGS": "/dev/null"}
    ended = CliRunner().invoke(console_main.cli, arguments, input=answer, env=environment)
    return ended.exit_code, ended.output


@pytest.fixture
def empty(place) -> Path:
    os.chown(place, os.geteuid(), os.getegid())
    embedded(place).records.database.close()
    return place


def test_users_are_added_listed_changed_and_removed_by_the_program(empty):
    assert ran(empty, "user", "add", "anna", "--org", "acme", "--may-change", answer=PASSWORD + "\n") == (
        0,
        "added anna\n",
    )
    assert ran(empty, "user", "add", "robot", "--no-password") == (0, "added robot\n")
    listed = [json.loads(line) for line in ran(empty, "user", "list", "--json")[1].splitlines()]
    assert listed == [
        {"name": "anna", "sees": "acme", "may_change": True, "password": True},
        {"name": "robot", "sees": "everything", "may_change": False, "password": False},
    ]
    users = Users(empty / "console-users.json")
    assert users.check("anna", PASSWORD).slugs == {"acme"} and users.check("robot", "") is None
    assert ran(empty, "user", "password", "anna", answer="another password\n")[0] == 0
    assert users.check("anna", PASSWORD) is None and users.check("anna", "another password")
    assert ran(empty, "user", "remove", "anna")[0] == 0 and users.find("anna") is None
    assert oct((empty / "console-users.json").stat().st_mode)[-3:] == "600"
    assert PASSWORD not in (empty / "console-users.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "answer", "says"),
    [
        (("user", "add", "anna"), "short\n", "at least 12 characters"),
        (("user", "add", "a b"), PASSWORD, "a name is of letters"),
        (("user", "add", "anna", "--org", "nobody"), PASSWORD, "no such organization: nobody"),
        (("user", "remove", "anna"), "", "no such user: anna"),
        (("user", "password", "anna"), PASSWORD, "no such user: anna"),
    ],
)
def test_a_user_who_cannot_be_is_refused_in_one_line(empty, arguments, answer, says):
    status, text = ran(empty, *arguments, answer=answer + "\n")
    assert status in (1, 2) and says in text
    assert Users(empty / "console-users.json").all() == []


def test_a_second_user_of_a_name_is_refused(empty):
    assert ran(empty, "user", "add", "anna", answer=PASSWORD + "\n")[0] == 0
    assert ran(empty, "user", "add", "anna", "--may-change", answer=PASSWORD + "\n")[0] == 1
    assert not Users(empty / "console-users.json").find("anna").may_change


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o666])
def test_a_file_of_users_that_others_could_read_or_write_lets_nobody_in(own, mode):
    path = own.users._path
    client = as_user(own, "anna")
    path.chmod(mode)
    assert client.get("/").status_code == 503
    with pytest.raises(UsersFileError, match="chmod 600"):
        own.users.all()
    path.chmod(0o640)
    assert client.get("/").status_code == 200


UNREADABLE = (
    *("", "[]", "{", '{"anna": 1}', '{"anna": {"role": "x"}}', '{"a b": {}}', '{"anna": {"orgs": "acme"}}'),
    '{"anna": {"may_change": "no"}}',
)


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_file_of_users_that_does_not_read_lets_nobody_in(place, text):
    path = place / "users.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsersFileError, match="does not read"):
        Users(path).find("anna")
