"""`manman-status migrate` on real databases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from manman_status.store.pool import SCHEMA_REVISION

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Command


async def revisions(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch("SELECT version_num FROM alembic_version")]
    finally:
        await connection.close()


async def test_the_second_time_there_is_nothing_to_do(
    manman_status: Command, empty_database: str
) -> None:
    first = await manman_status("migrate", database_url=empty_database)
    second = await manman_status("migrate", database_url=empty_database)
    assert first == (0, f"schema empty → {SCHEMA_REVISION}\n", "")
    assert second == (0, f"schema {SCHEMA_REVISION}: nothing to do\n", "")
    assert await revisions(empty_database) == [SCHEMA_REVISION]


async def test_two_at_once_do_no_harm(manman_status: Command, empty_database: str) -> None:
    both = await asyncio.gather(
        *(manman_status("migrate", database_url=empty_database) for _ in range(2))
    )
    assert [finished.code for finished in both] == [0, 0], both
    assert await revisions(empty_database) == [SCHEMA_REVISION]


async def test_the_flag_outranks_the_variable(manman_status: Command, empty_database: str) -> None:
    finished = await manman_status(
        "migrate", "--database-url", empty_database, database_url="postgresql://127.0.0.1:1/x"
    )
    assert finished.code == 0, finished.err


async def test_a_database_that_is_not_there_is_named(
    manman_status: Command, secret_database: str
) -> None:
    finished = await manman_status("migrate", database_url=f"{secret_database}_not")
    assert finished.code == 1
    assert finished.err.startswith(
        "manman-status: The database refuses: no such database: database "
    )


async def test_who_may_not_create_tables_is_told_so(
    manman_status: Command, empty_database: str
) -> None:
    connection = await asyncpg.connect(empty_database)
    await connection.execute("CREATE ROLE powerless LOGIN")
    try:
        finished = await manman_status(
            "migrate", database_url=empty_database.replace("manman@", "powerless@")
        )
    finally:
        await connection.execute("DROP ROLE powerless")
        await connection.close()
    assert finished.code == 1
    assert len(finished.err.splitlines()) == 1
    assert "permission denied" in finished.err


async def test_a_new_epoch_begins_after_all_that_was_restored(
    manman_status: Command, database: str
) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE revision_counter SET revision = 41")
    before = await connection.fetchval("SELECT epoch FROM revision_counter")
    finished = await manman_status("migrate", "--new-epoch", database_url=database)
    after = await connection.fetchrow(
        "SELECT epoch, previous_epoch, epoch_begins_after FROM revision_counter"
    )
    await connection.close()
    assert (finished.code, finished.err) == (0, "")
    assert after is not None
    assert f"epoch {after['epoch']} begins after revision 41" in finished.out
    assert after["epoch"] != before
    assert (after["previous_epoch"], after["epoch_begins_after"]) == (before, 41)
