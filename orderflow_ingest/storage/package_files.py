"""Files that are delivered with the package: the migrations and the fragments of Postfix's configuration."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def package_directory(name: str) -> Path:
    """Return a directory of such files: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
