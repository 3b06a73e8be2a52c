"""The alert rules for compose and those of the chart are the same, and are about metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
OUR_METRIC = re.compile(r"\bmanman_status_\w+")


def rules_of_compose():
    [group] = yaml.safe_load((ROOT / "monitoring/rules.yaml").read_text("utf-8"))["groups"]
    return {
        rule["alert"]: (rule["expr"], rule["for"], rule["labels"]["severity"], rule["annotations"]["summary"])
        for rule in group["rules"]
    }


def rules_of_the_chart():
    """Without those that ask Kubernetes, by the job's name in place of the release's."""
    values = yaml.safe_load((ROOT / "helm/manman-status/values.yaml").read_text("utf-8"))
    return {
        name: (_of_the_job(rule["expr"]), rule["for"], rule["severity"], rule["summary"])
        for name, rule in values["prometheusRule"]["rules"].items()
        if "kube_" not in rule["expr"]
    }


def _of_the_job(expression):
    return expression.replace("{@api", '{job="manman-status"')


def test_compose_and_the_chart_alert_alike():
    assert rules_of_compose() == rules_of_the_chart()


def test_every_rule_is_about_metrics_that_there_are():
    exposed = (ROOT / "manman_status/api/metrics.py").read_text("utf-8")
    for expression, *_ in rules_of_compose().values():
        for name in OUR_METRIC.findall(expression):
            assert name in exposed or name == "manman_status_http_requests_total", name
