"""Loads the operator's programs, all of them, from where they are installed; the process of `warm` imports this."""

import pkgutil
import sys
from importlib import import_module
from pathlib import Path

from .warm import PROGRAMS

_ROOT = Path(__file__).parents[3]
_before = sys.path[:]
sys.path[:] = [place for place in _before if Path(place or ".").resolve() != _ROOT]
for name in PROGRAMS.values():
    package = name.rpartition(".")[0]
    for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        import_module(module.name)
for name in ("boto3", "psycopg", "sqlalchemy.dialects.sqlite", "orderflow_ingest.pipeline.receive"):
    import_module(name)
sys.path[:] = _before
