"""Silences over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from manman_status.api.alert_responses import Silence, SilenceList

if TYPE_CHECKING:
    import httpx

    from tests.integration.api.conftest import Rows


async def listed(http: httpx.AsyncClient, **query: Any) -> list[str]:
    """The ids of all pages, each once."""
    found: list[str] = []
    while True:
        page = (await http.get("/status/silences", params=query)).json()
        found += [item["silence_id"] for item in page["items"]]
        assert len(set(found)) == len(found)
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


@pytest.fixture
async def seven(rows: Rows) -> None:
    """`s1` to `s7`; the odd ones last."""
    for n in range(1, 8):
        await rows.silence(f"s{n}", lasts=60 if n % 2 else -60)


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_lasting_silences_come_newest_first(
    limit: int, seven: None, http: httpx.AsyncClient
) -> None:
    assert await listed(http, limit=limit) == ["s7", "s5", "s3", "s1"]
    assert await listed(http, limit=limit, state="ended") == ["s6", "s4", "s2"]
    assert await listed(http, limit=limit, state="all") == [f"s{n}" for n in range(7, 0, -1)]


async def test_a_silence_is_shown_with_what_it_covers_now(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    eu = {"group_name": "eu", "labels": {"group": "eu", "disk": "old"}}
    for n in (1, 2, 3):
        await rows.alert(f"worker_lost:{n}", worker_id=n, **eu)
    await rows.alert("worker_lost:4", group_name="us")
    await rows.resolve(await rows.alert("worker_lost:5", **eu))
    await rows.silence("byworker", worker_id=2)
    await rows.silence("bygroup", group_name="eu")
    await rows.silence("bylabel", labels={"disk": "old"}, rule="worker_lost")
    await rows.silence("byrule", rule="flapping")
    await rows.silence("ended", lasts=-1, group_name="eu")
    response = await http.get("/status/silences", params={"state": "all"})
    msgspec.json.decode(response.content, type=SilenceList)
    assert response.json().keys() == set(SilenceList.__struct_fields__)
    items = {item["silence_id"]: item for item in response.json()["items"]}
    assert {name: (item["is_active"], item["covers"]) for name, item in items.items()} == {
        "ended": (False, 0),
        "byrule": (True, 0),
        "bylabel": (True, 3),
        "bygroup": (True, 3),
        "byworker": (True, 1),
    }
    silence = items["bylabel"]
    assert set(silence) == set(Silence.__struct_fields__)
    assert (silence["created_by"], silence["why"]) == ("ann", "a deploy")
    assert (silence["group"], silence["worker_id"], silence["rule"]) == (None, None, "worker_lost")
    assert silence["labels"] == {"disk": "old"}
    assert silence["ends_at"] > silence["created_at"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("state=open", "state"),
        ("selected=all", "selected"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
    ],
)
async def test_invalid_parameter_is_400_and_named(
    query: str, parameter: str, http: httpx.AsyncClient
) -> None:
    response = await http.get(f"/status/silences?{query}")
    assert (response.status_code, response.json()["parameter"]) == (400, parameter)


async def test_a_silence_that_ends_is_a_new_answer(rows: Rows, http: httpx.AsyncClient) -> None:
    await rows.silence("s1")
    first = await http.get("/status/silences")
    known = {"if-none-match": first.headers["etag"]}
    assert (await http.get("/status/silences", headers=known)).status_code == 304
    await rows.connection.execute("UPDATE silences SET ends_at = now()")
    again = await http.get("/status/silences", headers=known)
    assert (again.status_code, again.json()["items"]) == (200, [])
