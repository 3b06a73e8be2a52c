"""The observation of the fleet: a watermark for each queue, the least of them (and of the
bridges: `store/bridges.py`), and the processors that read. All times are the database's.

The table `watermarks` is also the list of the queues that are to be read. A queue is `active`; then
`leaving`, while it may still be bound; then `retired`, when nothing is put into it any more and the
rest of its messages is read; then `closing`, when every processor lets go of it so that it can be
deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from manman_status.errors import ManManStatusError
from manman_status.store.pool import Connection


class ClockStepped(ManManStatusError):  # noqa: N818
    """The database's clock stepped while this transaction ran: its times are from before the
    step."""


class Clock(msgspec.Struct, frozen=True):
    """The database's time, the number of steps of its clock, and the newest time that a processor
    stored."""

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
    """Read the clock. Must be the transaction's first statement, so that the time is that of
    sending it."""
    row = await connection.fetchrow(READ_CLOCK)
    assert row is not None
    return Clock(**row)


CHECK_CLOCK = "SELECT clock_steps FROM observation WHERE id = 1 FOR UPDATE"


async def check_clock(connection: Connection, *, steps: int) -> None:
    """Raise ClockStepped if another number of steps was taken by now. Must be the transaction's
    last statement."""
    if await connection.fetchval(CHECK_CLOCK) != steps:
        raise ClockStepped


def _carry_over(table: str, key: str) -> str:
    """Let the watermarks of a table keep their age when the clock steps by $1 seconds."""
    return f"""
WITH locked AS (SELECT {key} FROM {table} ORDER BY {key} FOR UPDATE)
UPDATE {table} AS kept
   SET observed_through = CASE WHEN observed_through IS NOT NULL
                               THEN least(observed_through + make_interval(secs => $1), now()) END,
       clock_steps = clock_steps + 1
  FROM locked
 WHERE kept.{key} = locked.{key}
"""


# A silence keeps its length.
TAKE_STEP = (
    """
WITH locked AS (SELECT processor_id FROM processors ORDER BY processor_id FOR UPDATE)
UPDATE processors AS kept
   SET started_at = least(started_at + make_interval(secs => $1), now()),
       last_seen = least(last_seen + make_interval(secs => $1), now())
  FROM locked
 WHERE kept.processor_id = locked.processor_id
""",
    """
UPDATE silences
   SET created_at = created_at + make_interval(secs => $1), ends_at = ends_at + make_interval(secs
       => $1)
 WHERE ends_at > now() - make_interval(secs => $1)
""",
    _carry_over("watermarks", "queue"),
    _carry_over("bridges", "name"),
    """
UPDATE observation
   SET observed_through = CASE WHEN observed_through IS NOT NULL
                               THEN least(observed_through + make_interval(secs => $1), now()) END,
       advanced_at = CASE WHEN advanced_at IS NOT NULL THEN now() END,
       resumed_at = CASE WHEN resumed_at IS NOT NULL THEN now() END,
       dropped_at = CASE WHEN dropped_at IS NOT NULL
                         THEN least(dropped_at + make_interval(secs => $1), now()) END,
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

    Locks in the order of every other transaction: processors, silences, watermarks, bridges,
    observation.
    """
    for statement in TAKE_STEP:
        await connection.execute(statement, seconds)


REGISTER = """
INSERT INTO processors (processor_id, host, version, started_at, last_seen) VALUES ($1, $2, $3,
    now(), now())
"""


async def register_processor(
    connection: Connection, processor_id: str, *, host: str, version: str
) -> None:
    await connection.execute(REGISTER, processor_id, host, version)


REPORT = "UPDATE processors SET last_seen = now(), statistics = $2::jsonb WHERE processor_id = $1"


async def report_processor(
    connection: Connection, processor_id: str, *, statistics: Mapping[str, Any]
) -> bool:
    """Store a report. Returns False if the row is gone: the processor was thought dead, and must
    register again."""
    done = await connection.execute(REPORT, processor_id, statistics)
    return done.endswith(" 1")


FORGET = """
WITH silent AS (
    SELECT processor_id FROM processors WHERE last_seen < now() - make_interval(secs => $1)
     ORDER BY processor_id FOR UPDATE
)
DELETE FROM processors AS kept USING silent WHERE kept.processor_id = silent.processor_id RETURNING
    kept.processor_id
"""


async def forget_silent_processors(connection: Connection, *, silent_seconds: float) -> list[str]:
    """Delete the rows of processors that have not reported for so long: dead, hung, or cut off from
    the database."""
    return sorted(row["processor_id"] for row in await connection.fetch(FORGET, silent_seconds))


async def forget_processor(connection: Connection, processor_id: str) -> None:
    await connection.execute("DELETE FROM processors WHERE processor_id = $1", processor_id)


READING = """
SELECT count(*) FROM processors
 WHERE last_seen > now() - make_interval(secs => $1) AND statistics -> 'broker_problems' = '{}'
"""


async def reading_processors(connection: Connection, *, within_seconds: float) -> int:
    """Count the processors that reported so lately and subscribe to every queue."""
    return int(await connection.fetchval(READING, within_seconds))


class QueueState(StrEnum):
    ACTIVE = "active"
    LEAVING = "leaving"
    RETIRED = "retired"
    CLOSING = "closing"


class QueueMark(msgspec.Struct, frozen=True):
    """A queue that is to be read, and its watermark. `canary_key` is a routing key that has reached
    it."""

    queue: str
    state: QueueState
    observed_through: datetime | None
    canary_key: str | None


def least_watermark(
    marks: Sequence[QueueMark], bridges: Sequence[datetime | None] = ()
) -> datetime | None:
    """Return the least watermark of the queues that take messages, and of the bridges; None when
    one of them has none yet."""
    times = [
        mark.observed_through
        for mark in marks
        if mark.state in {QueueState.ACTIVE, QueueState.LEAVING}
    ]
    times += bridges
    return None if None in times else min(times, default=None)  # type: ignore[type-var]


READ_QUEUES = "SELECT queue, state, observed_through, canary_key FROM watermarks ORDER BY queue"


async def read_queues(connection: Connection) -> list[QueueMark]:
    return [
        QueueMark(
            row["queue"], QueueState(row["state"]), row["observed_through"], row["canary_key"]
        )
        for row in await connection.fetch(READ_QUEUES)
    ]


# Whatever it was before, a queue that comes back has nothing proven.
ADD_QUEUES = """
INSERT INTO watermarks AS kept (queue, state, clock_steps)
SELECT queue, 'active', $2 FROM unnest($1::text[]) AS queue ORDER BY queue
ON CONFLICT (queue) DO UPDATE SET state = 'active', observed_through = NULL, canary_key = NULL,
       clock_steps = excluded.clock_steps
 WHERE kept.state <> 'active'
RETURNING queue
"""
LEAVE_QUEUES = """
WITH locked AS (
    SELECT queue FROM watermarks WHERE state = 'active' AND queue <> ALL ($1::text[]) ORDER BY queue
        FOR UPDATE
)
UPDATE watermarks AS kept SET state = 'leaving' FROM locked WHERE kept.queue = locked.queue
    RETURNING kept.queue
"""


async def choose_queues(
    connection: Connection, queues: Sequence[str], *, steps: int
) -> tuple[list[str], list[str]]:
    """Make these the active queues. Returns the added ones, and those that are on their way out.

    An added queue has no watermark, so nothing is proven until a canary has come through it: it is
    here before anything can be put into it. `steps` counts the steps of the database's clock; the
    caller ends its transaction with `check_clock`.
    """
    added = [row["queue"] for row in await connection.fetch(ADD_QUEUES, sorted(queues), steps)]
    leaving = [row["queue"] for row in await connection.fetch(LEAVE_QUEUES, sorted(queues))]
    return added, leaving


CHANGE_STATE = "UPDATE watermarks SET state = $3 WHERE queue = $1 AND state = $2"


async def change_queue(
    connection: Connection, queue: str, before: QueueState, after: QueueState
) -> None:
    """Change the state of a queue that is in the state `before`. A retired queue no longer holds up
    the observation, though heartbeats may still lie in it: a recovery grace begins, within which
    every worker that lives sends one to another queue."""
    done = await connection.execute(CHANGE_STATE, queue, before, after)
    if done.endswith(" 1") and after is QueueState.RETIRED:
        await resume_observation(connection)


async def leave_queue(connection: Connection, queue: str) -> None:
    """Add a queue that was found on the broker, unless it is known by now. It has no watermark, so
    nothing is proven until it is retired."""
    await connection.execute(
        "INSERT INTO watermarks (queue, state) VALUES ($1, 'leaving') ON CONFLICT (queue) DO"
        " NOTHING",
        queue,
    )


async def forget_queue(connection: Connection, queue: str) -> None:
    await connection.execute("DELETE FROM watermarks WHERE queue = $1 AND state = 'closing'", queue)


MOVE_WATERMARK = """
UPDATE watermarks SET observed_through = $2, canary_key = $3
 WHERE queue = $1 AND clock_steps = $4 AND $2 <= clock_timestamp()
   AND $2 > coalesce(observed_through, '-infinity')
"""

ADVANCE = """
WITH before AS (
    SELECT observed_through, blind_after_seconds FROM observation WHERE id = 1 FOR UPDATE
),
moved AS (
    UPDATE observation AS kept
       SET observed_through = $1,
           advanced_at = now(),
           resumed_at = CASE WHEN advanced_at IS NULL
                               OR advanced_at < now() - make_interval(secs => $2::float8)
                               OR $1 < now() - make_interval(secs => 2 * $2::float8)
                             THEN now() ELSE resumed_at END
      FROM before
     WHERE kept.id = 1 AND $1::timestamptz > coalesce(before.observed_through, '-infinity')
    RETURNING before.observed_through AS began_at, before.blind_after_seconds
),
gap AS (
    SELECT began_at FROM moved WHERE began_at < now() - make_interval(secs => blind_after_seconds)
),
lengthened AS (
    UPDATE observation_gaps AS kept SET ended_at = now() FROM gap
     WHERE kept.ended_at >= gap.began_at AND kept.began_at <= now() RETURNING kept.ended_at
)
INSERT INTO observation_gaps (began_at, ended_at)
SELECT began_at, now() FROM gap WHERE NOT EXISTS (SELECT 1 FROM lengthened)
"""


async def move_watermark(
    connection: Connection, queue: str, *, sent_at: datetime, clock_steps: int, canary_key: str
) -> None:
    """Move a queue's watermark: with this transaction, everything that was put on the queue before
    `sent_at` is in the rows. One consumer reads the queue, first in, first out, and commits in that
    order: docs/liveness.md.

    A canary of another number of steps of the database's clock proves nothing.
    """
    await connection.execute(MOVE_WATERMARK, queue, sent_at, canary_key, clock_steps)


async def advance_observation(
    connection: Connection, through: datetime, *, standstill_seconds: float
) -> None:
    """Let `observed_through` follow the least of the watermarks, which was `through` before the
    broker was queried for drops.

    An observation that stood still for longer than `standstill_seconds` is marked as resumed now.
    So is one that is twice as far behind: workers may have had to reconnect meanwhile.

    A time of more than `blind_after_seconds` behind is kept as a gap. The gap grows while the
    watermark moves and is still so far behind.
    """
    await connection.execute(ADVANCE, through, standstill_seconds)


RESUME = """
UPDATE observation
   SET resumed_at = CASE WHEN resumed_at IS NOT NULL THEN now() END,
       dropped_at = CASE WHEN $1 THEN now() ELSE dropped_at END
 WHERE id = 1
"""


async def resume_observation(connection: Connection, *, because_dropped: bool = False) -> None:
    """Begin a recovery grace. Heartbeats may be missing that were sent: the broker dropped some, or
    a processor, and perhaps the workers too, were cut off from it. From now on a whole timeout has
    to be observed before any worker is marked LOST."""
    await connection.execute(RESUME, because_dropped)


FORGET_GAPS = "DELETE FROM observation_gaps WHERE ended_at < now() - make_interval(days => $1)"


async def forget_gaps(connection: Connection, *, retention_days: int) -> int:
    """Delete gaps that ended longer ago than the retention. Returns their number."""
    done = await connection.execute(FORGET_GAPS, retention_days)
    return int(done.rpartition(" ")[2])
