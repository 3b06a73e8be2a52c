"""The models, the migrations and the SQL are about the same schema."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

from manman_status.domain.status import ACTIVE, Entity, StatusType
from manman_status.store import clock_step
from manman_status.store.migrate import PACKAGE, alembic_config
from manman_status.store.pool import SCHEMA_REVISION
from manman_status.store.writes import INSTANCE_COLUMNS, WORKER_COLUMNS

TABLES = {"workers": WORKER_COLUMNS, "server_instances": INSTANCE_COLUMNS}


async def test_migrations_make_what_the_models_say(database: str) -> None:
    # Raises, with the differences, when a new migration would not be empty.
    await asyncio.to_thread(command.check, alembic_config(database))


def test_the_sql_is_written_for_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(alembic_config("")).get_heads() == [SCHEMA_REVISION]


@pytest.mark.parametrize("table", TABLES)
def test_rows_have_the_columns_of_their_table(table: str) -> None:
    """A column stands in `store/models.py` and as a field in `domain/rows.py`, with one type."""
    columns = SQLModel.metadata.tables[table].columns
    spelled = {"TIMESTAMP WITH TIME ZONE": "timestamptz"}
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = {each.name: each.type.compile(dialect) for each in columns}
    assert TABLES[table] == {name: spelled.get(kind, kind.lower()) for name, kind in types.items()}


@pytest.mark.parametrize("table", TABLES)
def test_a_step_of_the_clock_moves_every_time(table: str) -> None:
    """A new column with a time belongs into the statement of `store/clock_step.py` too."""
    statement = next(each for each in clock_step.MOVE_FLEET if f"UPDATE {table} " in each)
    times = {name for name, kind in TABLES[table].items() if kind == "timestamptz"}
    assert {name for name in times if f" {name} = " not in statement} == set()


def test_sql_calls_is_active_and_lists_no_active_status() -> None:
    """The function `is_active(status)` of the database says which statuses are active."""
    listed = re.compile(r"IN \(((?:'[A-Z]+',?\s*)+)\)")
    found = [
        f"{path.relative_to(PACKAGE)}: {match[0]}"
        for path in Path(PACKAGE).rglob("*.py")
        for match in listed.finditer(path.read_text())
        if set(re.findall("[A-Z]+", match[1])) & ACTIVE
    ]
    assert found == []


async def test_the_database_allows_every_status(database: str) -> None:
    """A new member of StatusType or Entity needs a migration of the CHECK constraints."""
    connection = await asyncpg.connect(database)
    try:
        found = await connection.fetch(
            "SELECT conrelid::regclass || '.' || conname AS name, pg_get_constraintdef(oid) AS text"
            "  FROM pg_constraint WHERE contype = 'c' AND conname ~ '(status|entity)_known$'"
        )
    finally:
        await connection.close()
    allowed = {row["name"]: set(re.findall("'([^']+)'", row["text"])) for row in found}
    assert {name for name in allowed if name.endswith("status_known")} >= {
        "workers.status_known",
        "server_instances.status_known",
        "transitions.new_status_known",
    }
    for name, values in allowed.items():
        assert values == {*(Entity if "entity" in name else StatusType)}, name
