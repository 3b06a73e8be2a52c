"""Connections to PostgreSQL, and the check that its schema is the one this program needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import asyncpg
import msgspec
from asyncpg.pool import PoolAcquireContext

from manman_status.errors import SchemaBehind
from manman_status.store.session import Session, connect

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    BasePool = asyncpg.Pool[asyncpg.Record]
    BaseAcquireContext = PoolAcquireContext[asyncpg.Record]
else:
    BasePool, BaseAcquireContext = asyncpg.Pool, PoolAcquireContext

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

SCHEMA_REVISION = "0021"
"""The alembic revision that the SQL in this package is written for; a test compares it with
`migrations/`."""

SESSION_ERRORS = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    # A pooler that has come between gives us sessions in which our prepared statements are not.
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)
"""Errors that may be the fault of the server behind a connection, or of its session, and so last as
long as the connection: after a failover it may lead to a server that only reads."""

CONNECTION_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,
    *SESSION_ERRORS,
)
"""Errors while the database is unavailable, starting, stopping or full: try again later. (asyncpg's
internal error is what a connection raises between the server's last word on it and its end.)"""

DATABASE_ERRORS = (*CONNECTION_ERRORS, asyncpg.PostgresError)
"""The errors above, and all other errors that the server answers with."""


def json_text(value: object) -> str:
    return msgspec.json.encode(value).decode()


async def _prepare(connection: Connection) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name,
            schema="pg_catalog",
            encoder=json_text,
            decoder=msgspec.json.decode,
        )


async def _leave(connection: Connection) -> None:
    """Reset nothing: there is nothing to undo, and so no round trip for it."""


class _Acquired(BaseAcquireContext):
    async def __aexit__(self, *exc: object) -> None:
        """Close the connection when it will not serve us any more. One to a server that only reads
        is not the only one: all are made anew."""
        if isinstance(exc[1], SESSION_ERRORS) and self.connection is not None:
            self.connection.terminate()
            if isinstance(exc[1], asyncpg.ReadOnlySQLTransactionError):
                await self.pool.expire_connections()
        await super().__aexit__(*exc)


class Pool(BasePool):
    """asyncpg's pool, which never hands out a connection again that has turned out to lead to the
    wrong server."""

    def acquire(self, *, timeout: float | None = None) -> _Acquired:
        return _Acquired(self, timeout)


def create_pool(
    dsn: str, *, application: str, size: int, timeout_seconds: float, read_only: bool = False
) -> Pool:
    """A pool that connects when first used: opening it needs no database.

    `application` is what `pg_stat_activity` shows. Every query is cancelled after
    `timeout_seconds`. Neither role leaves anything behind in its session, so a connection goes back
    to the pool as it is.
    """
    session = Session(
        application=application,
        connect_seconds=timeout_seconds,
        statement_seconds=timeout_seconds,
        is_read_only=read_only,
    )

    async def make(**_: Any) -> Connection:
        return await connect(dsn, session)

    return Pool(
        init_size=0,
        min_size=0,
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        connect=cast("Any", make),
        init=_prepare,
        reset=_leave,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
    )


@asynccontextmanager
async def opened(pool: Pool, *, close_within_seconds: float) -> AsyncIterator[Pool]:
    """Open the pool, and close it in the end, without waiting for the server longer than this."""
    await pool
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(close_within_seconds):
                await pool.close()
        except TimeoutError:
            pool.terminate()


VERSION_TABLE = "manman_status_schema"
"""The table with the schema's revision. Alembic's own name for it is also that of every other
application with migrations in the same database."""
SCHEMA_REVISION_FOUND = f"SELECT version_num FROM {VERSION_TABLE}"


async def require_schema(connection: Connection) -> None:
    """Raise SchemaBehind unless the database is at `SCHEMA_REVISION` or beyond it.

    A newer schema is fine: migrations only add within one release, so that roles can be replaced
    one by one.
    """
    try:
        found: str = await connection.fetchval(SCHEMA_REVISION_FOUND) or "empty"
    except asyncpg.UndefinedTableError:
        found = "empty"
    if found == "empty" or found < SCHEMA_REVISION:
        raise SchemaBehind(found=found, needed=SCHEMA_REVISION)
