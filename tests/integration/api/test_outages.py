"""The api as a process of its own, and a database that goes, hangs, comes back, or is not ready."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from manman_status.dev.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.kinds import Eventually, ProcessTree, Role, StartRole

    StartApi = StartRole

EVERYTHING = [
    "/readyz",
    "/health",
    "/status/workers",
    "/status/servers/active",
    "/status/workers/1",
    "/status/system",
]


async def is_well(http: httpx.AsyncClient) -> bool:
    return (await http.get("/status/workers")).status_code == 200 and (
        await http.get("/readyz")
    ).status_code == 200


async def all_unavailable(http: httpx.AsyncClient, *, within_seconds: float) -> None:
    """True when each is unavailable to several simultaneous clients."""

    async def query(path: str) -> None:
        begun = time.monotonic()
        response = await http.get(path)
        assert time.monotonic() - begun < within_seconds, path
        assert response.status_code == 503, (path, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["retry-after"]

    await asyncio.gather(*(query(path) for path in EVERYTHING for _ in range(5)))
    assert (await http.get("/livez")).status_code == 200
    metrics = await http.get("/metrics")
    assert "manman_status_database_up 0.0" in metrics.text
    assert "manman_status_workers{" not in metrics.text


async def test_stopped_database_is_503_until_it_returns(
    own_postgres: EmbeddedPostgres, own_database: str, start_api: StartApi, eventually: Eventually
) -> None:
    api = await start_api(database_url=own_database, answer_cache_ms=0)
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as http:
        assert await is_well(http)
        for _ in range(2):
            own_postgres.stop()
            await all_unavailable(http, within_seconds=5)
            own_postgres.start()
            await eventually(lambda: is_well(http))
    assert api.log.count("database_unavailable") == api.log.count("database_back") == 2
    assert api.stop() == 0


async def test_frozen_database_is_503_until_it_returns(
    own_postgres: EmbeddedPostgres,
    own_database: str,
    start_api: StartApi,
    eventually: Eventually,
    process_tree: ProcessTree,
) -> None:
    patience = {"database_timeout_seconds": 1, "database_pool_size": 3}
    api = await start_api(database_url=own_database, answer_cache_ms=0, **patience)
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as http:
        await asyncio.gather(*(is_well(http) for _ in range(5)))
        processes = [*process_tree(own_postgres.pid)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            await all_unavailable(http, within_seconds=8)
            await all_unavailable(http, within_seconds=8)
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
        await eventually(lambda: is_well(http))


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A port that leads to `port`, and an event: a connection that is used while it is set hangs
    for ever."""
    hang = asyncio.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if hang.is_set():
                    await asyncio.Event().wait()
                writer.write(data)
        finally:
            writer.close()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        pumps.append(asyncio.create_task(pump(reader, server_writer)))
        pumps.append(asyncio.create_task(pump(server_reader, writer)))

    pumps: list[asyncio.Task[None]] = []
    async with await asyncio.start_server(lead, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], hang
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def test_connections_that_hang_for_ever_are_replaced(
    postgres: EmbeddedPostgres, database: str, start_api: StartApi, eventually: Eventually
) -> None:
    """A failover: the old server never answers again, the new one does."""
    async with proxy(postgres.port) as (port, hang):
        url = database.replace(f":{postgres.port}", f":{port}")
        api = await start_api(
            database_url=url, answer_cache_ms=0, database_timeout_seconds=1, database_pool_size=2
        )
        async with httpx.AsyncClient(base_url=api.url, timeout=20) as http:
            assert await is_well(http)
            hang.set()
            for _ in range(2):
                await all_unavailable(http, within_seconds=8)
            hang.clear()
            await eventually(lambda: is_well(http))
        assert await asyncio.to_thread(api.stop) == 0


async def test_head_is_get_without_the_body(api: Role) -> None:
    async with httpx.AsyncClient(base_url=api.url) as http:
        for path in (
            "/status/workers",
            "/status/system",
            "/readyz",
            "/schema",
            "/nowhere",
            "/status/workers?limit=0",
        ):
            get, head = await http.get(path), await http.head(path)
            assert (head.status_code, head.content) == (get.status_code, b""), path
            changing = {"x-request-id", "date"}
            expected = {name: value for name, value in get.headers.items() if name not in changing}
            assert {
                name: value for name, value in head.headers.items() if name not in changing
            } == expected, path


async def test_api_starts_without_its_database(
    own_postgres: EmbeddedPostgres, own_database: str, start_api: StartApi, eventually: Eventually
) -> None:
    own_postgres.stop()
    api = await start_api(database_url=own_database, answer_cache_ms=0)
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as http:
        await all_unavailable(http, within_seconds=5)
        own_postgres.start()
        await eventually(lambda: is_well(http))


async def test_schema_behind_ends_it_with_one_line(
    empty_database: str, start_role: Callable[..., Role], eventually: Eventually
) -> None:
    api = start_role("api", database_url=empty_database)
    await eventually(lambda: api.returncode is not None)
    assert api.returncode == 1
    [line] = api.log.splitlines()
    assert "manman-status migrate" in line


async def test_a_database_without_tables_is_not_ready(
    own_postgres: EmbeddedPostgres, start_api: StartApi, eventually: Eventually
) -> None:
    """It was unavailable when the api started, and came back empty."""
    own_postgres.stop()
    api = await start_api(database_url=own_postgres.url)
    own_postgres.start()
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as http:

        async def says_so() -> bool:
            return "manman-status migrate" in (await http.get("/readyz")).text

        await eventually(says_so)
        await all_unavailable(http, within_seconds=5)


async def test_sigterm_stops_several_processes_normally(
    start_api: StartApi, process_tree: ProcessTree, eventually: Eventually
) -> None:
    api = await start_api(workers=2)
    processes = process_tree(api.pid)
    async with httpx.AsyncClient(base_url=api.url) as http:
        await http.get("/status/workers")
        begun = time.monotonic()
        assert await asyncio.to_thread(api.stop) == 0
        assert time.monotonic() - begun < 10
    # multiprocessing's own process detects a moment later that it is the last.
    await eventually(lambda: not processes.keys() & process_tree().keys())


async def test_nothing_is_left_when_it_is_killed(
    start_api: StartApi, process_tree: ProcessTree, eventually: Eventually
) -> None:
    api = await start_api(workers=2)
    processes = process_tree(api.pid)
    assert len(processes) > 2
    api.kill()
    await eventually(lambda: not processes.keys() & process_tree().keys())


async def test_what_a_killed_one_left_is_removed_by_the_next(
    server_folder: Path, start_api: StartApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of several processes, in a folder; that of one that lives stays."""
    temporary = server_folder / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    async def start() -> tuple[Role, Path]:
        before = set(temporary.iterdir())
        api = await start_api(workers=2)
        [folder] = set(temporary.iterdir()) - before
        return api, folder

    killed, left = await start()
    _, in_use = await start()
    killed.kill()
    for folder in (left, in_use):
        os.utime(folder, (0, 0))
    await start()
    assert not left.exists()
    assert in_use.exists()


async def test_several_processes_add_up_their_requests(start_api: StartApi) -> None:
    api = await start_api(workers=2)
    before: list[Any] = []
    after: list[Any] = []
    for found, wanted in ((before, 20), (after, 0)):
        async with httpx.AsyncClient(base_url=api.url) as http:
            metrics = (await http.get("/metrics")).text.splitlines()
        found += [
            float(line.split()[1])
            for line in metrics
            if "http_requests_total{" in line and 'path="/livez"' in line
        ]
        for _ in range(wanted):
            async with httpx.AsyncClient(base_url=api.url) as http:
                await http.get("/livez")
    assert sum(after) - sum(before) == 20


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "api_tokens": "a-token"}, False),
        ({"host": "127.0.0.1"}, False),
    ],
)
async def test_it_says_when_it_needs_no_token(
    settings: dict[str, Any], warns: bool, start_api: StartApi
) -> None:
    api = await start_api(**settings)
    assert ("open_to_all" in api.log) == warns
    assert "a-token" not in api.log


async def test_a_second_one_on_the_same_port_is_refused_in_one_line(
    database: str, start_api: StartApi, start_role: Callable[..., Role], eventually: Eventually
) -> None:
    """Two that shared a port would each get half of the requests, and nobody would know."""
    first = await start_api()
    port = int(first.url.rpartition(":")[2])
    second = start_role("api", database_url=database, host="127.0.0.1", port=port)
    await eventually(lambda: second.returncode is not None)
    assert second.returncode == 1
    [line] = second.log.splitlines()
    assert line == f"manman-status: port {port} of 127.0.0.1 is taken: choose another with --port"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("manman@", "nobody:a-secret@"), "nobody"),
        (("/test_", "/no_such_"), "no_such_"),
    ],
)
async def test_database_refusal_is_one_line(
    change: tuple[str, str],
    named: str,
    database: str,
    start_role: Callable[..., Role],
    eventually: Eventually,
) -> None:
    url = database.replace(*change)
    assert url != database
    api = start_role("api", database_url=url)
    await eventually(lambda: api.returncode is not None)
    assert api.returncode == 1
    [line] = api.log.splitlines()
    assert named in line
    assert "a-secret" not in line
