"""The thresholds of liveness: one row, written by the leader, by which everybody reads."""

# ruff: noqa: S608 - the SQL is put together from constants

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.liveness import Thresholds

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

COLUMNS = Thresholds.__struct_fields__
READ = f"SELECT {', '.join(COLUMNS)} FROM thresholds WHERE id = 1"


async def read_thresholds(connection: Connection) -> Thresholds:
    (row,) = await connection.fetch(READ)
    return Thresholds(**row)


WRITE = f"""
UPDATE thresholds SET ({", ".join(COLUMNS)}) = ROW({
    ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 1))
}) WHERE id = 1
"""


async def write_thresholds(connection: Connection, thresholds: Thresholds) -> Thresholds | None:
    """Make these the ones that count. The ones before, or None if they were the same."""
    before = await read_thresholds(connection)
    if before == thresholds:
        return None
    await connection.execute(WRITE, *msgspec.structs.astuple(thresholds))
    return before


# A processor of the release before says nothing of its own.
DIFFERENT = """
SELECT processor_id FROM processors
 WHERE last_seen > now() - make_interval(secs => $2) AND statistics -> 'thresholds' <> $1::jsonb
 ORDER BY processor_id
"""


async def processors_with_others(
    connection: Connection, thresholds: Thresholds, *, within_seconds: float
) -> list[str]:
    """The processors that reported so lately and have settings that differ from these."""
    given = msgspec.to_builtins(thresholds)
    rows = await connection.fetch(DIFFERENT, given, within_seconds)
    return [row["processor_id"] for row in rows]
