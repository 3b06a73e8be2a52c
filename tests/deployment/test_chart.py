"""The Helm chart makes objects that Kubernetes accepts, keeps its sides apart, and keeps secrets in
Secrets."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

from manman_status.cli import app
from manman_status.settings import load_settings
from tests.deployment.chart import (
    FOLDER,
    ROOT,
    VALUES,
    Objects,
    annotations_of,
    component_of,
    container,
    decoded,
    environment,
    is_hook,
    merged,
    nested,
    render,
    values_of,
)

CLAIMED = yaml.safe_load((FOLDER / "Chart.yaml").read_text("utf-8"))
OLDEST = CLAIMED["kubeVersion"].removeprefix(">=").removesuffix(".0-0")
NEWEST = kubernetes_validate.latest_version().removesuffix(".0")

LABELLED = {
    "type": "object",
    "required": ["name", "namespace", "labels"],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"const": "fleet"},
        "labels": {"type": "object"},
    },
}


def custom(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": api_version},
            "kind": {"const": kind},
            "metadata": LABELLED,
            "spec": spec,
        },
    }


def closed(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": required | optional,
    }


TEXT = {"type": "string", "minLength": 1}
DURATION = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}
COUNT = {"type": "integer", "minimum": 1}
CUSTOM = {
    "ServiceMonitor": custom(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        closed(
            {
                "selector": closed({"matchLabels": {"type": "object", "minProperties": 1}}),
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": closed(
                        {
                            "port": TEXT,
                            "path": TEXT,
                            "interval": DURATION,
                            "scrapeTimeout": DURATION,
                        },
                        authorization=closed({"credentials": closed({"name": TEXT, "key": TEXT})}),
                    ),
                },
            }
        ),
    ),
    "PrometheusRule": custom(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        closed(
            {
                "groups": {
                    "type": "array",
                    "items": closed(
                        {
                            "name": TEXT,
                            "rules": {
                                "type": "array",
                                "minItems": 1,
                                "items": closed(
                                    {
                                        "alert": TEXT,
                                        "expr": TEXT,
                                        "for": DURATION,
                                        "labels": {"type": "object", "additionalProperties": TEXT},
                                        "annotations": {
                                            "type": "object",
                                            "additionalProperties": TEXT,
                                        },
                                    }
                                ),
                            },
                        }
                    ),
                }
            }
        ),
    ),
    "TriggerAuthentication": custom(
        "keda.sh/v1alpha1",
        "TriggerAuthentication",
        closed(
            {
                "secretTargetRef": {
                    "type": "array",
                    "items": closed({"parameter": TEXT, "name": TEXT, "key": TEXT}),
                }
            }
        ),
    ),
    "ScaledObject": custom(
        "keda.sh/v1alpha1",
        "ScaledObject",
        closed(
            {
                "scaleTargetRef": closed({"name": TEXT}),
                "minReplicaCount": COUNT,
                "maxReplicaCount": COUNT,
                "pollingInterval": COUNT,
                "fallback": closed({"failureThreshold": COUNT, "replicas": COUNT}),
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": closed(
                        {
                            "type": {"const": "rabbitmq"},
                            # KEDA wants texts here, numbers too.
                            "metadata": {"type": "object", "additionalProperties": TEXT},
                            "authenticationRef": closed({"name": TEXT}),
                        }
                    ),
                },
            }
        ),
    ),
}


def selects(selector: dict[str, str], pod: dict[str, Any]) -> bool:
    return selector.items() <= pod["metadata"]["labels"].items()


def secret_references(pod: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        name: (source["secretKeyRef"]["name"], source["secretKeyRef"]["key"])
        for name, source in environment(pod).items()
        if isinstance(source, dict) and "secretKeyRef" in source
    }


def secret_files(pod: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Mounted keys by path: the Secret and the key in it."""
    items = {
        volume["name"]: (volume["secret"]["secretName"], item["key"], item["path"])
        for volume in pod["spec"].get("volumes", [])
        for item in volume.get("secret", {}).get("items", [])
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in container(pod).get("volumeMounts", [])}
    return {f"{mounts[name]}/{path}": (secret, key) for name, (secret, key, path) in items.items()}


def test_lint_finds_nothing(values: dict[str, Any]) -> None:
    for version in (OLDEST, NEWEST):
        report = helm_python.lint(FOLDER, values, strict=True, kube_version=f"v{version}.0")
        assert report["errors"] == []
        assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


@pytest.mark.skipif(shutil.which("helm") is None, reason="there is no `helm` on PATH")
@pytest.mark.parametrize("name", VALUES)
def test_helm_itself_lints_and_renders_the_same(name: str) -> None:
    file = VALUES[name]
    given = ["--values", str(file)] if file else []
    folder = str(FOLDER)
    subprocess.run(["helm", "lint", "--strict", folder, *given], check=True, capture_output=True)
    command = ["helm", "template", "manman-status", folder, "--namespace", "fleet", *given]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    engine = render(yaml.safe_load(file.read_text("utf-8")) if file else {})
    in_order = [
        sorted(map(str, objects)) for objects in (engine, filter(None, yaml.safe_load_all(shown)))
    ]
    assert in_order[0] == in_order[1]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_every_object(release: Objects, version: str) -> None:
    assert len(release) > 5
    for each in release:
        if each["kind"] in CUSTOM:
            jsonschema.validate(each, CUSTOM[each["kind"]])
        else:
            assert kubernetes_validate.validate(each, version, strict=True) == version


def test_the_default_release_is_two_sides_and_a_migration() -> None:
    kinds = sorted(
        f"{each['kind']}/{each['metadata']['name'].removeprefix('manman-status-')}"
        for each in render()
    )
    assert kinds == [
        "Deployment/api",
        "Deployment/processor",
        "Job/migrate",
        "Pod/api-test",
        "Pod/processor-test",
        "Service/api",
        "ServiceAccount/api",
        "ServiceAccount/migrate",
        "ServiceAccount/processor",
    ]


def test_everything_lies_in_the_release_s_namespace(release: Objects) -> None:
    assert {each["metadata"]["namespace"] for each in release} == {"fleet"}


def test_nobody_can_connect_to_a_processor(release: Objects) -> None:
    for name, pod in release.pods().items():
        if component_of(pod) == "processor":
            assert "ports" not in container(pod), name
            probes = [probe for key, probe in container(pod).items() if key.endswith("Probe")]
            assert [set(probe) & {"exec", "httpGet", "tcpSocket", "grpc"} for probe in probes] == [
                {"exec"}
            ] * 3
            for service in release.of("Service"):
                assert not selects(service["spec"]["selector"], pod)
    for policy in release.of("NetworkPolicy"):
        if component_of(policy) == "processor":
            assert policy["spec"]["ingress"] == []


def test_the_api_knows_nothing_of_the_broker(release: Objects) -> None:
    broker = {
        source
        for pod in release.pods().values()
        for name, source in secret_references(pod).items()
        if name == "MANMAN_STATUS_RABBITMQ_URL"
    }
    for name, pod in release.pods().items():
        if component_of(pod) in {"api", "migrate"} or name.endswith("-api-test"):
            assert "MANMAN_STATUS_RABBITMQ_URL" not in environment(pod)
            assert broker.isdisjoint(secret_references(pod).values())


@pytest.mark.parametrize("side", ["apis", "processors"])
def test_a_side_that_is_off_leaves_nothing(side: str) -> None:
    values = values_of("all-on")
    component = {"apis": "api", "processors": "processor"}[side]
    off = {side: {"status": {"enabled": False}}, "bridge": {"enabled": False}}
    objects = render(merged(values, off))
    assert component not in {component_of(each) for each in objects}
    assert not any(each["metadata"]["name"].endswith(f"-{component}-test") for each in objects)
    assert ("rabbitmq" in str(objects.of("Secret"))) == (side == "apis")
    assert ("api-tokens" in str(objects.of("Secret"))) == (side == "processors")
    assert ("notify-urls" in str(objects.of("Secret"))) == (side == "apis")
    assert f"manman-status-{component}" not in str(objects.of("PrometheusRule"))
    assert objects.of("PrometheusRule")[0]["spec"]["groups"][0]["rules"]


def test_a_bridge_is_one_more_pod_that_nobody_connects_to() -> None:
    url = "postgresql+psycopg2://reader:s3cret@manman.example.com/manman"
    objects = render({"bridge": {"enabled": True, "url": url}, "networkPolicy": {"enabled": True}})
    [pod] = [pod for pod in objects.pods().values() if component_of(pod) == "bridge"]
    assert container(pod)["args"] == ["serve", "--role", "bridge"]
    assert "ports" not in container(pod)
    of_bridge = [each for each in objects if component_of(each) == "bridge"]
    assert sorted(each["kind"] for each in of_bridge) == ["Deployment", "NetworkPolicy", "Secret"]
    [secret] = [each for each in of_bridge if each["kind"] == "Secret"]
    assert decoded(secret) == {"manman-database-url": url}
    assert "s3cret" not in str([each for each in objects if each["kind"] != "Secret"])


def test_secrets_are_in_secrets_alone() -> None:
    objects = render(values_of("all-on"))
    secrets = {each["metadata"]["name"]: decoded(each) for each in objects.of("Secret")}
    url = "postgresql://manman:s3cret-writer@postgres.example.com:5432/manman_status?sslmode=verify-full"
    read_url = "postgresql://manman:s3cret-reader@replica.example.com:5432/manman_status"
    tokens = "s3cret-token-one, s3cret-token-two"
    channels = "discord://4174216298/s3cret-discord\nmailtos://manman:s3cret-mail@example.com\n"
    routes = '[channels.night]\nurls = ["pagerduty://s3cret-pager@K9"]\nseverities = ["critical"]\n'
    assert secrets == {
        "manman-status-database": {"database-url": url, "database-read-url": read_url},
        "manman-status-migrate": {"database-url": url},
        "manman-status-rabbitmq": {
            "rabbitmq-url": "amqps://manman:s3cret-broker@rabbitmq.example.com:5671/manman"
        },
        "manman-status-api-tokens": {"api-tokens": tokens, "one-token": "s3cret-token-one"},
        "manman-status-notifications": {"notify-urls": channels, "routes.toml": routes},
    }
    others = [each for each in objects if each["kind"] != "Secret"]
    for hidden in (
        "s3cret",
        *(value for each in objects.of("Secret") for value in each["data"].values()),
    ):
        assert hidden not in f"{others}{objects.notes}"


def test_what_a_pod_refers_to_is_there(release: Objects, values: dict[str, Any]) -> None:
    """The release's own Secrets, those that the values name, and accounts; for the Job only what
    comes before it."""
    parts = ("database", "rabbitmq", "apiTokens", "notifications", "bridge")
    named = {values.get(part, {}).get("existingSecret", "manman-status") for part in parts}
    for name, pod in release.pods().items():
        early = name.startswith("Job/")
        there = [each for each in release if is_hook(each) == early]
        secrets = {
            each["metadata"]["name"]: each["data"] for each in there if each["kind"] == "Secret"
        }
        for secret, key in (*secret_references(pod).values(), *secret_files(pod).values()):
            assert secret in named or key in secrets[secret], name
        accounts = {each["metadata"]["name"] for each in there if each["kind"] == "ServiceAccount"}
        assert pod["spec"].get("serviceAccountName", "default") in {*accounts, "default"}
        mounts = {mount["name"] for mount in container(pod).get("volumeMounts", [])}
        assert mounts == {volume["name"] for volume in pod["spec"].get("volumes", [])}


def test_what_selects_pods_selects_those_it_is_for(release: Objects) -> None:
    pods = release.pods().values()
    selectors = [(component_of(each), each["spec"]["selector"]) for each in release.of("Service")]
    selectors += [
        (component_of(each), each["spec"]["selector"]["matchLabels"])
        for each in release.of("Deployment", "PodDisruptionBudget")
    ]
    selectors += [
        (component_of(each), each["spec"]["podSelector"]["matchLabels"])
        for each in release.of("NetworkPolicy")
    ]
    for component, selector in selectors:
        assert {component_of(pod) for pod in pods if selects(selector, pod)} <= {component}
    for each in release.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = each["spec"]["scaleTargetRef"]["name"]
        assert f"Deployment/{target}" in release.pods()
    for monitor in release.of("ServiceMonitor"):
        service = release.one("Service")
        assert selects(monitor["spec"]["selector"]["matchLabels"], service)
        assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    for ingress in release.of("Ingress"):
        for path in ingress["spec"]["rules"][0]["http"]["paths"]:
            assert path["backend"]["service"]["name"] == release.one("Service")["metadata"]["name"]


def test_every_pod_keeps_to_the_restricted_standard(release: Objects) -> None:
    for name, pod in release.pods().items():
        spec, inner = pod["spec"], container(pod)["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert inner == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert container(pod)["resources"].keys() == {"requests", "limits"}


def test_kubernetes_adds_no_variables_that_are_no_settings(release: Objects) -> None:
    """It would name some after a Service `manman-status-api`, and manman-status refuses what it
    does not know."""
    assert {pod["spec"]["enableServiceLinks"] for pod in release.pods().values()} == {False}


def test_pods_run_as_the_image_s_user_or_the_cluster_s_choice() -> None:
    pod = render().one("Deployment", "api")["spec"]["template"]
    user = {
        key: pod["spec"]["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")
    }
    assert set(user.values()) == {10001}
    left = render({"podSecurityContext": dict.fromkeys(user)}).one("Deployment", "api")["spec"][
        "template"
    ]
    assert user.keys().isdisjoint(left["spec"]["securityContext"])
    assert left["spec"]["securityContext"]["runAsNonRoot"] is True


def test_manman_status_understands_what_its_pods_are_given(release: Objects) -> None:
    secret = {
        "MANMAN_STATUS_DATABASE_URL": "postgresql://u@h/d",
        "MANMAN_STATUS_DATABASE_READ_URL": "postgresql://u@r/d",
        "MANMAN_STATUS_RABBITMQ_URL": "amqp://h/",
        "MANMAN_STATUS_API_TOKENS": "a b",
        "MANMAN_STATUS_API_TOKEN": "a",
        "MANMAN_STATUS_NOTIFY_URLS": "json://h xml://h",
    }
    for name, pod in release.pods().items():
        given = {
            key: value if isinstance(value, str) else secret.get(key, "")
            for key, value in environment(pod).items()
        }
        settings = load_settings(environ=given)
        needs = ("database_url", "rabbitmq_url") if component_of(pod) == "processor" else ()
        assert all(getattr(settings, need) for need in needs), name
        if component_of(pod) == "api":
            assert (settings.host, settings.port) == (
                "0.0.0.0",
                container(pod)["ports"][0]["containerPort"],
            )


def test_the_commands_exist(release: Objects) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    for pod in release.pods().values():
        match container(pod):
            case {"command": ["start-status-api"], "args": arguments}:
                app.parse_args(
                    ["serve", "--role", "api", *arguments], print_error=False, exit_on_error=False
                )
            case {"command": [script, *_]}:
                assert script in {*scripts, "python"}
            case {"args": arguments}:
                app.parse_args(arguments, print_error=False, exit_on_error=False)


def test_settings_reach_the_pods_as_they_were_written() -> None:
    """A template would make 2e+07 of a large one, which is no integer."""
    objects = render(values_of("all-on"))
    for component in ("api", "processor"):
        given = environment(objects.one("Deployment", component)["spec"]["template"])
        assert given["MANMAN_STATUS_HEARTBEAT_MAX_LENGTH"] == "20000000"
        assert given["MANMAN_STATUS_GUARD_PERCENT"] == "12.5"
        assert given["MANMAN_STATUS_WORKER_SERIES"] == "true"
        assert given["MANMAN_STATUS_HEARTBEAT_QUEUE"] == "fleet.heartbeats"


def test_a_pod_has_longer_to_end_than_manman_status_takes(release: Objects) -> None:
    for deployment in release.of("Deployment"):
        pod = deployment["spec"]["template"]
        given = {key: value for key, value in environment(pod).items() if isinstance(value, str)}
        flush = load_settings(environ=given).shutdown_timeout_seconds
        before = (
            container(pod)
            .get("lifecycle", {})
            .get("preStop", {})
            .get("exec", {})
            .get("command", ["", "0"])[1]
        )
        assert pod["spec"]["terminationGracePeriodSeconds"] >= flush + int(before) + 10


def test_readiness_waits_longer_than_the_database_may_take() -> None:
    objects = render(nested("settings.MANMAN_STATUS_DATABASE_TIMEOUT_SECONDS", 7.5))
    assert (
        container(objects.one("Deployment", "api")["spec"]["template"])["readinessProbe"][
            "timeoutSeconds"
        ]
        >= 9
    )


@pytest.mark.parametrize("side", ["apis", "processors"])
def test_pods_are_spread_over_nodes_and_zones(side: str) -> None:
    component = {"apis": "api", "processors": "processor"}[side]
    pod = render().one("Deployment", component)["spec"]["template"]
    spread = pod["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert all(selects(each["labelSelector"]["matchLabels"], pod) for each in spread)


@pytest.mark.parametrize(
    ("values", "budgets"),
    [
        ({}, []),
        (nested("apis.status.replicas", 2), ["api"]),
        (nested("processors.status.replicas", 3), ["processor"]),
        ({"apis": {"status": {"replicas": 2, "podDisruptionBudget": {"enabled": False}}}}, []),
        # How many there are is then for the autoscaler to say.
        (
            {
                "apis": {
                    "status": {"replicas": 5, "autoscaling": {"enabled": True, "minReplicas": 1}}
                }
            },
            [],
        ),
        ({"apis": {"status": {"autoscaling": {"enabled": True}}}}, ["api"]),
        ({"processors": {"status": {"keda": {"enabled": True}}}}, []),
        ({"processors": {"status": {"keda": {"enabled": True, "minReplicas": 2}}}}, ["processor"]),
    ],
)
def test_a_disruption_budget_needs_more_than_one_replica(
    values: dict[str, Any], budgets: list[str]
) -> None:
    assert [component_of(each) for each in render(values).of("PodDisruptionBudget")] == budgets


def test_an_autoscaler_s_number_is_not_overwritten_by_an_upgrade() -> None:
    scales = merged(values_of("all-on"), {"bridge": {"enabled": False}})
    fixed, scaled = render(), render(scales)
    assert [each["spec"]["replicas"] for each in fixed.of("Deployment")] == [1, 1]
    assert ["replicas" in each["spec"] for each in scaled.of("Deployment")] == [False, False]


def test_keda_looks_at_every_queue_by_the_names_they_have() -> None:
    for values, queues in (
        ({}, ["manman.status.heartbeats.0", "manman.status.lifecycle.0"]),
        (
            nested("settings.MANMAN_STATUS_HEARTBEAT_QUEUE", "mine"),
            ["mine.0", "manman.status.lifecycle.0"],
        ),
        (
            nested("settings.MANMAN_STATUS_PARTITIONS", 2),
            [
                "manman.status.heartbeats.0",
                "manman.status.heartbeats.1",
                "manman.status.lifecycle.0",
            ],
        ),
        (nested("settings.MANMAN_STATUS_DIALECTS", "manman-v2"), ["manman.status.v2.0"]),
        (
            nested("settings.MANMAN_STATUS_DIALECTS", "manman, manman-v2"),
            ["manman.status.heartbeats.0", "manman.status.lifecycle.0", "manman.status.v2.0"],
        ),
    ):
        objects = render(merged(values, nested("processors.status.keda.enabled", True)))
        triggers = objects.one("ScaledObject")["spec"]["triggers"]
        assert [each["metadata"]["queueName"] for each in triggers] == queues
        (host,) = objects.one("TriggerAuthentication")["spec"]["secretTargetRef"]
        assert host == {"parameter": "host", "name": "manman-status", "key": "rabbitmq-url"}


def test_the_migration_runs_first_and_brings_what_it_needs(
    release: Objects,
) -> None:
    hooks = [each for each in release if is_hook(each) and component_of(each) == "migrate"]
    weights = {each["kind"]: int(annotations_of(each)["helm.sh/hook-weight"]) for each in hooks}
    for each in hooks:
        assert annotations_of(each)["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert (
            annotations_of(each)["helm.sh/hook-delete-policy"]
            == "before-hook-creation,hook-succeeded"
        )
        assert each["kind"] == "Job" or weights[each["kind"]] < weights["Job"]


def test_a_skipped_migration_leaves_nothing_and_is_noted() -> None:
    objects = render(nested("migrations.skip_migration", True))
    assert "migrate" not in {component_of(each) for each in objects}
    assert "manman-status migrate" in objects.notes


def test_a_new_secret_replaces_only_the_pods_that_use_it() -> None:
    def annotations(**values: Any) -> list[dict[str, str]]:
        objects = render(values)
        return [
            annotations_of(objects.one("Deployment", side)["spec"]["template"])
            for side in ("api", "processor")
        ]

    database = {"url": "postgresql://one"}
    api, processor = annotations(database=database, rabbitmq={"url": "amqp://one"})
    other_api, other_processor = annotations(database=database, rabbitmq={"url": "amqp://two"})
    assert api == other_api
    assert processor != other_processor
    third_api, _ = annotations(database={"url": "postgresql://two"}, rabbitmq={"url": "amqp://one"})
    assert api != third_api
    for channels in (
        {"urls": "json://one"},
        {"urls": "json://two"},
        {"routes": "one"},
        {"routes": "two"},
    ):
        from_api, from_processor = annotations(
            database=database, rabbitmq={"url": "amqp://one"}, notifications=channels
        )
        assert api == from_api
        assert processor != from_processor
        processor = from_processor
    assert "checksum/secrets" in annotations(notifications={"routes": "one"})[1]


@pytest.mark.parametrize(
    ("values", "source"),
    [
        ({}, None),
        ({"readKey": "replica"}, ("manman-status", "replica")),
        ({"existingSecret": "mine", "readKey": "replica"}, ("mine", "replica")),
        ({"readUrl": "postgresql://r"}, ("manman-status-database", "database-read-url")),
        ({"url": "postgresql://w", "readKey": "replica"}, None),
    ],
)
def test_the_api_alone_may_read_by_another_url(
    values: dict[str, Any], source: tuple[str, str] | None
) -> None:
    """The second URL is for a replica or a user that may only read. The api lacks the first."""
    objects = render({"database": values})
    found = {name: secret_references(pod) for name, pod in objects.pods().items()}
    api = found.pop("Deployment/manman-status-api")
    assert api.get("MANMAN_STATUS_DATABASE_READ_URL") == source
    assert ("MANMAN_STATUS_DATABASE_URL" in api) == (source is None)
    assert not any("MANMAN_STATUS_DATABASE_READ_URL" in references for references in found.values())


def test_in_production_each_side_reaches_named_servers_only() -> None:
    objects = render(values_of("production"))
    for policy in objects.of("NetworkPolicy"):
        for rule in policy["spec"]["egress"]:
            ports = {port["port"] for port in rule["ports"]}
            assert ports == {53} or rule["to"], policy["metadata"]["name"]
    (entry,) = objects.one("NetworkPolicy", "api")["spec"]["ingress"]
    assert entry["from"]


@pytest.mark.parametrize(
    ("values", "urls", "routes"),
    [
        ({}, None, None),
        ({"existingSecret": "mine"}, ("mine", "notify-urls"), None),
        ({"existingSecret": "mine", "key": "a", "routesKey": "b"}, ("mine", "a"), ("mine", "b")),
        ({"existingSecret": "mine", "key": "", "routesKey": "1"}, None, ("mine", "1")),
        ({"urls": "json://h"}, ("manman-status-notifications", "notify-urls"), None),
        (
            {"existingSecret": "mine", "routes": "x"},
            None,
            ("manman-status-notifications", "routes.toml"),
        ),
        (
            {"urls": "json://h", "routes": "x"},
            ("manman-status-notifications", "notify-urls"),
            ("manman-status-notifications", "routes.toml"),
        ),
    ],
)
def test_only_processors_know_the_channels(
    values: dict[str, Any], urls: tuple[str, str] | None, routes: tuple[str, str] | None
) -> None:
    objects = render({"notifications": values, "networkPolicy": {"enabled": True}})
    processor = objects.pods()["Deployment/manman-status-processor"]
    assert secret_references(processor).get("MANMAN_STATUS_NOTIFY_URLS") == urls
    file = environment(processor).get("MANMAN_STATUS_NOTIFY_ROUTES_FILE")
    assert secret_files(processor) == ({file: routes} if routes else {})
    assert (file is None) == (routes is None)
    others = [pod for pod in objects.pods().values() if component_of(pod) != "processor"]
    assert "NOTIFY" not in str(others)
    assert not any(secret_files(pod) for pod in others)
    assert (443 in ports_out(objects)["processor"]) == bool(urls or routes)
    assert ("told to nobody" in objects.notes) == (not (urls or routes))


def test_prometheus_shows_a_token_where_one_is_needed() -> None:
    monitored = nested("serviceMonitor.enabled", True)
    endpoint = render(monitored).one("ServiceMonitor")["spec"]["endpoints"][0]
    assert "authorization" not in endpoint
    tokens = {"apiTokens": {"existingSecret": "mine", "metricsKey": "metrics"}}
    endpoint = render(merged(monitored, tokens)).one("ServiceMonitor")["spec"]["endpoints"][0]
    assert endpoint["authorization"]["credentials"] == {"name": "mine", "key": "metrics"}


def test_helm_test_shows_a_token_where_one_is_needed() -> None:
    def tested(**tokens: str) -> dict[str, Any]:
        pods = render({"apiTokens": tokens}).pods()
        return pods["Pod/manman-status-api-test"]

    assert "MANMAN_STATUS_API_TOKEN" not in environment(tested())
    assert environment(tested())["MANMAN_STATUS_URL"] == "http://manman-status-api:8000"
    assert secret_references(tested(value="one two")) == {
        "MANMAN_STATUS_API_TOKEN": ("manman-status-api-tokens", "one-token")
    }
    # Several tokens in one key are no token, and that for metrics opens nothing else; readiness
    # needs none.
    assert "/readyz" in str(
        container(tested(existingSecret="mine", metricsKey="metrics"))["command"]
    )


def test_the_token_for_metrics_opens_nothing_else() -> None:
    tokens = {"apiTokens": {"existingSecret": "mine", "metricsKey": "metrics"}}
    given = secret_references(render(tokens).pods()["Deployment/manman-status-api"])
    assert given["MANMAN_STATUS_METRICS_TOKENS"] == ("mine", "metrics")
    assert given["MANMAN_STATUS_API_TOKENS"] == ("mine", "api-tokens")


def ports_out(objects: Objects) -> dict[str, set[int]]:
    """Ports that a NetworkPolicy leaves open, by component."""
    return {
        component_of(policy): {
            port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]
        }
        for policy in objects.of("NetworkPolicy")
    }


def test_network_policies_let_each_side_go_where_it_must() -> None:
    objects = render(nested("networkPolicy.enabled", True))
    assert ports_out(objects) == {
        "api": {53, 5432},
        "migrate": {53, 5432},
        "processor": {53, 5432, 5672, 5671},
        "test": {53, 5432, 5672, 5671, 8000},
    }
    assert all(
        policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        for policy in objects.of("NetworkPolicy")
    )
    (entry,) = objects.one("NetworkPolicy", "api")["spec"]["ingress"]
    assert entry == {"ports": [{"port": "http", "protocol": "TCP"}]}


def test_network_policies_let_both_sides_reach_a_collector() -> None:
    endpoint = nested("settings.MANMAN_STATUS_OTLP_ENDPOINT", "http://collector:4318")
    objects = render(merged(endpoint, nested("networkPolicy.enabled", True)))
    assert {name for name, ports in ports_out(objects).items() if {4318, 443} <= ports} == {
        "api",
        "processor",
    }


def test_network_policies_keep_traffic_to_the_given_peers() -> None:
    objects = render(values_of("all-on"))
    telemetry = {
        "ports": [{"port": 4318, "protocol": "TCP"}],
        "to": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "telemetry"}}}
        ],
    }
    channels = {
        "ports": [{"port": 443, "protocol": "TCP"}, {"port": 587, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}],
    }
    api, processor = (
        objects.one("NetworkPolicy", side)["spec"]["egress"] for side in ("api", "processor")
    )
    assert telemetry in api
    assert channels not in api
    assert processor[-2:] == [telemetry, channels]


def test_limits_on_clients_do_not_shut_out_helm_test() -> None:
    people = {"podSelector": {"matchLabels": {"team": "web"}}}
    objects = render({"networkPolicy": {"enabled": True, "apiFrom": [people]}})
    (entry,) = objects.one("NetworkPolicy", "api")["spec"]["ingress"]
    first, second = entry["from"]
    assert first == people
    assert selects(
        second["podSelector"]["matchLabels"], objects.pods()["Pod/manman-status-api-test"]
    )


def test_an_ingress_lets_in_questions_and_nothing_else() -> None:
    objects = render(
        {"ingress": {"enabled": True, "host": "status.example.com", "tls": {"enabled": True}}}
    )
    ingress = objects.one("Ingress")["spec"]
    assert [path["path"] for path in ingress["rules"][0]["http"]["paths"]] == ["/status"]
    assert ingress["tls"] == [
        {"secretName": "manman-status-api-tls", "hosts": ["status.example.com"]}
    ]
    assert "https://status.example.com/status" in objects.notes
    assert "lets in whoever finds" in objects.notes


def test_in_production_the_ingress_exposes_the_page() -> None:
    objects = render(values_of("production"))
    assert [
        path["path"] for path in objects.one("Ingress")["spec"]["rules"][0]["http"]["paths"]
    ] == ["/"]
    assert "https://status.example.com/\n" in objects.notes


@pytest.mark.parametrize(
    "name", ["r", "x" * 53, "manman-status-of-a-team-with-quite-a-long-name-indeed"]
)
def test_names_fit_and_two_releases_share_none(name: str) -> None:
    values = values_of("all-on")
    first, second = (
        {
            (each["kind"], each["metadata"]["name"])
            for each in render(merged(values, {"ingress": {"name": ""}}), release=release)
        }
        for release in (name, "other")
    )
    assert first.isdisjoint(second)
    assert all(len(each) <= 63 or kind in {"Secret", "Pod"} for kind, each in first)


def test_names_can_be_chosen_as_in_manmans_own_chart() -> None:
    objects = render(
        {
            "apis": {"status": {"name": "manman-status"}},
            "processors": {"status": {"name": "manman-status-processor"}},
        }
    )
    assert {each["metadata"]["name"] for each in objects.of("Deployment")} == {
        "manman-status",
        "manman-status-processor",
    }
    assert objects.one("Service")["metadata"]["name"] == "manman-status"


def test_image_is_the_chart_version_a_tag_or_a_digest() -> None:
    """The chart's version is the default; a digest wins over a tag."""

    def image(**values: str) -> str:
        return container(render({"image": values}).one("Job")["spec"]["template"])["image"]

    assert image() == f"manman-status:{CLAIMED['appVersion']}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert CLAIMED["appVersion"] == project["version"]
    assert f"ARG VERSION={project['version']}\n" in (ROOT / "Dockerfile").read_text("utf-8")
    assert image(name="example.com/m", tag="1.2") == "example.com/m:1.2"
    assert image(tag="1.2", digest="sha256:" + "0" * 64) == "manman-status@sha256:" + "0" * 64


def test_what_users_add_arrives() -> None:
    objects = render(values_of("all-on"))
    pod = objects.one("Deployment", "api")["spec"]["template"]
    assert pod["metadata"]["labels"]["tier"] == "web"
    assert pod["metadata"]["annotations"]["example.com/scrape"] == "no"
    assert environment(pod)["TZ"] == "UTC"
    assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["spec"]["tolerations"] == [{"key": "fleet", "operator": "Exists"}]
    assert pod["spec"]["priorityClassName"] == "high"
    assert "podAntiAffinity" in pod["spec"]["affinity"]
    assert [each["maxSkew"] for each in pod["spec"]["topologySpreadConstraints"]] == [2]
    assert {each["metadata"]["labels"]["team"] for each in objects} == {"fleet"}
    assert {str(each["spec"]["imagePullSecrets"]) for each in objects.pods().values()} == {
        "[{'name': 'registry'}]"
    }
    assert objects.one("ServiceMonitor")["metadata"]["labels"]["release"] == "prometheus"


def test_notes_say_how_to_connect_and_what_is_open() -> None:
    notes = render().notes
    assert "port-forward service/manman-status-api 8000:8000" in notes
    assert "helm -n fleet test manman-status" in notes
    assert "no tokens" in notes
    assert "no tokens" not in render(nested("apiTokens.existingSecret", "mine")).notes
