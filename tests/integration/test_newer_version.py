"""Rows that a newer version wrote, with a status and reasons that this one does not know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from manman_status.domain.rows import Rows
from manman_status.domain.status import Reason, StatusType
from manman_status.store.pool import create_pool
from manman_status.store.writes import lock_instances, lock_workers
from tests.integration.test_ingest import START, command
from tests.kinds import Eventually, FetchRows, Role
from tests.messaging import Publisher

NEWER = """
ALTER TABLE workers DROP CONSTRAINT status_known;
ALTER TABLE server_instances DROP CONSTRAINT status_known;
ALTER TABLE transitions DROP CONSTRAINT new_status_known;
INSERT INTO workers (worker_id, status, reason, created_date, status_since, last_heartbeat,
    begun_at, begun_status)
VALUES (7, 'PAUSED', 'maintenance', now(), now(), now(), 1, 'PAUSED'),
       (8, 'RUNNING', 'resumed', now(), now(), now(), NULL, NULL),
       (9, 'LOST', 'unplugged', now(), now(), now(), NULL, NULL);
INSERT INTO server_instances (instance_id, worker_id, status, reason, created_date, status_since,
    claim_status)
VALUES (31, 7, 'PAUSED', 'maintenance', now(), now(), 'PAUSED'), (32, 8, 'CRASHED', 'evicted',
    now(), now(), NULL);
UPDATE revision_counter SET revision = 3;
INSERT INTO transitions (revision, at, entity, entity_id, old_status, new_status, reason)
VALUES (1, now(), 'worker', 7, 'RUNNING', 'PAUSED', 'maintenance'),
       (2, now(), 'worker', 9, 'PAUSED', 'LOST', 'unplugged'),
       (3, now(), 'game_server_instance', 32, 'PAUSED', 'CRASHED', 'evicted');
"""


@pytest.fixture
async def newer(database: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(database)
    await connection.execute(NEWER)
    yield
    await connection.close()


async def test_the_processor_carries_them_and_goes_on(
    newer: Any, processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    """A beat leaves them as they are, an end that is reported ends them, and the rest of the batch
    is stored."""
    beats = [
        command(
            "HEARTBEAT", worker, incarnation=START, seq=2, servers=[{"instance_id": 20 + worker}]
        )
        for worker in (7, 8, 9, 10)
    ]
    await publish(beats, "worker.7.heartbeat")
    await eventually(lambda: rows("SELECT 1 FROM workers WHERE worker_id = 10"))
    found = await rows(
        "SELECT worker_id, status, reason, incarnation FROM workers ORDER BY worker_id"
    )
    assert [tuple(row.values()) for row in found] == [
        (7, "PAUSED", "maintenance", START),
        (8, "RUNNING", "resumed", START),
        (9, "RUNNING", "reported", START),
        (10, "RUNNING", "reported", START),
    ]
    assert await rows("SELECT 1 FROM server_instances WHERE instance_id = 31 AND status = 'PAUSED'")
    await publish(command("WORKER_STOPPED", 7, incarnation=START, seq=3), "worker.7.lifecycle")
    await publish(command("SERVER_STOPPED", 31, 7, 0), "game_server_instance.31.lifecycle")
    await eventually(
        lambda: rows("SELECT 1 FROM workers WHERE worker_id = 7 AND status = 'COMPLETE'")
    )
    await eventually(
        lambda: rows(
            "SELECT 1 FROM server_instances WHERE instance_id = 31 AND status = 'COMPLETE'"
        )
    )


async def test_the_rules_of_alerts_look_at_them(
    newer: Any, processor: Role, rows: FetchRows, eventually: Eventually
) -> None:
    await eventually(lambda: rows("SELECT 1 FROM alerts WHERE key = 'worker_lost:9'"))
    await eventually(lambda: rows("SELECT 1 FROM relay WHERE sent_revision >= 3"))
    assert "Traceback" not in processor.log


PATHS = (
    "/status/workers",
    "/status/workers/7",
    "/status/workers/9",
    "/status/servers",
    "/status/servers/31",
    "/status/servers/32",
    "/status/system",
    "/status/changes?since=0",
    "/status/uptime?window=1h",
    "/status/workers/7/uptime?window=1h",
    "/status/workers/7/transitions",
    "/metrics",
    "/page/map.json",
    "/page/workers/7/why",
    "/workers",
    "/workers/7",
    "/workers/9",
    "/servers",
    "/",
)
FILTERS = (
    ("/status/workers", "status"),
    ("/status/servers", "status"),
    ("/status/workers/7/transitions", "new_status"),
    ("/status/changes", "new_status"),
)


async def test_the_api_shows_them_as_they_are(newer: Any, api: Role) -> None:
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        answers = {path: await http.get(path) for path in PATHS}
    assert {
        path: answer.text
        for path, answer in answers.items()
        if answer.status_code != httpx.codes.OK
    } == {}
    assert "Traceback" not in api.log
    for path in ("/status/workers/7", "/status/servers/31", "/workers/7"):
        assert "PAUSED" in answers[path].text


async def test_a_filter_takes_known_ones_alone(api: Role) -> None:
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        for path, parameter in FILTERS:
            answer = await http.get(path, params={parameter: "PAUSED"})
            assert (answer.status_code, answer.json()["parameter"]) == (400, parameter)


async def test_they_are_loaded_as_they_were_stored(newer: Any, database: str) -> None:
    rows = Rows()
    async with (
        create_pool(database, application="test", size=1, timeout_seconds=30) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        await lock_workers(connection, [7, 8], rows)
        await lock_instances(connection, [31, 32], rows)
    assert (rows.workers[7].status, rows.workers[7].reason) == ("PAUSED", "maintenance")
    assert (rows.instances[31].status, rows.instances[31].claim_status) == ("PAUSED", "PAUSED")
    status = rows.workers[7].status
    assert status is not None
    assert not status.is_known
    assert rows.workers[8].status is StatusType.RUNNING
    assert rows.workers[8].reason not in Reason.__members__.values()
