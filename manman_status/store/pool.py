"""Connections to PostgreSQL, and whether its schema is the one this program needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
import msgspec

from manman_status.errors import SchemaBehind

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

SCHEMA_REVISION = "0010"
"""The alembic revision that the SQL in this package is written for; a test compares it with `migrations/`."""

CONNECTION_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,
)
"""What is raised while the database is away, starting, stopping or full: try again later. (asyncpg's internal error is
what a connection raises between the server's last word on it and its end.)"""

DATABASE_ERRORS = (*CONNECTION_ERRORS, asyncpg.PostgresError)
"""And whatever else the server itself answers with."""

HUNG_AFTER_MS = 3_000
"""A process that hangs, or whose machine is gone, within a transaction must not keep its locks: the server ends it."""


async def _prepare(connection: Connection) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name,
            schema="pg_catalog",
            encoder=lambda value: msgspec.json.encode(value).decode(),
            decoder=msgspec.json.decode,
        )


async def _leave(connection: Connection) -> None:
    """Nothing to undo, and so no round trip for it."""


def create_pool(dsn: str, *, application: str, size: int, timeout_seconds: float, read_only: bool = False) -> Pool:
    """A pool that connects when first used: opening it needs no database.

    `application` is what `pg_stat_activity` shows. Every query is given up after `timeout_seconds`. Neither role leaves
    anything behind in its session, so a connection goes back to the pool as it is.
    """
    session = {
        "application_name": application,
        "timezone": "UTC",
        "idle_in_transaction_session_timeout": str(HUNG_AFTER_MS),
    }
    if read_only:
        session["default_transaction_read_only"] = "on"
    return asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        timeout=timeout_seconds,
        command_timeout=timeout_seconds,
        init=_prepare,
        reset=_leave,
        server_settings=session,
    )


@asynccontextmanager
async def opened(pool: Pool, *, close_within_seconds: float) -> AsyncIterator[Pool]:
    """Closed in the end, without the server's word for it when that does not come in time."""
    await pool
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(close_within_seconds):
                await pool.close()
        except TimeoutError:
            pool.terminate()


SCHEMA_REVISION_FOUND = "SELECT version_num FROM alembic_version"


async def require_schema(connection: Connection) -> None:
    """Raise SchemaBehind unless the database is at `SCHEMA_REVISION` or beyond it.

    A newer schema is fine: migrations only add within one release, so that roles can be replaced one by one.
    """
    try:
        found: str = await connection.fetchval(SCHEMA_REVISION_FOUND) or "empty"
    except asyncpg.UndefinedTableError:
        found = "empty"
    if found == "empty" or found < SCHEMA_REVISION:
        raise SchemaBehind(found=found, needed=SCHEMA_REVISION)
