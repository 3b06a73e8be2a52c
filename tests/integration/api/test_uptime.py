"""Uptime of workers, over HTTP."""

from __future__ import annotations

import random
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from manman_status.domain.uptime import Figures
from manman_status.store.uptime import read_fleet_uptime, read_worker_uptime

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from tests.integration.api.conftest import Rows

    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

HOUR, DAY = 3600.0, 86_400.0
PARTS = ("active_seconds", "lost_seconds", "ended_seconds", "not_known_seconds", "blind_seconds")
A_MOMENT = 60.0
"""Tolerance: the window may have moved on since the rows were made."""


async def uptime(http: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    """Request the uptime and check that its parts add up to the window."""
    response = await http.get(f"/status/{path}", params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    window = datetime.fromisoformat(answer["ends_at"]) - datetime.fromisoformat(answer["begins_at"])
    total = window.total_seconds() * answer.get("workers", 1)
    assert round(sum(answer[part] for part in PARTS), 6) == round(total, 6)
    return answer


def about(seconds: float) -> object:
    return pytest.approx(seconds, abs=A_MOMENT)


async def lived(rows: Rows, worker_id: int, *changes: tuple[float, str], **columns: Any) -> None:
    """It changed so many hours ago to these."""
    old = None
    for hours, new in changes:
        await rows.transition(
            "worker", worker_id, at=rows.ago(hours * HOUR), old_status=old, new_status=new
        )
        old = new
    first, (last, status) = changes[0][0], changes[-1]
    await rows.worker(
        worker_id,
        created_date=rows.ago(first * HOUR),
        status=status,
        status_since=rows.ago(last * HOUR),
        **columns,
    )


async def test_the_uptime_of_a_worker(rows: Rows, http: httpx.AsyncClient) -> None:
    """Known for 20 h, lost twice: for 2 h and for 4 h; ended 3 h ago."""
    await lived(
        rows,
        1,
        (20, "RUNNING"),
        (18, "LOST"),
        (16, "RUNNING"),
        (12, "LOST"),
        (8, "RUNNING"),
        (3, "COMPLETE"),
    )
    answer = await uptime(http, "workers/1/uptime", window="24h")
    assert answer["worker_id"] == 1
    assert [answer[part] for part in PARTS] == [
        about(11 * HOUR),
        6 * HOUR,
        about(3 * HOUR),
        about(4 * HOUR),
        0,
    ]
    assert answer["fraction_active"] == pytest.approx(11 / 17, abs=0.01)
    assert answer["losses"] == {
        "number": 2,
        "total_seconds": 6 * HOUR,
        "mean_seconds": 3 * HOUR,
        "longest_seconds": 4 * HOUR,
    }
    assert (answer["mtbf_seconds"], answer["mttr_seconds"]) == (about(5.5 * HOUR), 3 * HOUR)


async def test_what_happened_before_the_window_does_not_count(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await lived(rows, 1, (20, "RUNNING"), (18, "LOST"), (5, "RUNNING"))
    answer = await uptime(http, "workers/1/uptime", window="4h")
    assert (answer["active_seconds"], answer["losses"]["number"]) == (4 * HOUR, 0)
    assert (answer["fraction_active"], answer["mtbf_seconds"], answer["mttr_seconds"]) == (
        1.0,
        None,
        None,
    )
    assert answer["losses"]["longest_seconds"] is None
    answer = await uptime(http, "workers/1/uptime", window="360m")
    assert (answer["lost_seconds"], answer["losses"]["number"]) == (about(HOUR), 1)


async def test_unchanged_worker_has_its_status_all_window(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1, created_date=rows.ago(90 * DAY), status_since=rows.ago(80 * DAY))
    answer = await uptime(http, "workers/1/uptime")
    assert answer["active_seconds"] == 30 * DAY


async def test_blind_time_is_counted_apart(rows: Rows, http: httpx.AsyncClient) -> None:
    """Lost an hour ago, and from 40 minutes ago on for 30 minutes nobody saw: half a minute later
    it was blind."""
    await lived(rows, 1, (20, "RUNNING"), (1, "LOST"))
    await rows.connection.execute(
        "INSERT INTO observation_gaps VALUES ($1, $2)", rows.ago(2400 + 30), rows.ago(600)
    )
    answer = await uptime(http, "workers/1/uptime", window="2h")
    assert (answer["blind_seconds"], answer["lost_seconds"]) == (1800, about(1800))
    assert answer["losses"]["longest_seconds"] == about(1800)


async def test_the_gap_that_is_not_over_counts_too(rows: Rows, http: httpx.AsyncClient) -> None:
    await lived(rows, 1, (20, "RUNNING"))
    await rows.observe(lag=HOUR)
    assert (await uptime(http, "workers/1/uptime", window="2h"))["blind_seconds"] == about(
        HOUR - 30
    )


async def test_the_uptime_of_a_group_is_the_sum_of_its_workers(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await lived(rows, 1, (20, "RUNNING"), labels={"group": "eu"})
    await lived(rows, 2, (20, "RUNNING"), (2, "LOST"), (1, "RUNNING"), labels={"group": "eu"})
    await lived(rows, 3, (20, "LOST"))
    eu = await uptime(http, "uptime", group="eu", window="4h")
    assert (eu["group"], eu["workers"], eu["lost_seconds"]) == ("eu", 2, HOUR)
    assert (eu["fraction_active"], eu["mtbf_seconds"], eu["mttr_seconds"]) == (
        7 / 8,
        7 * HOUR,
        HOUR,
    )
    every = await uptime(http, "uptime", window="4h")
    assert (every["group"], every["workers"], every["lost_seconds"]) == (None, 3, 5 * HOUR)
    without = await uptime(http, "uptime", group="", window="4h")
    assert (without["workers"], without["fraction_active"]) == (1, 0.0)
    nobody = await uptime(http, "uptime", group="nobody")
    assert (nobody["workers"], nobody["fraction_active"]) == (0, None)


async def test_an_unknown_worker_has_no_uptime(rows: Rows, http: httpx.AsyncClient) -> None:
    problem = (await http.get("/status/workers/1/uptime")).json()
    assert (problem["status"], problem["parameter"]) == (404, "worker_id")


@pytest.mark.parametrize(
    "window", ["", "0d", "31d", "721h", "30", "d", "1w", "-1d", "1.5h", "99999999d", "1d ", "30D"]
)
async def test_a_window_that_is_none_is_refused(
    window: str, rows: Rows, http: httpx.AsyncClient
) -> None:
    for path in ("uptime", "workers/1/uptime"):
        problem = (await http.get(f"/status/{path}", params={"window": window})).json()
        assert (problem["status"], problem["parameter"]) == (400, "window")


async def test_the_longest_window_is_the_retention(rows: Rows, run_app: RunApp) -> None:
    async with run_app(retention_days=7) as http:
        answer = await uptime(http, "uptime")
        span = datetime.fromisoformat(answer["ends_at"]) - datetime.fromisoformat(
            answer["begins_at"]
        )
        assert span.days == 7
        assert (await http.get("/status/uptime?window=8d")).status_code == 400


async def test_the_sum_in_sql_is_that_of_each_worker_by_itself(rows: Rows) -> None:
    """Gaps, changes out of order, workers that did not change, and some that changed before the
    window."""
    chance = random.Random(4711)
    for _ in range(4):
        began = chance.uniform(1, 90) * HOUR
        await rows.connection.execute(
            "INSERT INTO observation_gaps VALUES ($1, $2)", rows.ago(began), rows.ago(began - 2400)
        )
    statuses = ("RUNNING", "LOST", "COMPLETE", "CRASHED", "RUNNING", "LOST")
    for worker_id in range(1, 41):
        hours = sorted(
            (chance.uniform(0.1, 100) for _ in range(chance.randrange(1, 12))), reverse=True
        )
        if worker_id % 5 == 0:
            hours.append(hours[-1] + 30 / HOUR)  # two transactions that overlapped
        changes = list(zip(hours, chance.choices(statuses, k=len(hours)), strict=True))
        await lived(rows, worker_id, *changes, labels={"group": f"g{worker_id % 2}"})
    for window in (2, 48, 200):
        limits = {"window_seconds": window * HOUR}
        async with rows.connection.transaction():  # now() stays
            for group, ids in ((None, range(1, 41)), ("g1", range(1, 41, 2))):
                total = await read_fleet_uptime(rows.connection, group, **limits)
                alone = [
                    (await read_worker_uptime(rows.connection, each, **limits)).figures
                    for each in ids
                ]
                expected = {
                    name: (max if name == "longest_loss" else sum)(
                        getattr(figures, name) for figures in alone
                    )
                    for name in Figures.__struct_fields__
                }
                assert msgspec.structs.asdict(total.figures) == expected
                assert total.workers == len(alone)


async def test_the_uptime_of_a_host(rows: Rows, http: httpx.AsyncClient) -> None:
    """Three lives: lost 18 h ago and ended long after the next one began, lost for 2 h, running."""
    labels = {"host": "h1"}
    life = (20, "RUNNING"), (18, "LOST"), (5, "COMPLETE")
    await lived(rows, 1, *life, labels=labels)
    await lived(rows, 2, (16, "RUNNING"), (12, "LOST"), (5, "COMPLETE"), labels=labels)
    await lived(rows, 3, (10, "RUNNING"), labels=labels)
    await lived(rows, 4, (20, "RUNNING"), labels={"host": "h2"})
    answer = await uptime(http, "hosts/h1/uptime", window="24h")
    assert (answer["host"], answer["lives"]) == ("h1", 3)
    assert [answer[part] for part in PARTS] == [
        about(16 * HOUR),
        about(4 * HOUR),
        0,
        about(4 * HOUR),
        0,
    ]
    assert answer["losses"]["number"] == 2
    unknown = await http.get("/status/hosts/h3/uptime")
    assert (unknown.status_code, unknown.json()["detail"]) == (
        404,
        "No worker has ever been labelled with host h3.",
    )
