"""The reporter that a worker embeds, against the real broker and processor."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import re
import sys
import threading
from collections.abc import AsyncIterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from amqpstorm.uri_connection import UriConnection

from manman_status.reporter import StatusReporter, ThreadedStatusReporter
from tests.builders import counted
from tests.kinds import Eventually, FetchRows, Role, StartRole

README = Path(__file__).parents[2] / "README.md"
LABELS = {"group": "eu-1", "version": "1.4.2"}


@pytest.fixture
async def passing(broker: str) -> AsyncIterator[Any]:
    """Messages of workers on the inbound exchange, in its order, from before any processor declares
    a queue."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        inbound = await channel.declare_exchange("internal_service_events", "topic", durable=True)
        queue = await channel.declare_queue("watched", durable=True)
        for key in ("worker.*.heartbeat", "worker.*.lifecycle", "game_server_instance.*.lifecycle"):
            await queue.bind(inbound, key)
        passed = []

        async def take() -> Any:
            while message := await queue.get(no_ack=True, fail=False):
                body = json.loads(message.body)
                if body["command_type"] != "CANARY":
                    passed.append((message, body))
            return passed

        yield take


async def kinds(passing: Any) -> list[Any]:
    return [body["command_type"] for _, body in await passing()]


async def worker_is(rows: FetchRows, status: Any, reason: Any) -> Any:
    return await rows("SELECT * FROM workers WHERE status = $1 AND reason = $2", status, reason)


async def servers(rows: FetchRows) -> list[Any]:
    found = await rows(
        "SELECT instance_id, status, evidence FROM server_instances ORDER BY instance_id"
    )
    return [(row["instance_id"], row["status"], row["evidence"]) for row in found]


ENDED = [
    (31, "COMPLETE", {"exit_code": 0}),
    (32, "CRASHED", {"exit_code": 139}),
    (33, "COMPLETE", {}),
]


async def test_an_asyncio_worker_reports_its_whole_life(
    processor: Role, broker: str, rows: FetchRows, eventually: Eventually
) -> None:
    async with StatusReporter(broker, worker_id=7, interval_seconds=1, labels=LABELS) as report:
        await report.server_started(31, game_server_config_id=3)
        await report.server_started(32)
        await report.server_started(33)
        sql = "SELECT 1 FROM server_instances WHERE status = 'RUNNING' HAVING count(*) = 3"
        await eventually(lambda: rows(sql))
        [worker] = await eventually(
            lambda: rows("SELECT * FROM workers WHERE last_heartbeat IS NOT NULL")
        )
        assert (worker["worker_id"], worker["status"], worker["labels"]) == (7, "RUNNING", LABELS)
        assert (worker["interval_seconds"], worker["incarnation"]) == (1.0, report.incarnation)
        assert report.is_connected
        await report.server_stopped(31, exit_code=0)
        await report.server_stopped(32, exit_code=139)
        await report.server_stopped(33)
    assert (report.waiting, report.dropped, report.is_connected) == (0, 0, False)
    await eventually(lambda: worker_is(rows, "COMPLETE", "graceful"))
    assert await servers(rows) == ENDED
    configs = await rows(
        "SELECT game_server_config_id FROM server_instances WHERE instance_id = 31"
    )
    assert configs == [{"game_server_config_id": 3}]


async def test_a_threaded_worker_reports_its_whole_life(
    processor: Role, broker: str, rows: FetchRows, eventually: Eventually
) -> None:
    def work() -> None:
        """Work like ManMan's workers: a thread for each server, and no event loop."""

        def run_server(instance_id: int, exit_code: Any) -> None:
            report.server_started(instance_id)
            assert may_end.wait(20)
            report.server_stopped(instance_id, exit_code=exit_code)

        with ThreadedStatusReporter(
            broker, worker_id=7, interval_seconds=1, labels=LABELS
        ) as report:
            codes = {31: 0, 32: 139, 33: None}
            threads = [threading.Thread(target=run_server, args=pair) for pair in codes.items()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    may_end = threading.Event()
    working = asyncio.create_task(asyncio.to_thread(work))
    await eventually(counted(rows, 3, "server_instances WHERE status = 'RUNNING'"))
    await eventually(
        lambda: rows(
            "SELECT 1 FROM workers WHERE last_heartbeat IS NOT NULL AND labels = $1", LABELS
        )
    )
    may_end.set()
    await working
    await eventually(lambda: worker_is(rows, "COMPLETE", "graceful"))
    assert await servers(rows) == ENDED


async def test_heartbeats_are_jittered_and_carry_the_inventory(
    broker: str, passing: Any, eventually: Eventually
) -> None:
    async def beats() -> list[Any]:
        return [body for _, body in await passing() if body["command_type"] == "HEARTBEAT"]

    async def five_beats() -> bool:
        return len(await beats()) >= 5

    async with StatusReporter(broker, worker_id=7, interval_seconds=1) as report:
        await report.server_started(31)
        await report.server_started(32, game_server_config_id=3)
        await eventually(five_beats)
    sent = [datetime.fromisoformat(beat["sent_at"]) for beat in await beats()]
    gaps = sorted((later - earlier).total_seconds() for earlier, later in pairwise(sent[:5]))
    assert gaps[0] > 0.85
    assert gaps[1] < 1.05, "those that the machine did not hold up are in time"
    last = (await beats())[4]
    assert [
        (server["instance_id"], server.get("game_server_config_id")) for server in last["servers"]
    ] == [
        (31, None),
        (32, 3),
    ]
    numbers = [body["seq"] for _, body in await passing()]
    assert len(set(numbers)) == len(numbers)


async def test_lifecycle_events_are_persistent_and_heartbeats_are_not(
    broker: str, passing: Any, eventually: Eventually
) -> None:
    async with StatusReporter(broker, worker_id=7) as report:
        await report.server_started(31)

        async def beaten() -> bool:
            return "HEARTBEAT" in await kinds(passing)

        await eventually(beaten)
    modes = {
        (body["command_type"], int(message.delivery_mode)) for message, body in await passing()
    }
    assert modes == {
        ("WORKER_STARTED", 2),
        ("SERVER_STARTED", 2),
        ("WORKER_STOPPED", 2),
        ("HEARTBEAT", 1),
    }


class BrokenError(Exception):
    pass


@pytest.mark.parametrize(
    ("end", "stopped"),
    [
        (BrokenError(), False),
        (SystemExit(1), False),
        (SystemExit(0), True),
        (KeyboardInterrupt(), True),
    ],
    ids=["exception", "exit-1", "exit-0", "interrupt"],
)
async def test_a_crash_says_nothing_more_than_what_was_said_before(
    broker: str, passing: Any, end: Any, stopped: Any
) -> None:
    async def work() -> None:
        async with StatusReporter(broker, worker_id=7) as report:
            await report.server_started(31)
            raise end

    with pytest.raises(type(end)):
        await work()
    said = [kind for kind in await kinds(passing) if kind != "HEARTBEAT"]
    assert said == ["WORKER_STARTED", "SERVER_STARTED", *(["WORKER_STOPPED"] if stopped else [])]


async def test_cancelled_worker_stopped_normally(broker: str, passing: Any) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with StatusReporter(broker, worker_id=7):
            inside.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await inside.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert (await kinds(passing))[-1] == "WORKER_STOPPED"


async def test_events_wait_for_the_first_processor(
    broker: str,
    start_processor: StartRole,
    rows: FetchRows,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The broker is one where nobody has declared anything."""
    with caplog.at_level(logging.INFO):
        async with StatusReporter(broker, worker_id=7, interval_seconds=1) as report:
            await report.server_started(31)
            await eventually(lambda: [r for r in caplog.records if r.levelno >= logging.WARNING])
            assert report.waiting == 2
            await start_processor()
            await eventually(
                lambda: rows("SELECT 1 FROM server_instances WHERE status = 'RUNNING'")
            )
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    # Once, and once more where it looked between the declarations of the two queues.
    assert 1 <= len(logged) <= 2, logged
    assert all("has a processor ever run here?" in line for line in logged)
    await eventually(lambda: worker_is(rows, "COMPLETE", "graceful"))


async def test_thread_logs_with_the_context_of_its_starter(
    broker: str, passing: Any, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    whose = contextvars.ContextVar("whose", default="nobody's")
    seen = []
    log = logging.getLogger("manman_status.reporter")

    def note(record: Any) -> bool:
        seen.append((threading.current_thread() is threading.main_thread(), whose.get()))
        return True

    log.addFilter(note)
    try:
        whose.set("worker 7's")
        with caplog.at_level(logging.INFO), ThreadedStatusReporter(broker, worker_id=7) as report:
            await eventually(lambda: report.is_connected)
    finally:
        log.removeFilter(note)
    assert (False, "worker 7's") in seen


async def test_a_worker_keeps_its_other_connections_logs(
    broker: str, passing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what the AMQP library says about the reporter's own connection is left out."""
    async with StatusReporter("amqp://guest:guest@127.0.0.1:9/", worker_id=7):
        with pytest.raises(ConnectionError):
            await aio_pika.connect("amqp://guest:guest@127.0.0.1:9/", timeout=5)
    assert [record for record in caplog.records if record.name == "aiormq.connection"]


async def test_the_readme_s_worker_is_reported(
    processor: Role, broker: str, rows: FetchRows, eventually: Eventually
) -> None:
    [program] = re.findall(
        r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    program = program.replace("amqp://guest:guest@127.0.0.1:25673/", broker).replace(
        "sleep(60)", "sleep(1)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
    await eventually(lambda: worker_is(rows, "COMPLETE", "graceful"))
    assert await rows("SELECT worker_id, labels FROM workers") == [
        {"worker_id": 7, "labels": {"group": "eu-1"}}
    ]
    assert await servers(rows) == [(31, "COMPLETE", {"exit_code": 0})]


THREADED = """
import time
from manman_status.reporter import ThreadedStatusReporter
with ThreadedStatusReporter("amqp://guest:guest@127.0.0.1:25673/", worker_id=7) as report:
    report.server_started(31)
    time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["asyncio", "threads"])
async def test_unhandled_sigterm_is_a_normal_stop(
    kind: Any, processor: Role, broker: str, rows: FetchRows, eventually: Eventually
) -> None:
    programs = re.findall(
        r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    program = programs[0].replace("sleep(60)", "sleep(600)") if kind == "asyncio" else THREADED
    program = program.replace("amqp://guest:guest@127.0.0.1:25673/", broker)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stderr=asyncio.subprocess.PIPE
    )
    await eventually(lambda: rows("SELECT 1 FROM server_instances WHERE status = 'RUNNING'"))
    process.terminate()
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (143, b"")
    await eventually(lambda: worker_is(rows, "COMPLETE", "graceful"))


async def test_four_lines_make_manman_s_worker_watched(
    processor: Role, broker: str, rows: FetchRows, eventually: Eventually
) -> None:
    """They are run as the document shows them, on a channel of amqpstorm without confirms."""
    page = README.parent / "docs/report-from-python.md"
    lines = re.findall(
        r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )[-1]
    assert len(lines.splitlines()) == 4

    def publish() -> None:
        with UriConnection(broker) as connection, connection.channel() as channel:
            exec(lines, {"json": json, "channel": channel, "worker_id": 7, "running": [31]})

    await asyncio.to_thread(publish)
    [worker] = await eventually(lambda: rows("SELECT * FROM workers"))
    assert (worker["status"], worker["interval_seconds"]) == ("RUNNING", 2.0)
    assert worker["last_heartbeat"] is not None
    assert await servers(rows) == [(31, "RUNNING", {})]
