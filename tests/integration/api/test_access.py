"""Access to the api, and the headers of its answers."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from tests.integration.api.conftest import Rows

    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

TOKENS = ("first-token-7f3a", "second-token-91bc")
CLOSED = [
    "/status/workers",
    "/status/workers/1",
    "/status/workers/abc",
    "/status/servers",
    "/status/servers/active",
    "/status/servers/1",
    "/status/system",
    "/metrics",
    "/schema",
    "/schema/openapi.json",
    "/",
    "/nowhere",
    "/livez/",
    "/readyz/../status/system",
    "//health",
]
WRONG = [
    [],
    ["Bearer"],
    ["Bearer "],
    ["Bearer wrong"],
    [f"Bearer {TOKENS[0]}x"],
    [f"Bearer {TOKENS[0][:-1]}"],
    [f"Bearer {TOKENS[0]} {TOKENS[1]}"],
    [f"Bearer {','.join(TOKENS)}"],
    [f"Basic {TOKENS[0]}"],
    [TOKENS[0]],
    [f"Bearer {'x' * 100_000}"],
    ["Bearer \xff\xfe"],
    [f"Bearer {TOKENS[0]}", f"Bearer {TOKENS[1]}"],
]


async def test_every_path_but_the_health_ones_wants_one_of_the_tokens(run_app: RunApp) -> None:
    async with run_app(api_tokens=TOKENS) as http:
        for path in CLOSED:
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                response = await http.request(method, path)
                assert response.status_code == 401, (method, path)
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert response.headers["content-type"] == "application/problem+json"
        for path in ("/livez", "/readyz", "/health", "/status/health"):
            assert (await http.get(path)).status_code == 200, path
        for token in TOKENS:
            for scheme in ("Bearer", "bearer"):
                response = await http.get(
                    "/status/system", headers={"authorization": f"{scheme} {token}"}
                )
                assert response.status_code == 200
        assert (
            await http.get("/nowhere", headers={"authorization": f"Bearer {TOKENS[0]}"})
        ).status_code == 404


async def test_a_missing_wrong_empty_or_oversized_token_is_refused(
    run_app: RunApp, capfd: pytest.CaptureFixture[str]
) -> None:
    async with run_app(api_tokens=TOKENS) as http:
        for given in WRONG:
            headers = [(b"authorization", value.encode("latin-1")) for value in given]
            response = await http.get("/status/system", headers=headers)
            assert response.status_code == 401, given
            assert not any(token in response.text for token in TOKENS)
    out, err = capfd.readouterr()
    assert not any(token in out + err for token in TOKENS)


@pytest.mark.parametrize(
    "path", ["/status/workers", "/status/system", "/livez", "/nowhere", "/schema"]
)
async def test_only_get_and_head_are_answered(path: str, http: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"):
        response = await http.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD"), method
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/nowhere", "/schema/nowhere", "/status", "/status/workers/1/2", "/%00"]
)
async def test_an_unknown_path_is_a_404_problem(path: str, http: httpx.AsyncClient) -> None:
    response = await http.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 404


PATHS = [
    "/status/workers",
    "/status/workers/1",
    "/status/servers",
    "/status/servers/10",
    "/status/system",
]


@pytest.mark.parametrize("path", PATHS)
async def test_who_has_the_answer_already_gets_304(
    path: str, rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1)
    await rows.server(10)
    first = await http.get(path)
    etag = first.headers["etag"]
    assert etag.startswith('W/"')
    assert int(first.headers["age"]) < 30
    for given in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        again = await http.get(path, headers={"if-none-match": given})
        assert (again.status_code, again.content) == (304, b""), given
        assert again.headers["etag"] == etag
    rows.now += timedelta(seconds=-1)
    await rows.observe()
    assert (await http.get(path, headers={"if-none-match": etag})).status_code == 304, (
        "as_of alone makes no new etag"
    )
    other = await http.get(path, headers={"if-none-match": 'W/"other"'})
    assert other.status_code == 200
    assert other.text != first.text


@pytest.mark.parametrize("path", PATHS)
async def test_any_change_makes_another_etag(
    path: str, rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1)
    await rows.server(10)
    etag = (await http.get(path)).headers["etag"]
    await rows.connection.execute("UPDATE workers SET status = 'CRASHED'")
    await rows.connection.execute("UPDATE server_instances SET status = 'CRASHED'")
    assert (await http.get(path, headers={"if-none-match": etag})).status_code == 200


async def test_a_request_id_is_given_back_or_made(http: httpx.AsyncClient) -> None:
    mine = await http.get("/nowhere", headers={"x-request-id": "abc-123"})
    assert mine.headers["x-request-id"] == "abc-123"
    made = {(await http.get("/livez")).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    for bad in ("", "a b", "x" * 129):
        assert (await http.get("/livez", headers={"x-request-id": bad})).headers[
            "x-request-id"
        ] not in {bad, ""}


async def test_same_requests_at_once_share_readings(rows: Rows, http: httpx.AsyncClient) -> None:
    await rows.worker(1)
    answers = await asyncio.gather(*(http.get("/status/workers") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["as_of"] for answer in answers}) < 10


async def test_a_shared_reading_is_never_older_than_the_question(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """Rows committed before a request are in its answer, however many others share the query."""
    others_go_on = True

    async def read_all_the_time() -> None:
        while others_go_on:
            await http.get("/status/workers?limit=1000")

    others = [asyncio.create_task(read_all_the_time()) for _ in range(5)]
    try:
        for worker_id in range(1, 101):
            await rows.worker(worker_id)
            answer = await http.get("/status/workers?limit=1000")
            assert len(answer.json()["items"]) == worker_id
    finally:
        others_go_on = False
        await asyncio.gather(*others)
