"""What `orderflow-admin check` finds in a deployment."""

import pwd
import shutil
import subprocess
from pathlib import Path

from .lab.deployment import Deployment
from .operating import check


def deployed(template: Deployment, place: Path, way: str) -> Deployment:
    subprocess.run(["cp", "-a", f"{template}/.", place / "state"], check=True)
    deployment = Deployment(place, way=way)
    shutil.chown(place / "state", "nobody", pwd.getpwnam("nobody").pw_gid)
    return deployment


def findings(deployment: Deployment) -> dict[str, tuple[str, str]]:
    """Run check as root, who looks as each user."""
    deployment.user = "root"
    try:
        return check(deployment, "--postfix-config", str(deployment.postfix.config_directory))
    finally:
        deployment.user = "nobody"
