"""A worker that embeds the reporter dies, comes back, loses its broker or forks: what is reported
stays true."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aio_pika
import psutil
import pytest
from yarl import URL

from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from manman_status.reporter import StatusReporter
from tests.faults.liveness import Observed
from tests.faults.worker_program import CHILD_S_OWN
from tests.fleet import TIMEOUT_SECONDS
from tests.kinds import Eventually, StartRole


class WorkerProcess(subprocess.Popen[bytes]):
    def __init__(self, command: list[str], log_file: Path, env: dict[str, str]) -> None:
        self.log_file = log_file
        with log_file.open("wb") as log:
            super().__init__(command, stdin=subprocess.PIPE, stderr=log, env=env)


OLD_AIO_PIKA = "Metadata-Version: 2.1\nName: aio-pika\nVersion: 6.8.2\n"


@pytest.fixture(params=["aio-pika", "amqpstorm"])
def carrier(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment in which a worker's reports are carried by this library. amqpstorm carries
    them where the installed aio-pika is old, or says so."""
    if request.param == "aio-pika":
        return {**os.environ}
    metadata = tmp_path / "aio_pika-6.8.2.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(OLD_AIO_PIKA)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def start_worker(broker: str, server_folder: Path, carrier: dict[str, str]) -> Iterator[Any]:
    """Starts a worker with an embedded reporter, as a process of its own; its log is
    `worker.log_file`."""
    started: list[WorkerProcess] = []

    def start(worker_id: int, *instance_ids: Any) -> WorkerProcess:
        log_file = server_folder / f"worker-{worker_id}-{len(started)}.log"
        command = [
            sys.executable,
            "-m",
            "tests.faults.worker_program",
            broker,
            str(worker_id),
            *map(str, instance_ids),
        ]
        started.append(WorkerProcess(command, log_file, carrier))
        return started[-1]

    yield start
    for worker in started:
        for child in psutil.Process(worker.pid).children() if worker.poll() is None else ():
            child.kill()
        worker.kill()
        worker.communicate()


@pytest.fixture
def worker_is(observed: Observed) -> Any:
    async def is_so(worker_id: int, *status_and_reason: Any) -> bool:
        return await observed.worker(worker_id) == status_and_reason

    return is_so


async def test_killed_worker_is_lost_by_its_silence(
    start_quick: StartRole,
    start_worker: Any,
    observed: Observed,
    worker_is: Any,
    eventually: Eventually,
) -> None:
    await start_quick()
    worker = start_worker(7, 31)
    await eventually(lambda: observed.server(31))
    await eventually(lambda: worker_is(7, "RUNNING", "reported"))
    worker.kill()
    await eventually(lambda: worker_is(7, "LOST", "heartbeat_expired"))
    assert await observed.server(31) == ("LOST", "worker_lost")


async def test_restarted_worker_supersedes_its_old_servers(
    start_quick: StartRole, start_worker: Any, observed: Observed, eventually: Eventually
) -> None:
    async def incarnation() -> Any:
        return await observed.value("SELECT incarnation FROM workers WHERE worker_id = 7")

    async def superseded() -> bool:
        return await observed.server(31) == ("CRASHED", "superseded")

    await start_quick()
    start = start_worker(7, 31)
    await eventually(lambda: observed.server(31))
    before = await incarnation()
    start.kill()
    start.wait()
    start_worker(7, 32)
    await eventually(superseded)
    assert await incarnation() > before
    assert (await observed.worker(7))[0] == "RUNNING"
    assert await observed.server(32) == ("RUNNING", "reported")


async def test_worker_that_gets_sigterm_stops_normally(
    start_quick: StartRole,
    start_worker: Any,
    worker_is: Any,
    observed: Observed,
    eventually: Eventually,
) -> None:
    await start_quick()
    worker = start_worker(7)
    await eventually(lambda: worker_is(7, "RUNNING", "reported"))
    worker.communicate(b"end\n", timeout=10)
    assert worker.returncode == 0
    await eventually(lambda: worker_is(7, "COMPLETE", "graceful"))


def is_connected_to(process: Any, url: str) -> list[Any]:
    port = URL(url).port
    return [
        link for link in process.net_connections("tcp") if link.raddr and link.raddr.port == port
    ]


async def test_forked_child_reports_nothing_and_holds_no_connection(
    start_quick: StartRole,
    start_worker: Any,
    observed: Observed,
    worker_is: Any,
    broker: str,
    eventually: Eventually,
) -> None:
    await start_quick()
    worker = start_worker(7, 31)
    await eventually(lambda: worker_is(7, "RUNNING", "reported"))
    worker.stdin.write(b"fork\n")
    worker.stdin.flush()
    [child] = await eventually(lambda: psutil.Process(worker.pid).children())
    logged = f"{child.pid} this is a forked child: worker 7 is reported by its parent alone"
    await eventually(lambda: logged in worker.log_file.read_text())
    assert is_connected_to(psutil.Process(worker.pid), broker)
    assert not is_connected_to(child, broker)
    passed = await observed.value("SELECT seq FROM workers WHERE worker_id = 7")

    async def goes_on() -> bool:
        return await observed.value("SELECT seq FROM workers WHERE worker_id = 7") >= passed + 3

    await eventually(goes_on)
    assert await observed.worker(7) == ("RUNNING", "reported")
    worker.kill()  # while the child lives on
    await eventually(lambda: worker_is(7, "LOST", "heartbeat_expired"))
    assert child.is_running()
    assert await observed.server(CHILD_S_OWN) is None
    assert worker.log_file.read_text().count("forked child") == 1
    child.kill()


async def test_a_worker_goes_on_after_a_restart_of_its_broker(
    start_quick: StartRole,
    start_worker: Any,
    rabbitmq: EmbeddedRabbitMQ,
    observed: Observed,
    worker_is: Any,
    eventually: Eventually,
) -> None:
    await start_quick()
    worker = start_worker(7, 31)
    await eventually(lambda: worker_is(7, "RUNNING", "reported"))
    await asyncio.to_thread(rabbitmq.stop)
    await eventually(lambda: "cannot report" in worker.log_file.read_text())
    await asyncio.to_thread(rabbitmq.start)
    await eventually(lambda: "reports again after" in worker.log_file.read_text())
    worker.communicate(b"end\n", timeout=20)
    await eventually(lambda: worker_is(7, "COMPLETE", "graceful"))
    assert await observed.lost() == []


async def test_reporters_of_one_worker_do_not_disturb_each_other(
    start_quick: StartRole, broker: str, observed: Observed, worker_is: Any, eventually: Eventually
) -> None:
    await start_quick()
    agent = StatusReporter(broker, worker_id=7, interval_seconds=1, inventory=False)
    game = StatusReporter(broker, worker_id=7, heartbeats=False)
    async with agent, game:
        await agent.server_started(31)
        await game.server_started(32)
        await eventually(lambda: observed.server(32))
        await eventually(lambda: worker_is(7, "RUNNING", "reported"))
        passed = await eventually(observed.through) + timedelta(seconds=2 * TIMEOUT_SECONDS)
        await eventually(lambda: observed.has_passed(passed))
        assert await observed.server(31) == ("RUNNING", "reported")
        assert await observed.server(32) == ("RUNNING", "reported")
        await game.close()
        assert await observed.worker(7) == ("RUNNING", "reported")


EVENTS = 1_000
INSTANCES = 50


@pytest.mark.parametrize("seconds", [3, pytest.param(30, marks=pytest.mark.slow)])
async def test_outage_loses_no_event_and_keeps_each_order(
    seconds: float,
    start_quick: StartRole,
    broker: str,
    rabbitmq: EmbeddedRabbitMQ,
    observed: Observed,
    eventually: Eventually,
) -> None:
    await start_quick()
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("watched", durable=True)
        await queue.bind("internal_service_events", "game_server_instance.*.lifecycle")

    began = asyncio.get_running_loop().time()
    rounds = EVENTS // (2 * INSTANCES)
    async with StatusReporter(broker, worker_id=7, interval_seconds=1) as report:
        for turn, instance_id in itertools.product(range(rounds), range(1, INSTANCES + 1)):
            if (turn, instance_id) == (rounds // 2, 1):
                await eventually(lambda: report.waiting < EVENTS // 4)
                await asyncio.to_thread(rabbitmq.stop)
                began = time.monotonic()
            await report.server_started(instance_id * 1_000 + turn)
            await report.server_stopped(instance_id * 1_000 + turn, exit_code=turn)
        assert report.waiting >= EVENTS // 2
        await eventually(lambda: time.monotonic() - began >= seconds, within_seconds=seconds + 5)
        await asyncio.to_thread(rabbitmq.start)
        await eventually(lambda: not report.waiting)
        assert report.dropped == 0

    said = await arrived_in_order(broker)
    assert len(said) == EVENTS // 2
    assert set(said.values()) == {("SERVER_STARTED", "SERVER_STOPPED")}
    sql = "SELECT status, count(*) FROM server_instances GROUP BY status ORDER BY status"
    expected = [("COMPLETE", INSTANCES), ("CRASHED", (rounds - 1) * INSTANCES)]

    async def all_reported() -> bool:
        return sorted(map(tuple, await observed.rows(sql))) == sorted(expected)

    await eventually(all_reported)
    assert await observed.lost() == []


async def arrived_in_order(broker: str) -> dict[str, Any]:
    """Events of each instance at their first arrival: one that was not confirmed may come again."""
    said: collections.defaultdict[Any, Any] = collections.defaultdict(dict)
    async with await aio_pika.connect(broker) as connection:
        queue = await (await connection.channel()).get_queue("watched")
        while message := await queue.get(no_ack=True, fail=False):
            body = json.loads(message.body)
            said[body["command_args"][0]].setdefault(body["command_type"])
    return {instance_id: tuple(kinds) for instance_id, kinds in said.items()}
