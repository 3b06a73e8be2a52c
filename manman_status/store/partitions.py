"""The daily partitions of `transitions`. Days are UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from manman_status.store.pool import Connection

PARTITION_DAYS_AHEAD = 7
PARTITION_LOCK = 7_036_874_418
LOCK = "SELECT pg_advisory_xact_lock($1)"
PARTITIONS = """
SELECT child.relname AS name
  FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
 WHERE inhparent = 'transitions'::regclass
"""


def partition_name(day: date) -> str:
    return f"transitions_{day:%Y%m%d}"


async def make_partitions(connection: Connection, *, days_ahead: int) -> list[str]:
    """Make the partitions of today and the days after it that are missing; their names, oldest first.

    Rows that had fallen into the default partition meanwhile are moved. The caller's transaction holds a lock, so
    that two processors take turns.
    """
    await connection.execute(LOCK, PARTITION_LOCK)
    existing = {row["name"] for row in await connection.fetch(PARTITIONS)}
    now: datetime = await connection.fetchval("SELECT now()")
    today = now.astimezone(UTC).date()
    days = [today + timedelta(days=ahead) for ahead in range(days_ahead + 1)]
    missing = [day for day in days if partition_name(day) not in existing]
    for day in missing:
        await _make_partition(connection, day)
    return [partition_name(day) for day in missing]


async def _make_partition(connection: Connection, day: date) -> None:
    """Names and bounds are dates, made here: nothing in this SQL comes from outside."""
    name = partition_name(day)
    lower, upper = (f"'{bound.isoformat()}T00:00:00Z'" for bound in (day, day + timedelta(days=1)))
    await connection.execute(f"CREATE TABLE {name} (LIKE transitions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    await connection.execute(
        f"WITH moved AS (DELETE FROM transitions_default WHERE at >= {lower} AND at < {upper} RETURNING *)"  # noqa: S608
        f" INSERT INTO {name} SELECT * FROM moved"
    )
    await connection.execute(f"ALTER TABLE transitions ATTACH PARTITION {name} FOR VALUES FROM ({lower}) TO ({upper})")


DROPPABLE = """
SELECT max(revision) IS NULL OR max(revision) <= (SELECT sent_revision FROM relay) FROM {name}
"""


async def drop_partitions(connection: Connection, *, retention_days: int) -> list[str]:
    """Drop the days that ended longer ago than the retention, but none with a transition still to be republished;
    their names, oldest first."""
    await connection.execute(LOCK, PARTITION_LOCK)
    now: datetime = await connection.fetchval("SELECT now()")
    oldest_kept = partition_name(now.astimezone(UTC).date() - timedelta(days=retention_days))
    names = sorted(row["name"] for row in await connection.fetch(PARTITIONS))
    dropped = []
    for name in names:
        if name < oldest_kept and await connection.fetchval(DROPPABLE.format(name=name)):
            await connection.execute(f"DROP TABLE {name}")
            dropped.append(name)
    return dropped
