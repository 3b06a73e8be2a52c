"""Lists: their filters, their pages, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx

    from tests.integration.api.conftest import Rows

NOT_IDS = ["0", "-1", "9223372036854775808", "abc", "1.5", "0x1", "%201", "1_000", "%00", "٣"]


async def ids(http: httpx.AsyncClient, path: str, **query: Any) -> list[int]:
    """Ids of all pages, each item once."""
    found: list[int] = []
    while True:
        response = await http.get(path, params=query)
        assert response.status_code == 200, response.text
        page = response.json()
        found += [
            item.get("worker_id" if "workers" in path else "instance_id") for item in page["items"]
        ]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


@pytest.fixture
async def fleet(rows: Rows) -> None:
    for worker_id in range(1, 31):
        await rows.worker(
            worker_id,
            status=("RUNNING", "LOST", "COMPLETE")[worker_id % 3],
            beat_seconds_ago=(0, 20, 40, None)[worker_id % 4],
            labels={"group": f"g{worker_id % 2}", "name": f"n:{worker_id}"},
        )


@pytest.fixture
async def instances(rows: Rows) -> None:
    for instance_id in range(1, 31):
        await rows.server(
            instance_id,
            status=("RUNNING", "CREATED", "COMPLETE")[instance_id % 3],
            worker_id=1 + instance_id % 2,
            game_server_config_id=None if instance_id % 5 else 7,
        )


@pytest.mark.parametrize("limit", [1, 2, 29, 30, 31, 1000])
async def test_pages_of_any_size_hold_every_worker_once_and_in_order(
    limit: int, fleet: None, http: httpx.AsyncClient
) -> None:
    assert await ids(http, "/status/workers", limit=limit) == list(range(1, 31))


async def test_the_last_page_has_no_cursor_even_when_it_is_full(
    fleet: None, http: httpx.AsyncClient
) -> None:
    assert (await http.get("/status/workers", params={"limit": 30})).json()["next_cursor"] is None
    assert (await http.get("/status/workers", params={"limit": 29})).json()[
        "next_cursor"
    ] is not None


WORKER_FILTERS: list[tuple[dict[str, Any], Callable[[int], bool]]] = [
    ({"status": "LOST"}, lambda n: n % 3 == 1),
    ({"health": "terminated"}, lambda n: n % 3 == 2),
    ({"health": "healthy"}, lambda n: n % 3 == 0 and n % 4 == 0),
    ({"health": "late"}, lambda n: n % 3 == 0 and n % 4 == 1),
    ({"health": "unknown"}, lambda n: n % 3 == 0 and n % 4 == 3),
    ({"health": "unhealthy"}, lambda n: n % 3 == 1 or (n % 3 == 0 and n % 4 == 2)),
    ({"health": "unhealthy", "status": "RUNNING"}, lambda n: n % 3 == 0 and n % 4 == 2),
    ({"health": "healthy", "status": "LOST"}, lambda _: False),
    ({"group": "g1"}, lambda n: n % 2 == 1),
    ({"label": "group:g1"}, lambda n: n % 2 == 1),
    ({"label": ["group:g1", "name:n:7"]}, lambda n: n == 7),
    ({"group": "g1", "label": "group:g1"}, lambda n: n % 2 == 1),
    ({"group": "nobody"}, lambda _: False),
    ({"label": "name:"}, lambda _: False),
    (
        {"health": "unhealthy", "group": "g1"},
        lambda n: n % 2 == 1 and (n % 3 == 1 or (n % 3 == 0 and n % 4 == 2)),
    ),
    ({"status": "RUNNING", "group": "g0"}, lambda n: n % 6 == 0),
]


async def test_worker_filters(fleet: None, http: httpx.AsyncClient) -> None:
    for query, expected in WORKER_FILTERS:
        found = await ids(http, "/status/workers", limit=4, **query)
        assert found == [n for n in range(1, 31) if expected(n)], query


async def test_an_empty_group_is_that_of_the_workers_without_one(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    for worker_id, labels in enumerate(
        ({"group": "g1"}, {}, {"zone": "a"}, {"zone": "a", "group": "g1"}), start=1
    ):
        await rows.worker(worker_id, labels=labels, created_date=rows.ago(60))
    then = rows.ago(0).isoformat().replace("+00:00", "Z")
    for query, expected in (
        ({}, [2, 3]),
        ({"label": "zone:a"}, [3]),
        ({"health": "healthy"}, [2, 3]),
        ({"at": then}, [2, 3]),
    ):
        assert await ids(http, "/status/workers", limit=1, group="", **query) == expected, query


SERVER_FILTERS: list[tuple[str, dict[str, Any], Callable[[int], bool]]] = [
    ("/status/servers", {}, lambda _: True),
    ("/status/servers", {"status": "COMPLETE"}, lambda n: n % 3 == 2),
    ("/status/servers", {"worker_id": 2}, lambda n: n % 2 == 1),
    ("/status/servers", {"game_server_config_id": 7}, lambda n: n % 5 == 0),
    ("/status/servers", {"worker_id": 1, "status": "CREATED"}, lambda n: n % 2 == 0 and n % 3 == 1),
    ("/status/servers", {"worker_id": 3}, lambda _: False),
    ("/status/servers/active", {}, lambda n: n % 3 != 2),
    ("/status/servers/active", {"worker_id": 2}, lambda n: n % 3 != 2 and n % 2 == 1),
    ("/status/servers/active", {"game_server_config_id": 7}, lambda n: n % 3 != 2 and n % 5 == 0),
]


async def test_server_filters(instances: None, http: httpx.AsyncClient) -> None:
    for path, query, expected in SERVER_FILTERS:
        found = await ids(http, path, limit=4, **query)
        assert found == [n for n in range(1, 31) if expected(n)], (path, query)


async def test_a_cursor_holds_while_rows_come_and_go(
    fleet: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    """A lasting row is seen once, whatever comes or vanishes around the cursor."""
    first = (await http.get("/status/workers", params={"limit": 10})).json()
    await rows.connection.execute("DELETE FROM workers WHERE worker_id IN (3, 10, 11)")
    await rows.worker(2**63 - 1)
    rest = await ids(http, "/status/workers", limit=10, cursor=first["next_cursor"])
    assert rest == [*range(12, 31), 2**63 - 1]


REFUSED = [
    ("/status/workers?limit=0", "limit"),
    ("/status/workers?limit=1001", "limit"),
    ("/status/workers?limit=-1", "limit"),
    ("/status/workers?limit=many", "limit"),
    ("/status/workers?limit=", "limit"),
    ("/status/workers?limit=1&limit=2", "limit"),
    ("/status/workers?status=running", "status"),
    ("/status/workers?status=", "status"),
    ("/status/workers?status=LOST&status=LOST", "status"),
    ("/status/workers?health=well", "health"),
    ("/status/workers?label=group", "label"),
    ("/status/workers?label=:x", "label"),
    ("/status/workers?label=a:%00", "label"),
    ("/status/workers?label=a:1&label=a:2", "label"),
    ("/status/workers?group=a&label=group:b", "label"),
    ("/status/workers?group=%00", "group"),
    ("/status/workers?statsu=LOST", "statsu"),
    ("/status/workers?request=1", "request"),
    ("/status/workers?worker_id=1", "worker_id"),
    ("/status/workers/1?limit=1", "limit"),
    ("/status/workers/1?worker_id=2", "worker_id"),
    ("/status/workers?cursor=", "cursor"),
    ("/status/workers?cursor=AQAAAAAAAAABmPjm_rQrOh", "cursor"),
    ("/status/servers/active?status=RUNNING", "status"),
    ("/status/servers?active=true", "active"),
    ("/status/system?x=1", "x"),
    *((f"/status/workers/{given}", "worker_id") for given in NOT_IDS),
    *((f"/status/servers/{given}", "instance_id") for given in NOT_IDS),
    *((f"/status/servers?worker_id={given}", "worker_id") for given in NOT_IDS),
    *(
        (f"/status/servers/active?game_server_config_id={given}", "game_server_config_id")
        for given in NOT_IDS
    ),
]


async def test_invalid_parameter_is_400_and_named(http: httpx.AsyncClient) -> None:
    for path, parameter in REFUSED:
        response = await http.get(path)
        assert response.status_code == 400, (path, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["parameter"] == parameter, path
        assert problem["detail"].startswith(f"{parameter}: "), path


async def test_cursor_is_bound_to_its_list_and_filters(
    fleet: None, instances: None, http: httpx.AsyncClient
) -> None:
    cursor = (await http.get("/status/workers", params={"limit": 1})).json()["next_cursor"]
    for path, query in (
        ("/status/servers", {}),
        ("/status/workers", {"status": "LOST"}),
        ("/status/workers", {"group": "g1"}),
    ):
        response = await http.get(path, params={**query, "cursor": cursor})
        assert (response.status_code, response.json()["parameter"]) == (400, "cursor"), (
            path,
            query,
        )
    assert (
        await http.get("/status/workers", params={"limit": 7, "cursor": cursor})
    ).status_code == 200
