"""The schema to head. Safe to run twice, or by two at once: an advisory lock makes the second wait.

A migration runs beside a fleet that lives. A lock that it waits for stands in the way of everybody
who comes after it, so it waits `LOCK_WAIT_MS` at most, takes everything back, and begins anew a
little later.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema

from manman_status.backoff import Backoff
from manman_status.errors import CommandFailed
from manman_status.store.counting import recount
from manman_status.store.epochs import Epoch, begin_restored
from manman_status.store.pool import SCHEMA_REVISION_FOUND, VERSION_TABLE
from manman_status.store.session import Session, connect

PACKAGE = Path(__file__).parents[1]
LOCK_WAIT_MS = 200
GIVES_UP_AFTER_SECONDS = 600.0
MIGRATION_SESSION = Session(
    application="manman-status migrate",
    connect_seconds=10.0,
    statement_seconds=None,  # an index on a large table takes its time
    idle_in_transaction_ms=60_000,
)
ENCODING = (
    "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
)


TABLES_HERE = """
SELECT tablename FROM pg_tables
 WHERE schemaname = current_schema()
   AND tablename IN (:ours, 'alembic_version', 'revision_counter', 'workers', 'server_instances')
"""


def prepare_schema(connection: SyncConnection) -> None:
    """Make the schema ready for our tables, in the transaction of the migrations.

    Create the schema that `search_path` names first where it is missing. Take over a version table
    that has the name of before, `alembic_version`: it is ours only beside our tables, and with a
    revision of ours. Raises CommandFailed where tables of ours would meet those of another
    application.
    """
    if connection.scalar(text("SELECT current_schema()")) is None:
        path: str = connection.scalar(text("SHOW search_path")) or ""
        name = path.split(",", maxsplit=1)[0].strip().strip('"')
        connection.execute(CreateSchema(name))
    here = set(connection.scalars(text(TABLES_HERE), {"ours": VERSION_TABLE}))
    if VERSION_TABLE in here:
        return
    if {"alembic_version", "revision_counter"} <= here:
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
        if re.fullmatch(r"00\d\d", found or ""):
            connection.execute(text(f"ALTER TABLE alembic_version RENAME TO {VERSION_TABLE}"))
            return
    if others := sorted(here - {"alembic_version"}):
        schema = connection.scalar(text("SELECT current_schema()"))
        raise CommandFailed(
            f"the schema {schema} has tables of another application ({', '.join(others)}): give"
            " manman-status a schema of its own, with ?search_path=manman_status at the end of"
            " the database's URL, for migrate and both roles"
        )


def migrations_folder() -> Path:
    """The folder of the migrations: inside an installed package, beside it in a checkout."""
    inside = PACKAGE / "migrations"
    return inside if inside.is_dir() else PACKAGE.parent / "migrations"


def alembic_config(dsn: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["dsn"] = dsn
    return config


def migrate(
    dsn: str,
    *,
    say: Callable[[str], None] = lambda _: None,
    gives_up_after_seconds: float = GIVES_UP_AFTER_SECONDS,
) -> None:
    """Bring the database at `dsn` to the newest schema. Blocks; runs its own event loop. `say` is
    given a line now and then while a lock is waited for. Raises CommandFailed when it was not had
    in time."""
    backoff = Backoff()
    while True:
        try:
            return command.upgrade(alembic_config(dsn), "head")
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != asyncpg.LockNotAvailableError.sqlstate:
                raise
            delay = backoff.failed()
            if backoff.failing_seconds > gives_up_after_seconds:
                raise CommandFailed(
                    f"gave up after {backoff.failing_seconds:g} s, nothing is changed: others hold"
                    " locks on the tables; end what has been reading them for so long"
                    " (pg_stat_activity), or migrate again later"
                ) from error
            if backoff.is_worth_saying:
                say(
                    "waiting: others hold locks on the tables, or migrate too; nothing is"
                    " changed yet"
                )
            time.sleep(delay)


# Of the time when our version table had alembic's own name for it.
REVISION_FOUND_BEFORE = """
SELECT version_num FROM alembic_version
 WHERE version_num ~ '^00[0-9][0-9]$' AND EXISTS (SELECT FROM revision_counter)
"""


async def found_revision(dsn: str) -> str:
    """The schema's revision, or "empty". Raises CommandFailed where an empty database has an
    encoding that cannot hold every name."""
    connection = await connect(dsn, MIGRATION_SESSION)
    try:
        found = "empty"
        for query in (SCHEMA_REVISION_FOUND, REVISION_FOUND_BEFORE):
            with contextlib.suppress(asyncpg.UndefinedTableError):
                found = await connection.fetchval(query) or found
                break
        encoding = await connection.fetchval(ENCODING)
        if found == "empty" and encoding != "UTF8":
            raise CommandFailed(
                f"the database's encoding is {encoding}, and names need UTF8: make it anew with"
                " CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        return str(found)
    finally:
        await connection.close()


RECOUNT_LOCK_WAIT = "SET LOCAL lock_timeout = '2s'"


async def recount_fleet(dsn: str) -> None:
    """Count the rows anew for `fleet_counts`. Nothing is written to them meanwhile."""
    connection = await connect(dsn, MIGRATION_SESSION)
    try:
        async with connection.transaction():
            await connection.execute(RECOUNT_LOCK_WAIT)
            await recount(connection)
    finally:
        await connection.close()


async def begin_new_epoch(dsn: str) -> Epoch:
    """Begin a new epoch after a backup was restored: all that it has is common with the history
    before."""
    connection = await connect(dsn, MIGRATION_SESSION)
    try:
        async with connection.transaction():
            return await begin_restored(connection)
    finally:
        await connection.close()
