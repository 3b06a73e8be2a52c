"""`manman-status events`, following a real api through its ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from manman_status.dev.ports import free_port, is_open
from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.store.pool import create_pool
from manman_status.store.writes import append_transitions
from tests.kinds import Eventually, Role, StartRole

TOKEN = "open-sesame-4711"


class Following:
    """A running `events`: its whole lines so far, and what it complained of."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.lines: list[Any] = []
        self.complaints: list[Any] = []
        self._reading = asyncio.gather(
            self._read(process.stdout, self.lines), self._read(process.stderr, self.complaints)
        )

    async def _read(self, stream: Any, lines: Any) -> None:
        while line := await stream.readline():
            lines.append(line.decode().removesuffix("\n"))

    @property
    def revisions(self) -> list[Any]:
        return [json.loads(line)["revision"] for line in self.lines]

    async def end(self, number: int = signal.SIGINT) -> Any:
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            await self._reading
            return await self.process.wait()


@pytest.fixture
async def follow() -> AsyncIterator[Any]:
    """Starts `events` of the api at a URL."""
    started = []

    async def start(url: str, *arguments: Any) -> Following:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MANMAN_STATUS_")
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "manman_status", "events", *arguments),
            env={**environment, "MANMAN_STATUS_URL": url, "MANMAN_STATUS_API_TOKEN": TOKEN},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return Following(process)

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def change(database: str) -> AsyncIterator[Any]:
    """Writes so many transitions of one worker, each with a worker's row of the group."""
    async with create_pool(database, application="test", size=1, timeout_seconds=30) as pool:

        async def write(
            worker_id: int,
            count: int = 1,
            *,
            group: str = "eu",
            new_status: Any = StatusType.RUNNING,
        ) -> None:
            made = Transition(Entity.WORKER, worker_id, None, new_status, Reason.REPORTED, {})
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    """INSERT INTO workers (worker_id, created_date, status, status_since, reason,
                        labels)
                    VALUES ($1, now(), 'RUNNING', now(), 'reported', jsonb_build_object('group',
                        $2::text))
                    ON CONFLICT DO NOTHING""",
                    worker_id,
                    group,
                )
                await append_transitions(connection, [made] * count)

        yield write


async def test_killed_apis_leave_no_gap_and_no_double(
    database: str, start_role: Callable[..., Role], follow: Any, change: Any, eventually: Eventually
) -> None:
    port = free_port()

    def start() -> Any:
        return start_role(
            "api", database_url=database, host="127.0.0.1", port=port, api_tokens=TOKEN
        )

    api = start()
    await eventually(lambda: is_open(port))
    await change(1)
    following = await follow(f"http://127.0.0.1:{port}", "--from", "0", "--json")
    await eventually(lambda: following.revisions == [1])
    for kills in (1, 2):
        await change(kills, 50)
        api.kill()
        await change(kills, 50)
        await eventually(lambda: not is_open(port) and len(following.complaints) % 2)
        api = start()
        await eventually(lambda: following.revisions[-1] == 1 + 100 * kills)
    assert await following.end() == 0
    assert following.revisions == list(range(1, 202))
    assert len(following.complaints) >= 4
    assert all("trying again" in text for text in following.complaints[::2])
    assert all("answers again after" in text for text in following.complaints[1::2])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_prints_what_comes_next_and_ends_normally(
    number: int, start_api: StartRole, follow: Any, change: Any, eventually: Eventually
) -> None:
    """A label cannot drive the terminal, nor begin a line of its own."""
    api = await start_api(api_tokens=TOKEN)
    await change(1)
    following = await follow(api.url)
    # Until the stream has begun nothing is "next": send until one is printed.
    await eventually(lambda: _printed(following, change, eventually))
    await change(3, group="a\n\x1b[31mb", new_status=StatusType.LOST)
    # Of those sent before, one may still be on its way.
    last = await eventually(
        lambda: next((line for line in following.lines if "worker 3" in line), None)
    )
    assert last.split()[3:] == [
        "worker",
        "3",
        "→",
        "LOST",
        "reported",
        "a",
        "\N{REPLACEMENT CHARACTER}[31mb",
    ]
    assert await following.end(number) == 0
    assert following.complaints == []


async def _printed(following: Following, change: Any, eventually: Eventually) -> Any:
    await change(1)
    return following.lines


async def test_filters_choose(
    start_api: StartRole, follow: Any, change: Any, eventually: Eventually
) -> None:
    api = await start_api(api_tokens=TOKEN)
    await change(1)
    await change(2, group="us")
    await change(3, group="asia")
    await change(1, new_status=StatusType.LOST)
    for arguments, expected in (
        (("--from", "0", "--worker", "1", "--worker", "3"), [1, 3, 4]),
        (("--from", "0", "--group", "eu"), [1, 4]),
        (("--from", "0", "--group", "eu", "--group", "us", "--status", "lost"), [4]),
        (("--from", "2", "--entity", "worker"), [3, 4]),
    ):
        following = await follow(api.url, "--json", *arguments)
        await eventually(lambda: expected[-1] in following.revisions)
        assert await following.end() == 0
        assert following.revisions == expected


async def test_what_is_no_longer_kept_is_1_and_says_where_to_begin(
    database: str, start_api: StartRole, change: Any, manman_status: Any
) -> None:
    api = await start_api()
    await change(1, 3)
    connection = await asyncpg.connect(database)
    await connection.execute("DELETE FROM transitions WHERE revision < 3")
    await connection.close()
    finished = await manman_status("events", "--from", "0", url=api.url)
    assert (finished.code, finished.out) == (1, "")
    assert "oldest that is kept is 3" in finished.err
    assert "`--from 2`" in finished.err


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def printed(revision: Any, group: Any) -> bytes:
    change = {
        "revision": revision,
        "at": "2026-11-24T12:00:00Z",
        "entity": "worker",
        "entity_id": 7,
        "worker_id": 7,
    }
    change |= {
        "old_status": None,
        "new_status": "RUNNING",
        "reason": "reported",
        "evidence": {},
        "group": group,
    }
    data = json.dumps(change, ensure_ascii=False)
    return f"id: {revision}\nevent: transition\ndata: {data}\n\n".encode()


async def test_what_a_network_does_between_is_nothing_to_it(
    follow: Any, eventually: Eventually
) -> None:
    """An overrun, an end in the middle of a character, and a proxy that has lost its api."""
    whole = printed(7, "☃\u2028")
    answers = [
        STREAM + b"id: 5\n\n" + printed(6, "eu") + b'id: 6\nevent: overrun\ndata: {"from":6}\n\n',
        STREAM + b"id: 6\n\n" + whole[: whole.index("☃".encode()) + 1],
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\nOops",
        STREAM + b"id: 6\n\n" + whole + b":\nid: 9\n\n",
        STREAM + b"id: 9\n\n" + printed(10, None),
    ]
    requested = []

    async def answer(reader: Any, writer: Any) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        requested.append(
            [
                line.partition(": ")[2]
                for line in request.split("\r\n")
                if line.startswith("last-event-id")
            ]
        )
        for byte in answers.pop(0) if answers else b"":
            writer.write(bytes([byte]))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", free_port()) as server:
        port = server.sockets[0].getsockname()[1]
        following = await follow(f"http://127.0.0.1:{port}", "--json", "--from", "5")
        await eventually(lambda: following.lines and following.revisions[-1] == 10)
        assert await following.end() == 0
    assert following.revisions == [6, 7, 10]
    assert json.loads(following.lines[1])["group"] == "☃\u2028"
    assert requested[:5] == [[], ["6"], ["6"], ["6"], ["9"]]
    assert "has ended the stream" in following.complaints[0], "an overrun is no loss"


@pytest.mark.parametrize(
    "arguments", [("--from", "-1"), ("--worker", "0"), ("--status", "well"), ("--entity", "x")]
)
async def test_wrong_usage_is_2_and_one_line(arguments: Any, manman_status: Any) -> None:
    finished = await manman_status("events", *arguments)
    assert (finished.code, finished.out) == (2, "")
    assert len(finished.err.splitlines()) == 1
    assert arguments[0] in finished.err


async def test_what_cannot_begin_is_1_and_one_line(
    start_api: StartRole, manman_status: Any
) -> None:
    api = await start_api(api_tokens=TOKEN)
    for arguments, settings, named in (
        ((), {"url": "http://127.0.0.1:1"}, "http://127.0.0.1:1 does not answer"),
        ((), {"api_token": "wrong"}, "MANMAN_STATUS_API_TOKEN"),
        (("--from", "99"), {}, "not given out yet"),
    ):
        finished = await manman_status(
            "events", *arguments, **({"url": api.url, "api_token": TOKEN} | settings)
        )
        assert (finished.code, finished.out) == (1, "")
        assert len(finished.err.splitlines()) == 1
        assert named in finished.err
