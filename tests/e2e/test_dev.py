"""`manman-status dev`: everything comes up, shows a fleet, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from manman_status.dev.ports import free_port
from manman_status.dev.processes import Child
from tests.complaints import complaints
from tests.conftest import role_environment

if TYPE_CHECKING:
    from tests.kinds import Eventually, ProcessTree

WHOLE_SYSTEM = ("postgres", "beam", "epmd", "--role api", "--role processor", "simulate")


class Dev(Child):
    """A running `manman-status dev`."""

    url: str

    async def items(self, path: str) -> list[dict[str, Any]]:
        """Items that the api lists; [] while there is no api."""
        if self.returncode is not None:
            raise self.ended(self.returncode)
        try:
            async with httpx.AsyncClient(base_url=self.url) as client:
                answer = await client.get(path)
        except httpx.TransportError:
            return []
        items: list[dict[str, Any]] = answer.raise_for_status().json()["items"]
        return items


@pytest.fixture
def start_dev(server_folder: Path) -> Iterator[Callable[..., Dev]]:
    started: list[Dev] = []

    def start(*arguments: str, **settings: str) -> Dev:
        name = f"dev-{uuid.uuid4().hex[:8]}"
        port = free_port()
        given = {"--folder": str(server_folder / name), "--port": str(port)}
        given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
        command = [
            sys.executable,
            "-m",
            "manman_status",
            "dev",
            *(part for flag in given.items() for part in flag),
        ]
        env = role_environment()
        if server := os.environ.get("MANMAN_STATUS_RABBITMQ_SERVER"):  # the suite runs on this one
            env["MANMAN_STATUS_RABBITMQ_SERVER"] = server
        env |= {f"MANMAN_STATUS_{name.upper()}": value for name, value in settings.items()}
        dev = Dev(
            "dev",
            command,
            log_file=server_folder / f"{name}.log",
            env=env,
            stop_signal=signal.SIGINT,
        )
        dev.url = f"http://127.0.0.1:{given['--port']}"
        started.append(dev)
        return dev

    yield start
    for dev in started:
        dev.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_it_shows_a_living_fleet_and_leaves_no_process_behind(
    number: signal.Signals,
    start_dev: Callable[..., Dev],
    process_tree: ProcessTree,
    eventually: Eventually,
) -> None:
    dev = start_dev("--workers", "4", "--servers", "2")

    async def whole_fleet() -> bool:
        workers = await dev.items("/status/workers?health=healthy")
        active = await dev.items("/status/servers/active")
        return len(workers) >= 3 and len(active) >= 6

    await eventually(whole_fleet)
    tree = process_tree(dev.pid)
    commands = "\n".join(tree.values())
    assert not [name for name in WHOLE_SYSTEM if name not in commands]
    os.kill(dev.pid, number)
    code = dev.wait(within_seconds=120)
    assert code == (-signal.SIGKILL if number is signal.SIGKILL else 0), dev.log
    await eventually(lambda: not tree.keys() & process_tree().keys())


async def test_killed_while_it_starts_it_leaves_no_process_behind(
    start_dev: Callable[..., Dev], process_tree: ProcessTree, eventually: Eventually
) -> None:
    dev = start_dev()
    await eventually(
        lambda: re.search("initdb|postgres", "\n".join(process_tree(dev.pid).values()))
    )
    tree = process_tree(dev.pid)
    dev.kill()
    await eventually(lambda: not tree.keys() & process_tree().keys())


async def test_it_uses_the_servers_that_are_named(
    start_dev: Callable[..., Dev],
    database: str,
    broker: str,
    process_tree: ProcessTree,
    eventually: Eventually,
) -> None:
    dev = start_dev(database_url=database, rabbitmq_url=broker)
    await eventually(lambda: dev.items("/status/workers"))
    commands = "\n".join(process_tree(dev.pid).values())
    assert not [name for name in ("postgres -D", "beam", "epmd") if name in commands]
    assert dev.stop() == 0


async def test_one_killed_process_ends_all_and_is_named(
    start_dev: Callable[..., Dev],
    database: str,
    broker: str,
    process_tree: ProcessTree,
    eventually: Eventually,
) -> None:
    dev = start_dev(database_url=database, rabbitmq_url=broker)
    await eventually(lambda: dev.items("/status/workers"))
    tree = process_tree(dev.pid)
    [processor] = [pid for pid, command in tree.items() if "--role processor" in command]
    os.kill(processor, signal.SIGKILL)
    assert dev.wait(within_seconds=120) == 1
    assert "manman-status: processor was ended by SIGKILL; the end of " in dev.log
    await eventually(lambda: not tree.keys() & process_tree().keys())


async def test_its_fleet_reports_no_sooner_than_somebody_listens(
    start_dev: Callable[..., Dev],
    server_folder: Path,
    database: str,
    broker: str,
    eventually: Eventually,
) -> None:
    """On a broker without any queue, too."""
    dev = start_dev(
        "--folder", str(server_folder / "dev-first"), database_url=database, rabbitmq_url=broker
    )
    await eventually(lambda: dev.items("/status/workers"))
    assert dev.stop() == 0
    said = (server_folder / "dev-first/logs/fleet.log").read_text()
    assert said.startswith("workers 1 to 6 with 3 servers each")
    assert len(complaints(said)) == 2, said


async def test_taken_port_is_refused_at_once(start_dev: Callable[..., Dev]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        dev = start_dev("--port", str(port))
        assert dev.wait(within_seconds=60) == 1
    assert dev.log == f"manman-status: port {port} is taken: choose another with --port\n"


async def test_two_do_not_share_a_folder(
    start_dev: Callable[..., Dev],
    server_folder: Path,
    database: str,
    broker: str,
    eventually: Eventually,
) -> None:
    folder = str(server_folder / "dev-shared")
    first = start_dev("--folder", folder, database_url=database, rabbitmq_url=broker)
    await eventually(lambda: "migrating" in first.log)
    second = start_dev("--folder", folder, database_url=database, rabbitmq_url=broker)
    assert second.wait(within_seconds=60) == 1
    assert folder in second.log
