"""Times without monitoring are kept."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from manman_status.store.observation import (
    advance_observation,
    forget_gaps,
    register_processor,
    report_processor,
)

QUEUES = ["beats", "lifecycle"]
BLIND_AFTER_SECONDS = 30.0


async def advance(connection: Any, *, lag: float) -> datetime:
    """Both queues are observed through `lag` seconds ago. When that was noted."""
    async with connection.transaction():
        now: datetime = await connection.fetchval("SELECT now()")
        if not await report_processor(connection, "one", statistics={}):
            await register_processor(connection, "one", host="", version="")
        through = now - timedelta(seconds=lag)
        await advance_observation(connection, through, standstill_seconds=5.0)
    return now


async def stood_still(connection: Any, seconds: float) -> datetime:
    through: datetime = await connection.fetchval(
        "UPDATE observation SET observed_through = now() - make_interval(secs => $1) RETURNING"
        " observed_through",
        seconds,
    )
    return through


async def gaps(connection: Any) -> list[tuple[datetime, datetime]]:
    return [
        tuple(row)
        for row in await connection.fetch("SELECT * FROM observation_gaps ORDER BY began_at")
    ]


async def test_the_first_observation_ends_no_gap(connection: Any) -> None:
    await advance(connection, lag=0)
    assert await gaps(connection) == []


async def test_blinding_standstill_is_a_gap_from_the_watermark(
    connection: Any,
) -> None:
    """The gap begins where the watermark stood, not when blindness began."""
    began = await stood_still(connection, 100)
    ended = await advance(connection, lag=0)
    await advance(connection, lag=0)
    assert await gaps(connection) == [(began, ended)]


async def test_a_shorter_standstill_blinded_nobody(connection: Any) -> None:
    await stood_still(connection, BLIND_AFTER_SECONDS - 2)
    await advance(connection, lag=0)
    assert await gaps(connection) == []


async def test_a_gap_grows_while_the_watermark_moves_too_far_behind(connection: Any) -> None:
    began = await stood_still(connection, 100)
    await advance(connection, lag=60)
    await advance(connection, lag=59)
    ended = await advance(connection, lag=20)
    await advance(connection, lag=10)
    assert await gaps(connection) == [(began, ended)]


async def test_gaps_that_do_not_meet_are_apart(connection: Any) -> None:
    first = await stood_still(connection, 1000)
    await advance(connection, lag=0)
    await connection.execute("UPDATE observation_gaps SET ended_at = ended_at - interval '500 s'")
    second = await stood_still(connection, 100)
    await advance(connection, lag=0)
    assert [began for began, _ in await gaps(connection)] == [first, second]


async def test_gaps_go_with_the_retention(connection: Any) -> None:
    await connection.execute("""INSERT INTO observation_gaps (began_at, ended_at)
           SELECT now() - n * interval '1 day', now() - n * interval '1 day' + interval '1 hour'
           FROM generate_series(29, 31) n""")
    assert await forget_gaps(connection, retention_days=30) == 1
    assert len(await gaps(connection)) == 2
