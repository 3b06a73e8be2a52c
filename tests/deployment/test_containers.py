"""The image and compose.yaml, for real: `make test-containers`. Skipped where no container engine
answers."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from manman_status.dev.ports import free_port
from tests.deployment.engine import engine
from tests.kinds import Eventually

pytestmark = pytest.mark.containers

ROOT = Path(__file__).parents[2]
PROJECT = "manman-status-test"
IMAGE = "manman-status:0.1.0"
BROKER_DOWN_SECONDS = 20

GATEWAY_OF_DEBIAN = """
FROM debian:bookworm-slim
RUN apt-get -q update && apt-get -q install -y --no-install-recommends haproxy && rm -rf
    /var/lib/apt/lists/*
USER haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
"""
"""Stand-ins without a registry: the same program, under the name in compose.yaml."""


docker = partial(engine, "docker")


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no `docker` here")
    if (info := docker("info", check=False)).returncode:
        pytest.skip(f"no container engine answers: {info.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def image(_engine: Any) -> str:
    docker("build", "-t", IMAGE, ".")
    return IMAGE


class Stack:
    """The containers of compose.yaml, under a name and on a port of their own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: Any, check: bool = True) -> Any:
        return docker(
            "compose",
            "-p",
            PROJECT,
            "--profile",
            "demo",
            *arguments,
            check=check,
            MANMAN_STATUS_PORT=str(self.port),
        )

    def containers(self, service: Any) -> Any:
        return self.compose("ps", "-q", service).stdout.split()

    def system(self) -> Any:
        response = httpx.get(f"{self.url}/status/system", timeout=5)
        assert response.status_code == httpx.codes.OK, response.text
        return response.json()


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[Any]:
    stack = Stack()
    for name in stack.compose("config", "--images").stdout.split():
        if (
            "haproxy" in name
            and docker("image", "inspect", name, check=False).returncode
            and docker("pull", name, check=False).returncode
        ):
            docker("build", "-t", name, "-", given=GATEWAY_OF_DEBIAN)
    try:
        stack.compose("up", "-d", "--wait", "--scale", "processor=2", "--scale", "api=2")
        yield stack
    finally:
        stack.compose("down", "-v", "-t", "10")


def test_the_image_runs_as_its_user_and_writes_nothing(image: str) -> None:
    user, entrypoint = docker(
        "image", "inspect", "-f", "{{.Config.User}} {{.Config.Entrypoint}}", image
    ).stdout.split()
    assert user == "10001:10001"
    assert entrypoint == "[manman-status]"
    assert docker("run", "--rm", "--read-only", image, "--version").stdout.strip() == "0.1.0"
    refused = docker(
        "run", "--rm", "--entrypoint", "sh", image, "-c", "touch /opt/manman-status/x", check=False
    )
    assert "Permission denied" in refused.stderr


def test_the_image_says_what_is_missing(image: str) -> None:
    # Not by the code of `docker run`: podman's, with --rm, is 0 when the container was the faster.
    container = docker(
        "create", "--read-only", image, "serve", "--role", "processor"
    ).stdout.strip()
    docker("start", container)
    code = docker("wait", container).stdout.strip()
    logged = docker("logs", container).stderr
    docker("rm", container)
    assert (code, "MANMAN_STATUS_RABBITMQ_URL is not set" in logged) == ("2", True)


async def test_any_api_shows_the_fleet_through_one_port(
    stack: Stack, eventually: Eventually
) -> None:
    await eventually(lambda: stack.system()["workers"]["healthy"] >= 10, within_seconds=60)
    await eventually(lambda: stack.system()["observation"]["state"] == "ok")
    assert len(stack.system()["observation"]["processors"]) == 2


def test_containers_run_as_they_are_hardened(stack: Stack) -> None:
    for service in ("api", "processor"):
        for container in stack.containers(service):
            shown = docker(
                "inspect", "-f", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}", container
            ).stdout.split()
            assert shown == ["10001:10001", "true"]
            assert docker("exec", container, "touch", "/x", check=False).returncode != 0


async def test_a_killed_processor_and_a_stopped_broker_lose_nobody(
    stack: Stack, eventually: Eventually
) -> None:
    """`simulate --verify` knows who lives, and fails when the api says otherwise."""
    arguments = (
        "--workers",
        "50",
        "--first-worker",
        "500001",
        "--interval",
        "2",
        "--crash",
        "0",
        "--churn",
        "0.02",
    )
    command = [
        "docker",
        "compose",
        "-p",
        PROJECT,
        "--profile",
        "demo",
        "run",
        "--rm",
        "--no-deps",
        "-T",
        "fleet",
    ]
    verifying = await asyncio.create_subprocess_exec(
        *(*command, "simulate", *arguments, "--for", "75s", "--verify"),
        cwd=ROOT,
        env=os.environ | {"MANMAN_STATUS_PORT": str(stack.port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )

    def seen() -> Any:
        answer = httpx.get(f"{stack.url}/status/workers/500001", timeout=5)
        return answer.status_code == 200 and answer.json()["health"] == "healthy"

    await eventually(seen, within_seconds=60)
    killed, _ = stack.containers("processor")
    await asyncio.to_thread(docker, "kill", "-s", "KILL", killed)
    await asyncio.to_thread(stack.compose, "stop", "rabbitmq")
    stopped = time.monotonic()
    await eventually(
        lambda: time.monotonic() - stopped > BROKER_DOWN_SECONDS,
        within_seconds=BROKER_DOWN_SECONDS + 5,
    )
    assert stack.system()["observation"]["state"] != "ok"
    await asyncio.to_thread(stack.compose, "start", "rabbitmq")
    async with asyncio.timeout(240):
        printed, _ = await verifying.communicate()
    assert verifying.returncode == 0, printed.decode()
    assert stack.system()["observation"]["state"] == "ok"
