"""Alerts, dashboard and probes refer to what exists: metrics, sections of the runbook, routes."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from finetune_api.outcomes import FailureClass
from support.clusters import PROJECT
from support.helm import CHART, Object, rendered

ALERTS: list[Object] = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
DASHBOARD: Object = json.loads((CHART / "files" / "dashboard.json").read_text())
DOCUMENTED = dict(
    re.findall(r"^\| `([a-z_]+)` \| (\w+) \|", (PROJECT / "docs" / "metrics.md").read_text(), re.MULTILINE)
)
METRIC = re.compile(r"\b(?:finetune|process)_[a-z_]+")


def _names(expression: str) -> set[str]:
    """Documented names of the metrics in an expression; a histogram's series have its name and a suffix."""
    found = METRIC.findall(expression)
    return {name if name in DOCUMENTED else re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


def _one(documents: list[Object], kind: str) -> Object:
    (found,) = (item for item in documents if item["kind"] == kind)
    return found


def test_nothing_of_it_is_made_unless_asked_for() -> None:
    kinds = {item["kind"] for item in rendered()}
    assert kinds.isdisjoint({"ServiceMonitor", "PrometheusRule", "ConfigMap", "PodDisruptionBudget"})


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_uses_metrics_that_exist_and_has_a_section(alert: Object) -> None:
    assert _names(alert["expr"])
    assert _names(alert["expr"]) <= set(DOCUMENTED)
    assert alert["expr"].count("(") == alert["expr"].count(")")
    assert f"\n### {alert['alert']}\n" in (PROJECT / "docs" / "operating.md").read_text()


def test_the_runbook_has_no_section_without_an_alert() -> None:
    sections = re.findall(r"^### (\w+)$", (PROJECT / "docs" / "operating.md").read_text(), re.MULTILINE)
    assert sections == [alert["alert"] for alert in ALERTS]


def test_outcomes_in_alerts_are_failure_classes() -> None:
    for alert in ALERTS:
        for outcomes in re.findall(r'finished_total\{outcome=~"([^"]+)"', alert["expr"]):
            assert set(outcomes.split("|")) <= {failure.value for failure in FailureClass}


def test_rules_link_to_the_runbook() -> None:
    documents = rendered("prometheusRule.enabled=true", "prometheusRule.runbookUrl=https://docs.example.com/operating")
    rules = _one(documents, "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules] == [alert["alert"] for alert in ALERTS]
    assert [rule["expr"] for rule in rules] == [alert["expr"] for alert in ALERTS]
    links = [rule["annotations"]["runbook_url"] for rule in rules]
    assert links[1] == "https://docs.example.com/operating#finetunewatchblind"


def test_the_dashboard_shows_metrics_that_exist() -> None:
    shown = {name for panel in DASHBOARD["panels"] for target in panel["targets"] for name in _names(target["expr"])}
    assert shown <= set(DOCUMENTED)
    assert len(shown) >= 12
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    made = _one(rendered("grafanaDashboard.enabled=true"), "ConfigMap")
    assert json.loads(made["data"]["finetune-operator.json"]) == DASHBOARD
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_monitor_finds_the_service_and_its_port() -> None:
    documents = rendered("serviceMonitor.enabled=true")
    monitor, service = _one(documents, "ServiceMonitor")["spec"], _one(documents, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
