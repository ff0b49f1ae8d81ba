"""The dashboards, the alerts and the manual name the same metrics and commands as the code."""

import re

from orderflow_ingest.entrypoints.admin import main as admin_main
from orderflow_ingest.entrypoints.replay import main as replay_main
from tests.support.monitoring import DASHBOARD, DECLARED, MONITORING, RULES, names

PAGE = (MONITORING.parent / "how-to" / "monitoring.md").read_text()


def test_the_dashboards_panels_have_ids_and_places_of_their_own():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"], panel["title"]


def test_no_alert_is_without_a_test_of_its_firing_a_severity_and_a_way_out():
    tested = set()
    for path in MONITORING.glob("*.test.yml"):
        tested |= set(re.findall(r'alertname="(\w+)"', path.read_text()))
    assert {rule["alert"] for rule in RULES} == tested
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        text = rule["annotations"]["description"]
        assert re.search(r"`(orderflow-|systemctl |journalctl |curl |postqueue )", text), rule["alert"]
        assert f"| `{rule['alert']}` | {rule['labels']['severity']} |" in PAGE


def test_commands_that_alerts_name_exist():
    known = {f"orderflow-admin {name}" for name in admin_main.cli.list_commands(None)}
    known |= {f"orderflow-replay {name}" for name in replay_main.cli.list_commands(None)}
    for rule in RULES:
        named = re.findall(r"`(orderflow-(?:admin|replay) \w+)", rule["annotations"]["description"])
        assert set(named) <= known, rule["alert"]


def test_the_manual_names_no_metric_that_there_is_not():
    known = {metric.name for metric in DECLARED}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in names(PAGE)} - {"orderflow_metrics"} <= known
