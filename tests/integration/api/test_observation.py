"""The state of monitoring, and what is shown while it is not ok."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.api.conftest import UNHURRIED

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from tests.integration.api.conftest import Rows

    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

STATISTICS = {
    "events": {"Heartbeat": {"stored": 7, "poison": 1}},
    "batches": 3,
    "transitions": 2,
    "transitions_by": {"worker": {"LOST": {"heartbeat_expired": 2}}},
    "new_ids": {"worker": 5, "game_server_instance": 9},
    "redelivered": 1,
    "miscounts": 0,
    "batch_events": {"bounds": [0, 10], "counts": [1, 2, 0], "sum": 7},
    "batch_seconds": {"bounds": [0.005, 0.01], "counts": [2, 1, 0], "sum": 0.0155},
    "last_batch_ms": 4.5,
    "longest_batch_ms": 9.0,
    "queue_depths": {"beats": 0},
    "broker_alarm": "low on memory",
    "broker_problems": {"beats": "nothing listens at 127.0.0.1:5672"},
    "dead_letters_waiting": 4,
    "dead_letters_unsent": None,
    "notifications": {"log": {"sent": 2}},
    "sweep_ms": 1.25,
    "relay_backlog": 0,
}


async def system(http: httpx.AsyncClient) -> dict[str, Any]:
    response = await http.get("/status/system")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def healths(http: httpx.AsyncClient) -> list[str]:
    return [worker["health"] for worker in (await http.get("/status/workers")).json()["items"]]


@pytest.fixture
async def fleet(rows: Rows) -> None:
    """Well, lost, ended, silent, and never received."""
    await rows.worker(1)
    await rows.worker(2, status="LOST", reason="heartbeat_expired", beat_seconds_ago=90)
    await rows.worker(3, status="COMPLETE")
    await rows.worker(4, beat_seconds_ago=90)
    await rows.worker(5, beat_seconds_ago=None)


@pytest.mark.parametrize(
    ("lag", "state"),
    [
        (0.0, "ok"),
        (300.0, "ok"),
        (600.0, "degraded"),
        (2500.0, "degraded"),
        (3100.0, "blind"),
        (None, "blind"),
    ],
)
async def test_watermark_age_decides_the_state_of_monitoring(
    lag: float | None, state: str, rows: Rows, run_app: RunApp
) -> None:
    await rows.observe(lag=lag)
    async with run_app(**UNHURRIED) as http:
        response = await http.get("/status/system")
    seen = response.json()["observation"]
    assert (seen["state"], seen["processors"], seen["guard"]) == (state, [], None)
    if lag is None:
        assert (seen["observed_through"], seen["lag_seconds"]) == (None, None)
        assert int(response.headers["age"]) < 30
    else:
        assert datetime.fromisoformat(seen["observed_through"]) == rows.ago(lag)
        assert seen["observed_through"] == response.json()["timestamp"]
        assert lag <= seen["lag_seconds"] < lag + 60
        assert int(lag) <= int(response.headers["age"]) <= int(seen["lag_seconds"]) + 1


@pytest.mark.parametrize(
    "path", ["/status/workers", "/status/workers/1", "/status/servers", "/status/servers/1"]
)
async def test_every_answer_is_of_the_moment_that_was_observed(
    path: str, rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1)
    await rows.server(1)
    await rows.observe(lag=12.0)
    response = await http.get(path)
    assert datetime.fromisoformat(response.json()["as_of"]) == rows.ago(12.0)
    assert 12 <= int(response.headers["age"]) < 22


@pytest.mark.parametrize("lag", [31.0, None])
async def test_the_blind_repeat_no_verdict(
    lag: float | None, fleet: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    """Conclusions from before the blindness stay."""
    await rows.observe(lag=lag)
    assert await healths(http) == ["unknown", "unhealthy", "terminated", "unknown", "unknown"]
    found = await system(http)
    assert found["overall_status"] == "unknown"
    assert found["workers"] == {
        "total_active": 3,
        "healthy": 0,
        "late": 0,
        "unhealthy": 1,
        "unknown": 3,
        "terminated": 1,
    }
    for wanted, ids in (("unknown", [1, 4, 5]), ("healthy", []), ("unhealthy", [2])):
        page = (await http.get("/status/workers", params={"health": wanted})).json()
        assert [worker["worker_id"] for worker in page["items"]] == ids
    worker = (await http.get("/status/workers/1")).json()
    assert (worker["health"], worker["is_healthy"]) == ("unknown", False)


async def test_unwatched_workers_are_counted_when_they_had_time(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """A minute, or their timeout when that is longer, in observed time."""
    await rows.worker(1, beat_seconds_ago=None, status_since=rows.ago(70))
    await rows.worker(2, beat_seconds_ago=None, status_since=rows.ago(50))
    await rows.worker(3, beat_seconds_ago=None, status_since=rows.ago(70), interval_seconds=30)
    await rows.worker(4, beat_seconds_ago=None, status="COMPLETE")
    await rows.worker(5, status_since=rows.ago(70))
    for lag, number in ((0.0, 1), (20.0, 0), (None, 0)):
        await rows.observe(lag=lag)
        assert (await system(http))["unwatched_workers"] == number


async def test_silence_is_judged_by_the_watermark(rows: Rows, http: httpx.AsyncClient) -> None:
    await rows.worker(1, beat_seconds_ago=40.0)
    for lag, health in ((0.0, "unhealthy"), (11.0, "late"), (26.0, "healthy")):
        await rows.observe(lag=lag)
        assert await healths(http) == [health], lag


async def test_during_the_grace_the_overdue_are_late(rows: Rows, http: httpx.AsyncClient) -> None:
    await rows.worker(1, beat_seconds_ago=90.0)
    await rows.worker(2, beat_seconds_ago=90.0, interval_seconds=20.0)
    deadline = (await http.get("/status/workers/1")).json()["deadline"]
    for unbroken, health in (
        (1.0, "late late"),
        (29.0, "late late"),
        (31.0, "unhealthy late"),
        (61.0, "unhealthy" * 2),
    ):
        await rows.observe(unbroken=unbroken)
        assert "".join(await healths(http)) == health.replace(" ", ""), unbroken
    assert (await http.get("/status/workers/1")).json()["deadline"] == deadline


async def test_processors_that_reported_lately_are_shown(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    for name, seen_seconds_ago in (("one", 1), ("frozen", 290), ("gone", 310)):
        await rows.processor(name, last_seen=rows.ago(seen_seconds_ago), statistics=STATISTICS)
    await rows.processor("new", started_at=rows.now)
    shown = (await system(http))["observation"]["processors"]
    assert [processor["processor_id"] for processor in shown] == ["frozen", "one", "new"]
    first = shown[1]
    assert first == STATISTICS | {
        "reads": [],
        "processor_id": "one",
        "host": "a-host",
        "version": "1.0",
        "started_at": first["started_at"],
        "last_seen": first["last_seen"],
    }
    assert datetime.fromisoformat(first["last_seen"]) == rows.ago(1)
    assert (shown[2]["batches"], shown[2]["events"], shown[2]["sweep_ms"]) == (0, {}, None)


async def test_counts_change_no_etag_but_a_lost_processor_does(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.processor("one", statistics=STATISTICS)
    known = {"if-none-match": (await http.get("/status/system")).headers["etag"]}
    await rows.connection.execute("UPDATE processors SET last_seen = now(), statistics = '{}'")
    assert (await http.get("/status/system", headers=known)).status_code == 304
    await rows.connection.execute("DELETE FROM processors")
    assert (await http.get("/status/system", headers=known)).status_code == 200


async def test_held_groups_are_shown_with_unhealthy_workers(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    for worker_id in range(1, 4):
        await rows.worker(worker_id, beat_seconds_ago=90, labels={"group": "eu-1"})
    await rows.guard("eu-1", held=3, group_size=7)
    await rows.guard("", held=5, group_size=8, releasing_since=rows.ago(2))
    unlabelled, europe = (await system(http))["observation"]["guard"]
    assert europe == {
        "group": "eu-1",
        "holding_since": europe["holding_since"],
        "held": 3,
        "group_size": 7,
        "releasing_since": None,
    }
    assert datetime.fromisoformat(europe["holding_since"]) == rows.now
    assert (unlabelled["group"], unlabelled["held"]) == ("", 5)
    assert datetime.fromisoformat(unlabelled["releasing_since"]) == rows.ago(2)
    assert await healths(http) == ["unhealthy"] * 3


async def test_prometheus_reads_how_old_the_watermark_is(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    async def lag() -> list[float]:
        lines = (await http.get("/metrics")).text.splitlines()
        return [
            float(line.split()[1])
            for line in lines
            if line.startswith("manman_status_observation_lag_seconds ")
        ]

    await rows.observe(lag=50)
    [found] = await lag()
    assert 50 <= found < 60
    await rows.observe(lag=None)
    assert await lag() == []


@pytest.mark.parametrize(("ahead_seconds", "state"), [(3600, "blind"), (2000, "degraded")])
async def test_a_watermark_of_a_time_to_come_is_never_ok(
    run_app: RunApp, rows: Rows, ahead_seconds: int, state: str
) -> None:
    """The database's clock stepped back, and no processor has seen it yet."""
    await rows.connection.execute(
        "UPDATE observation SET observed_through = now() + make_interval(secs => $1), resumed_at ="
        " now()",
        ahead_seconds,
    )
    async with run_app(**UNHURRIED) as http:
        assert (await system(http))["observation"]["state"] == state


async def test_clock_step_is_shown_until_the_grace_is_over(run_app: RunApp, rows: Rows) -> None:
    async def stepped(seconds_ago: int) -> dict[str, Any]:
        await rows.connection.execute(
            "UPDATE observation SET observed_through = now(), resumed_at = now(), clock_steps = 1,"
            " clock_stepped_at = now() - make_interval(secs => $1), clock_step_seconds = -3600",
            seconds_ago,
        )
        async with run_app(**UNHURRIED | {"recovery_grace_seconds": 300}) as http:
            answer: dict[str, Any] = (await system(http))["observation"]
            bar = (await http.get("/page/bar")).text
        assert ("clock stepped back by 1 h at" in bar) is (answer["reason"] is not None)
        return answer

    just_now, before = await stepped(100), await stepped(400)
    assert (just_now["state"], just_now["reason"]) == ("degraded", "clock_stepped")
    assert (before["state"], before["reason"]) == ("ok", None)
    assert just_now["clock_step"]["seconds"] == before["clock_step"]["seconds"] == -3600
