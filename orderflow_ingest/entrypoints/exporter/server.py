"""The metrics page over HTTP: GET /metrics, as a WSGI application for `http_server`.

prometheus_client answers. `Page` keeps its measurements, so many requests cost as much as one. There is no TLS and no
login: a reverse proxy has them.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import make_wsgi_app

from orderflow_ingest.observability.logs import ERROR, error_location, event

from .page import Page

_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


def metrics_app(page: Page) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application that serves a page at /metrics."""
    answer = make_wsgi_app(page, disable_compression=True)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", _TEXT)
            return [b"the metrics are at /metrics\n"]
        is_head = environ["REQUEST_METHOD"] == "HEAD"
        try:
            found: list[bytes] = answer(environ | {"REQUEST_METHOD": "GET"} if is_head else environ, start_response)
        except Exception as error:
            event("metrics", "The page could not be made.", ERROR, reason=error_location(error))
            start_response("500 Internal Server Error", _TEXT)
            return [b"the page could not be made; the log has the reason\n"]
        return [] if is_head else found

    return app
