"""The rendered chart, run: its own containers in the pods of `podman kube play`. Part of `make
test-containers`.

podman knows no Services, Jobs and probes as Kubernetes has them. A Job's pod is played as a pod,
and probes are run here, as they are written.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from manman_status.dev.ports import free_port
from tests.deployment.chart import ROOT, component_of, container, merged, render
from tests.deployment.engine import engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kinds import Eventually

pytestmark = pytest.mark.containers

IMAGE = "manman-status:0.1.0"
NAME = "chart-runs"
TOKEN = "second-token"
WRITES_JSON_SECRETS = (4, 4)
"""Older versions of podman want a Secret as JSON for a variable, but write YAML themselves."""


podman = partial(engine, "podman")


class Cluster:
    """Pods on a network of their own, where each finds the others by the names of their pods."""

    def __init__(self) -> None:
        self.network = f"{NAME}-{uuid.uuid4().hex[:8]}"
        self.pods: list[str] = []
        self.secrets: list[str] = []
        version = podman("version", "--format", "{{.Client.Version}}").stdout
        self._version = tuple(int(part) for part in version.split(".")[:2])
        podman("network", "create", self.network)

    def play(
        self,
        name: str,
        pod: dict[str, Any],
        *,
        port: int | None = None,
        hosts: dict[str, str] | None = None,
    ) -> None:
        """`port` of this machine leads to the pod's first; `hosts` are names that Services would
        be."""
        spec = json.loads(json.dumps(pod["spec"]))
        (inner,) = spec["containers"]
        inner["image"] = inner["image"].replace(
            f"manman-status:{IMAGE.partition(':')[2]}", f"localhost/{IMAGE}"
        )
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            inner.pop(probe, None)
        ports = inner.pop("ports", [])
        if port:
            inner["ports"] = [{"containerPort": ports[0]["containerPort"], "hostPort": port}]
        # One name would be one volume for all pods.
        for volume in (*spec.get("volumes", []), *inner.get("volumeMounts", [])):
            volume["name"] = f"{self.network}-{name}-{volume['name']}"
        spec["hostAliases"] = [
            {"ip": ip, "hostnames": [host]} for host, ip in (hosts or {}).items()
        ]
        played = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{self.network}-{name}",
                "labels": pod["metadata"].get("labels", {}),
            },
            "spec": spec,
        }
        self.pods.append(f"{self.network}-{name}")
        podman("kube", "play", "--network", self.network, "-", given=yaml.safe_dump(played))

    def add_secret(self, secret: dict[str, Any]) -> None:
        name = secret["metadata"]["name"]
        self.secrets.append(name)
        # One that a run which was killed has left.
        podman("secret", "rm", name, check=False)
        if self._version < WRITES_JSON_SECRETS:
            podman("secret", "create", name, "-", given=json.dumps(secret["data"]))
        else:
            podman("kube", "play", "-", given=yaml.safe_dump(secret))

    def container(self, name: str, inner: str) -> str:
        return f"{self.network}-{name}-{inner}"

    def address(self, name: str, inner: str) -> str:
        """The pod's address on the network, which its infra container holds."""
        pod = podman("inspect", "-f", "{{.Pod}}", self.container(name, inner)).stdout.strip()
        infra = podman("pod", "inspect", "-f", "{{.InfraContainerID}}", pod).stdout.strip()
        networks = json.loads(
            podman("inspect", "-f", "{{json .NetworkSettings.Networks}}", infra).stdout
        )
        return networks[self.network]["IPAddress"]

    def state(self, name: str, inner: str) -> dict[str, Any]:
        return json.loads(
            podman("inspect", "-f", "{{json .State}}", self.container(name, inner)).stdout
        )

    def logs(self, name: str, inner: str) -> str:
        ran = podman("logs", self.container(name, inner))
        return ran.stdout + ran.stderr

    async def probe(self, name: str, pod: dict[str, Any], kind: str) -> bool:
        """True when the probe's own command succeeds."""
        command = container(pod)[f"{kind}Probe"]["exec"]["command"]
        into = self.container(name, container(pod)["name"])
        return (
            await asyncio.to_thread(podman, "exec", into, *command, check=False)
        ).returncode == 0

    def remove(self) -> None:
        for name in self.pods:
            podman("pod", "rm", "--force", "--time", "1", name, check=False)
        for name in self.secrets:
            podman("secret", "rm", name, check=False)
        volumes = podman("volume", "ls", "-q", check=False).stdout.split()
        podman(
            "volume",
            "rm",
            "--force",
            *[each for each in volumes if each.startswith(self.network)],
            check=False,
        )
        podman("network", "rm", "--force", self.network, check=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if shutil.which("podman") is None:
        pytest.skip("there is no `podman` here")
    if (info := podman("info", check=False)).returncode:
        pytest.skip(f"podman does not work here: {info.stderr.strip().splitlines()[-1]}")
    podman("build", "--tag", IMAGE, ".")
    podman("tag", IMAGE, f"localhost/{IMAGE}")
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture(scope="module")
async def servers(cluster: Cluster, eventually: Eventually) -> dict[str, dict[str, Any]]:
    """The pods of PostgreSQL and RabbitMQ as `tilt up` has them, ready as their own probes say."""
    documents = yaml.safe_load_all((ROOT / "helm" / "tilt" / "servers.yaml").read_text("utf-8"))
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in documents
        if each["kind"] == "Deployment"
    }
    for name, pod in pods.items():
        cluster.play(name, pod)
    for name, pod in pods.items():
        await eventually(lambda: cluster.probe(name, pod, "readiness"), within_seconds=60)
    return pods


@pytest.fixture(scope="module")
def values(cluster: Cluster, servers: dict[str, Any]) -> dict[str, Any]:
    return {
        "database": {
            "url": f"postgresql://manman:manman@{cluster.network}-postgres:5432/manman_status"
        },
        "rabbitmq": {"url": f"amqp://manman:manman@{cluster.network}-rabbitmq:5672/"},
        "apiTokens": {"value": f"first-token {TOKEN}"},
    }


@pytest.fixture(scope="module")
def objects(values: dict[str, Any]) -> Any:
    return render(values, release=NAME)


@pytest.fixture(scope="module")
async def migrated(cluster: Cluster, objects: Any, eventually: Eventually) -> str:
    """The output of the migration's Job."""
    for secret in objects.of("Secret"):
        cluster.add_secret(secret)
    cluster.play("migrate", objects.one("Job")["spec"]["template"])
    await eventually(lambda: cluster.state("migrate", "migrate")["Status"] == "exited")
    said = cluster.logs("migrate", "migrate")
    assert cluster.state("migrate", "migrate")["ExitCode"] == 0, said
    return said


@pytest.fixture(scope="module")
async def pods(cluster: Cluster, objects: Any, migrated: str) -> dict[str, dict[str, Any]]:
    """The pods of both Deployments, started."""
    pods = {component_of(each): each["spec"]["template"] for each in objects.of("Deployment")}
    cluster.play("processor", pods["processor"])
    return pods


@pytest.fixture(scope="module")
async def api(cluster: Cluster, pods: dict[str, Any], eventually: Eventually) -> str:
    """The URL of one that is ready."""
    port = free_port()
    cluster.play("api", pods["api"], port=port)
    url = f"http://127.0.0.1:{port}"
    await eventually(
        lambda: answers(url + container(pods["api"])["readinessProbe"]["httpGet"]["path"])
    )
    return url


async def answers(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(url)).status_code == 200
        except httpx.TransportError:
            return False


async def test_the_migration_brings_the_schema(migrated: str) -> None:
    assert "schema empty →" in migrated


async def test_the_processor_gets_ready_as_its_probes_say(
    cluster: Cluster, pods: dict[str, Any], eventually: Eventually
) -> None:
    for kind in ("startup", "liveness", "readiness"):
        await eventually(lambda: cluster.probe("processor", pods["processor"], kind))


async def test_the_api_answers_whoever_shows_a_token(api: str, eventually: Eventually) -> None:
    assert await answers(f"{api}/livez")
    async with httpx.AsyncClient(base_url=api) as client:
        assert (await client.get("/status/system")).status_code == 401
        client.headers["Authorization"] = f"Bearer {TOKEN}"

        async def is_observed() -> bool:
            return (await client.get("/status/system")).json()["observation"]["state"] == "ok"

        await eventually(is_observed)


@pytest.mark.parametrize("name", ["api", "processor"])
async def test_a_pod_is_nobody_who_could_change_its_image(
    cluster: Cluster, api: str, name: str
) -> None:
    shell = ("exec", cluster.container(name, name), "sh", "-c")
    assert podman(*shell, "id -u; id -g").stdout.split() == ["10001", "10001"]
    refused = podman(*shell, "touch /opt/manman-status/x", check=False)
    assert "Read-only file system" in refused.stderr
    assert podman(*shell, "grep CapEff /proc/1/status").stdout.split()[1].strip("0") == ""
    environment = podman(*shell, "env").stdout
    assert ("MANMAN_STATUS_RABBITMQ_URL" in environment) == (name == "processor")


@pytest.mark.parametrize("name", ["api", "processor"])
async def test_helm_test_finds_all_well(
    cluster: Cluster, objects: Any, api: str, eventually: Eventually, name: str
) -> None:
    (found,) = [
        pod for pod in objects.of("Pod") if pod["metadata"]["name"].endswith(f"-{name}-test")
    ]
    service = objects.one("Service")["metadata"]["name"]
    cluster.play(f"{name}-test", found, hosts={service: cluster.address("api", "api")})
    await eventually(lambda: cluster.state(f"{name}-test", "test")["Status"] == "exited")
    assert cluster.state(f"{name}-test", "test")["ExitCode"] == 0, cluster.logs(
        f"{name}-test", "test"
    )


async def test_a_processor_without_its_broker_lives_and_is_not_ready(
    cluster: Cluster, pods: dict[str, Any], eventually: Eventually
) -> None:
    def probe(kind: str) -> Any:
        return cluster.probe("processor", pods["processor"], kind)

    async def is_not_ready() -> bool:
        return not await probe("readiness")

    await eventually(lambda: probe("readiness"))
    broker = cluster.container("rabbitmq", "rabbitmq")
    podman("pause", broker)
    try:
        await eventually(is_not_ready)
        assert await probe("liveness")
    finally:
        podman("unpause", broker)
    await eventually(lambda: probe("readiness"), within_seconds=60)


async def test_a_live_update_of_tilt_reaches_the_running_api(
    cluster: Cluster, values: dict[str, Any], migrated: str, eventually: Eventually
) -> None:
    tilted = yaml.safe_load((ROOT / "helm" / "tilt" / "values.yaml").read_text("utf-8"))
    open_to_all = merged(tilted, values, {"apiTokens": {"value": ""}})
    pod = render(open_to_all, release=NAME).one("Deployment", "api")["spec"]["template"]
    port = free_port()
    cluster.play("live", pod, port=port)
    url = f"http://127.0.0.1:{port}"
    await eventually(lambda: answers(f"{url}/livez"))

    routes = "manman_status/api/routes/probes.py"
    changed = (ROOT / routes).read_text("utf-8").replace('"/livez"', '"/lives"')
    shell = ("exec", "-i", cluster.container("live", "api"), "sh", "-c")
    podman(*shell, f"cat >/tmp/live/{routes}", given=changed)
    podman(*shell, 'kill "$(cat /tmp/live/pid)"')
    await eventually(lambda: answers(f"{url}/lives"))


async def test_both_stop_normally_within_their_grace(
    cluster: Cluster, pods: dict[str, Any], api: str
) -> None:
    for name, pod in pods.items():
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        await asyncio.to_thread(podman, "stop", "--time", str(grace), cluster.container(name, name))
        assert cluster.state(name, name)["ExitCode"] == 0, cluster.logs(name, name)


RULE_TESTS = """
rule_files: [rules.yaml]
evaluation_interval: 30s
tests:
  - name: all is well
    interval: 30s
    input_series:
      - {series: 'up{API}', values: '1x40'}
      - {series: 'manman_status_database_up{API}', values: '1x40'}
      - {series: 'manman_status_observation_lag_seconds{API}', values: '1x40'}
      - {series: 'manman_status_workers{API,health="healthy"}', values: '10x40'}
      - {series: 'manman_status_workers{API,health="unhealthy"}', values: '1x40'}
      - {series: 'kube_deployment_status_replicas_ready{PROCESSOR}', values: '1x40'}
    promql_expr_test:
      - expr: count(ALERTS{alertstate="firing"}) or vector(0)
        eval_time: 15m
        exp_samples: [{labels: '{}', value: 0}]
  - name: nobody is there
    interval: 30s
    input_series: []
    promql_expr_test:
      - expr: 'count by (alertname) (ALERTS{alertstate="firing"})'
        eval_time: 15m
        exp_samples: [{labels: '{alertname="ManManStatusApiDown"}', value: 1}]
  - name: no processor ever worked, and workers are silent
    interval: 30s
    input_series:
      - {series: 'up{API}', values: '1x40'}
      - {series: 'manman_status_database_up{API}', values: '1x40'}
      - {series: 'manman_status_workers{API,health="healthy"}', values: '5x40'}
      - {series: 'manman_status_workers{API,health="unhealthy"}', values: '5x40'}
      - {series: 'kube_deployment_status_replicas_ready{PROCESSOR}', values: '0x40'}
    promql_expr_test:
      - expr: 'count by (alertname) (ALERTS{alertstate="firing"})'
        eval_time: 15m
        exp_samples:
          - {labels: '{alertname="ManManStatusBlind"}', value: 1}
          - {labels: '{alertname="ManManStatusFleetUnhealthy"}', value: 1}
          - {labels: '{alertname="ManManStatusNoProcessorReady"}', value: 1}
  - name: the database is away
    interval: 30s
    input_series:
      - {series: 'up{API}', values: '1x40'}
      - {series: 'manman_status_database_up{API}', values: '0x40'}
      - series: 'manman_status_http_requests_total{API,path="/status/workers",status_code="503"}'
        values: '0+10x40'
      - series: 'manman_status_http_requests_total{API,path="/status/workers",status_code="200"}'
        values: '0+90x40'
    promql_expr_test:
      - expr: 'count by (alertname) (ALERTS{alertstate="firing"})'
        eval_time: 15m
        exp_samples:
          - {labels: '{alertname="ManManStatusApiErrors"}', value: 1}
          - {labels: '{alertname="ManManStatusDatabaseDown"}', value: 1}
  - name: the observation lags, and another release's does not count
    interval: 30s
    input_series:
      - {series: 'up{API}', values: '1x40'}
      - {series: 'manman_status_database_up{API}', values: '1x40'}
      - {series: 'manman_status_observation_lag_seconds{API}', values: '9x40'}
      - series: 'manman_status_observation_lag_seconds{job="other",namespace="fleet"}'
        values: '99x40'
    promql_expr_test:
      - expr: 'count by (alertname) (ALERTS{alertstate="firing"})'
        eval_time: 15m
        exp_samples:
          - {labels: '{alertname="ManManStatusObservationLags"}', value: 1}
"""


def test_prometheus_fires_each_alert_when_it_should_and_no_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    prometheus = "docker.io/prom/prometheus:v3"
    if podman("image", "exists", prometheus, check=False).returncode:
        pytest.skip(f"there is no image {prometheus}")
    rule = render({"prometheusRule": {"enabled": True}}).one("PrometheusRule")
    api, processor = (
        'job="manman-status-api",namespace="fleet"',
        'deployment="manman-status-processor",namespace="fleet"',
    )
    tests = RULE_TESTS.replace("{API", "{" + api).replace("{PROCESSOR", "{" + processor)
    script = (
        "mkdir /tmp/t && cd /tmp/t && echo $1 | base64 -d >rules.yaml && echo $2 | base64 -d"
        " >tests.yaml && promtool "
    )
    files = [
        base64.b64encode(text.encode()).decode() for text in (yaml.safe_dump(rule["spec"]), tests)
    ]
    podman(
        "run",
        "--rm",
        "--entrypoint",
        "sh",
        prometheus,
        "-c",
        script + "test rules tests.yaml",
        "sh",
        *files,
    )
