"""Files out of the archive or the spool, on their way to a browser: to be saved, or a picture to be drawn.

Guarantees: what is to be saved is an attachment of no type in particular, so that no browser opens it as anything. Its
name is made safe and written by RFC 6266. A picture has the type that its own bytes show. Both lie in a sandbox without
an origin, should a browser show them as a page all the same.
"""

from urllib.parse import quote

from flask import Response, abort

from orderflow_ingest.parsing.mime.filenames import safe_filename

from .preview import picture_type

SANDBOX = "default-src 'none'; sandbox; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def attachment_response(data: bytes, filename: str) -> Response:
    """Answer with a file that the browser saves under a name."""
    response = _sandboxed(data, "application/octet-stream")
    response.headers["Content-Disposition"] = disposition(filename)
    return response


def picture_response(data: bytes) -> Response:
    """Answer with a picture. NOT FOUND if it is none that is safe to draw."""
    kind = picture_type(data)
    return _sandboxed(data, kind) if kind else abort(404)


def disposition(filename: str) -> str:
    """Write Content-Disposition: the name in ASCII, and as it is (RFC 6266, RFC 8187)."""
    name = safe_filename(filename) or "document"
    plain = "".join(character if character.isascii() and character not in '"\\%;' else "_" for character in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _sandboxed(data: bytes, content_type: str) -> Response:
    response = Response(data, content_type=content_type)
    response.headers["Content-Security-Policy"] = SANDBOX
    return response
