"""Expensive reads, and a database that refuses or cannot: nobody else has to wait, and nothing is a
fault of ours."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from manman_status.api.database import EXPENSIVE_AT_ONCE, EXPENSIVE_QUEUED
from manman_status.domain.status import StatusType
from manman_status.store.migrate import migrate
from manman_status.store.past import (
    list_servers_at,
    list_workers_at,
    look_back,
    read_fleet_at,
)
from manman_status.store.reads import ServerFilters, WorkerFilters

if TYPE_CHECKING:
    import httpx

    from manman_status.dev.postgres import EmbeddedPostgres
    from tests.integration.api.conftest import Rows
    from tests.kinds import Eventually

    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

OF_A_PAST_TIME = [
    "/status/workers",
    "/status/workers/1",
    "/status/servers",
    "/status/servers/1",
    "/status/system",
]
CHEAP = ["/livez", "/readyz", "/status/workers", "/status/system", "/"]


@asynccontextmanager
async def locked(database: str, table: str) -> AsyncIterator[None]:
    """Lock the table, so that readers wait."""
    connection = await asyncpg.connect(database)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def test_hanging_expensive_reads_block_no_others(
    database: str, rows: Rows, run_app: RunApp, eventually: Eventually
) -> None:
    """Requests that fit wait and are answered in the end; others are refused at once."""
    await rows.worker(1, created_date=rows.ago(7200))
    number = 3 * (EXPENSIVE_AT_ONCE + EXPENSIVE_QUEUED)
    async with run_app() as http:
        async with locked(database, "transitions"):
            requests = [
                asyncio.create_task(
                    http.get("/status/workers", params={"at": rows.ago(60 + n).isoformat()})
                )
                for n in range(number)
            ]

            def refused() -> list[httpx.Response]:
                return [task.result() for task in requests if task.done()]

            await eventually(
                lambda: len(refused()) >= number - EXPENSIVE_AT_ONCE - EXPENSIVE_QUEUED
            )
            assert {
                (answer.status_code, answer.headers["retry-after"]) for answer in refused()
            } == {(503, "5")}
            for path in CHEAP:
                async with asyncio.timeout(30):
                    assert (await http.get(path)).status_code == 200, path
        answers = await asyncio.gather(*requests)
    assert [answer.status_code for answer in answers].count(
        200
    ) == EXPENSIVE_AT_ONCE + EXPENSIVE_QUEUED


async def test_many_that_replay_keep_nobody_else_waiting(
    database: str, rows: Rows, run_app: RunApp
) -> None:
    for _ in range(3):
        await rows.transitions(1_000)
    async with run_app(database_pool_size=4) as http:
        # The feed has begun at the end, so that these have to be read for each by itself.
        watching = asyncio.create_task(http.get("/status/changes?wait=60"))
        await asyncio.sleep(0)
        async with locked(database, "transitions"):
            replays = [
                asyncio.create_task(http.get(f"/status/changes?since={n}")) for n in range(20)
            ]
            for path in CHEAP:
                async with asyncio.timeout(30):
                    assert (await http.get(path)).status_code == 200, path
        assert {answer.status_code for answer in await asyncio.gather(*replays)} == {200}
        watching.cancel()


async def test_an_api_whose_connections_are_all_busy_is_ready(
    database: str, rows: Rows, run_app: RunApp, eventually: Eventually
) -> None:
    waiting = (
        "SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND relation ="
        " 'server_instances'::regclass"
    )
    async with run_app(database_pool_size=2) as http:
        async with locked(database, "server_instances"):
            busy = [
                asyncio.create_task(http.get(f"/status/servers?limit={n}")) for n in range(1, 11)
            ]
            await eventually(lambda: rows.connection.fetchval(waiting))
            async with asyncio.timeout(30):
                assert (await http.get("/readyz")).status_code == 200
        assert {answer.status_code for answer in await asyncio.gather(*busy)} == {200}


@pytest.mark.parametrize(
    "at",
    [
        "9999-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00%2B23:59",
        "1970-01-01T00:00:00Z",
    ],
)
async def test_a_time_at_the_end_of_times_is_refused_like_any_other(
    at: str, rows: Rows, http: httpx.AsyncClient
) -> None:
    for path in OF_A_PAST_TIME:
        problem = (await http.get(f"{path}?at={at}")).json()
        assert (problem["status"], problem["parameter"]) == (400, "at"), path
    until = await http.get("/status/workers/1/transitions?until=9999-12-31T23:59:59.999999Z")
    assert until.status_code == 404, "of nobody"


async def test_query_cancelled_by_the_server_is_503(
    database: str,
    rows: Rows,
    run_app: RunApp,
    capfd: pytest.CaptureFixture[str],
    eventually: Eventually,
) -> None:
    cancel = (
        "SELECT pg_cancel_backend(pid) FROM pg_locks"
        " WHERE NOT granted AND relation = 'workers'::regclass"
    )
    async with run_app() as http, locked(database, "workers"):
        request = asyncio.create_task(http.get("/status/workers"))
        await eventually(lambda: rows.connection.fetchval(cancel))
        answer = await request
        assert "QueryCanceledError" in answer.text
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "request_failed" not in capfd.readouterr().out


async def test_a_user_who_may_not_read_is_503_and_says_what_is_wrong(
    database: str, rows: Rows, run_app: RunApp, capfd: pytest.CaptureFixture[str]
) -> None:
    user = f"nobody_{uuid.uuid4().hex[:8]}"
    await rows.connection.execute(f"CREATE ROLE {user} LOGIN")
    async with run_app(database_url=database.replace("manman@", f"{user}@")) as http:
        for path in ("/status/system", "/status/workers", "/status/events"):
            answer = await http.get(path)
            assert answer.status_code == 503, path
            assert "InsufficientPrivilege" in answer.text
    assert "request_failed" not in capfd.readouterr().out
    await rows.connection.execute(f"DROP ROLE {user}")


async def test_a_character_that_the_database_does_not_have_is_refused(
    postgres: EmbeddedPostgres, run_app: RunApp, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"latin1_{uuid.uuid4().hex[:8]}"
    server = await asyncpg.connect(postgres.url)
    await server.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    url = postgres.url.replace("/postgres", f"/{name}")
    await asyncio.to_thread(migrate, url)
    async with run_app(database_url=url) as http:
        for path in ("/status/workers", "/status/uptime", "/status/alerts"):
            answer = await http.get(path, params={"group": "\N{GRINNING FACE}"})
            assert (answer.status_code, "encoding" in answer.text) == (400, True), path
            assert (await http.get(path, params={"group": "é"})).status_code == 200
    assert "request_failed" not in capfd.readouterr().out
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


async def test_abandoned_read_leaves_no_traceback(
    database: str, rows: Rows, run_app: RunApp, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_app(database_timeout_seconds=0.3) as http, locked(database, "workers"):
        answers = await asyncio.gather(
            *(http.get(f"/status/workers?limit={n}") for n in range(1, 20))
        )
        assert {answer.status_code for answer in answers} == {503}
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_the_numbers_of_a_past_time_are_those_of_its_lists(rows: Rows) -> None:
    """The rows changed often, once and never since, while the clock of the database stepped back by
    hours."""
    statuses = [status for status in StatusType if status is not StatusType.CREATED]
    changes: list[tuple[float, int, str | None, str]] = []
    for number in range(1, 61):
        old: str | None = None
        hours = sorted(
            {(number * step * 7919) % 97 + 1 for step in range(1, 2 + number % 6)}, reverse=True
        )
        for step, hour in enumerate(hours):
            new = statuses[(number + step) % len(statuses)]
            changes.append((3600.0 * hour, number, old, new))
            old = new
        columns: dict[str, Any] = {"status": old, "status_since": rows.ago(3600.0 * hours[-1])}
        await rows.worker(number, created_date=rows.ago(3600.0 * hours[0]), **columns)
        await rows.server(
            number, worker_id=number, created_date=rows.ago(3600.0 * hours[0]), **columns
        )
    # Every third was written when the clock was five hours ahead.
    for age, number, *between in sorted(changes, key=lambda c: -c[0] + 18_000 * (c[1] % 3 == 0)):
        columns = {"at": rows.ago(age), "old_status": between[0], "new_status": between[1]}
        for entity in ("worker", "game_server_instance"):
            await rows.transition(entity, number, **columns)
    for hours_ago in (0.5, 1.5, 20.5, 60.5, 96.5):
        moment = await look_back(
            rows.connection,
            rows.ago(hours_ago * 3600),
            retention=timedelta(days=30),
        )
        fleet = await read_fleet_at(rows.connection, moment)
        for status in StatusType:
            workers = await list_workers_at(
                rows.connection, WorkerFilters(status=status), moment, after=0, limit=100
            )
            servers = await list_servers_at(
                rows.connection, ServerFilters(status=status), moment, after=0, limit=100
            )
            assert (fleet.workers[status], fleet.servers[status]) == (
                len(workers.items),
                len(servers.items),
            )
