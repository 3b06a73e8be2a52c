"""The daily partitions of `transitions`. Days are UTC.

A change of partitions needs a lock that conflicts with every reader: PostgreSQL attaches a
partition beside a default one, and drops one, under ACCESS EXCLUSIVE. While such a lock is waited
for, everybody who comes later waits behind it. So each change is a short transaction of its own
that waits `LOCK_WAIT_MS` at most for a lock, and is tried again later: behind `pg_dump` nothing is
made or dropped until it is done, and nobody is disturbed. No change is urgent: partitions are made
days ahead, and a transition without one falls into the default partition. (DETACH … CONCURRENTLY
would wait for readers without a lock; PostgreSQL refuses it where there is a default partition.)

Here, and nowhere else in `store`, a function begins transactions itself: each partition has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta

import asyncpg
import msgspec

from manman_status.store.pool import Connection

PARTITION_DAYS_AHEAD = 7
PARTITION_LOCK = 7_036_874_418
LOCK_WAIT_MS = 100
PREPARED_WITHIN_TRIES = 5
LIMIT_WAIT = f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}"
LOCK = "SELECT pg_advisory_xact_lock($1)"
PARTITIONS = """
SELECT child.relname AS name
  FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
 WHERE inhparent = 'transitions'::regclass
"""
SCHEMA = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'transitions'::regclass"
MOVED_AT_MOST = 10_000
"""Rows that are moved from the default partition while all readers wait. A day with more stays
there."""
DELETED_AT_ONCE = 10_000


class Partitions(msgspec.Struct):
    """The partitions made and dropped, by name, oldest first. `waiting` is the holder of the lock
    that the rest waits for; "" if nothing waits."""

    made: list[str] = msgspec.field(default_factory=list)
    dropped: list[str] = msgspec.field(default_factory=list)
    waiting: str = ""


def partition_name(day: date) -> str:
    return f"transitions_{day:%Y%m%d}"


async def keep_partitions(
    connection: Connection, *, days_ahead: int, retention_days: int | None
) -> Partitions:
    """Make the partitions of today and the days after it that are missing. Drop the days that ended
    longer ago than the retention, if one is given, but none with a transition still to be
    republished.

    Stops where somebody else holds a lock: call it again later.
    """
    done = Partitions()
    try:
        for day in await _missing_days(connection, days_ahead):
            if await _make_partition(connection, day):
                done.made.append(partition_name(day))
        if retention_days is not None:
            await _clear_default(connection, retention_days)
            for name in await _old_partitions(connection, retention_days):
                if await _drop_partition(connection, name):
                    done.dropped.append(name)
    except asyncpg.LockNotAvailableError:
        done.waiting = await _lock_holders(connection) or "a lock whose holder is not to be seen"
    return done


async def prepare_partitions(connection: Connection) -> None:
    """Have the partitions of today and tomorrow, before anything is stored. Waits a moment for a
    lock, no longer: a transition without its partition is stored all the same."""
    for _ in range(PREPARED_WITHIN_TRIES):
        if not await _missing_days(connection, 1):
            return
        if not (await keep_partitions(connection, days_ahead=1, retention_days=None)).waiting:
            return
        await asyncio.sleep(2 * LOCK_WAIT_MS / 1000)  # those who queued behind us get through first


async def _today(connection: Connection) -> date:
    now: datetime = await connection.fetchval("SELECT now()")
    return now.astimezone(UTC).date()


async def _existing(connection: Connection) -> set[str]:
    return {row["name"] for row in await connection.fetch(PARTITIONS)}


async def _missing_days(connection: Connection, days_ahead: int) -> list[date]:
    existing = await _existing(connection)
    today = await _today(connection)
    days = [today + timedelta(days=ahead) for ahead in range(days_ahead + 1)]
    return [day for day in days if partition_name(day) not in existing]


@asynccontextmanager
async def _change(connection: Connection) -> AsyncIterator[None]:
    """A transaction that never waits long for a lock. Two processors take turns."""
    async with connection.transaction():
        await connection.execute(LIMIT_WAIT)
        await connection.execute(LOCK, PARTITION_LOCK)
        yield


async def _make_partition(connection: Connection, day: date) -> bool:
    """Make a partition; True when it was made. A few rows in the default partition are moved; none
    is added there meanwhile. Names and bounds are dates, made here: nothing in this SQL comes from
    outside.

    Names and bounds are dates, made here: nothing in this SQL comes from outside.
    """
    lower, upper = (f"'{bound.isoformat()}T00:00:00Z'" for bound in (day, day + timedelta(days=1)))
    async with _change(connection):
        if partition_name(day) in await _existing(connection):
            return False
        schema = await connection.fetchval(SCHEMA)  # the first of the search path may be another
        name, default = f"{schema}.{partition_name(day)}", f"{schema}.transitions_default"
        of_the_day = f"{default} WHERE at >= {lower} AND at < {upper}"
        await connection.execute(f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE")
        rows = f"SELECT count(*) FROM (SELECT FROM {of_the_day} LIMIT {MOVED_AT_MOST + 1}) AS found"
        if await connection.fetchval(rows) > MOVED_AT_MOST:
            return False
        await connection.execute(
            f"CREATE TABLE {name} (LIKE transitions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
        )
        await connection.execute(
            f"""WITH moved AS (DELETE FROM {of_the_day} RETURNING *)
                INSERT INTO {name} SELECT * FROM moved"""
        )
        await connection.execute(
            f"ALTER TABLE transitions ATTACH PARTITION {name} FOR VALUES FROM ({lower}) TO"
            f" ({upper})"
        )
    return True


CLEAR_DEFAULT = """
DELETE FROM transitions_default WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM transitions_default
     WHERE at < date_trunc('day', now(), 'UTC') - make_interval(days => $1)
       AND revision <= (SELECT sent_revision FROM relay)
     LIMIT $2))
"""


async def _clear_default(connection: Connection, retention_days: int) -> None:
    """Delete what would have been dropped with its partition, had it had one."""
    while await connection.execute(CLEAR_DEFAULT, retention_days, DELETED_AT_ONCE) != "DELETE 0":
        pass


async def _old_partitions(connection: Connection, retention_days: int) -> list[str]:
    oldest_kept = partition_name(await _today(connection) - timedelta(days=retention_days))
    return sorted(name for name in await _existing(connection) if name < oldest_kept)


async def _drop_partition(connection: Connection, name: str) -> bool:
    schema = await connection.fetchval(SCHEMA)
    async with _change(connection):
        if name not in await _existing(connection):
            return False
        droppable = await connection.fetchval(
            "SELECT max(revision) IS NULL OR max(revision) <= (SELECT sent_revision FROM relay)"
            f" FROM {schema}.{name}"
        )
        if droppable:
            await connection.execute(f"DROP TABLE {schema}.{name}")
        return bool(droppable)


LOCK_HOLDERS = """
SELECT DISTINCT coalesce(nullif(application_name, ''), 'a client') || ' (pid ' || activity.pid ||
    ')' AS holder
  FROM pg_locks AS lock
  JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
 WHERE lock.granted AND lock.pid <> pg_backend_pid()
   AND coalesce(activity.xact_start < clock_timestamp() - make_interval(secs => $1), true)
   AND (lock.relation = 'transitions'::regclass
        OR lock.relation IN (SELECT inhrelid FROM pg_inherits WHERE inhparent =
            'transitions'::regclass))
 ORDER BY holder
 LIMIT 3
"""


async def _lock_holders(connection: Connection) -> str:
    """The process that has held a lock for longer than we waited, as "pg_dump (pid 77)"."""
    rows = await connection.fetch(LOCK_HOLDERS, LOCK_WAIT_MS / 1000)
    return ", ".join(row["holder"] for row in rows)
