"""What the checks of Postfix say of a deployment."""

import os
from pathlib import Path

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.admin.checks.postconf import Postconf
from orderflow_ingest.entrypoints.admin.checks.postfix import check_postfix, open_postfix

from .lab.deployment import Deployment


def said(deployment: Deployment, config: Path) -> str:
    for name in ("main.cf", "master.cf"):
        os.utime(config / name, (0, 0))  # postconf waits until what it reads is a second old
    postfix = open_postfix(str(config))
    assert isinstance(postfix, Postconf)
    app = open_app(load(str(deployment.settings_file), {}), guarded=False)
    found = list(check_postfix(app, postfix))
    app.records.database.close()
    return "\n".join(f"{level}: {text}" for level, text in found)
