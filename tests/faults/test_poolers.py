"""Roles, `migrate` and `doctor` through a real pgbouncer."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from manman_status.dev.ports import free_port, is_open
from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.processes import Child
from manman_status.store.pool import SCHEMA_REVISION, create_pool, opened
from tests.conftest import run_command
from tests.fleet import Fleet
from tests.kinds import Eventually, StartRole

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(
    not PGBOUNCER, reason="there is no pgbouncer: apt-get install pgbouncer"
)

CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
default_pool_size = 60
server_round_robin = 1
server_idle_timeout = 1
{more}
"""
AWKWARD = (
    "ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'",
    "ALTER DATABASE {name} SET statement_timeout = '2s'",
    "ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '5min'",
    "ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu'",
)


@pytest.fixture
def pooled(
    postgres: EmbeddedPostgres, server_folder: Path, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """Starts a pgbouncer and gives the URL that leads through it to the database of the given
    one."""
    started = []

    def start(url: str, mode: str = "transaction", more: str = "") -> Any:
        folder, port = server_folder / f"{tmp_path.name}-{mode}", free_port()
        folder.mkdir()
        users = folder / "users"
        users.write_text('"manman" ""\n')
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(server=postgres.port, port=port, users=users, mode=mode, more=more)
        )
        nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        started.append(
            Child(
                "pgbouncer", [str(PGBOUNCER), configuration], log_file=folder / "log", user=nobody
            )
        )
        started[-1].wait_until_ready(lambda: is_open(port), within_seconds=30)
        return url.replace(f":{urlsplit(url).port}/", f":{port}/")

    yield start
    for child in started:
        child.kill()


async def execute(url: str, *statements: Any) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement.format(name=urlsplit(url).path[1:]))
    await connection.close()


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("transaction", ""),
        ("session", ""),
        (
            "transaction",
            "ignore_startup_parameters = extra_float_digits, options, statement_timeout",
        ),
    ],
)
async def test_everything_works_through_pgbouncer(
    mode: Any,
    more: Any,
    pooled: Callable[..., Any],
    database: str,
    start_quick: StartRole,
    start_api: StartRole,
    fleet: Fleet,
    eventually: Eventually,
) -> None:
    """This holds in each mode of pooling, and with awkward settings of the database."""
    await execute(database, *AWKWARD)
    url = pooled(database, mode, more)
    first = await start_quick(database_url=url)
    second = await start_quick(database_url=url)
    fleet.recruit(20)
    api = await start_api(database_url=url, answer_cache_ms=0)

    async def sees(healthy: Any, lost: Any) -> bool:
        system = (await client.get("/status/system")).json()
        workers, state = system["workers"], system["observation"]["state"]
        assert (state, workers["healthy"], workers["unhealthy"]) == ("ok", healthy, lost)
        return True

    async with httpx.AsyncClient(base_url=api.url) as client:
        await eventually(lambda: sees(20, 0))
        answers = await asyncio.gather(
            *(client.get(f"/status/workers/{1 + n % 20}") for n in range(100))
        )
        assert {answer.status_code for answer in answers} == {200}
        fleet.workers[1].go_silent()
        await eventually(lambda: sees(19, 1))
    for role in (first, second, api):
        assert "Traceback" not in role.log
        assert "database_" not in role.log
    code, output = await run_command("doctor", "--role", "api", database_url=url)
    assert code == 0, output
    assert "through a pooler: without prepared statements" in output


@pytest.mark.parametrize("through", ["nothing", "transaction", "session"])
async def test_what_is_set_for_the_database_changes_no_session_of_ours(
    through: Any, pooled: Callable[..., Any], database: str
) -> None:
    """The default isolation alone would make leaders lose their lease, and a time-out repeat each
    batch for ever."""
    await execute(database, *AWKWARD, "ALTER DATABASE {name} SET lock_timeout = '1ms'")
    url = database if through == "nothing" else pooled(database, through)
    if through == "nothing":
        await execute(database, "ALTER DATABASE {name} SET idle_session_timeout = '1s'")
    expected = {
        "transaction_isolation": "read committed",
        "statement_timeout": "11s",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "3s",
        "TimeZone": "UTC",
        "application_name": "a test",
        "transaction_read_only": "off",
    } | ({"idle_session_timeout": "0"} if through == "nothing" else {})
    for is_read_only in (False, True):
        pool = create_pool(
            url, application="a test", size=4, timeout_seconds=10, read_only=is_read_only
        )
        expected["transaction_read_only"] = "on" if is_read_only else "off"
        async with opened(pool, close_within_seconds=5):

            async def look(pool: asyncpg.Pool = pool) -> list[Any]:
                async with pool.acquire() as connection:
                    names = list(expected)
                    query = (
                        "SELECT array_agg(current_setting(name) ORDER BY place)"
                        " FROM unnest($1::text[]) WITH ORDINALITY AS setting (name, place)"
                    )
                    alone = await connection.fetchval(query, names)
                    async with connection.transaction(isolation="repeatable_read"):
                        assert (
                            await connection.fetchval("SHOW transaction_isolation")
                            == "repeatable read"
                        )
                    async with connection.transaction():
                        return [alone, await connection.fetchval(query, names)]

            for found in await asyncio.gather(*(look() for _ in range(20))):
                assert found == [list(expected.values())] * 2


async def test_migrate_works_through_pgbouncer(
    pooled: Callable[..., Any], empty_database: str
) -> None:
    url = pooled(empty_database)
    code, output = await run_command("migrate", database_url=url)
    assert (code, output) == (0, f"schema empty → {SCHEMA_REVISION}\n")
