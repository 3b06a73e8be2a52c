"""The chart documents each value, and refuses impossible values before anything is installed."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
import yaml
from helm_python import HelmRenderError, HelmValuesError

from manman_status.settings import FIELDS, kind_of, variable
from tests.deployment.chart import FOLDER, VALUES, chart, merged, nested, render, values_of

OUTSIDE_CHART = [name for name, field in FIELDS.items() if not kind_of(field).in_chart]
SCHEMA = json.loads((FOLDER / "values.schema.json").read_text("utf-8"))


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(HelmValuesError) as caught:
        chart().validate_schema(values)
    with pytest.raises(HelmValuesError):
        render(values)
    return str(caught.value)


def test_every_default_of_a_setting_is_allowed() -> None:
    defaults = {name: each.default for name, each in FIELDS.items() if name not in OUTSIDE_CHART}
    given = {
        variable(name): ",".join(value) if isinstance(value, tuple) else value
        for name, value in defaults.items()
    }
    chart().validate_schema({"settings": given})


@pytest.mark.parametrize("name", OUTSIDE_CHART)
def test_what_the_chart_sets_itself_is_no_setting(name: str) -> None:
    assert variable(name) in refusal(nested(f"settings.{variable(name)}", "x"))


@pytest.mark.parametrize("side", ["apis", "processors"])
@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_URL",
        "DATABASE_READ_URL",
        "RABBITMQ_URL",
        "API_TOKENS",
        "METRICS_TOKENS",
        "API_TOKEN",
        "NOTIFY_URLS",
        "NOTIFY_ROUTES_FILE",
    ],
)
def test_a_secret_cannot_come_in_as_plain_environment(name: str, side: str) -> None:
    given = nested(
        f"{side}.status.extraEnv",
        [{"name": f"MANMAN_STATUS_{name}", "value": "postgresql://u:p@h/d"}],
    )
    assert f"/{side}/status/extraEnv/0/name" in refusal(given)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("replicas", 2),
        ("env.db.url", "postgresql://u:p@h/d"),
        ("apis.status.replica", 2),
        ("apis.experience.enabled", True),
        ("processors.status.port", 8000),
        ("processors.status.service.type", "ClusterIP"),
        ("processors.status.autoscaling.enabled", True),
        ("apis.status.enabled", "yes"),
        ("apis.status.name", "Manman_Status"),
        ("apis.status.name", "x" * 54),
        ("apis.status.replicas", -1),
        ("apis.status.replicas", 1.5),
        ("apis.status.replicas", "2"),
        ("apis.status.port", 80),
        ("apis.status.port", 65536),
        ("apis.status.command", ""),
        ("apis.status.command", ["start-status-api"]),
        ("apis.status.args", "--workers 2"),
        ("apis.status.args", [2]),
        ("apis.status.resources.limit.memory", "1Gi"),
        ("apis.status.resources.limits.memory", "1 GB"),
        ("apis.status.extraEnv", {"TZ": "UTC"}),
        ("apis.status.extraEnv", [{"value": "UTC"}]),
        ("apis.status.extraEnv", [{"name": "with space", "value": "x"}]),
        ("apis.status.podAnnotations.scrape", True),
        ("apis.status.podLabels.tier", "has space"),
        ("apis.status.tolerations", {"key": "fleet"}),
        ("apis.status.serviceAccount.token", True),
        ("apis.status.podDisruptionBudget.maxUnavailable", 0),
        ("apis.status.podDisruptionBudget.maxUnavailable", "half"),
        ("apis.status.service.type", "ExternalName"),
        ("apis.status.autoscaling.minReplicas", 0),
        ("apis.status.autoscaling.targetCPUUtilizationPercentage", 0),
        # There would be no monitoring, and no sign of it.
        ("processors.status.keda.minReplicas", 0),
        ("processors.status.keda.queueLength", 0),
        ("image.repository", "manman-status"),
        ("image.name", ""),
        ("image.tag", "a tag"),
        ("image.digest", "sha256:short"),
        ("image.pullPolicy", "Sometimes"),
        ("imagePullSecrets", ["registry"]),
        ("database.url", "mysql://h/d"),
        ("database.readUrl", "h:5432"),
        ("database.existingSecret", ""),
        ("database.existingSecret", "Not A Name"),
        ("database.key", ""),
        ("database.password", "secret"),
        ("rabbitmq.url", "http://h:15672"),
        ("rabbitmq.existingSecret", ""),
        ("apiTokens.value", " , "),
        ("apiTokens.value", ["a", "b"]),
        ("notifications.urls", "slack:/T1JJ/B1JTN"),
        ("notifications.urls", "json://h, xml"),
        ("notifications.urls", ["json://h"]),
        ("notifications.urls", " "),
        ("notifications.routes", {"channels": {}}),
        ("notifications.routesFile", "routes.toml"),
        ("notifications.existingSecret", "Not A Name"),
        ("notifications.key", "no key"),
        ("settings.MANMAN_STATUS_LOG_LEVEL", "loud"),
        ("settings.MANMAN_STATUS_PREFETCH", 0),
        ("settings.MANMAN_STATUS_PREFETCH", "2000"),
        ("settings.MANMAN_STATUS_GUARD_PERCENT", 101),
        ("settings.MANMAN_STATUS_WORKER_SERIES", "yes"),
        ("settings.MANMAN_STATUS_OTLP_ENDPOINT", "collector:4318"),
        ("settings.MANMAN_STATUS_OTLP_ENDPOINT", "https://user:password@collector"),
        ("settings.MANMAN_STATUS_NO_SUCH", 1),
        ("settings.LOG_LEVEL", "debug"),
        ("migrations.enabled", False),
        ("migrations.timeout", 0),
        ("podSecurityContext.runAsUser", 0),
        ("podSecurityContext.fsGroup", 0),
        ("podSecurityContext.runAsNonRoot", False),
        ("securityContext.privileged", True),
        ("ingress.host", "https://status.example.com"),
        ("ingress.paths", []),
        ("ingress.paths", ["status"]),
        ("ingress.tls", True),
        ("networkPolicy.database.port", 0),
        ("networkPolicy.rabbitmq.ports", []),
        ("networkPolicy.notifications.ports", ["https"]),
        ("networkPolicy.otlp.port", 4318),
        ("networkPolicy.apiFrom", ["monitoring"]),
        ("serviceMonitor.interval", "often"),
        ("serviceMonitor.interval", 30),
        ("prometheusRule.rules.ManManStatusBlind.for", "soon"),
        ("prometheusRule.rules.Mine", {"expr": "up"}),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(path: str, value: Any) -> None:
    message = refusal(nested(path, value))
    parts = path.split(".")
    unknown = (
        f"at '{'/'.join(['', *parts[:known]])}': additional properties '{parts[known]}'"
        for known in range(len(parts))
    )
    assert any(place in message for place in (f"at '/{'/'.join(parts)}", *unknown))


@pytest.mark.parametrize(
    "path", ["commonLabels", "apis.status.podLabels", "processors.status.podLabels"]
)
@pytest.mark.parametrize("label", ["app.kubernetes.io/component", "helm.sh/chart"])
def test_a_label_that_selects_pods_is_not_for_choice(path: str, label: str) -> None:
    assert f"invalid propertyName '{label}'" in refusal(nested(path, {label: "other"}))


def test_an_alert_has_a_name_as_prometheus_wants_it() -> None:
    rule = {"expr": "up", "for": "1m", "severity": "info", "summary": "x"}
    assert "invalid propertyName 'not-a-name'" in refusal(
        nested("prometheusRule.rules", {"not-a-name": rule})
    )


def test_an_ingress_needs_a_host() -> None:
    assert "/ingress/host" in refusal(nested("ingress.enabled", True))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {
                "apis": {
                    "status": {"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 2}}
                }
            },
            "apis.status.autoscaling: minReplicas is more than maxReplicas",
        ),
        (
            {"processors": {"status": {"keda": {"enabled": True, "minReplicas": 9}}}},
            "processors.status.keda: minReplicas is more than maxReplicas",
        ),
        (
            {"apis": {"status": {"name": "one"}}, "processors": {"status": {"name": "one"}}},
            "apis.status.name and processors.status.name must differ",
        ),
        (
            {"serviceMonitor": {"enabled": True}, "apiTokens": {"existingSecret": "mine"}},
            "apiTokens.metricsKey names its key in apiTokens.existingSecret",
        ),
        (
            {"notifications": {"routesKey": "routes.toml"}},
            "notifications.routesKey is a key in notifications.existingSecret, which is empty",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused_in_words(
    values: dict[str, Any], message: str
) -> None:
    chart().validate_schema(values)
    with pytest.raises(HelmRenderError, match=message):
        render(values)


def keys(values: Any, path: str = "") -> set[str]:
    if not isinstance(values, dict):
        return set()
    return {f"{path}{name}" for name in values}.union(
        *(keys(each, f"{path}{name}.") for name, each in values.items())
    )


def known(schema: dict[str, Any], path: str = "") -> set[str]:
    found = set()
    for name, each in schema.get("properties", {}).items():
        target = SCHEMA["definitions"][each["$ref"].rpartition("/")[2]] if "$ref" in each else each
        found |= {f"{path}{name}"} | known(target, f"{path}{name}.")
    return found


def test_every_value_has_a_default_and_every_default_is_known() -> None:
    defaults = {
        name
        for name in keys(yaml.safe_load((FOLDER / "values.yaml").read_text("utf-8")))
        if not re.search(r"\.(requests|limits|rules)\.", name)
    }
    offered = {name for name in known(SCHEMA) if not name.startswith("settings.")}
    # Helm itself hands `global` down to every chart.
    assert offered - {"global"} == defaults


def test_every_value_has_a_word_about_it() -> None:
    """A comment stands in the line above. Groups and quantities speak for themselves."""
    lines = (FOLDER / "values.yaml").read_text("utf-8").splitlines()
    key = re.compile(r"^ *(?!cpu|memory|expr|for|severity|summary)\w+: *\S")
    bare = [
        line
        for before, line in itertools.pairwise(lines)
        if key.match(line) and not before.strip().startswith("#")
    ]
    assert bare == []


def rules(**values: Any) -> dict[str, str]:
    given = merged({"prometheusRule": {"enabled": True}}, values)
    (group,) = render(given).one("PrometheusRule")["spec"]["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def test_alerts_are_about_this_release_alone() -> None:
    for expression in rules().values():
        selectors = re.findall(r"\{(.*?)\}", expression)
        assert all('namespace="fleet"' in selector for selector in selectors)
        assert all(
            re.search(r'="manman-status-(api|processor)"', selector) for selector in selectors
        )
        assert "@" not in expression


def test_an_alert_can_be_dropped_changed_and_added() -> None:
    mine = {"expr": "vector(1)", "for": "1m", "severity": "info", "summary": "{{ $value }}"}
    given = {"ManManStatusBlind": None, "ManManStatusApiDown": {"for": "9m"}, "Mine": mine}
    changed = rules(prometheusRule={"rules": given})
    assert changed.keys() - rules().keys() == {"Mine"}
    assert rules().keys() - changed.keys() == {"ManManStatusBlind"}
    (group,) = render({"prometheusRule": {"enabled": True, "rules": given}}).one("PrometheusRule")[
        "spec"
    ]["groups"]
    by_name = {rule["alert"]: rule for rule in group["rules"]}
    assert by_name["ManManStatusApiDown"]["for"] == "9m"
    assert by_name["Mine"]["annotations"]["summary"] == "{{ $value }}"


@pytest.mark.parametrize("name", [name for name, file in VALUES.items() if file])
def test_the_example_values_are_taken(name: str) -> None:
    chart().validate_schema(values_of(name))
