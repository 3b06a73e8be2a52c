"""An operator makes the service forget workers, and it forgets some by itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from manman_status.store.pool import create_pool
from manman_status.store.retention import delete_unreported
from tests.builders import counted
from tests.integration.test_ingest import HEARTBEAT, LIFECYCLE, START, command, status_info
from tests.kinds import Eventually, FetchRows, Role
from tests.messaging import Publisher

ENDS = """
SELECT entity, entity_id, old_status, new_status, reason, evidence FROM transitions
 WHERE reason IN ('forgotten', 'unreported') ORDER BY revision
"""


async def forget(broker: str, *arguments: Any) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "manman_status",
            "forget",
            *arguments,
            "--rabbitmq-url",
            broker,
            "--why",
            "forged",
            "--by",
            "ann",
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert (process.returncode, error) == (0, b"")
    return out.decode()


async def test_a_forgotten_worker_begins_anew(
    processor: Role, broker: str, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    beat = command("HEARTBEAT", 7, incarnation=START, seq=9, servers=[{"instance_id": 31}])
    await publish(beat, HEARTBEAT)
    await publish(
        command("SERVER_STOPPED", 32, 7, 0, incarnation=START, seq=8),
        "game_server_instance.32.lifecycle",
    )
    await publish(command("HEARTBEAT", 8), "worker.8.heartbeat")
    await eventually(counted(rows, 2, "server_instances"))
    await eventually(counted(rows, 2, "workers"))
    assert "worker 7" in await forget(broker, "worker", "7")
    ends = await eventually(lambda: rows(ENDS))
    assert [tuple(end.values()) for end in ends] == [
        (
            "game_server_instance",
            31,
            "RUNNING",
            "COMPLETE",
            "forgotten",
            {"by": "ann", "why": "forged"},
        ),
        ("worker", 7, "RUNNING", "COMPLETE", "forgotten", {"by": "ann", "why": "forged"}),
    ]
    assert await rows("SELECT 1 FROM server_instances") == []
    assert [row["worker_id"] for row in await rows("SELECT worker_id FROM workers")] == [8]
    await publish(
        command("HEARTBEAT", 7, incarnation=1000, seq=1, servers=[{"instance_id": 31}]), HEARTBEAT
    )
    [worker] = await eventually(lambda: rows("SELECT * FROM workers WHERE worker_id = 7"))
    assert (worker["incarnation"], worker["status"], worker["reason"]) == (
        1000,
        "RUNNING",
        "reported",
    )


async def test_a_forgotten_server_is_back_when_its_worker_lists_it(
    processor: Role, broker: str, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    """Also by an inventory that only repeats itself; an end that was forged for an id of the future
    is gone."""
    await publish(command("SERVER_STOPPED", 31, 7, 1), "game_server_instance.31.lifecycle")
    listing = {"incarnation": START, "servers": [{"instance_id": 31}, {"instance_id": 33}]}
    await publish(command("HEARTBEAT", 7, seq=1, **listing), HEARTBEAT)
    await eventually(counted(rows, 2, "server_instances"))
    await forget(broker, "server", "31")
    await eventually(counted(rows, 1, "server_instances"))
    assert await rows(ENDS) == []  # it had ended
    await publish(command("HEARTBEAT", 7, seq=2, **listing), HEARTBEAT)
    await eventually(
        lambda: rows("SELECT 1 FROM server_instances WHERE instance_id = 31 AND status = 'RUNNING'")
    )


async def test_what_is_not_known_is_forgotten_without_a_word(
    processor: Role, broker: str, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    await forget(broker, "worker", "99")
    await forget(broker, "server", "99")
    await publish(command("HEARTBEAT", 7), LIFECYCLE)
    await eventually(lambda: rows("SELECT 1 FROM workers"))
    assert await rows(ENDS) == []


@pytest.mark.parametrize(
    "fields",
    [{}, {"worker_id": 1, "instance_id": 1}, {"worker_id": 0}],
    ids=["none", "both", "no id"],
)
async def test_forget_needs_one_id(
    processor: Role,
    publish: Publisher,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
    fields: Any,
) -> None:
    await publish(
        {"command_type": "FORGET", "command_args": [fields]}, "forget", "manman.status.control"
    )
    [(_, headers)] = await eventually(dead_letters)
    assert "$.command_args[0]" in headers["x-manman-error"]


OLD = """
WITH old AS (SELECT now() - interval '40 days' AS at), observed AS (
    UPDATE observation SET observed_through = now() - make_interval(days => $1)
), workers AS (
    INSERT INTO workers (worker_id, status, reason, created_date, status_since, received_at,
        last_heartbeat)
    SELECT worker_id, status, 'reported', at, at, at + fresh, at + beat FROM old,
           (VALUES (1, 'RUNNING', interval '0', NULL::interval),
                   (2, 'RUNNING', interval '39 days', NULL),
                   (3, 'RUNNING', interval '0', interval '40 days'),
                   (4, 'CREATED', interval '0', NULL)) AS given (worker_id, status, fresh, beat)
)
INSERT INTO server_instances (instance_id, worker_id, status, reason, created_date, status_since,
    received_at)
SELECT instance_id, worker_id, 'RUNNING', 'reported', at, at, at + fresh FROM old,
       (VALUES (11, 1, interval '0'), (31, 3, interval '0'), (41, 4, interval '39 days'), (51, NULL,
           interval '0'))
       AS given (instance_id, worker_id, fresh)
"""


@pytest.mark.parametrize("observed_days_ago", [0, 20])
async def test_what_nobody_reports_goes_after_the_retention(
    database: str, rows: FetchRows, observed_days_ago: Any
) -> None:
    """Not what is watched, nor while nobody has listened since: what was sent meanwhile may wait in
    a queue."""
    async with (
        create_pool(database, application="test", size=1, timeout_seconds=30) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        await connection.execute(OLD, observed_days_ago)
        deleted = await delete_unreported(connection, retention_days=30)
    expected = {
        0: [("game_server_instance", 11), ("game_server_instance", 51), ("worker", 1)],
        20: [],
    }[observed_days_ago]
    assert deleted == len(expected)
    ends = await rows(ENDS)
    assert [(end["entity"], end["entity_id"]) for end in ends] == expected
    assert {(end["new_status"], end["reason"]) for end in ends} <= {("COMPLETE", "unreported")}


async def test_status_info_that_comes_again_keeps_a_worker(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    await publish(status_info("worker", 7, "RUNNING", "2026-11-23T08:00:00"), "worker.7.status")
    await publish(
        status_info("game_server_instance", 31, "RUNNING", "2026-11-23T08:00:00"), "worker.7.status"
    )
    [before] = await eventually(lambda: rows("SELECT received_at FROM workers"))
    [of_server] = await eventually(lambda: rows("SELECT received_at FROM server_instances"))
    await publish(status_info("worker", 7, "RUNNING", "2026-11-23T08:00:00"), "worker.7.status")
    await publish(
        status_info("game_server_instance", 31, "RUNNING", "2026-11-23T08:00:00"), "worker.7.status"
    )
    newer = "SELECT 1 FROM {} WHERE received_at > $1"
    await eventually(lambda: rows(newer.format("workers"), before["received_at"]))
    await eventually(lambda: rows(newer.format("server_instances"), of_server["received_at"]))
