"""The site of the documentation: `script/docs` builds it."""

import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from orderflow_ingest import __version__  # noqa: E402 (the checkout's own)

project = "OrderFlow ingest"
author = "The OrderFlow ingest developers"
copyright = f"2026, {author}"
version = release = __version__
extensions = ["myst_parser", "sphinx_click", "orderflow_tables"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_ext", "monitoring"]
html_theme = "furo"
html_title = f"OrderFlow ingest {version}"
nitpicky = True
logging.getLogger("alembic").setLevel(logging.WARNING)  # it announces its plugins to Sphinx's log
