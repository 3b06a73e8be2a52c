"""The numbers of workers and server instances, kept by triggers, so that nobody has to count the
rows.

The triggers append changes (`fleet_count_changes`); the leader adds them to `fleet_counts`. The sum
of both tables is what a count of the rows in the same snapshot gives.
"""

from __future__ import annotations

import msgspec

from manman_status.store.pool import Connection

KEY = "entity, group_name, status, has_beat, is_draining"

KEPT = f"""kept AS (
    SELECT {KEY}, sum(number)::bigint AS number
    FROM (SELECT {KEY}, number FROM fleet_counts UNION ALL SELECT {KEY}, number FROM
        fleet_count_changes) c
    GROUP BY {KEY}
)"""

# The locks that others hold are those of rows that are being added up already.
ADD_UP = f"""
WITH taken AS (
    DELETE FROM fleet_count_changes
     WHERE change_id IN (
               SELECT change_id FROM fleet_count_changes ORDER BY change_id LIMIT $1 FOR UPDATE SKIP
                   LOCKED
           )
    RETURNING {KEY}, number
),
added AS (
    INSERT INTO fleet_counts AS counts ({KEY}, number)
    SELECT {KEY}, sum(number)::bigint FROM taken GROUP BY {KEY} HAVING sum(number) <> 0 ORDER BY
        {KEY}
    ON CONFLICT ({KEY}) DO UPDATE SET number = counts.number + excluded.number
    RETURNING counts.number
)
SELECT (SELECT count(*) FROM taken) AS changes, EXISTS (SELECT FROM added WHERE number = 0) AS
    has_none_left
"""
FORGET_NOBODY = "DELETE FROM fleet_counts WHERE number = 0"


async def add_up_changes(connection: Connection, *, limit: int) -> int:
    """Add at most `limit` changes, the oldest first, to the counts. Returns their number."""
    row = await connection.fetchrow(ADD_UP, limit)
    assert row is not None
    if row["has_none_left"]:
        await connection.execute(FORGET_NOBODY)
    changes: int = row["changes"]
    return changes


DRAINS = "lower(coalesce(labels ->> 'drain', '')) NOT IN ('', '0', 'false', 'no', 'off')"
GROUP = "coalesce(labels ->> 'group', '')"
COUNTED = f"""
SELECT 'worker' AS entity, {GROUP} AS group_name, status, last_heartbeat IS NOT NULL AS has_beat,
       {DRAINS} AS is_draining, count(*) AS number
  FROM workers GROUP BY 1, 2, 3, 4, 5
 UNION ALL
SELECT 'game_server_instance', '', status, false, false, count(*) FROM server_instances GROUP BY
    status
"""
UNWATCHED = """
SELECT worker_id FROM workers WHERE last_heartbeat IS NULL AND is_active(status)
"""


class Miscount(msgspec.Struct, frozen=True):
    """A number that is kept, and the one that a count of the rows gives."""

    entity: str
    group_name: str
    status: str
    kept: int
    counted: int


COMPARE = f"""
WITH {KEPT}, counted AS ({COUNTED})
SELECT entity, group_name, status, coalesce(kept.number, 0) AS kept, coalesce(counted.number, 0) AS
    counted
  FROM kept FULL JOIN counted USING ({KEY})
 WHERE coalesce(kept.number, 0) <> coalesce(counted.number, 0)
 UNION ALL
SELECT 'unwatched', '', '', (SELECT count(*) FROM unwatched_workers), (SELECT count(*) FROM
    ({UNWATCHED}) u)
 WHERE EXISTS (TABLE unwatched_workers EXCEPT ({UNWATCHED})) OR EXISTS (({UNWATCHED}) EXCEPT TABLE
     unwatched_workers)
 ORDER BY entity DESC, group_name, status
"""


async def compare_counts(connection: Connection) -> list[Miscount]:
    """Return the numbers that are kept wrong. Reads all rows, in one snapshot."""
    return [Miscount(*row) for row in await connection.fetch(COMPARE)]


# The lock is that of the migration: nobody writes rows while they are counted.
RECOUNT = (
    "LOCK TABLE workers, server_instances IN SHARE ROW EXCLUSIVE MODE",
    "DELETE FROM fleet_count_changes",
    "DELETE FROM fleet_counts",
    "DELETE FROM unwatched_workers",
    f"INSERT INTO fleet_counts ({KEY}, number) {COUNTED}",
    f"INSERT INTO unwatched_workers {UNWATCHED}",
)


# A writer that waits for the tables stands behind this lock, so the wait for it is short.
WAIT_BRIEFLY = "SET LOCAL lock_timeout = '1s'"


async def recount_promptly(connection: Connection) -> None:
    """`recount`, but raises LockNotAvailableError unless the tables can be locked within a
    second."""
    await connection.execute(WAIT_BRIEFLY)
    await recount(connection)


async def recount(connection: Connection) -> None:
    """Count all rows anew. The caller owns the transaction; nothing is written to the rows until it
    ends."""
    for statement in RECOUNT:
        await connection.execute(statement)
