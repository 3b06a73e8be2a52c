"""Uptime from changes of status within a window, less the times when monitoring was blind. Times
are microseconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Entity, StatusType, status_of
from manman_status.domain.uptime import Figures, Life, Window, changes_of_host
from manman_status.errors import UnknownHost, UnknownWorker
from manman_status.store.health import OBSERVATION, Observation
from manman_status.store.reads import observation_of
from manman_status.store.uptime_days import (
    APART,
    CHANGES_OF_LIVES,
    DAY_US,
    IS_LATE,
    WINDOW_COLUMNS,
    blind_of,
    changed_on,
    day_of,
    microseconds,
    seen,
    us_of,
    window_of,
)

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class Uptime(msgspec.Struct, frozen=True):
    """`figures` are sums over so many workers."""

    window: Window
    workers: int
    figures: Figures
    observation: Observation


def _time(microseconds: str) -> str:
    return f"(timestamptz 'epoch' + {microseconds}::bigint * interval '1 microsecond')"


WINDOW = f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, revision, epoch, {WINDOW_COLUMNS} FROM observed"""
WORKER_CHANGES = f"""SELECT status, ARRAY(
    SELECT json_build_array({microseconds("at")}, old_status, new_status) FROM transitions
    WHERE entity = '{Entity.WORKER}' AND entity_id = worker_id AND at > {_time("$2")} ORDER BY
        revision
) AS changes
FROM workers WHERE worker_id = $1"""


async def read_worker_uptime(
    connection: Connection, worker_id: int, *, window_seconds: float
) -> Uptime:
    """Raises UnknownWorker."""
    window, observation = await _read_window(connection, window_seconds)
    row = await connection.fetchrow(WORKER_CHANGES, worker_id, window.begin)
    if row is None:
        raise UnknownWorker(worker_id=worker_id)
    changes = [(at, old and status_of(old), status_of(new)) for at, old, new in row["changes"]]
    return Uptime(window, 1, window.measure(changes, status_of(row["status"])), observation)


HOST_CHANGES = f"""SELECT status, ARRAY(
    SELECT json_build_array({microseconds("at")}, old_status, new_status) FROM transitions
    WHERE entity = '{Entity.WORKER}' AND entity_id = worker_id AND at > {_time("$2")} ORDER BY
        revision
) AS changes
FROM workers WHERE labels @> jsonb_build_object('host', $1::text)
ORDER BY created_date, worker_id"""


async def read_host_uptime(connection: Connection, host: str, *, window_seconds: float) -> Uptime:
    """Measure a host by the workers with its name as their label `host`, each of which is one life:
    `workers` is their number. Raises UnknownHost."""
    window, observation = await _read_window(connection, window_seconds)
    lives = [
        Life(
            [(at, old and status_of(old), status_of(new)) for at, old, new in row["changes"]],
            status_of(row["status"]),
        )
        for row in await connection.fetch(HOST_CHANGES, host, window.begin)
    ]
    if not lives:
        raise UnknownHost(host=host)
    return Uptime(window, len(lives), window.measure(*changes_of_host(lives)), observation)


# As `Window.measure`, of many workers at once; a test holds the two together. A change ends a span,
# and the last one of a worker begins another, which lasts until the end of the window. $3 to $5 are
# `Window.seen_until`, $6 `Window.seen`, $7 the workers it is about, or null.
FLEET_SPANS = f"""WITH chosen AS (
    SELECT worker_id, status FROM workers
    WHERE ($1::text IS NULL OR coalesce(labels ->> 'group', '') = $1)
        AND ($7::bigint[] IS NULL OR worker_id = ANY($7))
),
changes AS (
    SELECT entity_id, revision, old_status, new_status,
        round(date_part('epoch', max(at) OVER (PARTITION BY entity_id ORDER BY revision ROWS
            UNBOUNDED PRECEDING))
            * 1000000)::bigint AS at
    FROM transitions
    WHERE entity = '{Entity.WORKER}' AND at > {_time("$2")} AND entity_id IN (SELECT worker_id FROM
        chosen)
),
seen AS (
    SELECT entity_id, revision, old_status, new_status, ($4::bigint[])[piece] * at +
        ($5::bigint[])[piece] AS seen
    FROM changes, LATERAL (SELECT width_bucket(at, $3::bigint[]) + 1 AS piece OFFSET 0) p
),
spans AS (
    SELECT old_status, new_status, seen - lag(seen, 1, 0::bigint) OVER life AS length, $6::bigint -
        seen AS rest,
        lead(seen) OVER life IS NULL AS is_last
    FROM seen WINDOW life AS (PARTITION BY entity_id ORDER BY revision)
)
SELECT
    (SELECT count(*) FROM chosen) AS workers,
    (SELECT json_object_agg(status, number) FROM (
        SELECT status, count(*) AS number FROM chosen
        WHERE NOT EXISTS (SELECT FROM changes WHERE entity_id = worker_id) GROUP BY status
    ) c) AS unchanged,
    (SELECT json_agg(json_build_array(old_status, new_status, is_last, number, length, longest,
        rest, longest_rest))
        FROM (
            SELECT old_status, new_status, is_last, count(*) AS number, sum(length)::bigint AS
                length,
                max(length) AS longest, sum(rest)::bigint AS rest, max(rest) AS longest_rest
            FROM spans GROUP BY old_status, new_status, is_last
        ) s) AS spans"""


async def read_fleet_uptime(
    connection: Connection, group: str | None, *, window_seconds: float
) -> Uptime:
    """Sum up the uptime of all workers, or of one group; the empty group is that of the workers
    without one."""
    window, observation = await _read_window(connection, window_seconds)
    figures, workers = Figures(), None
    for _ in range(MOST_TRIES):
        if (plan := await _plan(connection, window)) is None:
            break
        workers = await _add_by_days(connection, figures, group, window, plan)
        if workers is not None:
            workers += await _add_spans(connection, figures, group, window, plan.apart)
            break
    if workers is None:
        figures = Figures()
        workers = await _add_spans(connection, figures, group, window, None)
    figures.blind = workers * window.blind_until(window.end)
    return Uptime(window, workers, figures, observation)


async def _add_spans(
    connection: Connection,
    figures: Figures,
    group: str | None,
    window: Window,
    among: Sequence[int] | None,
) -> int:
    """Add what `transitions` alone say; return the number of workers."""
    if among is not None and not among:
        return 0
    (row,) = await connection.fetch(
        FLEET_SPANS, group, window.begin, *window.seen_until(), window.seen, among
    )
    for old, new, is_last, number, length, longest, rest, longest_rest in row["spans"] or ():
        figures.add(
            old and status_of(old), number, total=length, longest=longest, then=status_of(new)
        )
        if is_last:
            figures.add(status_of(new), number, total=rest, longest=longest_rest)
    unchanged: Mapping[str, int] = row["unchanged"] or {}
    for status, number in unchanged.items():
        figures.add(status_of(status), number, total=number * window.seen, longest=window.seen)
    workers: int = row["workers"]
    return workers


MOST_TRIES = 3
MOST_MOVES = 1_000


class Plan(msgspec.Struct, frozen=True):
    """The `days` of a window that are taken as they were summed up, and when each was made; the
    others are read from `transitions`. `of_begin` is the day in which the window begins: workers
    that are out of order there must be known."""

    days: dict[date, int]
    of_begin: dict[date, int]
    apart: list[int]

    def ranges(self, window: Window) -> tuple[list[int], list[int]]:
        """Bounds of the ranges in which changes are read one by one, in µs; the last range has no
        end."""
        lower, upper = [window.begin + 1], list[int]()
        for day in self.days:
            begin = us_of(day)
            if lower[-1] == begin:
                lower.pop()
            else:
                upper.append(begin)
            lower.append(begin + DAY_US)
        return lower, [*upper, NO_END]


NO_END = us_of(date(9999, 1, 1))
PLAN = f"""
SELECT (SELECT coalesce(json_agg(json_build_array(day, {microseconds("made_at")}, blind) ORDER BY
    day), '[]')
        FROM uptime_days WHERE is_complete AND day >= $1 AND day < $2) AS days,
    ARRAY({APART} ORDER BY worker_id) AS apart,
    ARRAY(SELECT worker_id FROM uptime_moves WHERE NOT is_taken LIMIT {MOST_MOVES + 1}) AS moves
"""


async def _plan(connection: Connection, window: Window) -> Plan | None:
    """Choose the days; None if none helps."""
    first, today = day_of(window.begin), day_of(window.end)
    (row,) = await connection.fetch(PLAN, first, today)
    made = {date.fromisoformat(day): (at, blind) for day, at, blind in row["days"]}
    if first not in made or len(row["moves"]) > MOST_MOVES:
        return None
    spoilt = set(await changed_on(connection, row["moves"])) if row["moves"] else set()
    days = {
        day: at
        for day, (at, blind) in made.items()
        if us_of(day) > window.begin and day not in spoilt and blind == blind_of(window, day)
    }
    return Plan(days, {first: made[first][0]}, row["apart"]) if days else None


OF_GROUP = "($4::text IS NULL OR coalesce(labels ->> 'group', '') = $4)"
COUNTED = f"""SELECT status, sum(number)::bigint AS number FROM (
        SELECT entity, group_name, status, number FROM fleet_counts
        UNION ALL SELECT entity, group_name, status, number FROM fleet_count_changes
    ) kept
    WHERE entity = '{Entity.WORKER}' AND ($4::text IS NULL OR group_name = $4) GROUP BY status"""
CHANGES_READ = f"""SELECT c.*
    FROM unnest($5::bigint[], $6::bigint[]) AS range (lower, upper), LATERAL (
        SELECT entity_id, revision, old_status, new_status, at FROM transitions
        WHERE entity = '{Entity.WORKER}' AND at >= {_time("lower")} AND at < {_time("upper")}
        OFFSET 0
    ) c
    WHERE entity_id <> ALL($7::bigint[])"""
# $1 to $3 are `Window.seen_until`, $4 the group, $5 and $6 the ranges, $7 who is apart, $8 the days
# and $9 the one in which the window begins, $10 when that was. `first_open` is when the loss began
# that is not over and is the oldest, of the `open` ones that began within the window: all that
# began, without those that ended. A group with fewer workers than there are changes to read is
# found by its label at once; else each change looks its worker up.
BY_DAYS = f"""WITH counted AS (
    {COUNTED}
    UNION ALL
    SELECT status, -1 FROM workers WHERE {OF_GROUP} AND worker_id = ANY($7::bigint[])
),
is_small AS (
    SELECT $4 <> '' AND (SELECT sum(number) FROM counted) <
        (SELECT count(*) FROM ({CHANGES_READ}) c) AS is_so
),
of_small_group AS MATERIALIZED (
    SELECT worker_id FROM workers
    WHERE (SELECT is_so FROM is_small) AND labels @> jsonb_build_object('group', $4::text)
),
changes AS (
    SELECT c.*, $4::text AS "group", 0 AS lower_at
    FROM ({CHANGES_READ}) c JOIN of_small_group ON worker_id = entity_id
    UNION ALL
    SELECT c.*, $4::text, 0
    FROM ({CHANGES_READ}) c, LATERAL (
        SELECT FROM workers
        WHERE (SELECT is_so FROM is_small) IS NOT TRUE AND worker_id = entity_id AND {OF_GROUP}
        OFFSET 0
    ) known
),
{CHANGES_OF_LIVES},
read AS (
    SELECT old_status, new_status, at, begun, {seen("at", 1)} AS seen,
        CASE WHEN begun IS NOT NULL THEN {seen("at", 1)} - {seen("begun", 1)} END AS length
    FROM lives
),
made AS (
    SELECT * FROM uptime_changes
    WHERE day = ANY($8::date[]) AND is_fleet = ($4 IS NULL) AND group_name = coalesce($4, '')
),
crossed AS (
    SELECT day, old_status, new_status, begun, {seen("ended", 1)} - {seen("begun", 1)} AS length
    FROM made, unnest(crossed_begun, crossed_ended) AS c (begun, ended)
),
open AS (
    SELECT begun, sum(step) AS number FROM (
        SELECT unnest(opened) AS begun, 1 AS step FROM made
        UNION ALL SELECT begun, -1 FROM crossed
        UNION ALL SELECT at, 1 FROM read WHERE new_status = '{StatusType.LOST}'
        UNION ALL SELECT begun, -1 FROM read
    ) steps WHERE begun > $10 GROUP BY begun HAVING sum(step) > 0
)
SELECT
    (SELECT json_object_agg(status, number) FROM (
        SELECT status, sum(number)::bigint AS number FROM counted GROUP BY status HAVING sum(number)
            > 0
    ) c) AS workers,
    (SELECT json_agg(json_build_array(old_status, new_status, number, seen, lost, longest)) FROM (
        SELECT old_status, new_status, count(*) AS number, sum(seen)::bigint AS seen,
            coalesce(sum(length), 0)::bigint AS lost, coalesce(max(length), 0) AS longest
        FROM read GROUP BY old_status, new_status
    ) r) AS read,
    (SELECT json_agg(json_build_array(day, nullif(old_status, ''), new_status, changes, seen, lost,
        longest))
        FROM made) AS made,
    (SELECT json_agg(json_build_array(old_status, new_status, lost, longest)) FROM (
        SELECT old_status, new_status, sum(length)::bigint AS lost, max(length) AS longest
        FROM crossed GROUP BY old_status, new_status
    ) c) AS crossed,
    (SELECT min(begun) FROM open) AS first_open, (SELECT coalesce(sum(number), 0) FROM open)::bigint
        AS open,
    (SELECT json_object_agg(day, {microseconds("made_at")}) FROM uptime_days WHERE day = ANY($8)) AS
        days,
    (SELECT json_object_agg(day, {microseconds("made_at")}) FROM uptime_days WHERE day = $9) AS
        of_begin,
    EXISTS (SELECT FROM uptime_days WHERE {IS_LATE}) AS is_late"""


async def _add_by_days(
    connection: Connection, figures: Figures, group: str | None, window: Window, plan: Plan
) -> int | None:
    """Add the days of the plan, and the changes in `transitions` beside them; return the number of
    workers. None, and nothing added, when a day of the plan was made anew since, or a change came
    late: its workers are not known yet to be out of order."""
    (row,) = await connection.fetch(
        BY_DAYS,
        *window.seen_until(),
        group,
        *plan.ranges(window),
        plan.apart,
        list(plan.days),
        *plan.of_begin,
        window.begin,
    )
    made_at = [_by_day(row[name]) for name in ("days", "of_begin")]
    if row["is_late"] or made_at != [plan.days, plan.of_begin]:
        return None
    for old, new, number, total, lost, longest in row["read"] or ():
        figures.add_changes(
            old and status_of(old), status_of(new), number, seen=total, lost=lost, longest=longest
        )
    for day, old, new, number, of_day, lost, longest in row["made"] or ():
        total = of_day + number * window.seen_at(us_of(date.fromisoformat(day)))
        figures.add_changes(
            old and status_of(old), status_of(new), number, seen=total, lost=lost, longest=longest
        )
    for old, new, lost, longest in row["crossed"] or ():
        figures.add_changes(status_of(old), status_of(new), 0, seen=0, lost=lost, longest=longest)
    workers: Mapping[str, int] = row["workers"] or {}
    for status, number in workers.items():
        longest = window.seen
        if row["open"] == number and row["first_open"] is not None:
            longest -= window.seen_at(min(row["first_open"], window.end))
        figures.add(status_of(status), number, total=number * window.seen, longest=longest)
    return sum(workers.values())


def _by_day(found: Mapping[str, int] | None) -> dict[date, int]:
    return {date.fromisoformat(day): at for day, at in sorted((found or {}).items())}


async def _read_window(connection: Connection, window_seconds: float) -> tuple[Window, Observation]:
    (row,) = await connection.fetch(WINDOW, window_seconds)
    return window_of(row), observation_of(row)
