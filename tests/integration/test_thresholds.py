"""The thresholds of liveness stand once, in the database; what a status is, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import httpx

from manman_status.domain.liveness import Thresholds
from manman_status.domain.status import ACTIVE, TERMINAL, Health, StatusType

if TYPE_CHECKING:
    from tests.kinds import Eventually, StartRole

OTHERS: dict[str, Any] = {"minimum_timeout_seconds": 21.0, "blind_after_seconds": 77.0}


async def shown(url: str) -> dict[str, float]:
    async with httpx.AsyncClient(base_url=url) as http:
        observation = (await http.get("/status/system")).json()["observation"]
    thresholds: dict[str, float] = observation["thresholds"]
    return thresholds


async def test_an_api_reads_by_the_processors_thresholds(
    start_api: StartRole, start_processor: StartRole
) -> None:
    """It has the defaults before any processor ran, and its own environment is nothing to it."""
    api = await start_api(answer_cache_ms=0)
    defaults = {name: getattr(Thresholds(), name) for name in Thresholds.__struct_fields__}
    assert await shown(api.url) == defaults
    await start_processor(**OTHERS)
    assert await shown(api.url) == defaults | OTHERS


async def test_two_processors_that_differ_are_named(
    start_processor: StartRole, start_api: StartRole, eventually: Eventually
) -> None:
    """The leader's settings count, and the next leader's after it."""
    api = await start_api(answer_cache_ms=0)
    first = await start_processor(**OTHERS)
    await eventually(lambda: '"leading"' in first.log)
    second = await start_processor()
    await eventually(lambda: "thresholds_differ" in first.log)
    assert (await shown(api.url))["minimum_timeout_seconds"] == 21
    first.stop()

    async def follows() -> bool:
        return (await shown(api.url))["minimum_timeout_seconds"] == 15

    await eventually(follows)
    assert second.log.count("thresholds_changed") == 1


async def test_sql_says_of_each_status_what_python_says(database: str) -> None:
    """A new status needs a migration with new versions of these functions."""
    connection = await asyncpg.connect(database)
    for status in StatusType:
        row = await connection.fetchrow(
            "SELECT is_active($1), is_inactive($1), is_terminal($1), has_not_ended($1),"
            " health_of_status($1)",
            status.value,
        )
        is_active, is_terminal = status in ACTIVE, status in TERMINAL
        settled = None if is_active else Health.TERMINATED if is_terminal else Health.UNHEALTHY
        assert row is not None
        assert tuple(row) == (is_active, not is_active, is_terminal, not is_terminal, settled)
    await connection.close()


async def test_sql_that_the_planner_cannot_see_through_is_refused(database: str) -> None:
    """A function that is not inlined hides its column from every index, and is called per row."""
    connection = await asyncpg.connect(database)
    for condition in ("is_active(status)", "is_inactive(status)", "has_not_ended(status)"):
        plan = await connection.fetch(f"EXPLAIN SELECT FROM worker_health WHERE {condition}")
        text = "\n".join(row[0] for row in plan)
        assert "status = ANY" in text, text
    await connection.close()
