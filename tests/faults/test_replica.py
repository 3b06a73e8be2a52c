"""An api that reads from a replica tells the truth of that replica: older when it lags, never
wrong."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from tests.faults.standby import start_standby


@pytest.fixture
async def replica(postgres, server_folder, tmp_path):
    """A streaming replica of the tests' PostgreSQL, with all of its databases."""
    standby = start_standby(postgres, server_folder / tmp_path.name)
    yield standby
    standby.kill()


async def test_the_api_on_a_replica_shows_the_fleet_and_is_blind_when_the_replica_stands_still(
    start_quick, start_api, fleet, database, replica, eventually
):
    await start_quick()
    fleet.recruit(5)
    replica_url = database.replace(f":{urlsplit(database).port}/", f":{replica.port}/")
    api = await start_api(database_url="", database_read_url=replica_url, blind_after_seconds=3)

    async def system():
        return (await client.get("/status/system")).json()

    async def sees(state, overall):
        said = await system()
        return (said["observation"]["state"], said["overall_status"]) == (state, overall)

    async def sees_all_healthy():
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
