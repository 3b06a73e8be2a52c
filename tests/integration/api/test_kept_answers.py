"""Answers are kept for a moment, and say how old they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from manman_status.api import answers
from manman_status.api.answers import Answer, Answers

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import httpx

    from tests.integration.api.conftest import Rows
    from tests.kinds import Eventually

    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

LONG = 60_000
PATHS = [
    "/status/workers?limit=5",
    "/status/workers/1",
    "/status/servers",
    "/status/servers/1",
    "/status/system",
]


async def change_everything(rows: Rows) -> None:
    await rows.connection.execute("UPDATE workers SET status = 'CRASHED'")
    await rows.connection.execute("UPDATE server_instances SET status = 'CRASHED'")


@pytest.mark.parametrize("path", PATHS)
async def test_same_query_gets_the_kept_answer_another_does_not(
    path: str, rows: Rows, run_app: RunApp
) -> None:
    await rows.worker(1)
    await rows.server(1)
    async with run_app(answer_cache_ms=LONG) as http:
        first = await http.get(path)
        await change_everything(rows)
        again = await http.get(path)
        assert again.content == first.content
        made_anew = {"age", "x-request-id"}
        assert [field for field in again.headers.items() if field[0] not in made_anew] == [
            field for field in first.headers.items() if field[0] not in made_anew
        ]
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
        assert (
            await http.get(path, headers={"if-none-match": first.headers["etag"]})
        ).status_code == 304
        other = await http.get("/status/workers?limit=6")
        assert other.json()["items"][0]["status"] == "CRASHED"


async def test_it_is_not_kept_for_longer_than_that(
    rows: Rows, run_app: RunApp, eventually: Eventually
) -> None:
    await rows.worker(1)
    async with run_app(answer_cache_ms=300) as http:
        await http.get("/status/workers")
        await change_everything(rows)

        async def is_new() -> bool:
            return bool(
                (await http.get("/status/workers")).json()["items"][0]["status"] == "CRASHED"
            )

        await eventually(is_new)


async def test_its_age_goes_on(rows: Rows, run_app: RunApp, eventually: Eventually) -> None:
    await rows.observe(lag=2.5)
    async with run_app(answer_cache_ms=LONG) as http:
        first = await http.get("/status/system")
        age = int(first.headers["age"])

        async def is_older() -> bool:
            again = await http.get("/status/system")
            assert again.content == first.content
            return int(again.headers["age"]) >= age + 2

        await eventually(is_older)


async def test_errors_and_readiness_are_never_kept(rows: Rows, run_app: RunApp) -> None:
    async with run_app(answer_cache_ms=LONG) as http:
        assert (await http.get("/status/workers/1")).status_code == 404
        await rows.worker(1)
        assert (await http.get("/status/workers/1")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        await rows.connection.execute("UPDATE manman_status_schema SET version_num = '0000'")
        assert (await http.get("/readyz")).status_code == 503


async def test_a_kept_answer_needs_a_token_too(rows: Rows, run_app: RunApp) -> None:
    async with run_app(answer_cache_ms=LONG, api_tokens=("a-token",)) as http:
        assert (
            await http.get("/status/system", headers={"authorization": "Bearer a-token"})
        ).status_code == 200
        assert (await http.get("/status/system")).status_code == 401


def requests_counted(metrics: str, *labels: str) -> float:
    return sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("manman_status_http_requests_total{")
        and all(label in line for label in labels)
    )


async def test_kept_answers_are_counted_as_requests(rows: Rows, run_app: RunApp) -> None:
    path = 'path="/status/servers/active"'
    async with run_app(answer_cache_ms=LONG) as http:
        before = requests_counted((await http.get("/metrics")).text, path)
        await asyncio.gather(*(http.get("/status/servers/active") for _ in range(10)))
        assert requests_counted((await http.get("/metrics")).text, path) == before + 10


async def test_a_repeated_question_is_read_anew_unless_kept(rows: Rows, run_app: RunApp) -> None:
    """Its errors are the same problems as the first time, and count as what they are."""
    labels = 'path="/status/workers/{worker_id}"', 'status_code="404"'
    async with run_app(answer_cache_ms=0) as http:
        before = requests_counted((await http.get("/metrics")).text, *labels)
        first, again = [await http.get("/status/workers/1") for _ in range(2)]
        assert (again.status_code, again.content) == (404, first.content)
        assert again.headers["content-type"] == first.headers["content-type"]
        assert requests_counted((await http.get("/metrics")).text, *labels) == before + 2
        await rows.worker(1)
        assert (await http.get("/status/workers/1")).json()["status"] == "RUNNING"
        await change_everything(rows)
        assert (await http.get("/status/workers/1")).json()["status"] == "CRASHED"


async def test_least_recently_requested_answer_makes_room(rows: Rows, run_app: RunApp) -> None:
    """A thousand answers of 64 KiB do not fit."""
    unread: Any = None
    kept = Answers(unread, unread, keep_ms=LONG)
    big = b" " * 2**16
    for number in range(1000):
        answer = Answer(big, lasting=b"", lag_seconds=None)
        answer.kept_seconds = 3600.0
        kept.keep(b"%d" % number, answer)
        assert kept._current(b"0"), "it is asked for all the time"
    found = [number for number in range(1000) if kept._current(b"%d" % number)]
    assert found == [0, *range(1000 - len(found) + 1, 1000)]
    assert len(found) * len(big) < answers.KEPT_BYTES
    assert len(found) * len(big) > 0.9 * answers.KEPT_BYTES


async def test_other_spelling_of_a_query_is_the_same_query(rows: Rows, run_app: RunApp) -> None:
    """Else whoever spells it in a thousand ways has it read a thousand times, and pushes out what
    others keep."""
    await rows.worker(1, labels={"group": "eu"})
    async with run_app(answer_cache_ms=LONG) as http:
        first = await http.get("/status/workers?group=eu&limit=5&label=a:b&label=c:d")
        await change_everything(rows)
        spellings = ("limit=5&group=%65u", "group=eu&limit=%35", "limit=5&group=eu")
        for query in (f"{spelling}&label=c%3Ad&label=a%3Ab" for spelling in spellings):
            assert (await http.get(f"/status/workers?{query}")).content == first.content, query
