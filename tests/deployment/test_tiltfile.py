"""The Tiltfile, evaluated as Tilt would, with stubs in place of Tilt's functions that record the
calls."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import starlark
import yaml

from manman_status.dev.processes import Child
from tests.deployment.chart import FOLDER, ROOT, Objects, container, decoded, environment, render

if TYPE_CHECKING:
    from tests.kinds import Eventually

NAMESPACE = "manman-dev"


class Tilt:
    """The calls of the Tiltfile. `objects` is all that it deploys."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.images: dict[str, dict[str, Any]] = {}
        self.resources: dict[str, dict[str, Any]] = {}

    def docker_build(
        self, ref: str, context: str, *, only: list[str], live_update: list[Any]
    ) -> None:
        self.images[ref] = {"context": context, "only": only, "live_update": live_update}

    def helm(self, path: str, *, name: str, namespace: str, values: list[str]) -> str:
        assert (ROOT / path) == FOLDER
        (file,) = values
        objects = render(
            yaml.safe_load((ROOT / file).read_text("utf-8")), release=name, namespace=namespace
        )
        # Tilt leaves out what only `helm test` runs; other hooks are objects like any other.
        return yaml.safe_dump_all([each for each in objects if each["kind"] != "Pod"])

    def k8s_yaml(self, given: str) -> None:
        text = given if "\n" in given else (ROOT / given).read_text("utf-8")
        self.objects += [each for each in yaml.safe_load_all(text) if each]

    def k8s_resource(
        self,
        workload: str,
        *,
        port_forwards: list[str] | None = None,
        links: list[str] | None = None,
        resource_deps: list[str] | None = None,
        labels: list[str] | None = None,
    ) -> None:
        assert workload not in self.resources
        self.resources[workload] = {
            "port_forwards": port_forwards or [],
            "resource_deps": resource_deps or [],
        }

    @staticmethod
    def fall_back_on(files: list[str]) -> tuple[str, ...]:
        return ("fall_back_on", *files)

    @staticmethod
    def sync(local_path: str, remote_path: str) -> tuple[str, ...]:
        return ("sync", local_path, remote_path)

    @staticmethod
    def run(cmd: str) -> tuple[str, ...]:
        return ("run", cmd)


@pytest.fixture(scope="module")
def tilt() -> Tilt:
    tilt, module = Tilt(), starlark.Module()
    for name in ("docker_build", "helm", "k8s_yaml", "k8s_resource", "fall_back_on", "sync", "run"):
        module.add_callable(name, getattr(tilt, name))
    parsed = starlark.parse("Tiltfile", (ROOT / "Tiltfile").read_text("utf-8"))
    starlark.eval(module, parsed, starlark.Globals.standard())
    return tilt


def workloads(tilt: Tilt) -> dict[str, dict[str, Any]]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in tilt.objects.of("Deployment", "Job")
    }


def test_both_services_and_what_they_need_are_deployed(tilt: Tilt) -> None:
    assert workloads(tilt).keys() == {
        "postgres",
        "rabbitmq",
        "manman-status-migrate",
        "manman-status-api",
        "manman-status-processor",
    }
    assert tilt.resources.keys() == workloads(tilt).keys()
    (namespace,) = tilt.objects.of("Namespace")
    assert namespace["metadata"]["name"] == NAMESPACE
    assert {each["metadata"].get("namespace", NAMESPACE) for each in tilt.objects} == {NAMESPACE}


def test_kubernetes_takes_the_servers_too(tilt: Tilt) -> None:
    for each in tilt.objects:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def test_the_api_is_forwarded_to_port_8000(tilt: Tilt) -> None:
    assert tilt.resources["manman-status-api"]["port_forwards"] == ["8000:8000"]
    for name, resource in tilt.resources.items():
        ports = {
            port["containerPort"] for port in container(workloads(tilt)[name]).get("ports", [])
        }
        assert {int(each.partition(":")[2]) for each in resource["port_forwards"]} <= ports
    assert tilt.resources["manman-status-processor"]["port_forwards"] == []


def test_each_waits_for_what_it_needs(tilt: Tilt) -> None:
    waits = {name: set(resource["resource_deps"]) for name, resource in tilt.resources.items()}
    assert waits["manman-status-migrate"] == {"postgres"}
    assert waits["manman-status-api"] == {"manman-status-migrate"}
    assert waits["manman-status-processor"] == {"manman-status-migrate", "rabbitmq"}


def test_the_urls_lead_to_the_servers_beside_them(tilt: Tilt) -> None:
    secrets = {each["metadata"]["name"]: decoded(each) for each in tilt.objects.of("Secret")}
    postgres, rabbitmq = (environment(workloads(tilt)[name]) for name in ("postgres", "rabbitmq"))
    user, password, database = (postgres[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
    url = f"postgresql://{user}:{password}@postgres:5432/{database}"
    assert {
        secrets[f"manman-status-{name}"]["database-url"] for name in ("database", "migrate")
    } == {url}
    user, password = (rabbitmq[f"RABBITMQ_DEFAULT_{name}"] for name in ("USER", "PASS"))
    assert (
        secrets["manman-status-rabbitmq"]["rabbitmq-url"]
        == f"amqp://{user}:{password}@rabbitmq:5672/"
    )
    services = {
        each["metadata"]["name"]: each["spec"]["ports"] for each in tilt.objects.of("Service")
    }
    assert {port["port"] for name in ("postgres", "rabbitmq") for port in services[name]} == {
        5432,
        5672,
        15672,
    }


def test_the_image_that_is_built_is_the_one_that_runs(tilt: Tilt) -> None:
    ((ref, image),) = tilt.images.items()
    ours = {
        container(pod)["image"].partition(":")[0]
        for name, pod in workloads(tilt).items()
        if "manman" in name
    }
    assert ours == {ref}
    assert image["context"] == "."
    copied = {
        word
        for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied == set(image["only"])
    assert all((ROOT / each).exists() for each in image["only"])


def test_what_cannot_be_updated_live_is_built_again(tilt: Tilt) -> None:
    first, *rest = tilt.images["manman-status"]["live_update"]
    assert first[0] == "fall_back_on"
    assert all((ROOT / each).exists() for each in first[1:])
    assert [step[0] for step in rest] == ["sync", "run"]


@pytest.mark.parametrize("name", ["manman-status-api", "manman-status-processor"])
async def test_a_live_update_begins_anew_with_the_new_files(
    tilt: Tilt, eventually: Eventually, tmp_path: Path, name: str
) -> None:
    """The pod's own command, on this machine: its folders are others, and its program says which
    files it has."""
    _, (_, local, remote), (_, restart) = tilt.images["manman-status"]["live_update"]
    assert (ROOT / local / "__init__.py").is_file()
    image, live, said = tmp_path / "image", tmp_path / "live", tmp_path / "said"
    package = image / "lib" / "python3.13" / "site-packages" / local
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("word = 'image'\n")
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\nimport time, manman_status\nopen({str(said)!r},"
        " 'a').write(manman_status.word + ' ')\ntime.sleep(60)\n"
    )
    program.chmod(0o755)

    def here(text: str) -> str:
        return text.replace("/opt/manman-status", str(image)).replace("/tmp/live", str(live))

    pod = workloads(tilt)[name]
    command = [here(each) for each in (*container(pod)["command"], *container(pod)["args"])]
    assert command[-1] == f"start-status-{name.removeprefix('manman-status-')}"
    # Without bytecode, as in the image: Python would take two files of one second and one length
    # for the same.
    given = {"PYTHONPATH": here(environment(pod)["PYTHONPATH"]), "PYTHONDONTWRITEBYTECODE": "1"}
    child = Child(
        name,
        [*command[:-1], str(program)],
        log_file=tmp_path / "log",
        env={"PATH": os.defpath, **given},
    )
    try:
        await eventually(lambda: said.exists() and said.read_text() == "image ")
        (Path(here(remote)) / "__init__.py").write_text("word = 'saved'\n")
        restarted = await asyncio.create_subprocess_exec("sh", "-c", here(restart))
        assert await restarted.wait() == 0
        await eventually(lambda: said.read_text() == "image saved ")
    finally:
        child.stop()
