"""The settings in real processes: paths, and keys that reach the environment."""

import subprocess
import sys
from pathlib import Path


def written(place, text):
    file = place / "ingest.env"
    file.write_bytes(text)
    return str(file)


def test_the_file_stands_with_its_absolute_path(place):
    written(place, b"")
    script = "from orderflow_ingest.config import load; print(load('ingest.env').file)"
    root = str(Path(__file__).parents[2])
    environ = {"PYTHONPATH": root, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], cwd=place, env=environ, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{place}/ingest.env\n", "")


def test_the_keys_of_aws_and_of_the_handler_reach_the_environment_and_do_not_replace_what_is_there(place):
    text = b"AWS_ACCESS_KEY_ID=file\nAWS_SECRET_ACCESS_KEY=file\nTZ=file\n"
    file = written(place, text + b"ORDERFLOW_HANDLER_URL=file\nORDERFLOW_HANDLER_KEY=file\n")
    script = (
        "import os; from orderflow_ingest.config import load; load()\n"
        "names = 'AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'TZ', 'ORDERFLOW_HANDLER_URL', 'ORDERFLOW_HANDLER_KEY'\n"
        "print([os.environ.get(name) for name in names])"
    )
    own = {"AWS_ACCESS_KEY_ID": "own", "ORDERFLOW_HANDLER_KEY": "own"}
    environ = {"PYTHONPATH": str(Path(__file__).parents[2]), "ORDERFLOW_SETTINGS": file, **own}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['own', 'file', None, 'file', 'own']\n", "")
