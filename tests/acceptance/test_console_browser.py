"""The console in Debian's Chromium: walked with mouse and keyboard, light, dark and on a telephone's screen.

What the browser itself reports is held too: it finds nothing that the pages' policy forbids. With
ORDERFLOW_PICTURES=DIR the pictures of docs/how-to/console.md are written there.
"""

import base64
import os
import time
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from orderflow_ingest.domain.states import EventKind, Status
from orderflow_ingest.entrypoints.console.app import create_app
from orderflow_ingest.entrypoints.console.users import User, Users
from orderflow_ingest.storage.database import Filter
from tests.support.console import _HASH, PASSWORD
from tests.support.fakes import embedded
from tests.support.lab.browser import chromium, served
from tests.support.lab.process import wait_until
from tests.support.mailroom import Mailroom

PICTURES = os.environ.get("ORDERFLOW_PICTURES")
AXE = (files("axe_core_python") / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Return a console with an hour of mail, and a browser before it."""
    place = tmp_path_factory.mktemp("browser")
    app = embedded(place, ORDERFLOW_MAX_LAG="0")
    Mailroom(app, datetime.now(UTC)).fill(55 if PICTURES else 12)
    users = Users(place / "users.json")
    with users.edit() as table:
        table["anna"] = User("anna", _HASH, None, True)
        table["ben"] = User("ben", _HASH, frozenset({"acme"}), False)
    with served(create_app(app, users)) as address, chromium(place) as browser:
        yield SimpleNamespace(app=app, address=address, browser=browser, place=place)


@pytest.fixture
def anna(desk):
    """Return the desk with anna logged in, on a large screen; at the end the browser must not have complained."""
    log_in(desk, "anna")
    yield desk
    complaints = [entry["message"] for entry in desk.browser.get_log("browser")]
    assert complaints == []


def log_in(desk, name: str, password: str = PASSWORD) -> None:
    desk.browser.delete_all_cookies()
    screen(desk.browser)
    desk.browser.get(f"{desk.address}/login")
    field(desk, "name").send_keys(name)
    field(desk, "password").send_keys(password)
    desk.browser.find_element(By.CSS_SELECTOR, "main button").click()
    assert wait_until(lambda: "/login" not in desk.browser.current_url, 60)


def screen(browser: Chrome, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def field(desk, id: str):
    return desk.browser.find_element(By.ID, id)


def text(desk, of: str = "body") -> str:
    """Read what is seen of an element; in one step, so that no page comes in between."""
    script = "let found = document.querySelector(arguments[0]); return found ? found.innerText.trim() : ''"
    return desk.browser.execute_script(script, of)


def press(desk, label: str) -> None:
    """Press the first button or link of this text that is seen."""
    path = f"//*[self::button or self::a or self::summary][starts-with(normalize-space(), '{label}')]"
    next(one for one in desk.browser.find_elements(By.XPATH, path) if one.is_displayed()).click()


def go(desk, path: str) -> None:
    desk.browser.get(desk.address + path)


def of_message(desk, **wanted) -> str:
    message = desk.app.records.messages.select(Filter(**wanted), 1)[0]
    return f"/messages/{desk.app.records.organizations.slug(message.org_id)}/{message.id}"


def with_document(desk, content_type: str) -> tuple[str, str]:
    """Return the page of a message that has a document of a type, and the document's name."""
    chosen = Filter(document_type=content_type, statuses=(Status.PARSED,), words="order")
    found = desk.app.records.messages.select(chosen, 99)
    message = next(message for message in found if not message.from_email.startswith("mallory"))
    documents = desk.app.records.documents.of_message(message.org_id, message.id)
    name = next(document.filename for document in documents if document.content_type == content_type)
    return f"/messages/{desk.app.records.organizations.slug(message.org_id)}/{message.id}", name


def test_a_wrong_password_is_told_and_the_right_one_lets_in_to_what_was_asked_for(desk):
    desk.browser.delete_all_cookies()
    go(desk, "/messages?status=FAILED")
    assert "/login" in desk.browser.current_url
    for password, title in (("wrong password", "Log in"), (PASSWORD, "Messages")):
        field(desk, "name").send_keys("anna")
        field(desk, "password").send_keys(password + Keys.ENTER)
        assert wait_until(lambda title=title: title in desk.browser.title, 60)
        if title == "Log in":
            assert "do not belong together" in text(desk, "[role=alert]")
    assert desk.browser.current_url.endswith("/messages?status=FAILED")
    assert len(desk.browser.find_elements(By.CSS_SELECTOR, ".mails li")) == 3
    cookie = desk.browser.get_cookie("orderflow_console")
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert all("403" in entry["message"] for entry in desk.browser.get_log("browser"))


@pytest.mark.skipif(not PICTURES, reason="ORDERFLOW_PICTURES names no directory")
def test_pictures_are_taken(anna):
    def take(name: str, path: str, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        screen(anna.browser, width, height, scheme)
        go(anna, path)
        time.sleep(0.3)
        shot = anna.browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        Path(PICTURES, f"console-{name}.png").write_bytes(base64.b64decode(shot))

    take("overview", "/?period=1h", height=860)
    take("inbox", "/messages", height=760)
    take("message", with_document(anna, "text/csv")[0], height=1010)
    take("held", address_of(anna, "held mail"), height=900)
    take("dark", "/?period=1h", height=860, scheme="dark")
    take("mobile", "/messages", width=390, height=844)
    assert len(list(Path(PICTURES).glob("console-*.png"))) == 6


def test_mail_is_searched_opened_looked_at_and_saved(anna):
    path, name = with_document(anna, "text/csv")
    go(anna, "/messages")
    press(anna, "More fields")
    field(anna, "document").send_keys(name + Keys.ENTER)
    assert wait_until(lambda: len(anna.browser.find_elements(By.CSS_SELECTOR, ".mails li")) == 1, 60)
    anna.browser.find_element(By.CSS_SELECTOR, "a.subject").click()
    assert anna.browser.current_url.endswith(path)
    assert "EXTRACTED" in text(anna) and "please deliver as follows" in text(anna)
    row = anna.browser.find_element(By.XPATH, f"//tr[.//th[contains(., '{name}')]]")
    row.find_element(By.PARTIAL_LINK_TEXT, "Save").click()
    saved = anna.place / "downloads" / name
    assert wait_until(saved.exists, 60) and saved.read_text().startswith("item;goods;quantity")
    row.find_element(By.PARTIAL_LINK_TEXT, "Look").click()
    cells = [cell.text for cell in anna.browser.find_elements(By.CSS_SELECTOR, "table.plain tr:first-child td")]
    assert cells == ["item", "goods", "quantity"]
    press(anna, "← Back")
    press(anna, "Source")
    assert "Content-Type: multipart/mixed" in text(anna)


def test_a_picture_is_drawn(anna):
    path, name = with_document(anna, "image/png")
    go(anna, path)
    row = anna.browser.find_element(By.XPATH, f"//tr[.//th[contains(., '{name}')]]")
    row.find_element(By.PARTIAL_LINK_TEXT, "Look").click()
    drawn = anna.browser.find_element(By.CSS_SELECTOR, ".picture img")
    assert wait_until(lambda: anna.browser.execute_script("return arguments[0].naturalWidth", drawn) == 360, 60)


def test_nothing_of_a_hostile_mail_runs_or_is_fetched(anna):
    path = of_message(anna, message_id="<666@evil.example>", org_id=1)
    go(anna, path)
    looks = [a.get_attribute("href") for a in anna.browser.find_elements(By.PARTIAL_LINK_TEXT, "Look")]
    assert len(looks) == 5
    for url in (anna.address + path, *looks, anna.address + path + "/source", anna.address + "/messages"):
        anna.browser.get(url)  # an alert would raise, a refused script would be in the log
        asked = anna.browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert all(one.startswith(anna.address + "/static/") for one in asked)
        assert anna.browser.execute_script("return document.scripts.length") == 0
        assert anna.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_a_failed_message_is_replayed_after_a_question(anna):
    message = anna.app.records.messages.select(Filter(statuses=(Status.FAILED,)), 1)[0]
    go(anna, of_message(anna, statuses=(Status.FAILED,)))
    assert "MemoryError at zip_archive.py:118" in text(anna)
    assert "Replay this message" not in text(anna)
    press(anna, "Replay…")
    press(anna, "Replay this message")
    assert wait_until(lambda: "a worker takes it up" in text(anna), 60)
    assert "anna (console)" in text(anna)
    assert anna.app.records.messages.get(message.org_id, message.id).status is Status.RECEIVED


def test_a_held_mail_is_accepted_with_a_reason(anna):
    mail = next(one for one in anna.app.records.held_mail.open() if one.inbound_message_id)
    go(anna, "/held")
    anna.browser.find_element(By.CSS_SELECTOR, f"a[href$='{mail.id}']").click()
    press(anna, "Accept")  # the browser does not send it without a reason
    assert anna.browser.current_url.endswith(str(mail.id))
    field(anna, "why").send_keys("The buyer wrote two orders under one number")
    press(anna, "Accept")
    assert wait_until(lambda: "It is a message of its own now" in text(anna), 60)
    (told,) = anna.app.records.events.of(mail.org_id, mail.id)
    assert (told.kind, told.details["why"]) == (EventKind.ACCEPTED, "The buyer wrote two orders under one number")


def test_the_keyboard_alone_leads_to_a_message_and_back_out(anna):
    def focused() -> str:
        script = "let e = document.activeElement; return (e.id || e.textContent).trim()"
        return anna.browser.execute_script(script)

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            anna.browser.switch_to.active_element.send_keys(Keys.TAB)
            if wanted in focused():
                outline = "return getComputedStyle(document.activeElement).outlineStyle"
                assert anna.browser.execute_script(outline) == "solid"  # it is seen where one is
                return
        pytest.fail(f"{wanted} was not reached, but {focused()}")

    go(anna, "/messages")
    tab_to("Skip to the content")
    anna.browser.switch_to.active_element.send_keys(Keys.ENTER)
    tab_to("words")
    anna.browser.switch_to.active_element.send_keys("hillside" + Keys.ENTER)
    assert wait_until(lambda: "words=hillside" in anna.browser.current_url, 60)
    subject = anna.browser.find_element(By.CSS_SELECTOR, "a.subject").text
    tab_to(subject)
    anna.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert wait_until(lambda: text(anna, "h1") == subject, 60)
    tab_to("Replay…")
    anna.browser.switch_to.active_element.send_keys(Keys.SPACE)
    tab_to("Replay this message")
    go(anna, "/")
    tab_to("Log out")
    anna.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert wait_until(lambda: "You are logged out" in text(anna), 60)
    go(anna, "/messages")
    assert "/login" in anna.browser.current_url


def test_a_user_of_one_organization_meets_no_other(desk):
    log_in(desk, "ben")
    links = [a.text for a in desk.browser.find_elements(By.CSS_SELECTOR, "nav a")]
    assert links == ["Overview", "Messages", "Held"]
    go(desk, "/messages")
    assert {one.text for one in desk.browser.find_elements(By.CSS_SELECTOR, ".mails .org")} == {"acme"}
    desk.browser.find_element(By.CSS_SELECTOR, "a.subject").click()
    assert "read only" in text(desk) and "Replay" not in text(desk)
    nordwind = desk.app.records.organizations.find("nordwind")
    go(desk, of_message(desk, org_id=nordwind.id))
    assert "There is no such page" in text(desk)
    assert all("404" in entry["message"] for entry in desk.browser.get_log("browser"))


PAGES = ("/", "/messages", "message", "/held", "held mail", "/dead-letters", "table")


def address_of(desk, page: str) -> str:
    if page == "message":
        return of_message(desk, org_id=1, statuses=(Status.PARSED,), words="order")
    if page == "held mail":
        held = desk.app.records.held_mail.open()
        mail = next((one for one in held if one.inbound_message_id), held[0])
        return f"/held/{desk.app.records.organizations.slug(mail.org_id)}/{mail.id}"
    if page == "table":
        path, name = with_document(desk, "text/csv")
        id = path.rpartition("/")[2]
        message = desk.app.records.messages.select(Filter(ids=(UUID(id),)), 1)[0]
        documents = desk.app.records.documents.of_message(message.org_id, message.id)
        return f"{path}/documents/{next(d.id for d in documents if d.filename == name)}/preview"
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_every_page_is_accessible_and_fits_its_screen(anna, width, scheme):
    """By axe's rules for WCAG 2.1 AA, contrast included."""
    for page in PAGES if scheme == "light" and width > 600 else PAGES[::2]:
        screen(anna.browser, width, 800, scheme)
        go(anna, address_of(anna, page))
        assert anna.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), page
        anna.browser.execute_script(AXE)
        rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
        script = "let [only, done] = arguments; axe.run(document, {runOnly: only}).then(all => done(all.violations))"
        found = anna.browser.execute_async_script(script, rules)
        told = [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found]
        assert not told, (page, width, scheme, told)
