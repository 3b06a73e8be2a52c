"""`manman-status migrate` on real databases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from manman_status.store.migrate import MIGRATION_SESSION
from manman_status.store.pool import SCHEMA_REVISION, SCHEMA_REVISION_FOUND, VERSION_TABLE
from manman_status.store.session import connect

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Command


async def revisions(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(SCHEMA_REVISION_FOUND)]
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


async def test_user_that_may_not_create_tables_is_refused(
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


FOREIGN = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('997d31da4c5c');
CREATE SCHEMA manman;
CREATE TABLE manman.workers (worker_id integer PRIMARY KEY, last_heartbeat timestamp);
CREATE TABLE manman.game_server_instances (game_server_instance_id integer PRIMARY KEY);
"""
FOREIGN_REVISION = "SELECT version_num FROM alembic_version"


@pytest.mark.parametrize("ours_is_first", [True, False])
async def test_another_applications_migrations_are_not_touched(
    manman_status: Command, empty_database: str, *, ours_is_first: bool
) -> None:
    """ManMan keeps `public.alembic_version` and its tables in the schema `manman`, which is also
    the name of our user: where PostgreSQL looks for tables first."""
    connection = await asyncpg.connect(empty_database)
    try:
        if ours_is_first:
            assert (await manman_status("migrate", database_url=empty_database)).code == 0
        await connection.execute(FOREIGN)
        for _ in range(2):
            finished = await manman_status("migrate", database_url=empty_database)
            assert (finished.code, finished.err) == (0, "")
        assert await connection.fetchval(FOREIGN_REVISION) == "997d31da4c5c"
        assert await connection.fetchval("SELECT 'workers'::regclass::text") == "workers"
        assert await connection.fetchval("SELECT to_regclass('manman.revision_counter')") is None
        ours = await connect(empty_database, MIGRATION_SESSION)
        assert await ours.fetchval("SELECT 'workers'::regclass = 'public.workers'::regclass")
        await ours.close()
    finally:
        await connection.close()
    assert await revisions(empty_database) == [SCHEMA_REVISION]


async def test_the_version_table_of_before_is_taken_over(
    manman_status: Command, database: str
) -> None:
    """Its name was alembic's own, which ManMan's migrations use in the same database."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(f"ALTER TABLE {VERSION_TABLE} RENAME TO alembic_version")
        finished = await manman_status("migrate", database_url=database)
        assert finished == (0, f"schema {SCHEMA_REVISION}: nothing to do\n", "")
        assert await connection.fetchval("SELECT to_regclass('alembic_version')") is None
    finally:
        await connection.close()
    assert await revisions(database) == [SCHEMA_REVISION]


async def test_tables_of_another_application_are_refused(
    manman_status: Command, empty_database: str
) -> None:
    connection = await asyncpg.connect(empty_database)
    try:
        await connection.execute("CREATE TABLE workers (name text)")
        finished = await manman_status("migrate", database_url=empty_database)
        assert finished.code == 1
        [line] = finished.err.splitlines()
        assert "the schema public has tables of another application (workers)" in line
        assert "?search_path=manman_status" in line
        # What it says to do helps, and makes the schema where it is missing.
        own = f"{empty_database}?search_path=manman_status"
        finished = await manman_status("migrate", database_url=own)
        assert (finished.code, finished.err) == (0, "")
        again = await manman_status("migrate", database_url=own)
        assert again == (0, f"schema {SCHEMA_REVISION}: nothing to do\n", "")
        assert await connection.fetchval("SELECT count(*) FROM manman_status.workers") == 0
        names = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        assert [name["tablename"] for name in names] == ["workers"]
    finally:
        await connection.close()
