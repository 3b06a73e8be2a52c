"""The thresholds of liveness in the row of `observation`: written by the leader, read by all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.liveness import Thresholds

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

COLUMNS = Thresholds.__struct_fields__
READ = f"SELECT {', '.join(COLUMNS)} FROM observation WHERE id = 1"


async def read_thresholds(connection: Connection) -> Thresholds:
    (row,) = await connection.fetch(READ)
    return Thresholds(**row)


VALUES = ", ".join(f"${number}" for number in range(2, len(COLUMNS) + 2))
WRITE = f"""
UPDATE observation SET ({", ".join(COLUMNS)}, thresholds_set_at) = ROW({VALUES}, now())
 WHERE id = 1 AND (thresholds_set_at IS NULL OR NOT $1)
"""


async def write_thresholds(
    connection: Connection, thresholds: Thresholds, *, only_first: bool = False
) -> Thresholds | None:
    """Make these the ones that count: the leader's, or those of the first processor ever.

    Returns the ones before, or None if they were the same.
    """
    before = await read_thresholds(connection)
    await connection.execute(WRITE, only_first, *msgspec.structs.astuple(thresholds))
    return None if before == thresholds else before


PAIRS = ", ".join(f"'{name}', {name}" for name in COLUMNS)
AS_JSON = f"jsonb_build_object({PAIRS})"
# A processor of the release before says nothing of its own.
DISAGREEING = f"""
SELECT processor_id FROM processors, observation
 WHERE last_seen > now() - make_interval(secs => $1) AND statistics -> 'thresholds' <> {AS_JSON}
 ORDER BY processor_id
"""


async def disagreeing_processors(connection: Connection, *, within_seconds: float) -> list[str]:
    """The processors that reported so lately and have other settings than those that count."""
    rows = await connection.fetch(DISAGREEING, within_seconds)
    return [row["processor_id"] for row in rows]
