"""Workers that report and never send a heartbeat: people are notified, and ghosts go in the end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from manman_status.store.counting import compare_counts
from tests.integration.test_ingest import command, status_info
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.messaging import Publisher

AGE = """
UPDATE {} SET status_since = status_since - $1::interval, received_at = received_at - $1::interval
"""
ALERTS = "SELECT severity, state, evidence FROM alerts WHERE rule = 'unwatched_workers'"
ENDS = """
SELECT entity, entity_id, old_status, new_status, reason FROM transitions
 WHERE old_status IS NOT NULL ORDER BY revision
"""


async def report(publish: Publisher, entity: str, identifier: int) -> None:
    now = datetime.now(UTC).isoformat()
    await publish(status_info(entity, identifier, "RUNNING", now), f"{entity}.{identifier}.status")


@pytest.fixture
async def connection(database: str) -> asyncpg.Connection:
    return await asyncpg.connect(database)


async def test_an_alert_lasts_until_each_has_sent_a_heartbeat(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    connection: asyncpg.Connection,
    eventually: Eventually,
) -> None:
    for worker_id in (7, 8):
        await report(publish, "worker", worker_id)
    await eventually(lambda: rows("SELECT 1 FROM workers HAVING count(*) = 2"))
    await eventually(lambda: rows("SELECT 1 FROM alert_progress WHERE judged_revision = 2"))
    assert await rows(ALERTS) == [], "they have had no time yet"
    await connection.execute(AGE.format("workers"), timedelta(minutes=2))
    [alert] = await eventually(lambda: rows(ALERTS))
    assert (alert["severity"], alert["evidence"]) == ("info", {"workers": 2})
    for worker_id in (7, 8):
        assert (await rows(ALERTS))[0]["state"] == "open"
        await publish(command("HEARTBEAT", worker_id), f"worker.{worker_id}.heartbeat")
    await eventually(lambda: rows(f"{ALERTS} AND state = 'resolved'"))


async def test_a_ghost_is_deleted_after_the_retention(
    start_processor: StartRole,
    publish: Publisher,
    rows: FetchRows,
    connection: asyncpg.Connection,
    eventually: Eventually,
) -> None:
    """Its server goes with it, a worker that was received lately stays, the counts are right."""
    first = await start_processor()
    for worker_id in (7, 8):
        await report(publish, "worker", worker_id)
    await report(publish, "game_server_instance", 31)
    await eventually(lambda: rows("SELECT 1 FROM workers HAVING count(*) = 2"))
    await eventually(lambda: rows("SELECT 1 FROM server_instances"))
    await eventually(lambda: rows("SELECT 1 FROM observation WHERE observed_through IS NOT NULL"))
    first.kill()
    month = timedelta(days=31)
    await connection.execute(AGE.format("workers") + " WHERE worker_id = 7", month)
    await connection.execute(AGE.format("server_instances"), month)
    await start_processor()
    await eventually(lambda: rows(f"SELECT 1 FROM ({ENDS}) ended HAVING count(*) = 2"))
    assert [tuple(row.values()) for row in await rows(ENDS)] == [
        ("game_server_instance", 31, "RUNNING", "COMPLETE", "unreported"),
        ("worker", 7, "RUNNING", "COMPLETE", "unreported"),
    ]
    assert [row["worker_id"] for row in await rows("SELECT worker_id FROM workers")] == [8]
    assert await compare_counts(connection) == []
