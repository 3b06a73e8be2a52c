"""`manman-status record` and `replay`, against the real broker and processor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manman_status.reporter.messages import Incarnation
from manman_status.wire.messages import RunningServer
from tests.kinds import Eventually, FetchRows, Role
from tests.messaging import Publisher

WORKERS = range(1, 21)


@pytest.fixture
async def start_recording(broker: str, tmp_path: Path) -> AsyncIterator[Any]:
    """Starts `record` into a new file and waits until it misses nothing."""
    started: list[Any] = []

    async def start(*arguments: Any, url: str = broker) -> tuple[Any, Any]:
        file = tmp_path / f"recording-{len(started)}.jsonl"
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MANMAN_STATUS_")
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "manman_status", "record", str(file), *arguments),
            env={**environment, "MANMAN_STATUS_RABBITMQ_URL": url},
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        assert process.stderr is not None
        async with asyncio.timeout(20):
            assert await process.stderr.readline() == b"recording; Ctrl-C ends it\n"
        return process, file

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: Any, number: int = signal.SIGINT) -> tuple[Any, Any]:
    process.send_signal(number)
    async with asyncio.timeout(20):
        _, said = await process.communicate()
    return process.returncode, said.decode()


def recorded(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


async def live_some_lives(publish: Publisher) -> int:
    """Heartbeats, starts and ends of servers and of workers: as many messages as it says."""
    messages = []
    for worker_id in WORKERS:
        life = Incarnation(worker_id, number=5, interval_seconds=10, labels={"group": "eu-1"})
        first = worker_id * 10
        reports = [
            life.worker_started(),
            life.server_started(first, game_server_config_id=3),
            life.server_started(first + 1),
            life.heartbeat([RunningServer(first), RunningServer(first + 1)]),
            life.server_stopped(first, exit_code=worker_id % 2),
        ]
        if worker_id % 3 == 0:
            reports.append(life.worker_stopped())
        messages += [(report.body, report.routing_key) for report in reports]
    await publish.many(messages)
    return len(messages)


STATUSES = """
SELECT worker_id, status, labels,
       (SELECT array_agg((instance_id, instances.status, game_server_config_id)::text ORDER BY
           instance_id)
          FROM server_instances AS instances WHERE instances.worker_id = workers.worker_id) AS
              servers
  FROM workers ORDER BY worker_id
"""


async def is_settled(rows: FetchRows) -> Any:
    """True when everything that was sent is in the rows."""
    found = await rows(STATUSES)
    ended = [row for row in found if row["status"] == "COMPLETE"]
    stopped = sum(
        "COMPLETE" in text or "CRASHED" in text for row in found for text in row["servers"] or ()
    )
    return (
        len(found) == len(WORKERS)
        and len(ended) == len(WORKERS) // 3
        and stopped == len(WORKERS)
        and found
    )


async def test_recording_takes_nothing_from_the_processor(
    processor: Role,
    start_recording: Any,
    publish: Publisher,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    process, file = await start_recording()
    sent = await live_some_lives(publish)
    await eventually(lambda: is_settled(rows))
    await eventually(lambda: len(recorded(file)) == sent)
    code, said = await ended(process)
    assert code == 0
    assert said.startswith(f"{sent} messages of {len(WORKERS)} workers in ")
    lines = recorded(file)
    assert len(lines) == sent
    assert {line["routing_key"].partition(".")[0] for line in lines} == {
        "worker",
        "game_server_instance",
    }
    assert all(line["persistent"] for line in lines)
    assert not [line for line in lines if line["body"]["command_type"] == "CANARY"]


@pytest.mark.parametrize("speed", ["max", "20"])
async def test_replayed_into_an_empty_system_it_makes_the_same_rows(
    processor: Role,
    broker: str,
    start_recording: Any,
    publish: Publisher,
    rows: FetchRows,
    eventually: Eventually,
    manman_status: Any,
    speed: Any,
) -> None:
    process, file = await start_recording()
    await live_some_lives(publish)
    before = await eventually(lambda: is_settled(rows))
    await ended(process)
    await rows("TRUNCATE workers, server_instances")
    finished = await manman_status("replay", str(file), "--speed", speed, rabbitmq_url=broker)
    assert (finished.code, finished.out) == (
        0,
        f"{len(recorded(file))} messages sent\n",
    ), finished.err
    assert await eventually(lambda: is_settled(rows)) == before


async def test_a_killed_recorder_leaves_what_can_be_read(
    processor: Role,
    start_recording: Any,
    publish: Publisher,
    eventually: Eventually,
    manman_status: Any,
) -> None:
    process, file = await start_recording()
    sent = await live_some_lives(publish)
    await eventually(lambda: len(recorded(file)) == sent)
    process.kill()
    await process.wait()
    with file.open("ab") as lines:
        lines.write(b'{"at":"2026-')
    finished = await manman_status("what-if", str(file), "--timeout", "15s")
    assert finished.code == 0, finished.err
    assert f"{sent} messages in " in finished.out


async def test_it_ends_by_itself_when_its_time_is_over(
    processor: Role, start_recording: Any
) -> None:
    process, _ = await start_recording("--for", "1s")
    async with asyncio.timeout(20):
        assert await process.wait() == 0


async def test_a_file_that_is_there_is_not_touched(
    broker: str, manman_status: Any, tmp_path: Path
) -> None:
    file = tmp_path / "precious"
    file.write_text("precious")
    finished = await manman_status("record", str(file), rabbitmq_url=broker)
    assert (finished.code, finished.err) == (
        1,
        f"manman-status: {file} is there already: name a new one\n",
    )
    assert file.read_text() == "precious"


async def test_where_nobody_has_declared_the_exchange_it_says_so(
    broker: str, manman_status: Any, tmp_path: Path
) -> None:
    finished = await manman_status("record", str(tmp_path / "none"), rabbitmq_url=broker)
    assert finished.code == 1
    assert (
        finished.err
        == "manman-status: there is no exchange internal_service_events: the processor declares it"
        " when it starts\n"
    )


async def test_without_a_broker_it_says_so(manman_status: Any, tmp_path: Path) -> None:
    finished = await manman_status(
        "record", str(tmp_path / "none"), rabbitmq_url="amqp://127.0.0.1:9/"
    )
    assert finished.code == 1
    assert "RabbitMQ does not answer" in finished.err


async def test_damaged_line_is_refused_before_anything_is_sent(
    processor: Role,
    publish: Publisher,
    manman_status: Any,
    tmp_path: Path,
    broker: str,
    rows: FetchRows,
    start_recording: Any,
    eventually: Eventually,
) -> None:
    process, file = await start_recording()
    sent = await live_some_lives(publish)
    await eventually(lambda: len(recorded(file)) == sent)
    await ended(process)
    file.write_bytes(file.read_bytes() + b"what is this?\n")
    again, _ = await start_recording()
    finished = await manman_status("replay", str(file), "--speed", "max", rabbitmq_url=broker)
    assert finished.code == 1
    assert finished.err.startswith(f"manman-status: {file}, line {sent + 1}: ")
    assert (await ended(again))[1].startswith("0 messages of 0 workers")


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("replay", "/no/such/file"), 1, "/no/such/file: No such file or directory"),
        (("replay", "/dev/null"), 1, "/dev/null has no messages"),
        (("replay", "/dev/null", "--speed", "0"), 2, "--speed 0: must be a number above 0, or max"),
        (("what-if", "/no/such/file"), 1, "/no/such/file: No such file or directory"),
        (("what-if", "/dev/null"), 1, "/dev/null has no heartbeats"),
        (("what-if", "/dev/null", "--guard", "x"), 2, "--guard x: must be 0% to 100%"),
        (("what-if", "/dev/null", "--timeout", "x"), 2, "--timeout"),
    ],
)
async def test_what_cannot_be_done_is_said(
    manman_status: Any, arguments: Any, code: Any, problem: Any
) -> None:
    finished = await manman_status(*arguments, rabbitmq_url="amqp://127.0.0.1:9/")
    assert finished.code == code, finished
    assert problem in finished.err
