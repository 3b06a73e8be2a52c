"""The late workers, kept by the leader: a worker becomes late as time passes, without a change of
its row.

`late_workers` are the active workers that had missed a heartbeat at `sweeps.swept_through`, in
observed time. Each sweep deletes by key the rows of workers that are no longer late, or differ from
what the row says. All workers are read only when another one can have become late.
"""

# ruff: noqa: S608 - the SQL is put together from constants

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from manman_status.domain.sweep import Horizon
from manman_status.store.counting import DRAINS, GROUP
from manman_status.store.pool import Connection

WATCHED = "is_active(status) AND last_heartbeat IS NOT NULL"


class Forgotten(msgspec.Struct, frozen=True):
    workers: int
    late_from: datetime | None
    """The earliest time at which one of them that is still watched can be late next."""


FORGET = f"""
WITH gone AS (
    SELECT late.worker_id, found.late_from
      FROM late_workers late
      LEFT JOIN LATERAL (
               SELECT last_heartbeat, {GROUP} AS group_name, {DRAINS} AS is_draining,
                      timeout_seconds, late_from
                 FROM worker_health
                WHERE worker_health.worker_id = late.worker_id AND {WATCHED}
           ) found ON true
     WHERE (found.last_heartbeat, found.group_name, found.is_draining, found.timeout_seconds)
           IS DISTINCT FROM (late.last_heartbeat, late.group_name, late.is_draining,
               late.timeout_seconds)
        OR found.late_from >= $1
     LIMIT $2
),
deleted AS (DELETE FROM late_workers USING gone WHERE late_workers.worker_id = gone.worker_id)
SELECT count(*) AS workers, min(late_from) AS late_from FROM gone
"""


async def forget_late(connection: Connection, horizon: Horizon, *, limit: int) -> Forgotten:
    """Delete at most `limit` rows of workers that are no longer late, or differ from the row."""
    row = await connection.fetchrow(FORGET, horizon.observed_through, limit)
    assert row is not None
    return Forgotten(**row)


class Scanned(msgspec.Struct, frozen=True):
    """The watched workers that are not known to be late: the time when the first of them is late,
    and their oldest last heartbeat; None without any."""

    late_from: datetime | None
    oldest_heartbeat: datetime | None


# One minimum for each interval, so that there is no arithmetic for each worker.
SCAN = f"""
SELECT min(silent_after(last_heartbeat,
           late_after(coalesce(interval_seconds, default_interval_seconds)))) AS late_from,
       min(last_heartbeat) AS oldest_heartbeat
  FROM (
        SELECT interval_seconds, min(workers.last_heartbeat) AS last_heartbeat
          FROM workers LEFT JOIN late_workers late USING (worker_id)
         WHERE {WATCHED.replace("last_heartbeat", "workers.last_heartbeat")}
           AND late.worker_id IS NULL
         GROUP BY interval_seconds
       ) AS of_interval, observation
"""


async def scan_workers(connection: Connection) -> Scanned:
    """Read all workers; the only scan of them."""
    row = await connection.fetchrow(SCAN)
    assert row is not None
    return Scanned(**row)


class Added(msgspec.Struct, frozen=True):
    workers: int
    last_id: int | None


ADD = f"""
WITH found AS (
    SELECT worker_id, {GROUP} AS group_name, {DRAINS} AS is_draining, last_heartbeat, deadline,
           timeout_seconds
      FROM worker_health
     WHERE worker_id > $3 AND {WATCHED} AND late_from < $1
     ORDER BY worker_id
     LIMIT $2
),
added AS (
    INSERT INTO late_workers (worker_id, group_name, is_draining, last_heartbeat, deadline,
        timeout_seconds)
    SELECT worker_id, group_name, is_draining, last_heartbeat, deadline, timeout_seconds FROM found
        ON CONFLICT DO NOTHING
)
SELECT count(*) AS workers, max(worker_id) AS last_id FROM found
"""


async def add_late(connection: Connection, horizon: Horizon, *, after: int, limit: int) -> Added:
    """Add late workers whose id is greater than `after`, by id. Some that it counts were there."""
    row = await connection.fetchrow(ADD, horizon.observed_through, limit, after)
    assert row is not None
    return Added(**row)


SWEPT = """
UPDATE sweeps SET swept_through = $1, oldest_heartbeat = CASE WHEN $3 THEN $2::timestamptz ELSE
    oldest_heartbeat END
 WHERE id = 1
"""


async def note_swept(connection: Connection, horizon: Horizon, scanned: Scanned | None) -> None:
    """Store that `late_workers` is true through this horizon. `scanned`: all workers were read for
    it."""
    oldest = None if scanned is None else scanned.oldest_heartbeat
    await connection.execute(SWEPT, horizon.observed_through, oldest, scanned is not None)


FORGET_LOST = "DELETE FROM late_workers WHERE worker_id = ANY($1::bigint[])"


async def forget_lost(connection: Connection, worker_ids: Iterable[int]) -> None:
    """Delete the rows of workers that this transaction marks LOST, so that none counts twice."""
    await connection.execute(FORGET_LOST, list(worker_ids))
