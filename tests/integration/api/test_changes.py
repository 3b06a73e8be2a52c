"""Requests for what changed since a revision, and waiting for it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from manman_status.api.responses import ChangeList
from manman_status.store.partitions import keep_partitions

if TYPE_CHECKING:
    from tests.integration.api.conftest import Rows
    from tests.kinds import Eventually, StartRole


async def request(http: httpx.AsyncClient, **parameters: Any) -> ChangeList:
    response = await http.get("/status/changes", params=parameters, timeout=70)
    assert response.status_code == 200, response.text
    return msgspec.json.decode(response.content, type=ChangeList)


def revisions(answer: ChangeList) -> list[int]:
    return [change.revision for change in answer.items]


async def test_what_is_new_since_a_revision_is_answered_at_once(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    for number in (1, 2, 3):
        await rows.transition("worker", number)
    begun = time.monotonic()
    answer = await request(http, since=1, wait="60s")
    assert time.monotonic() - begun < 10
    assert (revisions(answer), answer.revision, answer.as_of) == ([2, 3], 3, rows.now)


@pytest.mark.parametrize("wait", ["0", "0s", "1", "1s"])
async def test_when_nothing_comes_the_answer_is_empty_after_the_wait(
    wait: str, rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.transition("worker", 1)
    begun = time.monotonic()
    answer = await request(http, since=1, wait=wait)
    assert 0 <= time.monotonic() - begun - int(wait.rstrip("s")) < 5
    assert (answer.items, answer.revision) == ([], 1)


async def test_waiting_request_is_answered_when_it_happens(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """A request without `since` waits for what comes after it."""
    await rows.transition("worker", 1)
    waiting = asyncio.create_task(request(http, wait="60s"))
    answered, last = asyncio.Event(), 1
    waiting.add_done_callback(lambda _: answered.set())
    while not answered.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(answered.wait(), 0.5)  # the first time: until it surely waits
        if last < 20 and not answered.is_set():
            await rows.transition("worker", 1, new_status="LOST")
            last += 1
    answer = await waiting
    assert revisions(answer), "nothing was answered in a minute"
    assert revisions(answer) == list(range(revisions(answer)[0], answer.revision + 1))
    assert 1 < revisions(answer)[0] <= answer.revision <= last


async def test_pages_of_any_size_have_no_gap_and_no_double(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.transitions(2_500)
    for limit in (7, 1000):
        seen: list[int] = []
        since = 0
        while since < 50 or limit == 1000:
            answer = await request(http, since=since, limit=limit)
            if not answer.items:
                break
            assert len(answer.items) <= limit
            seen += revisions(answer)
            since = answer.revision
            assert since == seen[-1]
        assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == 2_500


async def test_filtered_changes_are_not_requested_again(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.transitions(2_500)
    last = await rows.transition("worker", 77, new_status="LOST")
    requests, since = 0, 0
    found: list[Any] = []
    while since < last:
        answer = await request(http, since=since, new_status="LOST")
        assert answer.revision > since
        since, found, requests = answer.revision, found + revisions(answer), requests + 1
    assert (found, requests) == ([last], 3)
    assert revisions(await request(http, since=0, new_status="LOST", wait=5)) == [last], (
        "with time it looks on"
    )


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({"since": -1}, "since"),
        ({"since": "now"}, "since"),
        ({"wait": "61"}, "wait"),
        ({"wait": "1m"}, "wait"),
        ({"wait": "-1"}, "wait"),
        ({"wait": "²"}, "wait"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"worker_id": 0}, "worker_id"),
        ({"worker_id": [1, "x"]}, "worker_id"),
        ({"new_status": "GONE"}, "new_status"),
        ({"entity": ["worker", "worker"]}, "entity"),
        ({"from": 1}, "from"),
    ],
)
async def test_invalid_parameter_is_400_and_named(
    parameters: dict[str, Any], parameter: str, rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.transition("worker", 1)
    response = await http.get("/status/changes", params=parameters)
    assert (response.status_code, response.json()["parameter"]) == (400, parameter)


async def test_a_dropped_revision_is_410_and_the_oldest_is_named(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.transitions(10)
    await rows.connection.execute("DELETE FROM transitions WHERE revision <= 6")
    response = await http.get("/status/changes", params={"since": 5})
    assert (response.status_code, response.json()["oldest_revision"]) == (410, 7)
    assert revisions(await request(http, since=6)) == [7, 8, 9, 10]
    [today] = (await keep_partitions(rows.connection, days_ahead=0, retention_days=None)).made
    await rows.connection.execute(f"DROP TABLE {today}")
    response = await http.get("/status/changes", params={"since": 9, "wait": 60})
    assert (response.status_code, response.json()["oldest_revision"]) == (410, 11)
    assert (await request(http, since=10)).revision == 10


async def test_waiting_clients_are_bounded_and_free_their_place(
    rows: Rows, start_api: StartRole, eventually: Eventually
) -> None:
    """A client that disconnects makes room for the next."""
    api = await start_api(event_streams=2)
    async with httpx.AsyncClient(base_url=api.url, timeout=70) as http:

        async def is_full() -> bool:
            response = await http.get("/status/changes")
            if response.status_code != 503:
                return False
            assert int(response.headers["retry-after"]) > 0
            assert response.headers["content-type"] == "application/problem+json"
            return True

        async def wait() -> None:
            while (await http.get("/status/changes?wait=60")).status_code == 503:
                """The question whether there is room took it."""

        waiting = [asyncio.create_task(wait()) for _ in range(2)]
        await eventually(is_full)
        assert (await http.get("/status/workers")).status_code == 200
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

        async def has_room() -> bool:
            return (await http.get("/status/changes")).status_code == 200

        await eventually(has_room)


async def test_an_answer_that_is_known_is_304(rows: Rows, http: httpx.AsyncClient) -> None:
    await rows.transition("worker", 1)
    first = await http.get("/status/changes?since=0")
    again = await http.get(
        "/status/changes?since=0", headers={"if-none-match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
