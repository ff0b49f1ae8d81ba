"""Tell which attachments are containers, and open them.

Guarantees: container_kind never raises, and reads names and first bytes, and of an OLE file the whole; open_container
opens lazily, and raises as the opener does, which is imported when the first member is asked for.

The bytes decide before the declared type and the name. Files that are containers to a machine only, and documents to
people, stay whole: office documents, programs, maps, e-books, compressed pictures. A ZIP is told from them by the
names of its members, see `mime.sniff`, and where these say nothing by its own name or declared type. A program that
carries an archive at its end does not begin as one, and stays whole.
"""

from collections.abc import Iterator

from ..mime.filenames import extension
from . import Budget, Member, NotOpened
from .guards import GZIP, OLE, TNEF

_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK00PK\x03\x04", b"PK\x07\x08PK\x03\x04")
_MESSAGE_STREAM = "__properties_version1.0".encode("utf-16-le")
_OUTLOOK_TYPE = "application/vnd.ms-outlook"
_TNEF_TYPES = ("application/ms-tnef", "application/vnd.ms-tnef")
_SMIME_TYPES = (
    "application/pkcs7-mime",
    "application/x-pkcs7-mime",
    "application/pkcs7-signature",
    "application/x-pkcs7-signature",
    "application/cms",
)
_UNTOLD_TYPES = ("", "application/octet-stream", "application/binary", "application/x-download", "text/plain")
_ZIP_TYPES = (
    *_UNTOLD_TYPES,
    "application/zip",
    "application/x-zip",
    "application/x-zip-compressed",
    "application/zip-compressed",
    "application/x-compressed",
    "application/x-compress",
    "multipart/x-zip",
)
# Files in ZIP and gzip that are opened by their own programs only.
_WHOLE_ZIPS = """
docx docm dotx dotm xlsx xlsm xlsb xltx xltm xlam pptx pptm potx potm ppsx ppsm ppam vsdx vsdm vstx sldx thmx
odt ods odp odg odf odb odm ott ots otp otg sxw sxc sxi pages numbers key xps oxps epub jar war ear apk aab ipa
xpi crx vsix whl egg nupkg kmz 3mf 3dxml sketch fig idml indd mscz sb3 pbix twbx one mmap xmind drawio mpp cbz
usdz step ifczip dwfx asice asics bdoc appx msix
"""
_WHOLE_GZIPS = "svgz emz wmz dia gnucash rds rdata blend vgz xcfgz mml kra adz als cpgz ggb pbf"


def container_kind(declared_type: str, detected_type: str | None, filename: str, data: bytes) -> str | None:
    """Return the kind of container that an attachment is to be opened as, None if it stays whole."""
    ending = extension(filename)
    if data.startswith(TNEF):
        return "tnef"
    if data.startswith(_ZIP):
        plain = detected_type in ("application/zip", None) and ending not in _WHOLE_ZIPS.split()
        return "zip" if plain and (declared_type in _ZIP_TYPES or ending == "zip") else None
    if data.startswith(GZIP):
        return None if ending in _WHOLE_GZIPS.split() or declared_type.startswith("image/") else "gzip"
    if data.startswith(OLE):
        told = ending == "msg" or declared_type == _OUTLOOK_TYPE or detected_type == _OUTLOOK_TYPE
        unknown = detected_type in ("application/x-ole-storage", None)
        return "outlook" if told or (unknown and _MESSAGE_STREAM in data) else None
    if declared_type in _SMIME_TYPES or ending == "p7m" or (ending == "p7s" and declared_type in _UNTOLD_TYPES):
        return "smime"
    if detected_type is None and (ending == "zip" or declared_type in _ZIP_TYPES[-6:]):
        return "zip"
    if declared_type in _TNEF_TYPES or filename.lower() == "winmail.dat":
        return "tnef"
    return None


def open_container(kind: str, data: bytes, budget: Budget, filename: str = "", hint: str = "") -> Iterator[Member]:
    """Yield the members of a container; filename is its own name, hint a charset of the mail. Raises NotOpened."""
    if kind == "zip":
        from .zip_archive import open_zip

        yield from open_zip(data, budget, hint)
    elif kind == "gzip":
        from .gzip_file import open_gzip

        yield from open_gzip(data, budget, filename)
    elif kind == "tnef":
        from .tnef import open_tnef

        yield from open_tnef(data, budget)
    elif kind == "outlook":
        from .outlook import open_outlook

        yield from open_outlook(data, budget)
    elif kind == "smime":
        from .smime import open_smime

        yield from open_smime(data, budget, filename)
    else:
        raise NotOpened("unknown container")
