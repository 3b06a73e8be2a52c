"""Who is late, kept by the leader: being late is the passing of time, and so no change of a row
tells it.

`late_workers` are the active workers that had missed a heartbeat at `sweeps.swept_through`, in
observed time. Each sweep forgets those that are late no more, or otherwise than is noted, by their
keys. All workers are read only when another one can have become late.
"""

# ruff: noqa: S608 - the SQL is put together from constants

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from manman_status.domain.liveness import MISSED_BEATS_TO_BE_LATE, MISSED_BEATS_TO_EXPIRE
from manman_status.domain.sweep import Horizon, SweepRules
from manman_status.store.counting import DRAINS, GROUP
from manman_status.store.pool import Connection

# $1 is how far was observed, $2 the default interval, $3 the minimum timeout.
WATCHED = "status IN ('RUNNING', 'CREATED', 'INITIALIZING') AND last_heartbeat IS NOT NULL"
INTERVAL = "coalesce(interval_seconds, $2::float8)"
LATE_FROM = f"last_heartbeat + {MISSED_BEATS_TO_BE_LATE} * {INTERVAL} * interval '1 second'"
TIMEOUT = f"greatest({MISSED_BEATS_TO_EXPIRE} * {INTERVAL}, $3::float8)"


def _given(horizon: Horizon, rules: SweepRules) -> tuple[datetime, float, float]:
    return (horizon.observed_through, rules.default_interval, rules.minimum_timeout)


class Forgotten(msgspec.Struct, frozen=True):
    workers: int
    late_from: datetime | None
    """When the first of them that is watched still can be late next."""


FORGET = f"""
WITH gone AS (
    SELECT late.worker_id, found.late_from
      FROM late_workers late
      LEFT JOIN LATERAL (
               SELECT last_heartbeat, {GROUP} AS group_name, {DRAINS} AS is_draining, {TIMEOUT} AS
                   timeout,
                      {LATE_FROM} AS late_from
                 FROM workers
                WHERE workers.worker_id = late.worker_id AND {WATCHED}
           ) found ON true
     WHERE (found.last_heartbeat, found.group_name, found.is_draining, found.timeout)
           IS DISTINCT FROM (late.last_heartbeat, late.group_name, late.is_draining,
               late.timeout_seconds)
        OR found.late_from >= $1
     LIMIT $4
),
deleted AS (DELETE FROM late_workers USING gone WHERE late_workers.worker_id = gone.worker_id)
SELECT count(*) AS workers, min(late_from) AS late_from FROM gone
"""


async def forget_late(
    connection: Connection, horizon: Horizon, rules: SweepRules, *, limit: int
) -> Forgotten:
    """Some of those that are late no more, or otherwise than is noted."""
    row = await connection.fetchrow(FORGET, *_given(horizon, rules), limit)
    assert row is not None
    return Forgotten(**row)


class Scanned(msgspec.Struct, frozen=True):
    """Of the watched workers that are not known to be late: when the first of them is late, and the
    oldest last heartbeat; None without any."""

    late_from: datetime | None
    oldest_heartbeat: datetime | None


# One minimum for each interval, so that there is no arithmetic for each worker.
SCAN = f"""
SELECT min({LATE_FROM.replace("$2", "$1")}) AS late_from, min(last_heartbeat) AS oldest_heartbeat
  FROM (
        SELECT interval_seconds, min(workers.last_heartbeat) AS last_heartbeat
          FROM workers LEFT JOIN late_workers late USING (worker_id)
         WHERE {WATCHED.replace("last_heartbeat", "workers.last_heartbeat")} AND late.worker_id IS
             NULL
         GROUP BY interval_seconds
       ) of_interval
"""


async def scan_workers(connection: Connection, rules: SweepRules) -> Scanned:
    """The one scan of all workers."""
    row = await connection.fetchrow(SCAN, rules.default_interval)
    assert row is not None
    return Scanned(**row)


class Added(msgspec.Struct, frozen=True):
    workers: int
    last_id: int | None


ADD = f"""
WITH found AS (
    SELECT worker_id, {GROUP} AS group_name, {DRAINS} AS is_draining, last_heartbeat, {TIMEOUT} AS
        timeout
      FROM workers
     WHERE worker_id > $5 AND {WATCHED} AND {LATE_FROM} < $1
     ORDER BY worker_id
     LIMIT $4
),
added AS (
    INSERT INTO late_workers (worker_id, group_name, is_draining, last_heartbeat, deadline,
        timeout_seconds)
    SELECT worker_id, group_name, is_draining, last_heartbeat, last_heartbeat + timeout * interval
        '1 second', timeout
      FROM found
        ON CONFLICT DO NOTHING
)
SELECT count(*) AS workers, max(worker_id) AS last_id FROM found
"""


async def add_late(
    connection: Connection, horizon: Horizon, rules: SweepRules, *, after: int, limit: int
) -> Added:
    """Note those that are late and whose id is greater than `after`, by id. Some of those it counts
    were noted."""
    row = await connection.fetchrow(ADD, *_given(horizon, rules), limit, after)
    assert row is not None
    return Added(**row)


SWEPT = """
UPDATE sweeps SET swept_through = $1, oldest_heartbeat = CASE WHEN $3 THEN $2::timestamptz ELSE
    oldest_heartbeat END
 WHERE id = 1
"""


async def note_swept(connection: Connection, horizon: Horizon, scanned: Scanned | None) -> None:
    """`late_workers` is true through this horizon. `scanned` when all workers were read for it."""
    oldest = None if scanned is None else scanned.oldest_heartbeat
    await connection.execute(SWEPT, horizon.observed_through, oldest, scanned is not None)


FORGET_LOST = "DELETE FROM late_workers WHERE worker_id = ANY($1::bigint[])"


async def forget_lost(connection: Connection, worker_ids: Iterable[int]) -> None:
    """In the transaction that marks them LOST, so that they never count twice."""
    await connection.execute(FORGET_LOST, list(worker_ids))
