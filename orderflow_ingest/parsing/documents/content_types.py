"""What a part claims to be by its declared type and its name, and what its bytes show it to be.

A declared type says little: mail programs send spreadsheets as octet streams and CSV as text/plain. So the content's
own signature comes first, then the ending of the name, then the declared type, of each the first that says something
and that the content does not contradict. A claim that the content contradicts is given as a defect, since a program
named order.pdf is either a mistake or an attack.
"""

import re

from orderflow_ingest.parsing.mime.filenames import extension

NAME_DIFFERS = "content is not what its name says"
TYPE_DIFFERS = "content is not of the declared type"
_OFFICE = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."
_BY_EXTENSION = {
    "pdf": "application/pdf",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "tab": "text/tab-separated-values",
    "txt": "text/plain",
    "xml": "application/xml",
    "json": "application/json",
    "htm": "text/html",
    "html": "text/html",
    "edi": "application/edifact",
    "edifact": "application/edifact",
    "x12": "application/edi-x12",
    "rtf": "application/rtf",
    "xls": "application/vnd.ms-excel",
    "doc": "application/msword",
    "ppt": "application/vnd.ms-powerpoint",
    "msg": "application/vnd.ms-outlook",
    "xlsx": _OFFICE + "spreadsheetml.sheet",
    "xlsm": "application/vnd.ms-excel.sheet.macroenabled.12",
    "xlsb": "application/vnd.ms-excel.sheet.binary.macroenabled.12",
    "docx": _OFFICE + "wordprocessingml.document",
    "docm": "application/vnd.ms-word.document.macroenabled.12",
    "pptx": _OFFICE + "presentationml.presentation",
    "ods": _ODF + "spreadsheet",
    "odt": _ODF + "text",
    "zip": "application/zip",
    "gz": "application/gzip",
    "tgz": "application/gzip",
    "bz2": "application/x-bzip2",
    "tbz2": "application/x-bzip2",
    "xz": "application/x-xz",
    "txz": "application/x-xz",
    "tar": "application/x-tar",
    "7z": "application/x-7z-compressed",
    "rar": "application/vnd.rar",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "svg": "image/svg+xml",
    "eml": "message/rfc822",
    "exe": "application/vnd.microsoft.portable-executable",
}
# What an order comes as.
DOCUMENT_TYPES = frozenset(_BY_EXTENSION.values()) - {"text/plain", "text/html", "message/rfc822"}
_SAME = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/tif": "image/tiff",
    "image/x-tiff": "image/tiff",
    "image/x-ms-bmp": "image/bmp",
    "image/x-bmp": "image/bmp",
    "application/x-pdf": "application/pdf",
    "application/acrobat": "application/pdf",
    "text/rtf": "application/rtf",
    "text/xml": "application/xml",
    "text/comma-separated-values": "text/csv",
    "application/csv": "text/csv",
    "application/x-csv": "text/csv",
    "text/x-csv": "text/csv",
    "application/x-zip-compressed": "application/zip",
    "application/x-zip": "application/zip",
    "application/x-gzip": "application/gzip",
    "application/x-tgz": "application/gzip",
    "application/x-compressed-tar": "application/gzip",
    "application/bzip2": "application/x-bzip2",
    "application/x-bzip": "application/x-bzip2",
    "application/xz": "application/x-xz",
    "application/tar": "application/x-tar",
    "application/x-gtar": "application/x-tar",
    "application/x-7z": "application/x-7z-compressed",
    "application/x-rar": "application/vnd.rar",
    "application/x-rar-compressed": "application/vnd.rar",
    "application/x-msdownload": "application/vnd.microsoft.portable-executable",
    "application/x-dosexec": "application/vnd.microsoft.portable-executable",
    "application/ms-tnef": "application/vnd.ms-tnef",
    "application/excel": "application/vnd.ms-excel",
    "application/x-excel": "application/vnd.ms-excel",
    "application/x-msexcel": "application/vnd.ms-excel",
    "application/vnd.msexcel": "application/vnd.ms-excel",
    "application/word": "application/msword",
    "application/vnd.msword": "application/msword",
    "application/x-msword": "application/msword",
}
_SAYS_LITTLE = ("", "application/octet-stream", "text/plain", "application/unknown", "application/x-unknown")
# What is inside them is known from the name or the sender only.
_SHARED = ("application/zip", "application/x-ole-storage", "application/xml")
_FAMILIES = (
    # Mail programs call a .xlsx by the type of a .xls, and Office keeps a locked .xlsx in a file like a .xls.
    re.compile(
        r"application/(?:zip|java-archive|epub\+zip|vnd\.(?:openxml|oasis\.opendoc|ms-.*macroenabled).*"
        r"|x-ole-storage|msword|vnd\.ms-(?:excel|powerpoint|outlook|word|works|project))"
    ),
    re.compile(r"(?:application|text)/(?:xml|html|.*\+xml)|image/svg\+xml"),
)
_HAS_SIGNATURE = frozenset(
    kind
    for kind in _BY_EXTENSION.values()
    if not kind.startswith(("text/", "message/")) and kind not in ("application/json", "image/svg+xml")
) - {"application/edifact", "application/edi-x12", "application/xml", "application/x-tar"}


def plain_type(kind: str) -> str:
    """Return the registered name of a type that is known under several."""
    return _SAME.get(kind, kind)


def content_type(declared: str, detected: str | None, filename: str | None) -> str:
    """Return what a part is, as far as its content, its name and its sender show."""
    declared, shown = plain_type(declared), plain_type(detected or "")
    named = _BY_EXTENSION.get(extension(filename), "")
    if shown and shown not in _SHARED:
        return shown
    claims = (claim for claim in (named, declared) if claim not in _SAYS_LITTLE and not _differ(claim, shown))
    return next(claims, shown or (named if declared == "application/octet-stream" and named else declared))


def contradictions(declared: str, detected: str | None, filename: str | None) -> tuple[str, ...]:
    """Return the defects of a part whose name or declared type its content contradicts."""
    shown = plain_type(detected or "")
    by_name = _BY_EXTENSION.get(extension(filename), "")
    return (
        *((NAME_DIFFERS,) if _differ(by_name, shown) else ()),
        *((TYPE_DIFFERS,) if _differ(plain_type(declared), shown) else ()),
    )


def _differ(claim: str, shown: str) -> bool:
    """Return whether content that shows one type cannot be what is claimed. Content may show none."""
    if claim in ("", "application/octet-stream") or claim == shown:
        return False
    if claim in _HAS_SIGNATURE:
        return _family(claim) != _family(shown)
    is_binary = shown in _HAS_SIGNATURE
    return is_binary and (claim in _BY_EXTENSION.values() or claim.startswith("text/"))


def _family(kind: str) -> str | re.Pattern[str]:
    """Return what types have in common that one program writes under several of their names."""
    return next((family for family in _FAMILIES if family.fullmatch(kind)), kind)
