"""The HTTP edge against clients that mean no good: many, silent, slow, large, or in another
protocol."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

if TYPE_CHECKING:
    from tests.integration.api.conftest import Rows
    from tests.kinds import Eventually, Role, StartRole

    StartApi = StartRole
    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def port_of(api: Role) -> int:
    return int(api.url.rpartition(":")[2])


@contextlib.asynccontextmanager
async def connections(api: Role, number: int) -> AsyncIterator[list[socket.socket]]:
    """Connections that send nothing, as many as the kernel takes."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    opened: list[socket.socket] = []
    for _ in range(number):
        one = socket.socket()
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(("127.0.0.1", port_of(api)))
        opened.append(one)
    try:
        yield opened
    finally:
        for one in opened:
            one.close()


async def exchange(api: Role, request: bytes, *, within_seconds: float = 60.0) -> bytes:
    """Everything that comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(api))
    writer.write(request)
    try:
        async with asyncio.timeout(within_seconds):
            return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def get(api: Role, path: str) -> int:
    """Send a GET on a connection of its own, as probes do."""
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as http:
        return (await http.get(path)).status_code


async def test_silent_connections_do_not_block_probes(
    rows: Rows, start_api: StartApi, eventually: Eventually
) -> None:
    api = await start_api(connections=20, event_streams=0, idle_timeout_seconds=600)
    async with connections(api, 500):

        async def is_full() -> bool:
            return await get(api, "/status/system") == 503

        await eventually(is_full)
        for _ in range(10):
            assert await get(api, "/livez") == 200

    async def is_well() -> bool:
        return await get(api, "/status/system") == 200

    await eventually(is_well)
    assert api.returncode is None


async def test_thousands_of_silent_connections_are_borne(rows: Rows, start_api: StartApi) -> None:
    api = await start_api()
    async with connections(api, 2_100):
        for path in ("/livez", "/readyz", "/status/system", "/status/workers"):
            assert await get(api, path) == 200, path


async def test_connection_without_a_whole_request_is_closed(api: Role, start_api: StartApi) -> None:
    api = await start_api(idle_timeout_seconds=1)
    sent = b"GET /livez HTTP/1.1\r\nHost: api\r\n\r\n"
    silent, half, idle = await asyncio.gather(
        exchange(api, b""), exchange(api, b"GET /livez HTTP/1.1\r\nHost:"), exchange(api, sent)
    )
    assert not silent
    assert b" 200 " not in half
    assert idle.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "headers", [b"X: " + b"a" * 300_000, b"\r\n".join(b"X-%d: a" % n for n in range(1_000))]
)
async def test_headers_without_end_are_refused(headers: bytes, api: Role) -> None:
    answer = await exchange(api, b"GET /livez HTTP/1.1\r\nHost: api\r\n" + headers + b"\r\n\r\n")
    assert b"200 OK" not in answer.partition(b"\r\n")[0]
    assert await get(api, "/livez") == 200


async def test_http_2_is_off_by_default(api: Role, start_api: StartApi) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    assert await exchange(api, preface) == b""
    other = await start_api(http2="true")
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(other))
    writer.write(preface)
    async with asyncio.timeout(60):
        assert await reader.read(9), "its settings"
    writer.close()


async def test_clients_that_take_nothing_cost_no_memory(rows: Rows, start_api: StartApi) -> None:
    """A hundred times an answer of 15 MB and more."""
    await rows.connection.execute(
        """INSERT INTO workers (worker_id, created_date, status, status_since, reason, labels)
        SELECT n, now(), 'RUNNING', now(), 'reported', jsonb_build_object('a', repeat('x', 15000))
        FROM generate_series(1, 1000) n"""
    )
    api = await start_api(answer_cache_ms=60_000)
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        length = len((await http.get("/status/workers?limit=1000")).content)
    assert length > 15_000_000

    def memory() -> int:
        root = psutil.Process(api.pid)
        return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))

    before = memory()
    async with connections(api, 100) as clients:
        await asyncio.sleep(0)
        for client in clients:
            await asyncio.get_running_loop().sock_sendall(
                client, b"GET /status/workers?limit=1000 HTTP/1.1\r\nHost: api\r\n\r\n"
            )
        for _ in range(20):
            begun = time.monotonic()
            assert await get(api, "/livez") == 200
            assert time.monotonic() - begun < 10
        assert memory() - before < 300_000_000


async def test_unfinished_form_is_no_server_error(api: Role, start_api: StartApi) -> None:
    api = await start_api(api_tokens="a-token")
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ntoken="
    begin = b"POST /sign-in HTTP/1.1\r\nHost: api\r\n" + form
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(api))
    writer.write(begin)
    await writer.drain()
    writer.transport.abort()
    slow = await exchange(api, begin)
    assert slow.startswith(b"HTTP/1.1 408")
    assert "request_failed" not in api.log
    assert "Traceback" not in api.log


async def test_the_log_says_where_a_request_came_from(
    rows: Rows, run_app: RunApp, capfd: pytest.CaptureFixture[str]
) -> None:
    async with run_app() as http:
        await http.get("/status/system", headers={"x-forwarded-for": "203.0.113.7, 10.0.0.1"})
        await http.get("/status/workers", headers={"x-forwarded-for": "\x1b[31mforged"})
    out = capfd.readouterr().out
    assert "203.0.113.7, 10.0.0.1" in out
    assert "127.0.0.1" in out
    assert "forged" not in out
