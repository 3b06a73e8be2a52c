"""The late workers, kept by the leader: a worker becomes late by the passing of time alone, so no
change of a row shows it.

`late_workers` are the active workers that had missed a heartbeat at `sweeps.swept_through`, in
observed time. Each sweep removes by key those that are no longer late, or whose row has changed.
New ones are found by reading the table `workers` in slices of consecutive pages
(`processor/leader/lateness.py`): no index can find them, since an index on what each heartbeat
changes would cost every heartbeat its HOT update.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from manman_status.domain.sweep import Horizon
from manman_status.store.counting import DRAINS, GROUP
from manman_status.store.pool import Connection

WATCHED = "is_active(status) AND last_heartbeat IS NOT NULL"


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
SELECT worker_id, late_from FROM gone
"""


async def forget_late(
    connection: Connection, horizon: Horizon, *, limit: int
) -> dict[int, datetime | None]:
    """Remove at most `limit` workers that are no longer late, or whose row differs from what is
    noted. Those that are still watched have the time from which they are late."""
    found = await connection.fetch(FORGET, horizon.observed_through, limit)
    return {row["worker_id"]: row["late_from"] for row in found}


class Pages(msgspec.Struct, frozen=True):
    """Consecutive pages of `workers`, from `first` on and before `end`."""

    first: int
    end: int


PAGES = "SELECT pg_relation_size('workers') / current_setting('block_size')::bigint"


async def count_pages(connection: Connection) -> int:
    pages: int = await connection.fetchval(PAGES)
    return pages


class Scanned(msgspec.Struct, frozen=True):
    """The watched workers of some pages: those that are late, or will be soon unless they are
    received, with the time from which they are late. Of all the others: when the first of them will
    be late, and the oldest last heartbeat; None without any."""

    worker_ids: list[int]
    late_from: list[datetime]
    others_late_from: datetime | None
    oldest_heartbeat: datetime | None


# The view `worker_health` says the same, but has no `ctid`.
LATE_FROM = """silent_after(last_heartbeat, late_after(
    coalesce(interval_seconds, (SELECT default_interval_seconds FROM observation))))"""
# OFFSET 0: without it `late_from` is computed six times for each worker.
SCAN = f"""
SELECT coalesce(array_agg(worker_id) FILTER (WHERE late_from < $1), '{{}}') AS worker_ids,
       coalesce(array_agg(late_from) FILTER (WHERE late_from < $1), '{{}}') AS late_from,
       min(late_from) FILTER (WHERE late_from >= $1) AS others_late_from,
       min(last_heartbeat) FILTER (WHERE late_from >= $1) AS oldest_heartbeat
  FROM (
        SELECT worker_id, last_heartbeat, {LATE_FROM} AS late_from
          FROM workers
         WHERE ctid >= $2 AND ctid < $3 AND {WATCHED}
        OFFSET 0
       ) watched
"""


async def scan_workers(connection: Connection, pages: Pages, *, soon: datetime) -> Scanned:
    """`soon` is the end of the time in which a worker counts as late soon."""
    row = await connection.fetchrow(SCAN, soon, (pages.first, 0), (pages.end, 0))
    assert row is not None
    return Scanned(**row)


ADD = f"""
WITH given AS (
    SELECT worker_id, {GROUP} AS group_name, {DRAINS} AS is_draining, last_heartbeat, deadline,
           timeout_seconds, late_from
      FROM unnest($2::bigint[]) AS given (worker_id) JOIN worker_health USING (worker_id)
     WHERE {WATCHED}
),
added AS (
    INSERT INTO late_workers (worker_id, group_name, is_draining, last_heartbeat, deadline,
        timeout_seconds)
    SELECT worker_id, group_name, is_draining, last_heartbeat, deadline, timeout_seconds
      FROM given
     WHERE late_from < $1
        ON CONFLICT DO NOTHING
)
SELECT worker_id, late_from FROM given WHERE late_from >= $1
"""


async def add_late(
    connection: Connection, horizon: Horizon, worker_ids: Iterable[int]
) -> dict[int, datetime]:
    """Note the late ones of these workers. The watched others, with the time from which they are
    late."""
    found = await connection.fetch(ADD, horizon.observed_through, list(worker_ids))
    return {row["worker_id"]: row["late_from"] for row in found}


SWEPT = "UPDATE sweeps SET swept_through = $1, oldest_heartbeat = $2 WHERE id = 1"


async def note_swept(
    connection: Connection, horizon: Horizon, oldest_heartbeat: datetime | None
) -> None:
    """Record that `late_workers` is complete through this horizon, and the oldest last heartbeat of
    the workers that are not late, as it was when their pages were last read."""
    await connection.execute(SWEPT, horizon.observed_through, oldest_heartbeat)


FORGET_LOST = "DELETE FROM late_workers WHERE worker_id = ANY($1::bigint[])"


async def forget_lost(connection: Connection, worker_ids: Iterable[int]) -> None:
    """Remove these workers, in the transaction that marks them LOST: none counts twice."""
    await connection.execute(FORGET_LOST, list(worker_ids))
