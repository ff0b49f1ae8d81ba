"""No password or key is in any output, log, bounce or argv, whichever backend refuses and however a URL is written.

The real programs run with distinctive secrets, in each situation that keeps them from working.
"""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.lab import smtp
from tests.support.lab.deployment import DOMAIN, ENVIRONMENT, Deployment
from tests.support.lab.process import free_port, wait_until
from tests.support.mails import order

SECRET = "hidden7Q"  # in each of them, on both sides of what a parser may cut at
KEY = "HIDDENKEY7Q000000001"
S3 = {
    "ARCHIVE_URL": "s3://orders/mail",
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
}


def of(server: str, password: str = SECRET, name: str = "of") -> str:
    return f"postgresql://{name}:{password}@{server}"


SITUATIONS = {
    "database nobody listens": lambda lab: {"DATABASE_URL": of(f"127.0.0.1:{free_port()}/of")},
    "database refuses the password": lambda lab: {"DATABASE_URL": of(lab.postgres, name=lab.role)},
    "database without the role": lambda lab: {"DATABASE_URL": of(lab.postgres)},
    "database not set up": lambda lab: {"DATABASE_URL": of(lab.postgres, lab.password, lab.role)},
    "database without TLS": lambda lab: {
        "DATABASE_URL": of(f"{lab.postgres}?sslmode=verify-full&sslpassword={SECRET}")
    },
    "database of no host": lambda lab: {"DATABASE_URL": of("db.invalid/of")},
    "unknown option": lambda lab: {"DATABASE_URL": of(f"127.0.0.1:{free_port()}/of?nope=1")},
    "wrong option": lambda lab: {"DATABASE_URL": of("127.0.0.1/of?sslmode=nope")},
    "no port": lambda lab: {"DATABASE_URL": of(f"127.0.0.1:{SECRET}/of")},
    "percent": lambda lab: {"DATABASE_URL": of("127.0.0.1:1/of", f"{SECRET}%zz{SECRET}")},
    "nul": lambda lab: {"DATABASE_URL": of("127.0.0.1:1/of", f"{SECRET}%00{SECRET}")},
    "slash": lambda lab: {"DATABASE_URL": of("127.0.0.1:1/of", f"{SECRET}/{SECRET}")},
    "at": lambda lab: {"DATABASE_URL": of("127.0.0.1:1/of", f"{SECRET}@{SECRET}")},
    "hash": lambda lab: {"DATABASE_URL": of("127.0.0.1:1/of", f"{SECRET}#{SECRET}")},
    "bracket": lambda lab: {"DATABASE_URL": of("[::1/of")},
    "behind the bracket": lambda lab: {"DATABASE_URL": of("[::1]x/of")},
    "queue nobody listens": lambda lab: {"QUEUE_URL": f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"},
    "queue refuses the password": lambda lab: {"QUEUE_URL": f"redis://nobody:{SECRET}@{lab.redis}/0"},
    "queue, wrong option": lambda lab: {"QUEUE_URL": f"redis://:{SECRET}@{lab.redis}/0?socket_timeout={SECRET}"},
    "queue, unknown option": lambda lab: {"QUEUE_URL": f"redis://:{SECRET}@{lab.redis}/0?nope={SECRET}"},
    "queue, bracket": lambda lab: {"QUEUE_URL": f"redis://:{SECRET}@[::1/0"},
    "store nobody listens": lambda lab: {**S3, "S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"},
    "store refuses the key": lambda lab: {**S3, "S3_ENDPOINT_URL": lab.s3},
    "store not trusted": lambda lab: {**S3, "S3_ENDPOINT_URL": lab.secure_s3},
    "store of no region": lambda lab: {**S3, "AWS_DEFAULT_REGION": "no region /"},
    "unknown key": lambda lab: {**S3, "ORDERFLOW_PASSWORD": SECRET},
    "bad value": lambda lab: {"ORDERFLOW_DEADLINE": SECRET},
}


class Lab:
    """Where the real servers are."""

    def __init__(self, postgres, redis, ceph):
        self.role = f"secret_{uuid4().hex}"
        url = postgres.create_owned_database(self.role, self.role)
        self.password = f"{SECRET}-right"
        postgres.run_script("postgres", f"ALTER ROLE \"{self.role}\" PASSWORD '{self.password}'")
        self.postgres = url.rpartition("@")[2]
        self.redis, self.s3, self.secure_s3 = f"127.0.0.1:{redis.port}", ceph.endpoint, ceph.tls_endpoint


@pytest.fixture(scope="module")
def lab(postgres, redis, ceph):
    return Lab(postgres, redis, ceph)


@pytest.fixture
def quiet(template, place):
    """A deployment whose worker does not run: a copy of the template."""
    deployment = Deployment(place / "deployment")
    subprocess.run(["cp", "-a", f"{template}/.", deployment.state], check=True)
    return deployment


def command_lines(pid: int) -> str:
    """Return the command lines of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return own + "".join(command_lines(int(child)) for child in children)


def end(child: subprocess.Popen) -> None:
    """Kill a process and its children, if it is there still."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def ran_for_a_while(deployment: Deployment, name: str, *command: str) -> str:
    """Run a daemon until it has begun its work or ended, then end it; return its output and its command lines."""
    log = deployment.directory / f"{name}.out"
    env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(deployment.settings_file)}
    with log.open("wb") as out, ExitStack() as ending:
        child = subprocess.Popen(
            [deployment.programs / command[0], *command[1:]], cwd="/", env=env, stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, start_new_session=True, **deployment.credentials(),
        )  # fmt: skip
        ending.callback(child.wait)
        ending.callback(end, child)
        begun = deployment.is_serving if name == "service" else lambda: "consumer started" in log.read_text()
        wait_until(lambda: child.poll() is not None or begun(), 20, interval=0.1)
        wait_until(lambda: child.poll() is not None, 1.5, interval=0.1)  # the first sweep, drain and poll of the queue
        lines = command_lines(child.pid) if child.poll() is None else ""
    return lines + log.read_text(errors="replace")


WHOLE = ("database refuses the password", "queue refuses the password", "store refuses the key", "store not trusted")


def run_all(deployment: Deployment, whole: bool) -> dict[str, str]:
    """Run a delivery, check and the worker, or the whole of the programs; return what each said."""

    def operator(program: str, *arguments: str) -> str:
        ended = deployment.run(program, *arguments, check=False)
        return ended.stdout + ended.stderr

    def deliver() -> str:
        ended = deployment.deliver(f"orders+acme@{DOMAIN}", order(1))
        assert ended.returncode in (0, 75)
        return (ended.stdout + ended.stderr).decode()

    consumer = ("huey_consumer", "orderflow_ingest.tasks.huey", "-k", "process", "-w", "1", "-s", "1", "-m", "0.2")
    steps = {
        "deliver": deliver,
        "check": lambda: operator("orderflow-admin", "check", "--no-postfix"),
        "status": lambda: operator("orderflow-admin", "status"),
        "init": lambda: operator("orderflow-admin", "init"),
        "roles": lambda: operator("orderflow-admin", "roles", "s3"),
        "main": lambda: operator("orderflow-admin", "postfix", "main"),
        "list": lambda: operator("orderflow-admin", "list"),
        "spool": lambda: operator("orderflow-replay", "spool"),
        "service": lambda: ran_for_a_while(deployment, "service", "orderflow-service"),
        "worker": lambda: ran_for_a_while(deployment, "worker", *consumer),
    }
    with ThreadPoolExecutor(3) as pool:
        chosen = steps if whole else ("deliver", "check", "worker")
        said = {name: pool.submit(steps[name]) for name in chosen}
        return {name: text.result() for name, text in said.items()}


def logged(deployment: Deployment) -> dict[str, str]:
    files = [*deployment.state.rglob("*.log"), *deployment.directory.glob("*.log"), *deployment.state.rglob("dead/*")]
    return {str(file): file.read_text(errors="replace") for file in files}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_nothing_that_a_program_says_or_logs_holds_a_secret(quiet, lab, situation):
    settings = {"ORDERFLOW_LOG": str(quiet.state / "log" / "all.log"), **SITUATIONS[situation](lab)}
    quiet.write_settings(settings)
    said = run_all(quiet, situation in WHOLE)
    assert said["deliver"] and said["check"] and said["worker"]
    told = {**said, **logged(quiet)}
    for where, text in told.items():
        assert SECRET.lower() not in text.lower() and KEY not in text, f"{where}: {text}"


def test_help_and_the_scripts_hold_no_secret(quiet):
    quiet.write_settings({"DATABASE_URL": of("127.0.0.1:1/of"), "MAP_DATABASE_URL": of("127.0.0.1:1/map"), **S3})
    for command in (
        ("orderflow-admin", "--help"), ("orderflow-admin", "roles", "--help"), ("orderflow-replay", "--help"),
        ("orderflow-service", "--help"), ("orderflow-deliver", "--help"), ("orderflow-admin", "roles", "postgresql"),
        ("orderflow-admin", "roles", "s3"), ("orderflow-admin", "postfix", "master"),
        ("orderflow-admin", "postfix", "map"),
    ):  # fmt: skip
        ended = quiet.run(*command, check=False)
        assert SECRET not in ended.stdout + ended.stderr and KEY not in ended.stdout + ended.stderr, command
    assert SECRET in quiet.admin("postfix", "passfile"), "the one that is made to hold it"


@pytest.mark.parametrize("url", [of("127.0.0.1:1/map"), of("127.0.0.1:1/map?sslmode=verify-full")])
def test_postfix_logs_no_password_of_a_map_whose_database_is_away(quiet, url):
    quiet.write_settings({"DATABASE_URL": url})
    quiet.configure_postfix()
    with quiet.postfix:
        (reply,) = smtp.send(quiet.postfix.smtp_port, "a@b.example", [f"orders+acme@{DOMAIN}"], order(1)).rcpt
        assert reply.code == 451
        assert wait_until(lambda: "connect to pgsql server" in quiet.postfix.log(), 60), (
            "its log is written by a daemon"
        )
    log = quiet.postfix.log()
    assert "127.0.0.1:1" in log
    assert SECRET not in log and SECRET not in (quiet.postfix.config_directory / "orderflow_recipients.cf").read_text()
