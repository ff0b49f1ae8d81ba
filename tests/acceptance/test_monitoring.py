"""orderflow-metrics, and what stands on it: the dashboard, the alerts, and the page that explains them."""

import http.client
import os
import re
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from orderflow_ingest.entrypoints.exporter import gauges
from orderflow_ingest.entrypoints.http_server import THREADS
from tests.support.lab.deployment import DOMAIN, ENVIRONMENT, PROGRAMS, Deployment
from tests.support.lab.process import Process, free_port, listening, scratch, wait_until
from tests.support.mails import mail, order
from tests.support.monitoring import DASHBOARD, DECLARED, MONITORING, RULES, asked, names

PROMTOOL = PROGRAMS / "promtool"
ACME = f"orders+acme@{DOMAIN}"


def read(text: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a page: by the metric's name and its labels' values in the order of their names."""
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def scrape(deployment: Deployment) -> dict[tuple[str, ...], float]:
    return read(deployment.run("orderflow-metrics", "--once").stdout)


def promtool(*arguments: str | Path, text: str | None = None) -> str:
    """Run promtool, and return what it says."""
    ended = subprocess.run([PROMTOOL, *arguments], input=text, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def busy():
    """A deployment with service and worker that has had some mail, and the page that it showed then."""
    with scratch() as place:
        deployment = Deployment(place, {"ORDERFLOW_MAX_MESSAGE_SIZE": "100000"}, service=True)
        deployment.admin("init")
        for slug in ("acme", "bolt"):
            deployment.admin("org", "add", slug)
        deployment.worker.start()
        deployment.service.start()
        for number in range(4):
            assert deployment.deliver(ACME, order(number), socket=True).returncode == 0
        assert deployment.deliver(ACME, order(0), socket=True).returncode == 0
        assert deployment.deliver(f"orders+bolt@{DOMAIN}", order(5)).returncode == 0
        assert deployment.deliver(ACME, order(1) + b"changed\n").returncode == 0
        for number in range(3):
            assert deployment.deliver(f"orders+stranger{number}@{DOMAIN}", mail(), socket=True).returncode == 67
        assert deployment.deliver(ACME, mail(7, b"x" * 99 + b"\n" * 200000), socket=True).returncode == 65
        with smtplib.LMTP(str(deployment.sockets / "lmtp.sock")) as client:
            client.ehlo()
            client.mail("buyer@shop.example")
            assert client.rcpt(f"orders+stranger9@{DOMAIN}")[0] == 550
        deployment.wait_finished(5)
        with closing(sqlite3.connect(deployment.state / "orderflow.db")) as rows, rows:  # as a worker leaves them
            rows.execute("UPDATE inbound_message SET status = 'FAILED' WHERE subject = 'Order 3'")
            rows.execute("UPDATE document SET handover = 'FAILED' WHERE filename = 'order-2-0.pdf'")
        yield deployment, deployment.run("orderflow-metrics", "--once").stdout
        deployment.stop()


@pytest.fixture
def deployment(template, place) -> Deployment:
    """A deployment with one organization, and no worker."""
    subprocess.run(["cp", "-a", f"{template}/.", place / "state"], check=True)
    return Deployment(place)


@pytest.fixture
def page(busy) -> dict[tuple[str, ...], float]:
    return read(busy[1])


# What it shows


def test_counts_are_what_really_happened(page):
    def counted(name):
        return {
            labels: value
            for (found, *labels), value in page.items()
            if found == name and value
            for labels in [tuple(labels)]
        }

    assert counted("orderflow_deliveries_total") == {
        ("acme", "DELIVERED"): 4,
        ("acme", "DUPLICATE"): 1,
        ("acme", "HELD"): 1,
        ("bolt", "DELIVERED"): 1,
        ("", "UNKNOWN_ORG"): 3,
    }
    assert counted("orderflow_extractions_total") == {("parsed", "acme"): 4, ("parsed", "bolt"): 1}
    assert counted("orderflow_handovers_total") == {("done", "acme"): 8, ("done", "bolt"): 2}
    assert counted("orderflow_refusals_total") == {("TOO_BIG",): 1, ("UNKNOWN_ORG",): 1}
    assert counted("orderflow_backend_errors_total") == {}
    assert page["orderflow_delivery_seconds_count",] == page["orderflow_message_bytes_count",] == 10
    assert (page["orderflow_extraction_seconds_count",], page["orderflow_handover_seconds_count",]) == (5, 10)


def test_gauges_are_what_is_there(page):
    assert {part: page["orderflow_up", part] for part in ("counts", *gauges.PROBES)} == dict.fromkeys(
        ("counts", "database", "queue", "spool", "service"), 1.0
    )
    wanted = {
        ("orderflow_messages", "FAILED"): 1,
        ("orderflow_messages", "RECEIVED"): 0,
        ("orderflow_messages_failed_by_org", "acme"): 1,
        ("orderflow_documents", "FAILED"): 1,
        ("orderflow_documents", "PENDING"): 0,
        ("orderflow_documents_failed_by_org", "acme"): 1,
        ("orderflow_held_mail",): 1,
        ("orderflow_held_mail_by_org", "acme"): 1,
        ("orderflow_queue_tasks",): 0,
        ("orderflow_spool_entries",): 0,
        ("orderflow_dead_letters",): 0,
        ("orderflow_breaker_open", "archive"): 0,
        ("orderflow_service_workers",): 20,
        ("orderflow_service_busy",): 0,
        ("orderflow_oldest_unfinished_seconds",): 0,
        ("orderflow_overdue_seconds",): 0,
    }
    assert {key: page[key] for key in wanted} == wanted


def test_strangers_make_no_label_and_no_name_of_theirs_is_shown(busy):
    assert "stranger" not in busy[1]


def test_promtool_finds_nothing_to_say_of_the_page(busy):
    assert promtool("check", "metrics", text=busy[1]) == ""


def test_what_is_unfinished_and_broken_shows(deployment):
    assert deployment.deliver(ACME, order(1)).returncode == 0
    (deployment.state / "circuits" / "archive").touch()
    for name in ("one", "two", "one.why"):
        (deployment.state / "spool" / "dead" / name).touch()
    (deployment.state / "spool" / "new" / "three").touch()
    found = scrape(deployment)
    assert found["orderflow_up", "service"] == 0
    assert ("orderflow_service_workers",) not in found
    assert (found["orderflow_messages", "RECEIVED"], found["orderflow_queue_tasks",]) == (1, 1)
    assert 0 < found["orderflow_oldest_unfinished_seconds",] < 60
    assert (found["orderflow_dead_letters",], found["orderflow_spool_entries",]) == (2, 1)
    assert (found["orderflow_breaker_open", "archive"], found["orderflow_breaker_open", "database"]) == (1, 0)


def test_before_there_is_anything_the_page_says_so(place):
    found = scrape(Deployment(place))
    assert {name: found["orderflow_up", name] for name in ("counts", "database", "queue", "spool", "service")} == {
        "counts": 1, "database": 0, "queue": 0, "spool": 0, "service": 0,
    }  # fmt: skip
    assert found["orderflow_deliveries_total", "", "INTERNAL"] == 0
    assert not [name for name, *_ in found if name.startswith(("orderflow_messages", "orderflow_spool"))]


# Kills


def test_a_killed_service_and_worker_leave_their_counts_and_their_slots(busy):
    deployment, _ = busy
    before = scrape(deployment)
    deployment.service.kill()
    deployment.worker.kill()
    after = scrape(deployment)
    assert after["orderflow_up", "service"] == 0
    for key, value in before.items():
        if key[0].endswith(("_total", "_bucket", "_count", "_sum")):
            assert after[key] == value, key
    slots = sorted(path.name for path in (deployment.state / "metrics").iterdir())
    deployment.service.start()
    deployment.worker.start()
    assert deployment.deliver(ACME, order(50), socket=True).returncode == 0
    deployment.wait_parsed("Order 50")
    later = scrape(deployment)
    key = ("orderflow_deliveries_total", "acme", "DELIVERED")
    assert later[key] == before[key] + 1
    assert sorted(path.name for path in (deployment.state / "metrics").iterdir()) == slots


def test_metrics_that_cannot_be_written_change_nothing_for_the_sender(deployment):
    directory = deployment.state / "metrics"
    directory.chmod(0)
    os.chown(directory, 0, 0)
    ended = deployment.deliver(ACME, order(1))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"2.0.0 message recorded", b"")
    told = [record for record in deployment.log_records() if record.get("action") == "metrics"]
    assert [record["message"] for record in told] == ["Metrics cannot be written."]
    found = scrape(deployment)
    assert found["orderflow_up", "counts"] == 0 and found["orderflow_up", "database"] == 1
    assert ("orderflow_deliveries_total", "", "INTERNAL") not in found


def test_roots_programs_leave_no_file_of_roots(deployment):
    env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(deployment.settings_file)}
    command = [PROGRAMS / "orderflow-deliver", "--settings", deployment.settings_file, "--", ACME]
    subprocess.run(command, env=env, input=order(1), capture_output=True)
    subprocess.run([PROGRAMS / "orderflow-replay", "spool"], env=env, check=True, capture_output=True)
    owner = deployment.state.stat().st_uid
    assert owner and {path.stat().st_uid for path in (deployment.state / "metrics").rglob("*")} <= {owner}


# Over HTTP


@contextmanager
def exporter(deployment: Deployment, address: str, *options: str):
    """Run orderflow-metrics at an address."""
    path = address.removeprefix("unix:")
    process = Process(
        [PROGRAMS / "orderflow-metrics", *options],
        deployment.directory / "metrics.log",
        ready=lambda: Path(path).exists() if path.startswith("/") else listening(int(path.rpartition(":")[2])),
        user=deployment.user,
        env={**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(deployment.settings_file), "ORDERFLOW_METRICS": address},
    )
    with process:
        yield process


def test_prometheus_is_answered_and_whoever_asks_wrongly_is_told_so(busy):
    port = free_port()
    with exporter(busy[0], f"127.0.0.1:{port}"):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("GET", "/metrics?x=1")
        answer = client.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert read(answer.read().decode())["orderflow_up", "database"] == 1
        client.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        answer = client.getresponse()
        families = {family.name for family in openmetrics_families(answer.read().decode())}
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert {metric.name.removesuffix("_total") for metric in DECLARED} <= families
        for request, status in (
            (b"HEAD /metrics HTTP/1.0\r\n\r\n", 200),
            (b"GET / HTTP/1.0\r\n\r\n", 404),
            (b"GET /metrics/../../etc/passwd HTTP/1.0\r\n\r\n", 404),
            (b"POST /metrics HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", 405),
            (b"DELETE /metrics HTTP/1.0\r\n\r\n", 405),
            (b"BREW /metrics HTTP/1.0\r\n\r\n", 405),
            (b"nonsense\r\n\r\n", 400),
            (b"GET /" + b"x" * 33000 + b" HTTP/1.0\r\n\r\n", 431),
        ):
            answer = asked(port, request)
            assert b"%d" % status in answer[:20], (request[:40], answer[:80])
        assert asked(port, b"HEAD /metrics HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.0\r\nX: "], ids=["nothing", "half a header"])
def test_clients_that_hang_keep_nobody_out(busy, sent):
    port = free_port()
    with exporter(busy[0], f"127.0.0.1:{port}"):
        idle = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(100)]
        for client in idle:
            with suppress(OSError):  # closed for one that came later
                client.sendall(sent)
        for _ in range(5):
            assert b" 200 OK" in asked(port, b"GET /metrics HTTP/1.0\r\n\r\n")[:20]
        for client in idle:
            client.close()


def test_a_unix_socket_is_for_its_user_and_group_and_a_killed_ones_is_replaced(busy):
    deployment, _ = busy
    path = deployment.sockets / "metrics.sock"
    for _ in range(2):
        with exporter(deployment, f"unix:{path}") as process:
            assert wait_until(lambda: served(path), 60)
            assert oct(path.stat().st_mode)[-3:] == "660"
            env = {"ORDERFLOW_METRICS": f"unix:{path}"}
            ended = run(deployment, env)
            assert (ended.returncode, "another program listens here" in ended.stderr) == (1, True)
            process.kill()


def served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return b" 200 OK" in client.recv(65536)


def run(deployment: Deployment, env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAMS / "orderflow-metrics", "--settings", deployment.settings_file, *options],
        env={**ENVIRONMENT, **env}, capture_output=True, text=True, timeout=60, **deployment.credentials(),
    )  # fmt: skip


def test_an_address_that_others_can_reach_has_to_be_said(busy):
    port = free_port()
    ended = run(busy[0], {"ORDERFLOW_METRICS": f"0.0.0.0:{port}"})
    assert (ended.returncode, "--any-address" in ended.stderr) == (1, True), ended.stderr
    with exporter(busy[0], f"0.0.0.0:{port}", "--any-address"):
        assert b" 200 OK" in asked(port, b"GET /metrics HTTP/1.0\r\n\r\n")[:20]
        ended = run(busy[0], {"ORDERFLOW_METRICS": f"127.0.0.1:{port}"})
        assert (ended.returncode, "Address already in use" in ended.stderr) == (1, True), ended.stderr


def test_it_ends_when_it_is_asked_to(busy):
    port = free_port()
    with exporter(busy[0], f"127.0.0.1:{port}") as process:
        os.kill(process.pid, signal.SIGTERM)
        assert wait_until(lambda: not process.running, 60)


# Backends that are away


@contextmanager
def silent_server():
    """A server that accepts connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield server.getsockname()[1]


def test_a_scrape_waits_for_no_server_that_hangs_and_asks_it_once(deployment):
    with silent_server() as silent:
        env = {"DATABASE_URL": f"postgresql://u:p@127.0.0.1:{silent}/x", "QUEUE_URL": f"redis://127.0.0.1:{silent}/0"}
        deployment.write_settings(env)
        port = free_port()
        with exporter(deployment, f"127.0.0.1:{port}") as process:
            for _ in range(3):
                found = read(asked(port, b"GET /metrics HTTP/1.0\r\n\r\n").decode().partition("\r\n\r\n")[2])
                assert (found["orderflow_up", "database"], found["orderflow_up", "spool"]) == (0, 1)
                assert found["orderflow_spool_entries",] == 0
                assert not [name for name, *_ in found if name.startswith("orderflow_messages")]
            threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
            assert threads <= THREADS + 4, "a thread for each question to a server that hangs"


# To a file


def test_a_textfile_is_there_whole_or_not_and_other_users_can_read_it(busy):
    deployment, _ = busy
    file = deployment.state / "orderflow.prom"
    for _ in range(2):
        deployment.run("orderflow-metrics", "--textfile", str(file))
    assert read(file.read_text())["orderflow_up", "database"] == 1
    assert oct(file.stat().st_mode)[-3:] == "644"
    assert not list(deployment.state.glob(".orderflow.prom*"))
    ended = deployment.run("orderflow-metrics", "--textfile", "/proc/orderflow.prom", check=False)
    assert ended.returncode == 1 and ended.stderr.startswith("Error: /proc/orderflow.prom cannot be written: ")


# The dashboard, the alerts, the manual


def expressions(panel: dict) -> list[str]:
    return [target["expr"] for target in panel.get("targets", ())]


CHARTS = [expression for panel in DASHBOARD["panels"] for expression in expressions(panel)]
VARIABLES = DASHBOARD["templating"]["list"]


def test_dashboard_and_alerts_ask_for_metrics_that_there_are_and_leave_none_out(page):
    shown = {name for name, *_ in page}
    asked_for = set().union(
        *(
            names(text)
            for text in [*CHARTS, *(rule["expr"] for rule in RULES), *(v["query"]["query"] for v in VARIABLES[1:])]
        )
    )
    assert asked_for - shown == set()
    whole = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked_for}
    assert {metric.name for metric in DECLARED} - whole == set()


def test_labels_that_are_asked_for_are_there(busy):
    labels = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(busy[1])
        for sample in family.samples
    }
    for expression in [*CHARTS, *(rule["expr"] for rule in RULES)]:
        for name, matchers in re.findall(r"(orderflow_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) - {"instance", "job"} <= labels[name], expression


def test_promtool_accepts_every_expression_of_the_dashboard(place):
    known = {"$__rate_interval": "1m", "$instance": ".*", "$org": ".*"}
    exprs = [*CHARTS, *(one["expr"] for one in DASHBOARD["annotations"]["list"])]
    for name, value in known.items():
        exprs = [expr.replace(name, value) for expr in exprs]
    assert not [expr for expr in exprs if "$" in expr]
    rules = [{"record": f"chart:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    (place / "charts.yml").write_text(yaml.safe_dump({"groups": [{"name": "charts", "rules": rules}]}))
    assert f"SUCCESS: {len(exprs)} rules found" in promtool("check", "rules", place / "charts.yml")


def test_promtool_accepts_the_alerts_and_they_fire_when_they_should():
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", MONITORING / "alerts.yml")
    tests = sorted(MONITORING.glob("*.test.yml"))
    assert promtool("test", "rules", *tests).count("SUCCESS") == len(tests) == 2


def test_no_program_but_the_exporter_loads_prometheus_client():
    programs = (
        "tasks, entrypoints.service.daemon, entrypoints.pipe_fallback, entrypoints.replay.main, entrypoints.admin.main"
    )
    imports = "; ".join(f"import orderflow_ingest.{name}" for name in programs.split(", "))
    code = f"import sys; {imports}; sys.exit('prometheus_client' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "ORDERFLOW_SETTINGS": "/dev/null"}).returncode
        == 0
    )
