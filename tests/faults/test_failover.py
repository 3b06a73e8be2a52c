"""The database moves to another server, or takes no writes for a while: no connection stays with
the wrong one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.store.migrate import migrate
from tests.conftest import CHEAP
from tests.faults.liveness import Observed
from tests.faults.standby import start_standby
from tests.fleet import Fleet
from tests.kinds import Eventually, ProcessTree, Role, StartRole

END_CONNECTIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE
     'manman-status%'
"""


@pytest.fixture
async def primary_and_standby(server_folder: Path, tmp_path: Path) -> AsyncIterator[Any]:
    primary = EmbeddedPostgres(server_folder / f"{tmp_path.name}-primary", options=CHEAP).start()
    standby = start_standby(primary, server_folder / f"{tmp_path.name}-standby")
    yield primary, standby
    primary.kill()
    standby.kill()


async def test_roles_move_to_the_host_that_takes_writes(
    primary_and_standby: Any,
    start_quick: StartRole,
    start_api: StartRole,
    fleet: Fleet,
    eventually: Eventually,
    process_tree: ProcessTree,
) -> None:
    """The first host of the URL hangs for ever, as one does whose machine is gone; the second is
    promoted."""
    primary, standby = primary_and_standby
    url = f"postgresql://manman@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
    await asyncio.to_thread(migrate, url)
    processor = await start_quick(database_url=url)
    fleet.recruit(3)
    api = await start_api(
        database_url=f"{url}?target_session_attrs=read-write",
        answer_cache_ms=0,
        database_timeout_seconds=3,
    )
    observed = Observed(standby.url)

    async def sees_all() -> Any:
        system = (await client.get("/status/system")).json()
        return "workers" in system and (
            system["observation"]["state"],
            system["workers"]["healthy"],
        ) == ("ok", 3)

    async with httpx.AsyncClient(base_url=api.url, timeout=30) as client:
        await eventually(sees_all)
        processes = [*process_tree(primary.pid)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            await observed.rows("SELECT pg_promote()")
            fleet.recruit(5)
            await eventually(lambda: observed.value("SELECT count(*) = 5 FROM workers"))
            await eventually(
                lambda: observed.value("SELECT now() - observed_through < '3 s' FROM observation")
            )

            async def sees_five() -> Any:
                system = (await client.get("/status/system")).json()
                return "workers" in system and system["workers"]["healthy"] == 5

            await eventually(sees_five)
        finally:
            await observed.close()
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
    assert not await lost(standby.url)
    assert "Traceback" not in processor.log + api.log


async def lost(url: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch("SELECT 1 FROM transitions WHERE new_status = 'LOST'")
    finally:
        await connection.close()


async def test_read_only_connections_are_not_kept(
    start_quick: StartRole, fleet: Fleet, observed: Observed, database: str, eventually: Eventually
) -> None:
    """Such a session refuses to write for as long as it lives, however long ago the switch was
    over."""
    processor = await start_quick()
    fleet.recruit(3)
    await eventually(lambda: observed.value("SELECT count(*) = 3 FROM workers"))
    name = database.rpartition("/")[2]
    await observed.rows(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await observed.rows(END_CONNECTIONS)
    await eventually(
        lambda: "takes no writes" in processor.log or "ReadOnlySQLTransactionError" in processor.log
    )
    await observed.rows("SET default_transaction_read_only = off")
    await observed.rows(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    fleet.recruit(6)
    await eventually(lambda: observed.value("SELECT count(*) = 6 FROM workers"), within_seconds=60)
    await eventually(
        lambda: observed.value("SELECT now() - observed_through < '3 s' FROM observation")
    )
    assert not await observed.lost()


async def test_processor_on_a_standby_says_so_and_waits(
    start_role: Callable[..., Role],
    start_processor: StartRole,
    database: str,
    broker: str,
    observed: Observed,
    eventually: Eventually,
) -> None:
    name = database.rpartition("/")[2]
    await observed.rows(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    processor = start_role("processor", database_url=database, rabbitmq_url=broker)
    await eventually(
        lambda: (
            "takes no writes: a standby, or default_transaction_read_only is on" in processor.log
        )
    )
    await observed.rows(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await eventually(lambda: "processor_started" in processor.log)
    assert "Traceback" not in processor.log
    assert processor.log.count("database_unavailable") == 1
