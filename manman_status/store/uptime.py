"""What uptime is reckoned from: changes of status within a window, and when nobody could see them. Times are
microseconds since the epoch."""

# ruff: noqa: S608 - the SQL is put together from constants; what a request says is a parameter, always

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Entity, status_of
from manman_status.domain.uptime import Change, Figures, Window, sum_of
from manman_status.errors import UnknownWorker
from manman_status.store.health import OBSERVATION, Observation
from manman_status.store.reads import observation_of

if TYPE_CHECKING:
    import asyncpg

    from manman_status.store.pool import Connection


class History(msgspec.Struct, frozen=True):
    """Of workers: what they are now, and their changes since the window began."""

    window: Window
    workers: list[asyncpg.Record]
    changes: list[asyncpg.Record]
    observation: Observation

    def total(self) -> Figures:
        """The sums of all workers. Of a large fleet that takes a while: not for an event loop."""
        changes: defaultdict[int, list[Change]] = defaultdict(list)
        for worker_id, at, old, new in self.changes:
            changes[worker_id].append((at, old and status_of(old), status_of(new)))
        return sum_of(
            self.window.measure(changes.get(worker_id, ()), status_of(now)) for worker_id, now in self.workers
        )


def _microseconds(time: str) -> str:
    return f"(extract(epoch FROM {time}) * 1000000)::bigint"


# $1 is the length of the window, $2 from when on a gap blinds, in seconds. The last gap is not over.
WINDOW = f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, revision,
    {_microseconds("now() - make_interval(secs => $1)")} AS begins, {_microseconds("now()")} AS ends,
    ARRAY(
        SELECT ARRAY[{_microseconds("began_at + make_interval(secs => $2)")}, {_microseconds("ended_at")}]
        FROM observation_gaps WHERE ended_at > now() - make_interval(secs => $1)
        UNION ALL
        SELECT ARRAY[{_microseconds("observed_through + make_interval(secs => $2)")}, {_microseconds("now()")}]
        WHERE observed_through IS NOT NULL
    ) AS blind
FROM observed"""
ONE_WORKER = "SELECT worker_id, status FROM workers WHERE worker_id = $1"
WORKERS = """SELECT worker_id, status FROM workers
WHERE $1::text IS NULL OR coalesce(labels ->> 'group', '') = $1 ORDER BY worker_id"""
CHANGES = f"""SELECT entity_id, {_microseconds("at")} AS at, old_status, new_status FROM transitions
WHERE entity = '{Entity.WORKER}' AND at > now() - make_interval(secs => $1) AND entity_id = ANY($2::bigint[])
ORDER BY revision"""


async def read_worker_history(
    connection: Connection, worker_id: int, *, window_seconds: float, blind_after_seconds: float
) -> History:
    """Raises UnknownWorker."""
    workers = await connection.fetch(ONE_WORKER, worker_id)
    if not workers:
        raise UnknownWorker(worker_id=worker_id)
    return await _history(connection, workers, window_seconds, blind_after_seconds)


async def read_history(
    connection: Connection, group: str | None, *, window_seconds: float, blind_after_seconds: float
) -> History:
    """Of all workers, or of those of one group; the empty one are those without."""
    workers = await connection.fetch(WORKERS, group)
    return await _history(connection, workers, window_seconds, blind_after_seconds)


async def _history(
    connection: Connection, workers: list[asyncpg.Record], window_seconds: float, blind_after_seconds: float
) -> History:
    """The changes are read last: a status that is newer than they are would be taken for one of old."""
    (row,) = await connection.fetch(WINDOW, window_seconds, blind_after_seconds)
    changes = await connection.fetch(CHANGES, window_seconds, [worker["worker_id"] for worker in workers])
    return History(Window(row["begins"], row["ends"], map(tuple, row["blind"])), workers, changes, observation_of(row))
