"""Alerts and the dashboard are the same in compose and the chart, Prometheus understands them, and
the series that they query exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from manman_status.api.metrics import fleet_families, http_metrics
from manman_status.processor.statistics import Statistics
from manman_status.store.measured import Measured
from tests.deployment.chart import render

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitoring/rules.yaml"
DASHBOARD = ROOT / "monitoring/dashboard.json"
NAME = re.compile(r"\b(?:manman_status|process|up|kube)\w*(?=\{)|\bup\b")
LABEL = re.compile(r'(\w+)(?:=|!=|=~|!~)"')
OF_ALL = {"job", "instance", "namespace"}
OF_REQUESTS = {"method", "path", "status_code", "app_name"}


def rules_of_compose() -> dict[str, Any]:
    [group] = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return {
        rule["alert"]: (
            rule["expr"],
            rule["for"],
            rule["labels"]["severity"],
            rule["annotations"]["summary"],
        )
        for rule in group["rules"]
    }


def rules_of_the_chart() -> dict[str, Any]:
    """The chart's rules, except those about Kubernetes, with the job in place of the release."""
    values = yaml.safe_load((ROOT / "helm/manman-status/values.yaml").read_text("utf-8"))
    return {
        name: (_of_the_job(rule["expr"]), rule["for"], rule["severity"], rule["summary"])
        for name, rule in values["prometheusRule"]["rules"].items()
        if "kube_" not in rule["expr"]
    }


def _of_the_job(expression: Any) -> Any:
    return expression.replace("{@api", '{job="manman-status"')


def dashboard_expressions() -> Iterator[Any]:
    """Grafana's own variables filled in as for compose."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    filled = {"$job": "manman-status", "$namespace": ".*", "$__rate_interval": "1m"}
    for panel in panels:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in filled.items():
                expression = expression.replace(variable, value)
            yield panel["title"], expression


def exposed() -> Any:
    """Labels by the name of each series that the api has, when there is something of everything."""
    statistics = Statistics()
    statistics.queue_depths, statistics.dead_letters_waiting = {"q": 1}, 1
    statistics.relay_backlog, statistics.sweep_ms = 1, 1.0
    row: dict[str, Any] = {"processor_id": "p", "host": "h", "version": "1"}
    row |= dict.fromkeys(("started_at", "last_seen"), "2026-11-24T12:00:00Z")
    row |= {
        "transitions_by": {"worker": {"LOST": {"heartbeat_expired": 1}}},
        "notifications": {"c": {"sent": 1}},
    }
    measured = msgspec.convert(
        {
            "active_by_health": {"healthy": 1},
            "workers": [("g", "healthy", 1)],
            "groups_total": 1,
            "terminated_workers": 0,
            "unwatched_workers": 0,
            "servers_by_status": {"RUNNING": 1, "COMPLETE": 0},
            "oldest_heartbeat_age_seconds": 1.0,
            "processors": [statistics.as_row() | row],
            "guards": [],
            "guards_total": 0,
            "guards_held": 0,
            "alerts": [],
            "observation": {
                "as_of": datetime.now(UTC),
                "lag_seconds": 1.0,
                "revision": 1,
                "epoch": "e",
            },
            "alerts_judged_age_seconds": 1.0,
        },
        Measured,
    )
    found = {
        "up": set(),
        "manman_status_database_up": set(),
        "kube_deployment_status_replicas_ready": {"deployment"},
    }
    found |= {"process_cpu_seconds_total": set(), "process_resident_memory_bytes": set()}
    found |= {f"{http_metrics.prefix}_requests_total": OF_REQUESTS}
    found |= {f"{http_metrics.prefix}_request_duration_seconds_bucket": {*OF_REQUESTS, "le"}}
    for family in fleet_families(measured):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def promtool(*arguments: Any) -> Any:
    if not shutil.which("promtool"):
        pytest.skip("there is no promtool; `make prometheus` brings it")
    ran = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_compose_and_the_chart_alert_alike() -> None:
    assert rules_of_compose() == rules_of_the_chart()


def test_prometheus_understands_the_alerts_of_both(tmp_path: Path) -> None:
    promtool("check", "rules", RULES)
    of_the_chart = tmp_path / "rules.yaml"
    rule = render({"prometheusRule": {"enabled": True}}).one("PrometheusRule")
    of_the_chart.write_text(yaml.safe_dump(rule["spec"]), "utf-8")
    promtool("check", "rules", of_the_chart)


def test_each_alert_fires_when_due_and_none_when_all_is_well() -> None:
    cases = ROOT / "monitoring/rules.test.yaml"
    promtool("test", "rules", cases)
    tests = yaml.safe_load(cases.read_text("utf-8"))["tests"]
    fired = {
        each["alertname"]
        for test in tests
        for each in test.get("alert_rule_test", ())
        if each["exp_alerts"]
    }
    assert fired == rules_of_compose().keys()


def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{n}", "expr": expr}
        for n, (_, expr) in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    promtool("check", "rules", file)


def queried() -> Iterator[tuple[str, str]]:
    of_the_chart = render({"prometheusRule": {"enabled": True}}).one("PrometheusRule")["spec"][
        "groups"
    ][0]["rules"]
    yield from ((rule["alert"], rule["expr"]) for rule in of_the_chart)
    yield from dashboard_expressions()


@pytest.mark.parametrize(("title", "expression"), list(queried()), ids=lambda text: text[:40])
def test_every_series_that_is_queried_exists(title: Any, expression: Any) -> None:
    there = exposed()
    names = NAME.findall(expression)
    assert names
    for name in names:
        assert name in there
        for selector in re.findall(rf"\b{name}\{{(.*?)\}}", expression):
            assert set(LABEL.findall(selector)) <= there[name] | OF_ALL
    for labels in re.findall(r"\bby \((.*?)\)", expression):
        assert set(labels.split(", ")) <= set.union(*(there[name] for name in names))


def test_the_dashboard_is_in_the_chart_when_enabled() -> None:
    assert not render().of("ConfigMap")
    [shown] = render({"dashboard": {"enabled": True}}).of("ConfigMap")
    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(shown["data"]["manman-status.json"]) == json.loads(
        DASHBOARD.read_text("utf-8")
    )
    [mine] = render({"dashboard": {"enabled": True, "labels": {"mine": "yes"}}}).of("ConfigMap")
    assert mine["metadata"]["labels"]["mine"] == "yes"
    assert "grafana_dashboard" not in mine["metadata"]["labels"]
