"""A real Prometheus reads the real api, as compose.yaml has it do, and a real Alertmanager gets
the findings of our rules.

Intervals and thresholds are shorter, and nothing else is different. Debian's packages are enough:
`make prometheus`.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from manman_status.dev.ports import free_port
from manman_status.dev.processes import Child
from tests.deployment.test_rules import NAME, queried
from tests.kinds import Eventually, StartRole
from tests.messaging import Publisher, publish, publisher_at

__all__ = ["publish", "publisher_at"]

ROOT = Path(__file__).parents[2]
TOKEN = "one-of-two"
BLIND_AFTER_SECONDS = 3
NOT_YET = {
    # No notification is sent here, and there is no Kubernetes.
    "manman_status_processor_notifications_total",
    "kube_deployment_status_replicas_ready",
}


def program(*names: Any) -> Any:
    for name in names:
        if found := shutil.which(name):
            return found
    return pytest.skip(f"there is no {names[0]}; `make prometheus` brings it")


@pytest.fixture
def start(server_folder: Path) -> Iterator[Any]:
    """Starts a server and gives a client for its HTTP."""
    started = []

    def run(name: str, command: Any, port: int) -> Any:
        address = f"127.0.0.1:{port}"
        command = [*command, f"--web.listen-address={address}"]
        started.append(Child(name, command, log_file=server_folder / f"{name}-{port}.log"))
        return httpx.AsyncClient(base_url=f"http://{address}")

    yield run
    for child in started:
        child.kill()


@pytest.fixture
async def alertmanager(start: Any, tmp_path: Path, eventually: Eventually) -> AsyncIterator[Any]:
    config = tmp_path / "alertmanager.yaml"
    config.write_text("{route: {receiver: nobody}, receivers: [{name: nobody}]}", "utf-8")
    command = [
        program("prometheus-alertmanager", "alertmanager"),
        f"--config.file={config}",
        f"--storage.path={tmp_path / 'alertmanager'}",
        "--cluster.listen-address=",
    ]
    async with start("alertmanager", command, free_port()) as client:
        await eventually(lambda: is_ready(client))
        yield client


async def is_ready(client: Any) -> Any:
    try:
        return (await client.get("/-/ready")).is_success
    except httpx.TransportError:
        return False


def hasty_rules() -> Any:
    rules = yaml.safe_load((ROOT / "monitoring/rules.yaml").read_text("utf-8"))
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "0s"
        if rule["alert"] == "ManManStatusBlind":
            assert "> 30" in rule["expr"]
            rule["expr"] = rule["expr"].replace("> 30", f"> {BLIND_AFTER_SECONDS}")
    return rules


def config_of_compose(token: Any) -> Any:
    content = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["configs"]["prometheus"][
        "content"
    ]
    variable = "${PROMETHEUS_TOKEN:-${MANMAN_STATUS_API_TOKENS:-}}"
    assert variable in content
    return yaml.safe_load(content.replace(variable, token))


@pytest.fixture
def start_prometheus(start: Any, alertmanager: Any, tmp_path: Path) -> Any:
    def run(*, apis: Any, token: Any) -> Any:
        config = config_of_compose(token)
        config["global"] |= {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = ["rules.yaml"]
        config["alerting"]["alertmanagers"] = [
            {"static_configs": [{"targets": [alertmanager.base_url.netloc.decode()]}]}
        ]
        [job] = config["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [api.url.removeprefix("http://") for api in apis]}]
        (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config), "utf-8")
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump(hasty_rules()), "utf-8")
        command = [
            program("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yaml'}",
            f"--storage.tsdb.path={tmp_path / 'prometheus'}",
        ]
        return start("prometheus", command, free_port())

    return run


async def query(prometheus: Any, expression: Any) -> list[Any]:
    """Labels and value of each series; [] while it starts."""
    try:
        response = await prometheus.get("/api/v1/query", params={"query": expression})
    except httpx.TransportError:
        return []
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return []
    answer = response.json()
    assert answer["status"] == "success", answer
    return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]


async def firing(alertmanager: Any) -> set[Any]:
    return {
        each["labels"]["alertname"] for each in (await alertmanager.get("/api/v2/alerts")).json()
    }


async def test_alertmanager_learns_that_the_processor_is_dead(
    start_processor: StartRole,
    start_api: StartRole,
    start_prometheus: Any,
    alertmanager: Any,
    publish: Publisher,
    eventually: Eventually,
) -> None:
    processor = await start_processor()
    api = await start_api(
        api_tokens=f"{TOKEN} another",
        degraded_after_seconds=1,
        blind_after_seconds=BLIND_AFTER_SECONDS,
    )
    await publish(
        {"command_type": "HEARTBEAT", "command_args": ["7"], "interval_seconds": 3600},
        "worker.7.heartbeat",
    )
    async with start_prometheus(apis=[api], token=TOKEN) as prometheus:

        async def is_well() -> Any:
            lag = await query(prometheus, "manman_status_observation_lag_seconds < 2")
            return lag and await query(prometheus, 'manman_status_workers{health="healthy"} == 1')

        await eventually(is_well)
        names = {name for _, expression in queried() for name in NAME.findall(expression)} - NOT_YET

        async def all_is_there() -> bool:
            missing = [name for name in names if not await query(prometheus, f"count({name})")]
            assert not missing
            return True

        await eventually(all_is_there)

        async def nothing_fires() -> bool:
            return not await firing(alertmanager)

        await eventually(nothing_fires)
        processor.kill()

        async def notified() -> Any:
            fires = await firing(alertmanager)
            return {
                "ManManStatusBlind",
                "ManManStatusProcessorMissing",
            } <= fires and "ManManStatusApiDown" not in fires

        await eventually(notified)


async def test_prometheus_has_a_token_only_if_the_api_wants_one(
    start_api: StartRole, start_prometheus: Any, eventually: Eventually
) -> None:
    apis = [await start_api(), await start_api(api_tokens="a-token")]
    async with start_prometheus(apis=apis, token="") as prometheus:

        async def seen() -> bool:
            up = {labels["instance"]: value for labels, value in await query(prometheus, "up")}
            return [up.get(api.url.removeprefix("http://")) for api in apis] == [1, 0]

        await eventually(seen)
