"""compose.yaml as the real compose reads it, without an engine. `make test-containers` runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from manman_status.settings import PREFIX

ROOT = Path(__file__).parents[2]


def compose_command() -> Any:
    """The one of this machine's docker, else the one that comes with the development packages."""
    if (
        shutil.which("docker")
        and subprocess.run(["docker", "compose", "version"], check=False).returncode == 0
    ):
        return ["docker", "compose"]
    found = importlib.util.find_spec("compose")
    if found and found.submodule_search_locations:
        binary = Path(found.submodule_search_locations[0]) / "docker-compose"
        return [str(binary)]
    return None


@pytest.fixture(scope="module")
def read_compose(tmp_path_factory: Any) -> Any:
    """`compose config` of the file in a folder with this `.env`: the model as it is run."""
    command = compose_command()
    if command is None:
        pytest.skip("there is no docker compose for this machine")

    def read(env: Any, *arguments: Any, **environment: Any) -> Any:
        folder = tmp_path_factory.mktemp("compose")
        (folder / ".env").write_text(env, "utf-8")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        where = ("--project-directory", str(folder), "-f", str(ROOT / "compose.yaml"))
        ran = subprocess.run(
            [*command, *where, "--profile", "*", "config", *arguments],
            env=clean | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return read


@pytest.fixture(scope="module")
def services(read_compose: Any) -> Any:
    example = (ROOT / ".env.example").read_text("utf-8")
    return json.loads(read_compose(example, "--format", "json"))["services"]


def test_it_is_valid_with_the_example_and_without(read_compose: Any) -> None:
    read_compose((ROOT / ".env.example").read_text("utf-8"), "-q")
    read_compose("", "-q")


OWN = ("migrate", "api", "processor", "fleet")
NEEDS = {
    "migrate": {"DATABASE_URL"},
    "api": {"DATABASE_URL", "API_TOKENS", "API_TOKENS_FILE"},
    "processor": {"DATABASE_URL", "RABBITMQ_URL", "NOTIFY_URLS", "NOTIFY_ROUTES_FILE"},
    "fleet": {"RABBITMQ_URL", "API_TOKEN"},
}
"""Variables that only the services that need them get."""


def test_servers_are_named_by_their_services_not_the_example(services: Any) -> None:
    hosts = {"DATABASE_URL": "@postgres/", "RABBITMQ_URL": "@rabbitmq/"}
    for name in OWN:
        for url in NEEDS[name] & hosts.keys():
            assert hosts[url] in services[name]["environment"][f"{PREFIX}{url}"]


def test_each_is_given_the_secrets_that_it_needs_and_no_other(read_compose: Any) -> None:
    """The passwords of the servers are in the URLs of who needs them, and nowhere else."""
    names = {f"{PREFIX}{name}" for name in (*set().union(*NEEDS.values()), "DATABASE_READ_URL")}
    names |= {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD", "PROMETHEUS_TOKEN"}
    env = "".join(f"{name}=secret-{name}\n" for name in sorted(names))
    model = json.loads(read_compose(env, "--format", "json"))
    for name in OWN:
        given = {key for key in names if model["services"][name]["environment"].get(key)}
        assert given == {f"{PREFIX}{need}" for need in NEEDS[name]}, name
        shown = str(model["services"][name])
        for server, url in (("POSTGRES", "DATABASE_URL"), ("RABBITMQ", "RABBITMQ_URL")):
            assert (f"secret-{server}_PASSWORD" in shown) == (url in NEEDS[name])


def test_nothing_may_take_all_memory(services: Any) -> None:
    assert [
        name for name, service in services.items() if not int(service.get("mem_limit", 0))
    ] == []


def test_every_image_can_be_named_by_digest(read_compose: Any) -> None:
    names = ("POSTGRES", "RABBITMQ", "HAPROXY", "PROMETHEUS", "ALERTMANAGER", "PYTHON", "UV")
    pinned = {f"{name}_IMAGE": f"mirror/{name.lower()}@sha256:{'0' * 64}" for name in names}
    env = "".join(f"{name}={image}\n" for name, image in pinned.items())
    services = json.loads(read_compose(env, "--format", "json"))["services"]
    built = {services[name]["image"] for name in OWN}
    args = {f"{name}_IMAGE": pinned[f"{name}_IMAGE"] for name in ("PYTHON", "UV")}
    assert [services[name]["build"]["args"] for name in OWN] == [args] * len(OWN)
    assert {service["image"] for service in services.values()} - built == set(
        pinned.values()
    ) - set(args.values())


def test_a_setting_in_the_env_file_reaches_every_role(read_compose: Any) -> None:
    model = json.loads(read_compose("MANMAN_STATUS_BLIND_AFTER_SECONDS=60\n", "--format", "json"))
    for name in ("api", "processor"):
        assert model["services"][name]["environment"]["MANMAN_STATUS_BLIND_AFTER_SECONDS"] == "60"


def test_only_gateway_and_monitoring_have_a_port_on_localhost(
    services: Any,
) -> None:
    ports = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert ports.keys() == {"gateway", "prometheus", "alertmanager"}
    assert {port["host_ip"] for some in ports.values() for port in some} == {"127.0.0.1"}
    assert [port["published"] for port in ports["gateway"]] == ["8000"]


def test_nothing_has_a_fixed_name_so_that_all_can_be_scaled(services: Any) -> None:
    assert not [name for name, service in services.items() if "container_name" in service]


def test_our_own_containers_are_hardened_and_given_time_to_end(services: Any) -> None:
    for name in OWN:
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["stop_grace_period"] == "20s"


def test_who_needs_another_waits_until_it_is_of_use(services: Any) -> None:
    conditions = {
        name: {
            needed: need["condition"]
            for needed, need in services[name].get("depends_on", {}).items()
        }
        for name in services
    }
    healthy, done = "service_healthy", "service_completed_successfully"
    assert conditions["migrate"] == {"postgres": healthy}
    assert conditions["api"] == {"postgres": healthy, "migrate": done}
    assert conditions["processor"] == {"postgres": healthy, "rabbitmq": healthy, "migrate": done}
    assert conditions["gateway"] == {"api": healthy}
    assert conditions["fleet"] == {"processor": healthy}


def test_every_image_has_a_tag_that_stays(services: Any) -> None:
    tags = {service["image"]: service["image"].partition(":")[2] for service in services.values()}
    assert not [image for image, tag in tags.items() if tag in {"", "latest"}]
