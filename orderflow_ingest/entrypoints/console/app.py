"""The console as a WSGI application: its pages, the headers of every response, and error pages.

Guarantees: no response can be framed, cached or run as a script, or reveals the address of a page to other sites. None
loads anything from elsewhere, and there is no script at all. An unavailable backend is a page that says so (503), a bug
one that says nothing about itself (500). The log has its class and line.
"""

from flask import Flask, Response, g, render_template, request
from werkzeug.exceptions import HTTPException

from orderflow_ingest import __version__
from orderflow_ingest.app import App
from orderflow_ingest.domain.errors import BackendUnavailable
from orderflow_ingest.observability import logs
from orderflow_ingest.storage.archive import ObjectDamaged, ObjectMissing

from . import dead, filters, held, inbox, message, overview
from .auth import Authentication
from .users import Users, UsersFileError

CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CSP,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TEXTS = {
    400: ("That form was not taken", "It is older than your login, or did not come from this console. Go back, load "
          "the page again, and send it once more."),
    403: ("That is not allowed", "You may look, and not change anything; or the console does not know who you are. Who "
          "runs it can change that: orderflow-console user."),
    404: ("There is no such page", "What you look for is not here, is not here any more, or is not yours to see."),
    405: ("That is not allowed", "This page takes no such request."),
    413: ("That was too much", "A form is smaller than that."),
    500: ("Something went wrong here", "It is a fault of this program. Its log tells more; your mail is not affected."),
}  # fmt: skip


def create_app(app: App, users: Users) -> Flask:
    """Return the WSGI application."""
    flask = Flask(__name__)
    flask.jinja_env.trim_blocks = flask.jinja_env.lstrip_blocks = True
    for filter_ in (
        filters.line,
        filters.moment,
        filters.iso,
        filters.size,
        filters.span,
        filters.count,
        filters.details,
    ):
        flask.jinja_env.filters[filter_.__name__] = filter_
    flask.jinja_env.globals["version"] = __version__
    Authentication(users, app.settings).install(flask)
    for pages in (overview, inbox, message, held, dead):
        flask.register_blueprint(pages.pages(app))
    flask.after_request(_add_headers)
    flask.register_error_handler(HTTPException, _http_error)
    flask.register_error_handler(Exception, _internal_error)
    for away in (BackendUnavailable, UsersFileError):
        flask.register_error_handler(away, _unavailable)
    for gone in (ObjectMissing, ObjectDamaged):
        flask.register_error_handler(gone, _object_missing)
    return flask


def _add_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    is_style = request.endpoint == "static" and response.status_code < 400
    response.headers["Cache-Control"] = "public, max-age=3600" if is_style else "no-store"
    return response


def _http_error(error: HTTPException) -> Response | HTTPException | tuple[str, int]:
    code = error.code or 500
    if code < 400:
        return error
    title, text = _TEXTS.get(code, (error.name, ""))
    return _notice(title, text, code)


def _unavailable(error: BackendUnavailable | UsersFileError) -> tuple[str, int]:
    logs.event("console", "Page not shown.", logs.ERROR, reason=str(error), page=request.endpoint)
    if isinstance(error, UsersFileError):
        return _notice(
            "Nobody can log in just now", "The file of users cannot be used; the console's log says why.", 503
        )
    name = f"The {error.backend}"
    text = f"{name} does not answer just now. Mail is not lost by it: it waits. Try again in a minute."
    return _notice(f"{name} is away", text, 503)


def _object_missing(error: Exception) -> tuple[str, int]:
    logs.event("console", "Object not shown.", logs.ERROR, reason=str(error), page=request.endpoint)
    text = "Its row is here, and its bytes are not, or are not those that were put there: it was erased or damaged."
    return _notice("The archive does not have this any more", text, 404)


def _internal_error(error: Exception) -> tuple[str, int]:
    logs.event("console", "Page failed.", logs.ERROR, reason=logs.error_location(error), page=request.endpoint)
    return _notice(*_TEXTS[500], 500)


def _notice(title: str, text: str, code: int) -> tuple[str, int]:
    g.setdefault("user", None)
    return render_template("notice.html", title=title, text=text), code
