"""The number of dead letters, when several processors counted them at different moments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from manman_status.alerts.rules.dead_letters import DeadLetters
from manman_status.alerts.scene import Scene
from manman_status.store.pool import create_pool

COUNTED = """INSERT INTO processors (processor_id, host, version, started_at, last_seen, statistics)
    VALUES ($1, 'h', '1', now(), now() - make_interval(secs => $2),
            jsonb_build_object('dead_letters_waiting', $3::int))"""
LEADS = """INSERT INTO leases (name, holder, token, expires_at) VALUES ('leader', $1, 1, now() +
    interval '1 minute')
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder"""


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with create_pool(database, application="test", size=1, timeout_seconds=5) as pool:
        yield pool


async def test_rules_read_the_number_of_the_leader(
    pool: asyncpg.Pool,
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(COUNTED, "leads", 0.2, 3)
        await connection.execute(COUNTED, "follows", 0.0, 0)
        await connection.execute(LEADS, "leads")
        assert await DeadLetters().read(connection, Scene(now=datetime.now(UTC))) == 3
