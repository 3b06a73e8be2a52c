"""Answers of the endpoints about the rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from manman_status.api.responses import (
    ServerInstance,
    ServerInstanceDetail,
    ServerInstanceList,
    System,
    Worker,
    WorkerDetail,
    WorkerList,
)

if TYPE_CHECKING:
    import httpx

    from tests.integration.api.conftest import Rows

ENDPOINTS = [
    ("/status/workers", WorkerList),
    ("/status/workers/1", WorkerDetail),
    ("/status/servers", ServerInstanceList),
    ("/status/servers/active", ServerInstanceList),
    ("/status/servers/10", ServerInstanceDetail),
    ("/status/system", System),
]


def names(shape: type[msgspec.Struct]) -> set[str]:
    return set(shape.__struct_fields__)


@pytest.fixture
async def one_of_each(rows: Rows) -> None:
    await rows.worker(
        1, labels={"group": "eu", "quote": '"\\ ☃'}, evidence={"seq": 5, "incarnation": 2**62}
    )
    await rows.server(10, game_server_config_id=3)
    await rows.transition("worker", 1, old_status="CREATED")
    await rows.transition("game_server_instance", 10, reason="recovered")


@pytest.mark.parametrize(("path", "shape"), ENDPOINTS)
async def test_every_answer_has_exactly_the_documented_fields(
    path: str, shape: type[msgspec.Struct], one_of_each: None, http: httpx.AsyncClient
) -> None:
    response = await http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    msgspec.json.decode(response.content, type=shape)
    answer = response.json()
    assert answer.keys() == names(shape)
    if "items" in answer:
        item = Worker if shape is WorkerList else ServerInstance
        assert [set(found) for found in answer["items"]] == [names(item)]


async def test_a_worker_is_shown_with_its_servers_and_its_history(
    one_of_each: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.server(11, worker_id=1, status="COMPLETE", end_date=rows.now)
    await rows.server(12, worker_id=2)
    await rows.transition(
        "worker", 1, old_status="RUNNING", new_status="LOST", reason="heartbeat_expired"
    )
    worker = (await http.get("/status/workers/1")).json()
    assert worker["labels"] == {"group": "eu", "quote": '"\\ ☃'}
    assert worker["evidence"] == {"seq": 5, "incarnation": 2**62}
    assert worker["active_servers"] == 1
    assert [
        (server["instance_id"], server["is_active"]) for server in worker["server_instances"]
    ] == [
        (11, False),
        (10, True),
    ]
    assert [change["new_status"] for change in worker["transitions"]] == ["LOST", "RUNNING"]
    assert worker["revision"] == 3


async def test_no_active_server_is_left_out_of_a_workers_detail(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    for instance_id in range(1, 6):
        await rows.server(instance_id)
    for instance_id in range(6, 120):
        await rows.server(instance_id, status="COMPLETE")
    await rows.worker(1)
    shown = [
        server["instance_id"]
        for server in (await http.get("/status/workers/1")).json()["server_instances"]
    ]
    assert shown == [*range(119, 19, -1), 5, 4, 3, 2, 1]


async def test_a_server_is_shown_with_its_own_history(
    one_of_each: None, http: httpx.AsyncClient
) -> None:
    server = (await http.get("/status/servers/10")).json()
    assert (server["worker_id"], server["game_server_config_id"]) == (1, 3)
    assert [change["reason"] for change in server["transitions"]] == ["recovered"]


@pytest.mark.parametrize(
    ("path", "parameter"),
    [("/status/workers/2", "worker_id"), ("/status/servers/1", "instance_id")],
)
async def test_an_id_that_nobody_reported_is_404(
    path: str, parameter: str, one_of_each: None, http: httpx.AsyncClient
) -> None:
    response = await http.get(path)
    assert (response.status_code, response.json()["parameter"]) == (404, parameter)
    assert response.headers["content-type"] == "application/problem+json"


async def test_all_times_are_utc_with_z_and_to_the_microsecond(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.connection.execute("SET timezone = 'Asia/Tokyo'")
    at = datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=UTC)
    await rows.worker(1, created_date=at, status_since=at)
    answer = (await http.get("/status/workers")).json()
    assert answer["items"][0]["created_date"] == "2026-01-02T03:04:05.000060Z"
    assert answer["as_of"].endswith("Z")


async def test_the_fleet_in_numbers(rows: Rows, http: httpx.AsyncClient) -> None:
    fleet: list[dict[str, Any]] = [
        {},
        {"beat_seconds_ago": 20},
        {"beat_seconds_ago": 40},
        {"status": "LOST"},
        {"beat_seconds_ago": None},
        {"status": "COMPLETE"},
    ]
    for worker_id, columns in enumerate(fleet, start=1):
        await rows.worker(worker_id, **columns)
    for instance_id, status in enumerate(
        ("RUNNING", "CREATED", "LOST", "CRASHED", "CRASHED"), start=1
    ):
        await rows.server(instance_id, status=status)
    system = (await http.get("/status/system")).json()
    assert system["overall_status"] == "degraded"
    assert system["workers"] == {
        "total_active": 4,
        "healthy": 1,
        "late": 1,
        "unhealthy": 2,
        "unknown": 1,
        "terminated": 1,
    }
    assert system["servers"] == {
        "total_active": 2,
        "by_status": {
            "CREATED": 1,
            "INITIALIZING": 0,
            "RUNNING": 1,
            "LOST": 1,
            "COMPLETE": 0,
            "CRASHED": 2,
        },
    }


async def test_health_is_counted_by_group_the_largest_first(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """The hundred largest groups are counted; ended workers are in none."""
    for worker_id in range(1, 103):
        await rows.worker(worker_id, labels={"group": f"g{worker_id:03}"})
    others: list[dict[str, Any]] = [
        {"status": "LOST"},
        {"beat_seconds_ago": 20},
        {"status": "COMPLETE"},
    ]
    for worker_id, columns in enumerate(others, 103):
        await rows.worker(worker_id, labels={"group": "g102"}, **columns)
    for worker_id in (201, 202):
        await rows.worker(worker_id, beat_seconds_ago=None)
    groups = (await http.get("/status/system")).json()["groups"]
    assert groups[:3] == [
        {"group": "g102", "healthy": 1, "late": 1, "unhealthy": 1, "unknown": 0},
        {"group": "", "healthy": 0, "late": 0, "unhealthy": 0, "unknown": 2},
        {"group": "g001", "healthy": 1, "late": 0, "unhealthy": 0, "unknown": 0},
    ]
    assert [group["group"] for group in groups[2:]] == [f"g{number:03}" for number in range(1, 99)]


async def test_an_empty_fleet_is_called_empty(rows: Rows, http: httpx.AsyncClient) -> None:
    system = (await http.get("/status/system")).json()
    assert system["overall_status"] == "empty"
    assert sum(system["workers"].values()) == 0
    assert (await http.get("/status/workers")).json()["items"] == []


async def test_prometheus_reads_the_fleet_and_the_requests(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1, beat_seconds_ago=5)
    await rows.worker(2, status="LOST", beat_seconds_ago=500)
    await rows.server(1)
    await http.get("/status/workers/1")
    response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert 'manman_status_workers{health="healthy"} 1.0' in lines
    assert 'manman_status_workers{health="unhealthy"} 1.0' in lines
    assert 'manman_status_server_instances{status="RUNNING"} 1.0' in lines
    assert "manman_status_database_up 1.0" in lines
    [age] = [
        line for line in lines if line.startswith("manman_status_oldest_heartbeat_age_seconds ")
    ]
    assert 5 <= float(age.split()[1]) < 60
    assert any(
        line.startswith("manman_status_http_requests_total{")
        and 'path="/status/workers/{worker_id}"' in line
        for line in lines
    )


@pytest.mark.parametrize("path", ["/schema", "/schema/openapi.json"])
async def test_schema_is_openapi_31_and_loads_only_our_files(
    path: str, http: httpx.AsyncClient
) -> None:
    response = await http.get(path)
    assert response.json()["openapi"].startswith("3.1")
    assert "html" not in response.headers["content-type"]
