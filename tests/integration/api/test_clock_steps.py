"""Answers about an hour that the database's clock went through twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.api.test_history import get, moment
from tests.integration.api.test_uptime import PARTS, uptime

if TYPE_CHECKING:
    import httpx

    from tests.integration.api.conftest import Rows

MINUTE = 60.0


@pytest.fixture
async def twice(rows: Rows) -> None:
    """Lost and back before the clock stepped back by an hour 20 minutes ago, ended after it."""
    story = [
        (90, None, "RUNNING"),
        (-30, "RUNNING", "LOST"),
        (-35, "LOST", "RUNNING"),
        (10, "RUNNING", "COMPLETE"),
    ]
    for minutes, old, new in story:
        await rows.transition(
            "worker", 1, at=rows.ago(minutes * MINUTE), old_status=old, new_status=new
        )
    await rows.worker(
        1, created_date=rows.ago(90 * MINUTE), status="COMPLETE", status_since=rows.ago(10 * MINUTE)
    )
    await rows.connection.execute(
        "INSERT INTO observation_gaps (began_at, ended_at)"
        " VALUES (now() + interval '10 min', now() + interval '20 min')"
    )


async def test_uptime_has_no_negative_part(twice: None, http: httpx.AsyncClient) -> None:
    for answer in (
        await uptime(http, "workers/1/uptime", window="24h"),
        await uptime(http, "uptime", window="24h"),
    ):
        assert min(answer[part] for part in PARTS) >= 0


async def test_history_is_in_the_order_in_which_it_happened(
    twice: None, http: httpx.AsyncClient
) -> None:
    answer = await get(http, "/status/workers/1/transitions")
    assert [item["new_status"] for item in answer["items"]] == [
        "COMPLETE",
        "RUNNING",
        "LOST",
        "RUNNING",
    ]


@pytest.mark.parametrize("minutes", [5, 15, 60, 100])
async def test_a_past_time_is_answered(
    twice: None, minutes: int, rows: Rows, http: httpx.AsyncClient
) -> None:
    at = moment(rows.ago(minutes * MINUTE))
    found = (await get(http, "/status/workers", at=at))["items"]
    assert [worker["status"] for worker in found] == {5: ["COMPLETE"], 100: []}.get(
        minutes, ["RUNNING"]
    )
    await get(http, "/status/system", at=at)
