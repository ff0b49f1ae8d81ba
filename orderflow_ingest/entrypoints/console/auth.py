"""Authentication: by a password and a session, or by a reverse proxy's header. Protection of forms against forgery.

Every request passes `Authentication.check` before its page is looked up. Without a known user only styles and the login
form are answered, and not even that a page does not exist. With ORDERFLOW_CONSOLE_PROXY_HEADER set no password is
taken: that header names the user, who must be in the users' file. That is safe because the console then listens on a
unix socket alone, and as long as the proxy removes that header from its clients' requests.

A form is ours if the browser does not say that another site sent it, and if it carries the token of the session. That
of the login form is also in a cookie. Cookies are HttpOnly and SameSite=Strict, and Secure where the proxy says https.
"""

import hmac
import secrets
from collections.abc import Iterator
from hashlib import sha256
from urllib.parse import urlsplit

from flask import Blueprint, Flask, abort, g, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from orderflow_ingest.config import Settings
from orderflow_ingest.observability import logs

from .device import DEVICE_AGE, known_device, new_device
from .sessions import Sessions
from .throttle import LoginThrottle, TooManyLoginsError
from .users import User, Users, is_valid_name

COOKIE, LOGIN_COOKIE = "orderflow_console", "orderflow_console_login"
DEVICE_COOKIE = "orderflow_console_device"
_PUBLIC_ENDPOINTS = ("static", "auth.login", "auth.logged_out")


class Authentication:
    """Identifies the user of every request, as `g.user`."""

    def __init__(self, users: Users, settings: Settings):
        self._users, self._header = users, settings.console_proxy_header
        self._sessions, self._throttle = Sessions(settings.console_timeout), LoginThrottle()
        self._secret = secrets.token_bytes(32)

    def install(self, app: Flask) -> None:
        """Register the check of every request, and the pages for logging in and out."""
        pages = Blueprint("auth", __name__)
        pages.add_url_rule("/login", "login", self._login, methods=["GET", "POST"])
        pages.add_url_rule("/logout", "logout", self._logout, methods=["POST"])
        pages.add_url_rule("/logged-out", "logged_out", self._logged_out)
        app.register_blueprint(pages)
        app.before_request(self.check)

    def check(self) -> Response | None:
        """Identify the user. Redirect unknown ones to the login form, and refuse forms that are not ours."""
        g.user, g.form_token, g.by_proxy = None, "", bool(self._header)
        if request.endpoint == "static":
            return None
        if "\0" in "".join((request.path, *_submitted_values())):  # PostgreSQL takes no such text
            abort(400)
        if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            abort(403)
        if self._header:
            self._user_of_proxy()
        else:
            self._user_of_session()
        if g.user is None:
            return None if request.endpoint in _PUBLIC_ENDPOINTS else _redirect_to_login()
        if request.method == "POST" and request.endpoint != "auth.login":
            _check_token(g.form_token)
        return None

    def _user_of_proxy(self) -> None:
        name = request.headers.get(self._header, "")
        g.user = self._users.find(name) if is_valid_name(name) else None
        if g.user is None:
            abort(403)
        g.form_token = hmac.new(self._secret, name.encode(), sha256).hexdigest()

    def _user_of_session(self) -> None:
        token = request.cookies.get(COOKIE, "")
        session = self._sessions.find(token) if token else None
        if session is None:
            return
        if self._users.find(session.user.name) != session.user:  # changed or removed since
            self._sessions.end(token)
            return
        g.user, g.form_token = session.user, session.form_token

    def _login(self) -> Response:
        if g.by_proxy:
            return redirect(url_for("overview.page"))
        if request.method == "GET":
            return _login_form()
        _check_token(request.cookies.get(LOGIN_COOKIE, ""))
        name, address = request.form.get("name", "")[:64], (request.remote_addr or "")[:64]
        user = self._users.find(name)
        device = known_device(request.cookies.get(DEVICE_COOKIE, ""), name, user.password if user else None)
        try:
            with self._throttle.password_check(device):
                if wait := self._throttle.take(name, address, device):
                    return _login_form(429, wait)
                user = self._users.check(name, request.form.get("password", "")[:1000])
        except TooManyLoginsError:
            return _login_form(503, 1)
        if user is None:
            logs.event("login", "Login refused.", logs.WARNING, client=address)
            return _login_form(403)
        self._throttle.forget(name, address, device)
        return self._start_session(user)

    def _start_session(self, user: User) -> Response:
        logs.event("login", "Logged in.", operator=user.name, client=request.remote_addr)
        self._sessions.end(request.cookies.get(COOKIE, ""))
        response = redirect(_local_path(request.args.get("next", "")), 303)
        _set_cookie(response, COOKIE, self._sessions.begin(user))
        if user.password:
            _set_cookie(
                response, DEVICE_COOKIE, new_device(user.name, user.password), url_for("auth.login"), DEVICE_AGE
            )
        response.delete_cookie(LOGIN_COOKIE)
        return response

    def _logout(self) -> Response:
        self._sessions.end(request.cookies.get(COOKIE, ""))
        logs.event("logout", "Logged out.", operator=g.user.name)
        response = redirect(url_for("auth.logged_out"), 303)
        response.delete_cookie(COOKIE)
        return response

    def _logged_out(self) -> str:
        return render_template("logged_out.html")


def _submitted_values() -> Iterator[str]:
    for fields in (request.args, request.form):
        for _, value in fields.items(multi=True):
            yield value


def _login_form(status: int = 200, wait: int = 0) -> Response:
    """Return the login form, with a token in it and in a cookie. `wait` seconds are shown after too many attempts."""
    token = secrets.token_urlsafe(32)
    response = make_response(render_template("login.html", token=token, status=status, wait=wait), status)
    if wait:
        response.headers["Retry-After"] = str(wait)
    _set_cookie(response, LOGIN_COOKIE, token)
    return response


def _redirect_to_login() -> Response:
    target = request.full_path.rstrip("?") if request.method == "GET" else None
    return redirect(url_for("auth.login", next=target if target != "/" else None), 303)


def _check_token(known: str) -> None:
    """Refuse a form without the token that was issued for it."""
    given = request.form.get("token", "")
    if not known or not hmac.compare_digest(given.encode(), known.encode()):
        abort(400)


def _set_cookie(response: Response, name: str, value: str, path: str = "/", age: int | None = None) -> None:
    is_secure = request.is_secure
    response.set_cookie(name, value, max_age=age, httponly=True, samesite="Strict", secure=is_secure, path=path)


def _local_path(path: str) -> str:
    """Return a path of this console. The first page for every other one."""
    parts = urlsplit(path)
    is_ours = path.startswith("/") and path[1:2] not in ("/", "\\") and not parts.scheme and not parts.netloc
    return path if is_ours and path.isprintable() else url_for("overview.page")
