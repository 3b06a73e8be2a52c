"""What uptime is reckoned from: changes of status within a window, and when nobody could see them. Times are
microseconds since the epoch."""

# ruff: noqa: S608 - the SQL is put together from constants; what a request says is a parameter, always

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Entity, status_of
from manman_status.domain.uptime import Figures, Window
from manman_status.errors import UnknownWorker
from manman_status.store.health import OBSERVATION, Observation
from manman_status.store.reads import observation_of

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class Uptime(msgspec.Struct, frozen=True):
    """`figures` are sums over so many workers."""

    window: Window
    workers: int
    figures: Figures
    observation: Observation


def _microseconds(time: str) -> str:
    return f"(extract(epoch FROM {time}) * 1000000)::bigint"


def _time(microseconds: str) -> str:
    return f"(timestamptz 'epoch' + {microseconds}::bigint * interval '1 microsecond')"


# $1 is the length of the window, $2 from when on a gap blinds, in seconds. The last gap is not over.
WINDOW = f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, revision, epoch,
    {_microseconds("now() - make_interval(secs => $1)")} AS begins, {_microseconds("now()")} AS ends,
    ARRAY(
        SELECT ARRAY[{_microseconds("began_at + make_interval(secs => $2)")}, {_microseconds("ended_at")}]
        FROM observation_gaps WHERE ended_at > now() - make_interval(secs => $1)
        UNION ALL
        SELECT ARRAY[{_microseconds("observed_through + make_interval(secs => $2)")}, {_microseconds("now()")}]
        WHERE observed_through IS NOT NULL
    ) AS blind
FROM observed"""
WORKER_CHANGES = f"""SELECT status, ARRAY(
    SELECT json_build_array({_microseconds("at")}, old_status, new_status) FROM transitions
    WHERE entity = '{Entity.WORKER}' AND entity_id = worker_id AND at > {_time("$2")} ORDER BY revision
) AS changes
FROM workers WHERE worker_id = $1"""


async def read_worker_uptime(
    connection: Connection, worker_id: int, *, window_seconds: float, blind_after_seconds: float
) -> Uptime:
    """Raises UnknownWorker."""
    window, observation = await _read_window(connection, window_seconds, blind_after_seconds)
    row = await connection.fetchrow(WORKER_CHANGES, worker_id, window.begin)
    if row is None:
        raise UnknownWorker(worker_id=worker_id)
    changes = [(at, old and status_of(old), status_of(new)) for at, old, new in row["changes"]]
    return Uptime(window, 1, window.measure(changes, status_of(row["status"])), observation)


# As `Window.measure`, of many workers at once; a test holds the two together. A change ends a span, and the last one of
# a worker begins another, which lasts until the end of the window. $3 to $5 are `Window.seen_until`, $6 `Window.seen`.
FLEET_SPANS = f"""WITH chosen AS (
    SELECT worker_id, status FROM workers WHERE $1::text IS NULL OR coalesce(labels ->> 'group', '') = $1
),
changes AS (
    SELECT entity_id, revision, old_status, new_status,
        round(date_part('epoch', max(at) OVER (PARTITION BY entity_id ORDER BY revision ROWS UNBOUNDED PRECEDING))
            * 1000000)::bigint AS at
    FROM transitions
    WHERE entity = '{Entity.WORKER}' AND at > {_time("$2")} AND entity_id IN (SELECT worker_id FROM chosen)
),
seen AS (
    SELECT entity_id, revision, old_status, new_status, ($4::bigint[])[piece] * at + ($5::bigint[])[piece] AS seen
    FROM changes, LATERAL (SELECT width_bucket(at, $3::bigint[]) + 1 AS piece OFFSET 0) p
),
spans AS (
    SELECT old_status, new_status, seen - lag(seen, 1, 0::bigint) OVER life AS length, $6::bigint - seen AS rest,
        lead(seen) OVER life IS NULL AS is_last
    FROM seen WINDOW life AS (PARTITION BY entity_id ORDER BY revision)
)
SELECT
    (SELECT json_object_agg(status, number) FROM (
        SELECT status, count(*) AS number FROM chosen GROUP BY status
    ) c) AS workers,
    (SELECT json_agg(json_build_array(old_status, new_status, is_last, number, length, longest, rest, longest_rest))
        FROM (
            SELECT old_status, new_status, is_last, count(*) AS number, sum(length)::bigint AS length,
                max(length) AS longest, sum(rest)::bigint AS rest, max(rest) AS longest_rest
            FROM spans GROUP BY old_status, new_status, is_last
        ) s) AS spans"""


async def read_fleet_uptime(
    connection: Connection, group: str | None, *, window_seconds: float, blind_after_seconds: float
) -> Uptime:
    """Of all workers, or of those of one group; the empty one are those without."""
    window, observation = await _read_window(connection, window_seconds, blind_after_seconds)
    pieces = window.seen_until()
    (row,) = await connection.fetch(FLEET_SPANS, group, window.begin, *pieces, window.seen)
    unchanged = Counter[str](row["workers"] or {})
    workers = unchanged.total()
    figures = Figures(blind=workers * window.blind_until(window.end))
    for old, new, is_last, number, length, longest, rest, longest_rest in row["spans"] or ():
        figures.add(old and status_of(old), number, total=length, longest=longest, then=status_of(new))
        if is_last:
            figures.add(status_of(new), number, total=rest, longest=longest_rest)
            unchanged[new] -= number
    for status, number in unchanged.items():
        if number:
            figures.add(status_of(status), number, total=number * window.seen, longest=window.seen)
    return Uptime(window, workers, figures, observation)


async def _read_window(
    connection: Connection, window_seconds: float, blind_after_seconds: float
) -> tuple[Window, Observation]:
    (row,) = await connection.fetch(WINDOW, window_seconds, blind_after_seconds)
    return Window(row["begins"], row["ends"], map(tuple, row["blind"])), observation_of(row)
