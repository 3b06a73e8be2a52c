"""A backup of the database is restored: revisions go back. Whoever follows is notified, and misses
nothing after it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from manman_status.cli.client import Client
from manman_status.cli.watched import FleetView
from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.processor.leader.history import HistoryCheck
from manman_status.settings import load_settings
from manman_status.store.epochs import begin_epoch, look
from manman_status.store.pool import Pool, create_pool
from manman_status.store.relay import mark_sent
from manman_status.store.writes import append_transitions
from tests.builders import counted
from tests.events import Reader, revision_of
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.messaging import Publisher

GO_BACK = """
WITH dropped AS (DELETE FROM transitions WHERE revision > $1)
UPDATE revision_counter SET revision = $1
"""
LONG_AGO = "UPDATE transitions SET at = at - interval '10 minutes' WHERE revision <= $1"
EPOCH = "SELECT epoch, previous_epoch, epoch_begins_after FROM revision_counter"
SENT_REVISION = "SELECT sent_revision FROM relay"


class Backup:
    """A backup of the test's database, on the same server. While it is taken and restored, nobody
    can connect."""

    def __init__(self, server: Any, database: str, eventually: Eventually) -> None:
        self._server = server
        self._eventually = eventually
        self._name = urlsplit(database).path[1:]
        self._copy = f"{self._name}_backup"

    async def take(self) -> None:
        async with self._nobody_connected() as connection:
            await connection.execute(f"CREATE DATABASE {self._copy} TEMPLATE {self._name}")

    async def restore(self) -> None:
        async with self._nobody_connected() as connection:
            await connection.execute(f"ALTER DATABASE {self._name} RENAME TO {self._name}_gone")
            await connection.execute(f"ALTER DATABASE {self._copy} RENAME TO {self._name}")

    async def drop(self) -> None:
        connection = await asyncpg.connect(self._server.url)
        for name in (f"{self._name}_gone", self._copy):
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.close()

    async def _is_alone(self, connection: Any) -> bool:
        return not await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1",
            self._name,
        )

    @asynccontextmanager
    async def _nobody_connected(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self._server.url)
        await connection.execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")
        await self._eventually(lambda: self._is_alone(connection))
        yield connection
        await connection.execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")
        await connection.close()


@pytest.fixture
async def backup(
    postgres: EmbeddedPostgres, database: str, eventually: Eventually
) -> AsyncIterator[Any]:
    backup = Backup(postgres, database, eventually)
    yield backup
    await backup.drop()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with create_pool(database, application="test", size=3, timeout_seconds=5) as pool:
        yield pool


@pytest.fixture
def change(pool: Pool) -> Any:
    """Writes a transition of each of these workers."""

    async def write(*worker_ids: Any, status: Any = StatusType.RUNNING) -> None:
        made = [
            Transition(Entity.WORKER, number, None, status, Reason.REPORTED, {})
            for number in worker_ids
        ]
        async with pool.acquire() as connection, connection.transaction():
            await append_transitions(connection, made)

    return write


async def epoch_of(pool: Pool) -> Any:
    return await pool.fetchval("SELECT epoch FROM revision_counter")


async def started(publish: Publisher, *worker_ids: Any) -> None:
    for number in worker_ids:
        event = {
            "command_type": "WORKER_STARTED",
            "command_args": [number],
            "incarnation": 1,
            "seq": 1,
        }
        await publish(event, f"worker.{number}.lifecycle")


async def follow(http: httpx.AsyncClient, reader: Any, events: Any) -> None:
    async with aclosing(reader.read(http)) as reading:
        async for event in reading:
            events.append(event)


def workers(events: Any) -> list[Any]:
    return [event.data["entity_id"] for event in events if event.kind == "transition"]


async def changed_since(http: httpx.AsyncClient, refused: httpx.Response) -> set[int]:
    """The entities that changed since the position at which this refusal says to resume."""
    problem = refused.json()
    assert refused.status_code == 410
    assert problem["resume_from"] in problem["detail"]
    changes = await http.get("/status/changes", params={"since": problem["resume_from"]})
    return {item["entity_id"] for item in changes.json()["items"]}


async def start_events(
    api: Role,
) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamReader]:
    """`manman-status events` from the beginning, with its output and its complaints."""
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "manman_status", "events", "--from", "0", "--json"),
        env={**os.environ, "MANMAN_STATUS_URL": api.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert command.stdout is not None
    assert command.stderr is not None
    return command, command.stdout, command.stderr


async def test_followers_learn_of_a_restored_backup(
    start_processor: StartRole,
    start_api: StartRole,
    publish: Publisher,
    backup: Backup,
    rows: FetchRows,
    database: str,
    eventually: Eventually,
) -> None:
    """One stream stays open, one client comes later with its old id, `events` and `watch` run all
    the time."""
    api = await start_api(database_timeout_seconds=5, answer_cache_ms=0)
    await start_processor()
    await started(publish, 1, 2)
    await eventually(counted(rows, 2, "workers"))
    await backup.take()
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as http:
        open_ = Reader(**{"from": 0})
        events: list[Any] = []
        following = asyncio.create_task(follow(http, open_, events))
        command, said, complained = await start_events(api)
        client = Client(load_settings(url=api.url))
        watch = FleetView(client, None)
        await started(publish, *range(101, 121))
        await eventually(lambda: len(workers(events)) == 22)
        await asyncio.to_thread(watch.look)
        assert len(watch.changes) == 22
        lines = [await said.readline() for _ in range(22)]
        old_id, seen_before = open_.parser.last_id, len(events)
        tag = (await http.get("/status/workers/1")).headers["etag"]

        await backup.restore()
        await started(publish, *range(201, 206))
        await eventually(lambda: {201, 202, 203, 204, 205} <= set(workers(events[seen_before:])))
        [restored] = [event for event in events if event.kind == "restored"]
        assert restored.data == {"from": restored.id}
        assert restored.id.partition("-")[0] != old_id.partition("-")[0]
        after = [event for event in events[events.index(restored) :] if event.kind == "transition"]
        assert {event.id.partition("-")[0] for event in after} == {restored.id.partition("-")[0]}
        assert [event.revision for event in after] == list(
            range(revision_of(restored.id) + 1, after[-1].revision + 1)
        )

        for path, query, headers in (
            ("/status/events", {}, {"last-event-id": old_id}),
            ("/status/events", {"from": old_id}, {}),
            ("/status/changes", {"since": old_id}, {}),
        ):
            refused = await http.get(path, params=query, headers=headers)
            assert refused.json()["epoch"] == restored.id.partition("-")[0]
            assert {201, 202, 203, 204, 205} <= await changed_since(http, refused)
        answer = await http.get("/status/workers/1", headers={"if-none-match": tag})
        assert answer.status_code == 200, "an ETag is of its epoch"

        await asyncio.to_thread(watch.look)
        assert "restored" in watch.news
        shown = [item["entity_id"] for item in watch.changes]
        assert set(range(201, 206)) <= set(shown) <= {1, 2, *range(201, 206)}, (
            "nothing of what was lost"
        )
        client._http.close()

        async def said_all() -> None:
            while not {201, 202, 203, 204, 205} <= {
                json.loads(line)["entity_id"] for line in lines
            }:
                lines.append(await said.readline())

        await asyncio.wait_for(said_all(), 60)
        command.terminate()
        assert b"The history was restored" in await complained.read()
        await command.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_api_alone_detects_that_revisions_went_back(
    start_api: StartRole, pool: Pool, change: Any, eventually: Eventually
) -> None:
    """No processor runs: all may have been started after the restore, and know of nothing."""
    api = await start_api()
    await change(1, 2)
    await pool.execute(LONG_AGO, 2)
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as http:
        reader = Reader(**{"from": 0})
        events: list[Any] = []
        following = asyncio.create_task(follow(http, reader, events))
        await change(*range(11, 31))
        await eventually(lambda: len(events) == 22)
        old_id = reader.parser.last_id
        await pool.execute(GO_BACK, 2)
        await change(41, 42)
        await eventually(lambda: workers(events)[22:] == [41, 42])
        assert [event.kind for event in events[22:]] == ["restored", "transition", "transition"]
        assert [event.revision for event in events[22:]] == [2, 3, 4]
        refused = await http.get("/status/events", headers={"last-event-id": old_id})
        assert (refused.status_code, refused.json()["resume_from"]) == (410, events[22].id)
        assert "migrate --new-epoch" in api.log
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_revision_that_was_not_given_out_is_410(
    start_api: StartRole, change: Any, pool: Pool
) -> None:
    api = await start_api()
    await change(1, 2, 3)
    epoch = await epoch_of(pool)
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as http:
        for given in ("4", f"{epoch}-4"):
            for path, query in (
                ("/status/events", {"from": given}),
                ("/status/changes", {"since": given}),
            ):
                refused = await http.get(path, params=query)
                problem = refused.json()
                assert (refused.status_code, problem["oldest_revision"]) == (410, 1)
                assert problem["resume_from"] == f"{epoch}-0"
                assert "not given out yet, the newest is 3" in problem["detail"]
        for given in ("3", f"{epoch}-3"):
            assert (await http.get("/status/changes", params={"since": given})).json()[
                "revision"
            ] == 3


@asynccontextmanager
async def checking(pool: Pool) -> AsyncIterator[Any]:
    check = HistoryCheck(pool, interval_seconds=0.1)
    running = asyncio.create_task(check.run())
    try:
        yield check
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def has_seen(check: Any, revision: Any) -> Any:
    return check._seen is not None and check._seen.counter == revision


async def test_a_processor_begins_an_epoch_when_the_counter_is_behind(
    pool: Pool, change: Any, eventually: Eventually
) -> None:
    """It does so once, whoever else detects it, and names what the histories have in common."""
    await change(1, 2, 3)
    await pool.execute(LONG_AGO, 2)
    before = await epoch_of(pool)
    async with checking(pool) as one, checking(pool) as other:
        await eventually(lambda: has_seen(one, 3))
        await eventually(lambda: has_seen(other, 3))
        await pool.execute(GO_BACK, 2)
        await eventually(lambda: has_seen(one, 2))
        await eventually(lambda: has_seen(other, 2))
        after = await pool.fetchrow(EPOCH)
        assert after is not None
        assert (after["epoch"] != before, after["previous_epoch"], after["epoch_begins_after"]) == (
            True,
            before,
            2,
        )
        await change(4, 5)
        await eventually(lambda: has_seen(one, 4))
    assert await pool.fetchrow(EPOCH) == after


async def test_rewritten_revisions_are_another_history(
    pool: Pool, change: Any, eventually: Eventually
) -> None:
    """Another processor, which had seen less, has written as many as were lost before anybody
    looked."""
    await change(1, 2, 3)
    await pool.execute(LONG_AGO, 1)
    before = await epoch_of(pool)
    async with checking(pool) as check:
        await eventually(lambda: has_seen(check, 3))
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(GO_BACK, 2)
            made = [Transition(Entity.WORKER, 9, None, StatusType.RUNNING, Reason.REPORTED, {})] * 5
            await append_transitions(connection, made)
        await eventually(lambda: has_seen(check, 7))
        after = await pool.fetchrow(EPOCH)
        assert after is not None
    assert (after["previous_epoch"], after["epoch_begins_after"]) == (before, 1)


async def test_what_retention_drops_is_no_other_history(
    pool: Pool, change: Any, eventually: Eventually
) -> None:
    await change(1, 2, 3)
    before = await epoch_of(pool)
    async with checking(pool) as check:
        await eventually(lambda: has_seen(check, 3))
        await pool.execute("DELETE FROM transitions")
        await eventually(lambda: check._seen.revision is None)
        await change(4)
        await eventually(lambda: has_seen(check, 4))
    assert await epoch_of(pool) == before


async def test_two_that_detect_it_at_once_begin_one_epoch(pool: Pool, change: Any) -> None:
    await change(1)
    async with pool.acquire() as connection:
        found = await look(connection)
        first = await begin_epoch(connection, after=found, begins_after=1)
        assert first is not None
        assert await begin_epoch(connection, after=found, begins_after=1) is None
    assert await epoch_of(pool) == first.name


async def test_lost_history_marks_nothing_in_the_restored_one(pool: Pool, change: Any) -> None:
    """The confirm of a transition comes after another has got its revision."""
    await change(1, 2, 3)
    at = await pool.fetchval("SELECT at FROM transitions WHERE revision = 3")
    await pool.execute(GO_BACK, 1)
    await change(4, 5)
    async with pool.acquire() as connection:
        await mark_sent(connection, 3, at)
        assert await connection.fetchval(SENT_REVISION) == 0
        await mark_sent(
            connection, 3, await pool.fetchval("SELECT at FROM transitions WHERE revision = 3")
        )
        assert await connection.fetchval(SENT_REVISION) == 3
