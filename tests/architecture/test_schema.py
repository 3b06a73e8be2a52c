"""The models, the migrations and the SQL are about the same schema."""

from __future__ import annotations

import asyncio

from alembic import command
from alembic.script import ScriptDirectory

from manman_status.store.migrate import alembic_config
from manman_status.store.pool import SCHEMA_REVISION


async def test_migrations_make_what_the_models_say(database: str) -> None:
    # Raises, with the differences, when a new migration would not be empty.
    await asyncio.to_thread(command.check, alembic_config(database))


def test_the_sql_is_written_for_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(alembic_config("")).get_heads() == [SCHEMA_REVISION]
