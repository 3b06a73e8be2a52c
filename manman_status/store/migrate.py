"""The schema to head. Safe to run twice, or by two at once: an advisory lock makes the second wait."""

from __future__ import annotations

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config

from manman_status.store.pool import SCHEMA_REVISION_FOUND

PACKAGE = Path(__file__).parents[1]


def migrations_folder() -> Path:
    """In an installed package they lie inside it, in a checkout beside it."""
    inside = PACKAGE / "migrations"
    return inside if inside.is_dir() else PACKAGE.parent / "migrations"


def alembic_config(dsn: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["dsn"] = dsn
    return config


def migrate(dsn: str) -> None:
    """Bring the database at `dsn` to the newest schema. Blocks; runs its own event loop."""
    command.upgrade(alembic_config(dsn), "head")


async def found_revision(dsn: str) -> str:
    """The schema's revision, or "empty"."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(SCHEMA_REVISION_FOUND) or "empty"
    except asyncpg.UndefinedTableError:
        return "empty"
    finally:
        await connection.close()
