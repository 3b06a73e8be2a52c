"""The release before left rows in the database, and goes on writing beside this one."""

from __future__ import annotations

import asyncio

import asyncpg
from alembic import command

from manman_status.store.migrate import alembic_config, migrate
from manman_status.wire.topology import Topology
from tests.kinds import Eventually, StartRole

OLD_QUEUES = ["manman.status.heartbeats", "manman.status.lifecycle"]
OLD_REPORT = """
UPDATE processors SET last_seen = now(), settled_through = jsonb_build_object($1::text, now())
 WHERE processor_id = 'old'
"""
OLD_CANARY = """
INSERT INTO watermarks AS kept (queue, pending_sent, pending_seen, pending_by)
SELECT $1, now(), clock_timestamp(), 'old'
ON CONFLICT (queue) DO UPDATE SET pending_sent = excluded.pending_sent, canaries_from = now()
"""


async def test_old_queues_are_retired_while_their_processor_runs(
    empty_database: str, start_processor: StartRole, broker: str, eventually: Eventually
) -> None:
    await asyncio.to_thread(command.upgrade, alembic_config(empty_database), "0010")
    before = await asyncpg.connect(empty_database)
    await before.execute(
        "INSERT INTO watermarks (queue, observed_through) SELECT unnest($1::text[]), now()",
        OLD_QUEUES,
    )
    await before.execute(
        "INSERT INTO processors (processor_id, host, version, started_at, last_seen)"
        " VALUES ('old', 'h', '1', now(), now() + interval '1 minute')"
    )
    await asyncio.to_thread(migrate, empty_database)
    for queue in OLD_QUEUES:
        await before.execute(OLD_REPORT, queue)
        await before.execute(OLD_CANARY, queue)
    assert await before.fetchval("SELECT array_agg(DISTINCT state) FROM watermarks") == ["retired"]
    await start_processor(database_url=empty_database)
    await eventually(
        lambda: before.fetchval("SELECT observed_through > now() - interval '3 s' FROM observation")
    )
    active = "SELECT array_agg(queue ORDER BY queue) FROM watermarks WHERE state = 'active'"
    assert await before.fetchval(active) == sorted(Topology().queues(1))
    await eventually(lambda: before.fetchval("SELECT count(*) = 2 FROM watermarks"))
    await before.close()
