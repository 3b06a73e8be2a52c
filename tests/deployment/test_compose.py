"""compose.yaml as the real compose reads it, without an engine. `make test-containers` runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from manman_status.settings import PREFIX

ROOT = Path(__file__).parents[2]


def compose_command():
    """The one of this machine's docker, else the one that comes with the development packages."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], check=False).returncode == 0:
        return ["docker", "compose"]
    if found := importlib.util.find_spec("compose"):
        binary = Path(found.submodule_search_locations[0]) / "docker-compose"
        return [str(binary)]
    return None


@pytest.fixture(scope="module")
def read_compose(tmp_path_factory):
    """`compose config` of the file in a folder with this `.env`: the model as it is run."""
    command = compose_command()
    if command is None:
        pytest.skip("there is no docker compose for this machine")

    def read(env, *arguments, **environment):
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
def services(read_compose):
    example = (ROOT / ".env.example").read_text("utf-8")
    return json.loads(read_compose(example, "--format", "json"))["services"]


def test_it_is_valid_with_the_example_and_without(read_compose):
    read_compose((ROOT / ".env.example").read_text("utf-8"), "-q")
    read_compose("", "-q")


def test_servers_are_named_by_their_services_whatever_the_example_says(services):
    for name in ("migrate", "api", "processor", "fleet"):
        environment = services[name]["environment"]
        assert "@postgres/" in environment["MANMAN_STATUS_DATABASE_URL"]
        assert "@rabbitmq/" in environment["MANMAN_STATUS_RABBITMQ_URL"]


def test_a_setting_in_the_env_file_reaches_every_role(read_compose):
    model = json.loads(read_compose("MANMAN_STATUS_BLIND_AFTER_SECONDS=60\n", "--format", "json"))
    for name in ("api", "processor"):
        assert model["services"][name]["environment"]["MANMAN_STATUS_BLIND_AFTER_SECONDS"] == "60"


def test_only_the_gateway_and_monitoring_have_a_port_and_only_on_this_machine(services):
    ports = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert ports.keys() == {"gateway", "prometheus", "alertmanager"}
    assert {port["host_ip"] for some in ports.values() for port in some} == {"127.0.0.1"}
    assert [port["published"] for port in ports["gateway"]] == ["8000"]


def test_nothing_has_a_fixed_name_so_that_all_can_be_scaled(services):
    assert not [name for name, service in services.items() if "container_name" in service]


def test_our_own_containers_are_hardened_and_given_time_to_end(services):
    for name in ("migrate", "api", "processor", "fleet"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["stop_grace_period"] == "20s"


def test_who_needs_another_waits_until_it_is_of_use(services):
    conditions = {
        name: {needed: need["condition"] for needed, need in services[name].get("depends_on", {}).items()}
        for name in services
    }
    healthy, done = "service_healthy", "service_completed_successfully"
    assert conditions["migrate"] == {"postgres": healthy}
    assert conditions["api"] == {"postgres": healthy, "migrate": done}
    assert conditions["processor"] == {"postgres": healthy, "rabbitmq": healthy, "migrate": done}
    assert conditions["gateway"] == {"api": healthy}
    assert conditions["fleet"] == {"processor": healthy}


def test_every_image_has_a_tag_that_stays(services):
    tags = {service["image"]: service["image"].partition(":")[2] for service in services.values()}
    assert not [image for image, tag in tags.items() if tag in {"", "latest"}]
