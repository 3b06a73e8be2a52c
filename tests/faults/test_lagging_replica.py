"""Replicas lag: an api takes that for no restore, but detects when one that lacks changes is
promoted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.store.migrate import migrate
from manman_status.store.pool import create_pool
from manman_status.store.writes import append_transitions
from tests.conftest import CHEAP
from tests.events import Reader
from tests.faults.standby import start_standby
from tests.integration.test_restored import follow, workers
from tests.kinds import Eventually, StartRole

pytestmark = pytest.mark.slow


@pytest.fixture
async def pair(server_folder: Path, tmp_path: Path) -> AsyncIterator[Any]:
    """A primary with our tables, and a standby of it."""
    primary = EmbeddedPostgres(server_folder / f"{tmp_path.name}-primary", options=CHEAP).start()
    await asyncio.to_thread(migrate, primary.url)
    standby = start_standby(primary, server_folder / f"{tmp_path.name}-standby")
    yield primary, standby
    primary.kill()
    standby.kill()


async def change(url: str, *worker_ids: Any) -> None:
    made = [
        Transition(Entity.WORKER, number, None, StatusType.RUNNING, Reason.REPORTED, {})
        for number in worker_ids
    ]
    async with (
        create_pool(url, application="test", size=1, timeout_seconds=10) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        await append_transitions(connection, made)


async def test_lag_is_no_restore_but_a_promotion_behind_is(
    pair: Any, start_api: StartRole, eventually: Eventually
) -> None:
    """A replica that was promoted without the newest revisions begins another history."""
    primary, standby = pair
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    url = f"postgresql://manman@{hosts}/postgres?target_session_attrs=any"
    api = await start_api(database_url=url, database_timeout_seconds=3)
    at_standby = await asyncpg.connect(standby.url)
    await change(primary.url, 1, 2)
    await eventually(lambda: at_standby.fetchval("SELECT revision = 2 FROM revision_counter"))
    await at_standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await at_standby.execute("SELECT pg_reload_conf()")
    await eventually(lambda: at_standby.fetchval("SELECT count(*) = 0 FROM pg_stat_wal_receiver"))
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as http:
        reader = Reader(**{"from": 0})
        events: list[Any] = []
        following = asyncio.create_task(follow(http, reader, events))
        await change(primary.url, 3, 4)
        await eventually(lambda: workers(events) == [1, 2, 3, 4])
        # The api goes over to the standby, which lacks the newest.
        primary.kill()
        found = await eventually(lambda: _answers(http, reader.parser.last_id))
        assert (found["items"], found["revision"]) == ([], 4), (
            "it waits for what the replica will have"
        )
        await asyncio.sleep(6)
        assert [event.kind for event in events] == ["transition"] * 4
        await at_standby.execute("SELECT pg_promote()")
        await eventually(lambda: at_standby.fetchval("SELECT NOT pg_is_in_recovery()"))
        await eventually(lambda: "restored" in {event.kind for event in events})
        await change(standby.url, *range(11, 21))
        await eventually(lambda: workers(events)[-10:] == list(range(11, 21)))
        assert [event.revision for event in events[-10:]] == list(range(3, 13))
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    await at_standby.close()


async def _answers(http: httpx.AsyncClient, position: Any) -> Any:
    answer = await http.get("/status/changes", params={"since": position})
    return answer.json() if answer.status_code == 200 else None
