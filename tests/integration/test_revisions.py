"""Revisions are in commit order: a reader that has seen N never later finds a row at or below N."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.store.pool import create_pool
from manman_status.store.writes import append_transitions

WRITERS = 8
BATCHES = 60


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with create_pool(
        database, application="test", size=WRITERS + 2, timeout_seconds=10
    ) as pool:
        yield pool


def transition(entity_id: Any) -> Any:
    return Transition(Entity.WORKER, entity_id, None, StatusType.RUNNING, Reason.REPORTED, {})


async def test_tailing_reader_misses_nothing_of_many_writers(
    pool: asyncpg.Pool,
) -> None:
    written = asyncio.Event()
    seen: list[Any] = []

    async def write(writer: Any) -> None:
        rng = random.Random(writer)
        for batch in range(BATCHES):
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_sleep($1)", rng.random() * 0.004)
                many = [
                    transition(writer * 10_000 + batch * 10 + n) for n in range(rng.randint(1, 5))
                ]
                await append_transitions(connection, many)
                # What commits last need not be what began first: here the counter's lock is already
                # held.
                await connection.execute("SELECT pg_sleep($1)", rng.random() * 0.004)

    async def tail() -> None:
        last = 0
        while True:
            done = written.is_set()
            found = await pool.fetch(
                "SELECT revision FROM transitions WHERE revision > $1 ORDER BY revision", last
            )
            seen.extend(row["revision"] for row in found)
            last = seen[-1] if seen else 0
            if done:
                return

    reading = asyncio.create_task(tail())
    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    written.set()
    await reading
    total = await pool.fetchval("SELECT count(*) FROM transitions")
    assert seen == list(range(1, total + 1))


async def test_a_rolled_back_batch_leaves_no_gap(pool: asyncpg.Pool) -> None:
    async def fail() -> None:
        async with pool.acquire() as connection, connection.transaction():
            await append_transitions(connection, [transition(1), transition(2)])
            await connection.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await fail()
    async with pool.acquire() as connection, connection.transaction():
        await append_transitions(connection, [transition(3)])
    assert [row["revision"] for row in await pool.fetch("SELECT revision FROM transitions")] == [1]
