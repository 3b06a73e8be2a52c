"""Changes of workers' status, summed up by UTC day and group, for uptime over long windows.

Time in a status is additive: each change adds its time to the total of the status before it and
takes it from the total of the one after it, so a day needs one row for each pair of statuses. Only
losses have to be known from begin to end: those within a day are summed up, those that were not
over at its end are listed, with their workers in `uptime_losses`, and listed again on the day they
ended.

Uptime is that of the workers that are known now, by the group they have now. So a day counts no
more once a worker that changed in it has gone to another group or was deleted (`uptime_moves`), has
received a change since (a clock stepped), or was blind at other times than it was made with.
Whoever reads looks for all of that, and reads such a day from `transitions` until it is made anew.

A history is not in order when a change is dated before an earlier one, or begins anew after the
worker was deleted. Such a worker is kept apart: no day has it, and its changes are read one by one.

A day is made in pieces, of some thousand changes each, in the order of the workers' ids, and the
oldest day first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

import asyncpg
import msgspec

from manman_status.domain.status import Entity, StatusType
from manman_status.domain.uptime import Window
from manman_status.store.pool import Connection

ONE_DAY = timedelta(days=1)
SETTLED_AFTER = timedelta(minutes=5)
"""A bound on the length of a transaction: after it nothing is dated into the day, unless the clock
steps."""
CHANGES_AT_ONCE = 10_000
MOVES_AT_ONCE = 500


def microseconds(time: str) -> str:
    return f"(extract(epoch FROM {time}) * 1000000)::bigint"


BLIND_AFTER = "(SELECT make_interval(secs => blind_after_seconds) FROM observation)"
# $1 is the length of the window in seconds. The last gap is not over.
WINDOW_COLUMNS = f"""
    {microseconds("now() - make_interval(secs => $1)")} AS begins, {microseconds("now()")} AS ends,
    ARRAY(
        SELECT ARRAY[{microseconds(f"began_at + {BLIND_AFTER}")},
            {microseconds("ended_at")}]
        FROM observation_gaps WHERE ended_at > now() - make_interval(secs => $1)
        UNION ALL
        SELECT ARRAY[{microseconds(f"observed_through + {BLIND_AFTER}")},
            {microseconds("now()")}]
        WHERE observed_through IS NOT NULL
    ) AS blind"""
WINDOW = f"SELECT {WINDOW_COLUMNS} FROM observation WHERE id = 1"


def window_of(row: asyncpg.Record) -> Window:
    return Window(row["begins"], row["ends"], map(tuple, row["blind"]))


async def read_window(connection: Connection, seconds: float) -> Window:
    """The last so many seconds, and when they were blind."""
    (row,) = await connection.fetch(WINDOW, seconds)
    return window_of(row)


def midnight(day: str) -> str:
    return f"(({day})::timestamp AT TIME ZONE 'UTC')"


def us_of(day: date) -> int:
    """The beginning of the day, in µs since the epoch."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def day_of(us: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).date()


DAY_US = 86_400_000_000


def seen(time: str, first: int) -> str:
    """`Window.seen_until` at a time in µs; it is the parameters from number `first` on."""
    piece = f"[width_bucket({time}, ${first}::bigint[]) + 1]"
    return f"((${first + 1}::bigint[]){piece} * {time} + (${first + 2}::bigint[]){piece})"


# Of `changes`, in the order of each worker: of two that are out of order by a moment the later one
# counts from when the earlier did. A loss began with the change before, on this day or on one
# before. OFFSET 0: its beginning is looked up once, and not each time that it is used.
CHANGES_OF_LIVES = f"""ordered AS (
    SELECT entity_id, revision, old_status, new_status, "group", lower_at,
        round(date_part('epoch', max(at) OVER (PARTITION BY entity_id ORDER BY revision ROWS
            UNBOUNDED PRECEDING))
            * 1000000)::bigint AS at
    FROM changes
),
neighbours AS (
    SELECT *, lag(at) OVER life AS at_before, lag(new_status) OVER life AS status_before,
        lead(revision) OVER life IS NULL AS is_last
    FROM ordered WINDOW life AS (PARTITION BY entity_id ORDER BY revision)
),
lives AS (
    SELECT neighbours.*, begun
    FROM neighbours, LATERAL (
        SELECT CASE WHEN old_status = '{StatusType.LOST}' THEN coalesce(greatest(
            CASE WHEN status_before = '{StatusType.LOST}' THEN at_before END,
            (SELECT max(l.begun) FROM uptime_losses l
             WHERE l.worker_id = entity_id AND l.begun < at)
        ), 0) END AS begun OFFSET 0
    ) loss
)"""

APART = "SELECT DISTINCT worker_id FROM uptime_moves WHERE is_apart"
SET_APART = """
INSERT INTO uptime_moves (worker_id, is_apart, is_taken, at)
SELECT DISTINCT worker_id, true, $2::bool, greatest(now(), $3) FROM unnest($1::bigint[]) AS
    worker_id
"""


async def set_apart(
    connection: Connection,
    worker_ids: Iterable[int],
    *,
    is_taken: bool = False,
    until: datetime | None = None,
) -> None:
    """Leave these workers' changes out of all days from now on. `is_taken`: the days that have them
    were deleted."""
    if ids := sorted(worker_ids):
        await connection.execute(SET_APART, ids, is_taken, until)


class Day(msgspec.Struct, frozen=True):
    """A row of `uptime_days`, and whether a change came after it was made."""

    day: date
    through_revision: int
    blind: list[int]
    done_through: int | None
    is_complete: bool
    is_late: bool
    revision: int
    """The revision up to which all changes were read for it."""

    @property
    def is_begun(self) -> bool:
        return self.is_complete or self.done_through is not None


# The oldest day stands for all that is before it, too.
OF_THE_DAY = f"""at < {midnight("day + 1")}
        AND at >= CASE WHEN day > (SELECT min(day) FROM uptime_days) THEN {midnight("day")} ELSE
            '-infinity' END"""
IS_LATE = f"EXISTS (SELECT FROM transitions WHERE {OF_THE_DAY} AND revision > through_revision)"
DAYS = f"""
SELECT day, through_revision, blind, done_through, is_complete, {IS_LATE} AS is_late,
    (SELECT revision FROM revision_counter) AS revision
FROM uptime_days ORDER BY day
"""


# Whose history may be out of order now, in days that are made.
LATE_IN = f"""
SELECT DISTINCT entity_id FROM uptime_days, LATERAL (
    SELECT entity_id FROM transitions
    WHERE entity = '{Entity.WORKER}' AND revision > through_revision AND {OF_THE_DAY}
) late WHERE day = ANY($1::date[])
"""


async def make_some(
    connection: Connection,
    window: Window,
    *,
    retention_days: int,
    changes_at_once: int = CHANGES_AT_ONCE,
) -> bool:
    """Do a piece of what is to be done, in the caller's transaction; False when all past days are
    made. `window` is the retention's, at least, and ends now."""
    if await _take_moves(connection):
        return True
    now = datetime.fromtimestamp(window.end // 1_000_000, UTC)
    oldest, newest = (
        now.date() - timedelta(days=retention_days),
        (now - SETTLED_AFTER).date() - ONE_DAY,
    )
    known = {row["day"]: Day(**row) for row in await connection.fetch(DAYS)}
    if beyond := [day for day in known if not oldest <= day <= newest]:
        await _reset_days(connection, beyond)
        await connection.execute(DELETE_DAYS, beyond)
        await connection.execute(FORGET_APART, midnight_of(oldest))
        return True
    if late := [day for day, made in known.items() if made.is_late]:
        await set_apart(
            connection, (row["entity_id"] for row in await connection.fetch(LATE_IN, late))
        )
        await _reset_days(connection, late, through_revision=known[late[0]].revision)
        return True
    if changed := [
        day for day, made in known.items() if made.is_begun and made.blind != blind_of(window, day)
    ]:
        await _reset_days(connection, changed)
        return True
    for back in range((newest - oldest).days, -1, -1):
        day = newest - timedelta(days=back)
        if (made := known.get(day)) is None or not made.is_complete:
            await _make_piece(connection, day, made, blind_of(window, day), changes_at_once)
            return True
    return False


def blind_of(window: Window, day: date) -> list[int]:
    return window.blind_within(us_of(day), us_of(day) + DAY_US)


def midnight_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


# A day later, so that no window reaches what was odd about them.
FORGET_APART = (
    "DELETE FROM uptime_moves WHERE is_apart AND is_taken AND at < $1::timestamptz - interval '1"
    " day'"
)
TO_TAKE = """
SELECT move_id, worker_id FROM uptime_moves WHERE NOT is_taken ORDER BY move_id LIMIT $1
"""
TAKE = (
    "DELETE FROM uptime_moves WHERE move_id = ANY($1::bigint[]) AND NOT is_apart",
    "UPDATE uptime_moves SET is_taken = true WHERE move_id = ANY($1::bigint[])",
)


async def _take_moves(connection: Connection) -> bool:
    moves = await connection.fetch(TO_TAKE, MOVES_AT_ONCE)
    if not moves:
        return False
    await _reset_days(
        connection, await changed_on(connection, {move["worker_id"] for move in moves})
    )
    for statement in TAKE:
        await connection.execute(statement, [move["move_id"] for move in moves])
    return True


CHANGED_ON = f"""
SELECT DISTINCT day FROM uptime_days, LATERAL (
    SELECT FROM transitions
    WHERE entity = '{Entity.WORKER}' AND entity_id = ANY($1::bigint[])
        AND at >= {midnight("day")} AND at < {midnight("day + 1")}
    LIMIT 1
) changed
"""


async def changed_on(connection: Connection, worker_ids: Iterable[int]) -> list[date]:
    """The days in which any of them changed, of those that are made or being made."""
    return [row["day"] for row in await connection.fetch(CHANGED_ON, sorted(worker_ids))]


RESET_DAYS = """
UPDATE uptime_days SET done_through = NULL, is_complete = false, through_revision = coalesce($2,
    through_revision)
 WHERE day = ANY($1::date[])
"""
DELETE_SUMS = tuple(
    f"DELETE FROM {table} WHERE day = ANY($1::date[])"
    for table in ("uptime_changes", "uptime_losses")
)
DELETE_DAYS = "DELETE FROM uptime_days WHERE day = ANY($1::date[])"


async def _reset_days(
    connection: Connection, days: Sequence[date], *, through_revision: int | None = None
) -> None:
    """They are to be made anew. Their rows stay, so that what comes late meanwhile is seen."""
    await connection.execute(RESET_DAYS, days, through_revision)
    for statement in DELETE_SUMS:
        await connection.execute(statement, days)


BEGIN_DAY = """
INSERT INTO uptime_days (day, through_revision, blind) SELECT $1, revision, $2 FROM revision_counter
ON CONFLICT (day) DO UPDATE SET blind = $2
"""
LAST_OF_PIECE = f"""
SELECT count(*) AS found, max(entity_id) AS last FROM (
    SELECT entity_id FROM transitions
    WHERE entity = '{Entity.WORKER}' AND entity_id > $3 AND at >= $1 AND at < $2
    ORDER BY entity_id LIMIT $4
) piece
"""
# $1 and $2 are the bounds of the day, $3 and $4 of the ids.
OF_PIECE = (
    f"entity = '{Entity.WORKER}' AND entity_id > $3 AND entity_id <= $4 AND entity_id NOT IN"
    f" ({APART})"
)
OUT_OF_ORDER = f"""
SELECT entity_id, max(seen_at) AS until FROM (
    SELECT entity_id, at, max(at) OVER life AS seen_at, old_status, row_number() OVER life AS number
    FROM transitions WHERE {OF_PIECE} AND at >= $1 AND at < $2
    WINDOW life AS (PARTITION BY entity_id ORDER BY revision)
) c
WHERE at < seen_at OR old_status IS NULL AND (number > 1 OR EXISTS (
    SELECT FROM transitions before
    WHERE before.entity = '{Entity.WORKER}' AND before.entity_id = c.entity_id AND before.at < $1
))
GROUP BY entity_id
UNION ALL
SELECT later.entity_id, max(later.at) FROM transitions later
WHERE {OF_PIECE} AND later.at >= $2
    AND revision < (SELECT max(revision) FROM transitions WHERE at >= $1 AND at < $2)
    AND EXISTS (
        SELECT FROM transitions c
        WHERE c.entity = '{Entity.WORKER}' AND c.entity_id = later.entity_id AND c.revision >
            later.revision
            AND c.at >= $1 AND c.at < $2
    )
GROUP BY entity_id
"""
# $5 to $7 are `Window.seen_until` of the day.
MAKE_PIECE = f"""WITH changes AS (
    SELECT entity_id, revision, old_status, new_status, at, coalesce(labels ->> 'group', '') AS
        "group",
        {microseconds("$1::timestamptz")} AS lower_at
    FROM transitions JOIN workers ON worker_id = entity_id
    WHERE {OF_PIECE} AND at >= $1 AND at < $2
),
{CHANGES_OF_LIVES},
summed AS (
    SELECT "group", old_status, new_status, count(*) AS changes, sum(seen)::bigint AS seen,
        coalesce(sum(length), 0)::bigint AS lost, coalesce(max(length), 0) AS longest,
        coalesce(array_agg(at) FILTER (WHERE new_status = '{StatusType.LOST}' AND is_last), '{{}}')
            AS opened,
        coalesce(array_agg(begun) FILTER (WHERE crossed), '{{}}') AS crossed_begun,
        coalesce(array_agg(at) FILTER (WHERE crossed), '{{}}') AS crossed_ended
    FROM (
        SELECT *, {seen("at", 5)} AS seen, begun < lower_at AS crossed,
            CASE WHEN begun >= lower_at THEN {seen("at", 5)} - {seen("begun", 5)} END AS length
        FROM lives
    ) l
    GROUP BY GROUPING SETS (("group", old_status, new_status), (old_status, new_status))
),
open AS (
    INSERT INTO uptime_losses (worker_id, begun, day)
    SELECT entity_id, at, ($1::timestamptz AT TIME ZONE 'UTC')::date
    FROM lives WHERE new_status = '{StatusType.LOST}' AND is_last
    ON CONFLICT DO NOTHING
)
INSERT INTO uptime_changes AS kept
    (day, is_fleet, group_name, old_status, new_status, changes, seen, lost, longest, opened,
        crossed_begun,
     crossed_ended)
SELECT ($1::timestamptz AT TIME ZONE 'UTC')::date, "group" IS NULL, coalesce("group", ''),
    coalesce(old_status, ''),
    new_status, changes, seen, lost, longest, opened, crossed_begun, crossed_ended
FROM summed
ON CONFLICT (day, is_fleet, group_name, old_status, new_status) DO UPDATE
   SET changes = kept.changes + excluded.changes, seen = kept.seen + excluded.seen, lost = kept.lost
       + excluded.lost,
       longest = greatest(kept.longest, excluded.longest), opened = kept.opened || excluded.opened,
       crossed_begun = kept.crossed_begun || excluded.crossed_begun,
       crossed_ended = kept.crossed_ended || excluded.crossed_ended
"""
END_PIECE = """
UPDATE uptime_days SET done_through = $2, is_complete = $3, made_at = clock_timestamp() WHERE day =
    $1
"""
LEAST_ID, GREATEST_ID = -(2**63), 2**63 - 1


async def _make_piece(
    connection: Connection, day: date, made: Day | None, blind: list[int], changes_at_once: int
) -> None:
    if made is None or not made.is_begun:
        await connection.execute(BEGIN_DAY, day, blind)
    lower, upper = midnight_of(day), midnight_of(day + ONE_DAY)
    after = LEAST_ID if made is None or made.done_through is None else made.done_through
    piece = await connection.fetchrow(LAST_OF_PIECE, lower, upper, after, changes_at_once)
    assert piece is not None
    is_last = piece["found"] < changes_at_once
    bounds = lower, upper, after, GREATEST_ID if is_last else piece["last"]
    odd = {row["entity_id"]: row["until"] for row in await connection.fetch(OUT_OF_ORDER, *bounds)}
    if odd:  # the days before, which show when losses began, may have to be made anew
        await set_apart(connection, odd, is_taken=True, until=max(odd.values()))
        await _reset_days(
            connection, [other for other in await changed_on(connection, odd) if other != day]
        )
        return
    pairs = list(zip(blind[::2], blind[1::2], strict=True))
    of_day = Window(us_of(day), us_of(day) + DAY_US, pairs)
    await connection.execute(MAKE_PIECE, *bounds, *of_day.seen_until())
    await connection.execute(END_PIECE, day, bounds[-1], is_last)
