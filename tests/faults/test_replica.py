"""An api that reads from a replica shows the truth of that replica: older when it lags, never
wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from tests.faults.liveness import Observed
from tests.faults.standby import start_standby
from tests.fleet import Fleet
from tests.kinds import Eventually, StartRole
from tests.manman import ManMan


@pytest.fixture
async def replica(
    postgres: EmbeddedPostgres, server_folder: Path, tmp_path: Path
) -> AsyncIterator[Any]:
    """A streaming replica of the tests' PostgreSQL, with all of its databases."""
    standby = start_standby(postgres, server_folder / tmp_path.name)
    yield standby
    standby.kill()


async def test_api_on_a_stuck_replica_is_blind(
    start_quick: StartRole,
    start_api: StartRole,
    fleet: Fleet,
    database: str,
    replica: Any,
    eventually: Eventually,
) -> None:
    """While the replica follows, the api shows the fleet."""
    await start_quick(blind_after_seconds=3)
    fleet.recruit(5)
    replica_url = database.replace(f":{urlsplit(database).port}/", f":{replica.port}/")
    api = await start_api(database_url="", database_read_url=replica_url)

    async def system() -> Any:
        return (await client.get("/status/system")).json()

    async def sees(state: Any, overall: Any) -> bool:
        said = await system()
        return (said["observation"]["state"], said["overall_status"]) == (state, overall)

    async def sees_all_healthy() -> Any:
        return await sees("ok", "healthy") and (await system())["workers"]["healthy"] == 5

    async with httpx.AsyncClient(base_url=api.url) as client:
        await eventually(sees_all_healthy)
        assert (await client.get("/readyz")).status_code == 200
        connection = await asyncpg.connect(replica_url)
        await connection.execute("SELECT pg_wal_replay_pause()")
        await eventually(lambda: sees("blind", "unknown"))
        healths = [
            worker["health"] for worker in (await client.get("/status/workers")).json()["items"]
        ]
        assert healths == ["unknown"] * 5
        await connection.execute("SELECT pg_wal_replay_resume()")
        await connection.close()
        await eventually(sees_all_healthy)


async def test_a_bridge_vouches_for_no_replica(
    start_quick: StartRole,
    start_bridge: StartRole,
    manman: ManMan,
    replica: Any,
    observed: Observed,
    eventually: Eventually,
) -> None:
    """A replica that lags would show everybody silent."""
    await start_quick()
    manman_url = manman.url.replace(f":{urlsplit(manman.url).port}/", f":{replica.port}/")
    bridge = await start_bridge(manman_database_url=manman_url)
    await eventually(lambda: "The server is a standby" in bridge.log)
    assert await observed.rows("SELECT FROM bridges") == []
