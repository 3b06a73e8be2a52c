"""Alembic's entry: migrations over asyncpg, two at once made to wait for each other."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

from manman_status.store import models
from manman_status.store.migrate import LOCK_WAIT_MS, MIGRATION_SESSION, prepare_schema
from manman_status.store.pool import VERSION_TABLE
from manman_status.store.session import BaseConnection
from manman_status.store.session import connect as connect_session

MIGRATION_LOCK = 7_036_874_417
PARTITION = re.compile(r"transitions_(\d{8}|default)")
assert models.Worker.metadata is SQLModel.metadata


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """The partitions of `transitions` come and go with the days: they are data, not schema."""
    return not (kind == "table" and PARTITION.fullmatch(name or ""))


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        version_table=VERSION_TABLE,
        include_name=include_name,
        transaction_per_migration=False,
        compare_server_default=True,
    )
    with context.begin_transaction():
        connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        prepare_schema(connection)
        context.run_migrations()


async def run_online() -> None:
    dsn = context.config.attributes.get("dsn")
    if not dsn:
        from manman_status.settings import load_settings

        dsn = load_settings(needs=("database_url",)).database_url

    async def connect() -> BaseConnection:
        return await connect_session(dsn, MIGRATION_SESSION)

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, poolclass=pool.NullPool
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("offline migrations are not supported: run `manman-status migrate`")
asyncio.run(run_online())
