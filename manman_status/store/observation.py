"""How far the fleet was observed: watermarks, and the processors they depend on. All times are the database's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from manman_status.domain.clock import STEP_SECONDS
from manman_status.errors import ManManStatusError
from manman_status.store.pool import Connection


class ClockStepped(ManManStatusError):  # noqa: N818
    """The database's clock stepped while this transaction ran: its times are of before."""


class Clock(msgspec.Struct, frozen=True):
    """The database's time, how many steps of its clock were taken, and the newest time that a
    processor stored."""

    now: datetime
    steps: int
    last_read: datetime | None


READ_CLOCK = """
SELECT now() AS now, clock_steps AS steps,
       greatest(observed_through, (SELECT max(last_seen) FROM processors)) AS last_read
  FROM observation
 WHERE id = 1
"""


async def read_clock(connection: Connection) -> Clock:
    """Must be the transaction's first statement, so that what it reads is of the moment it is sent."""
    row = await connection.fetchrow(READ_CLOCK)
    assert row is not None
    return Clock(**row)


CHECK_CLOCK = "SELECT clock_steps FROM observation WHERE id = 1 FOR UPDATE"


async def check_clock(connection: Connection, *, steps: int) -> None:
    """Raise ClockStepped when another number of steps was taken by now. Must be the transaction's
    last statement."""
    if await connection.fetchval(CHECK_CLOCK) != steps:
        raise ClockStepped


# A silence lasts as long as was asked for. What a processor has settled is said anew, in the new
# time.
TAKE_STEP = (
    """
WITH locked AS (SELECT processor_id FROM processors ORDER BY processor_id FOR UPDATE)
UPDATE processors AS kept
   SET started_at = least(started_at + make_interval(secs => $1), now()),
       last_seen = least(last_seen + make_interval(secs => $1), now()),
       settled_through = '{}'
  FROM locked
 WHERE kept.processor_id = locked.processor_id
""",
    """
UPDATE silences
   SET created_at = created_at + make_interval(secs => $1), ends_at = ends_at + make_interval(secs => $1)
 WHERE ends_at > now() - make_interval(secs => $1)
""",
    """
WITH locked AS (SELECT queue FROM watermarks ORDER BY queue FOR UPDATE)
UPDATE watermarks AS kept
   SET observed_through = CASE WHEN observed_through IS NOT NULL
                               THEN least(observed_through + make_interval(secs => $1), now()) END,
       pending_sent = NULL, pending_seen = NULL, pending_by = NULL, canaries_from = clock_timestamp()
  FROM locked
 WHERE kept.queue = locked.queue
""",
    """
UPDATE observation
   SET observed_through = CASE WHEN observed_through IS NOT NULL
                               THEN least(observed_through + make_interval(secs => $1), now()) END,
       advanced_at = CASE WHEN advanced_at IS NOT NULL THEN now() END,
       resumed_at = CASE WHEN resumed_at IS NOT NULL THEN now() END,
       clock_steps = clock_steps + 1, clock_stepped_at = now(), clock_step_seconds = $1
 WHERE id = 1
""",
)


async def take_step(connection: Connection, seconds: float) -> None:
    """Carry the observation over into the new time: the watermarks keep their age, and a grace
    begins.

    `observed_through` goes back with the clock. It says which messages are in the rows, in the time
    by which new ones are dated: left where it was it would stand still until the clock came by
    again, and nobody would be marked LOST. Canaries that were sent in the old time prove nothing in
    the new one.

    Locks in the order of every other transaction: processors, silences, watermarks, observation.
    """
    for statement in TAKE_STEP:
        await connection.execute(statement, seconds)


REGISTER = """
INSERT INTO processors (processor_id, host, version, started_at, last_seen, settled_through)
VALUES ($1, $2, $3, now(), now(),
        coalesce((SELECT jsonb_object_agg(queue, now()) FROM unnest($4::text[]) AS queue), '{}'))
"""


async def register_processor(
    connection: Connection, processor_id: str, *, host: str, version: str, queues: list[str]
) -> None:
    """Until now it was given nothing of `queues`. What it may hold of others is not settled."""
    await connection.execute(REGISTER, processor_id, host, version, queues)


REPORT = """
UPDATE processors
   SET last_seen = now(), statistics = $3::jsonb,
       settled_through = (
           SELECT coalesce(jsonb_object_agg(queue, through), '{}')
             FROM jsonb_each_text(settled_through || $2::jsonb) AS settled (queue, through)
            WHERE through::timestamptz <= now()
       )
 WHERE processor_id = $1
"""


async def report_processor(
    connection: Connection,
    processor_id: str,
    *,
    settled_through: Mapping[str, datetime],
    statistics: Mapping[str, Any],
) -> bool:
    """False when its row is gone: it was thought dead, and must register again. A time that lies
    ahead was read before the clock stepped back, and says nothing."""
    done = await connection.execute(REPORT, processor_id, settled_through, statistics)
    return done.endswith(" 1")


STALE = """
SELECT processor_id FROM processors WHERE last_seen < now() - make_interval(secs => $1) ORDER BY processor_id
"""


async def stale_processors(connection: Connection, *, silent_seconds: float) -> list[str]:
    """The processors that have not reported for so long: dead, hung, or cut off from the database."""
    return [row["processor_id"] for row in await connection.fetch(STALE, silent_seconds)]


FORGET = "DELETE FROM processors WHERE processor_id = $1"


async def forget_processor(connection: Connection, processor_id: str, *, queues: list[str]) -> None:
    """Once the broker has put back what this processor held. Only canaries sent from now on are behind it."""
    await connection.execute(FORGET, processor_id)
    for queue in sorted(queues):
        await distrust_canaries(connection, queue)


DISTRUST = """
INSERT INTO watermarks (queue, canaries_from) VALUES ($1, clock_timestamp())
ON CONFLICT (queue) DO UPDATE
   SET canaries_from = clock_timestamp(), pending_sent = NULL, pending_seen = NULL, pending_by = NULL
"""


async def distrust_canaries(connection: Connection, queue: str) -> None:
    """Messages were put back into the queue: a canary that is under way proves nothing about them."""
    await connection.execute(DISTRUST, queue)


NOTE_CANARY = """
INSERT INTO watermarks AS kept (queue, pending_sent, pending_seen, pending_by)
SELECT $1, $2, clock_timestamp(), $3 WHERE $2 <= clock_timestamp()
ON CONFLICT (queue) DO UPDATE
   SET pending_sent = excluded.pending_sent, pending_seen = excluded.pending_seen, pending_by = excluded.pending_by
 WHERE kept.pending_sent IS NULL AND excluded.pending_sent >= coalesce(kept.canaries_from, '-infinity')
   AND excluded.pending_sent > coalesce(kept.observed_through, '-infinity')
"""

MOVE_WATERMARK = """
UPDATE watermarks AS kept
   SET observed_through = greatest(observed_through, pending_sent),
       pending_sent = NULL, pending_seen = NULL, pending_by = NULL
 WHERE queue = $1
   AND pending_sent IS NOT NULL
   AND NOT EXISTS (
           SELECT 1 FROM processors
            WHERE processor_id <> kept.pending_by
              AND coalesce((settled_through ->> $1)::timestamptz, '-infinity') < kept.pending_seen
       )
"""

ADVANCE = """
WITH before AS (SELECT observed_through FROM observation WHERE id = 1 FOR UPDATE),
moved AS (
    UPDATE observation AS kept
       SET observed_through = least_mark.observed_through,
           advanced_at = now(),
           resumed_at = CASE WHEN advanced_at IS NULL
                               OR advanced_at < now() - make_interval(secs => $2::float8)
                               OR least_mark.observed_through < now() - make_interval(secs => 2 * $2::float8)
                             THEN now() ELSE resumed_at END
      FROM (SELECT min(observed_through) AS observed_through FROM watermarks WHERE queue = ANY($1::text[])
            HAVING count(observed_through) = cardinality($1::text[])) AS least_mark, before
     WHERE kept.id = 1
       AND EXISTS (
               SELECT 1 FROM processors
                WHERE last_seen BETWEEN now() - make_interval(secs => $4::float8)
                                    AND now() + make_interval(secs => $4::float8)
           )
       AND least_mark.observed_through > coalesce(before.observed_through, '-infinity')
    RETURNING before.observed_through AS began_at
),
gap AS (SELECT began_at FROM moved WHERE began_at < now() - make_interval(secs => $3::float8)),
lengthened AS (
    UPDATE observation_gaps AS kept SET ended_at = now() FROM gap
     WHERE kept.ended_at >= gap.began_at AND kept.began_at <= now() RETURNING kept.ended_at
)
INSERT INTO observation_gaps (began_at, ended_at)
SELECT began_at, now() FROM gap WHERE NOT EXISTS (SELECT 1 FROM lengthened)
"""


async def move_watermark(connection: Connection, queue: str, canary: tuple[datetime, str] | None = None) -> None:
    """Move the queue's watermark as far as is proven. `canary` is one that this transaction
    commits: when it was sent, and which processor was given it. Whoever moves several takes them in
    the order of their names.

    A canary whose time lies ahead was sent before the clock stepped back, and proves nothing.
    """
    if canary is not None:
        await connection.execute(NOTE_CANARY, queue, *canary)
    await connection.execute(MOVE_WATERMARK, queue)


async def advance_observation(
    connection: Connection, queues: list[str], *, standstill_seconds: float, blind_after_seconds: float
) -> None:
    """Let `observed_through` follow the least of the watermarks: after those were moved, so that
    two transactions lock in one order.

    One that stood still for longer than `standstill_seconds` is marked as resumed now. So is one
    that is twice as far behind: beats that waited so long may have expired in the queue, so their
    absence proves nothing.

    When it was more than `blind_after_seconds` behind, that is kept as a gap. While it moves, and
    still is, the gap grows.

    Nothing moves unless a processor has just reported: each report looks first whether the clock
    stepped, and a step must not be taken for a gap.
    """
    await connection.execute(ADVANCE, queues, standstill_seconds, blind_after_seconds, STEP_SECONDS)


RESUME = "UPDATE observation SET resumed_at = now() WHERE id = 1 AND resumed_at IS NOT NULL"


async def resume_observation(connection: Connection) -> None:
    """A processor was cut off from the broker, and so perhaps were the workers: from now on a whole timeout has to be
    observed before any of them is given up."""
    await connection.execute(RESUME)


FORGET_GAPS = "DELETE FROM observation_gaps WHERE ended_at < now() - make_interval(days => $1)"


async def forget_gaps(connection: Connection, *, retention_days: int) -> int:
    """Delete those that ended longer ago than the retention; how many."""
    done = await connection.execute(FORGET_GAPS, retention_days)
    return int(done.rpartition(" ")[2])
