"""Bridges: how far each of them has looked. All times are the database's.

A bridge is one more source that the observation waits for, beside the queues: docs/liveness.md.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from manman_status.store.pool import Connection


async def read_bridge_marks(connection: Connection) -> list[datetime | None]:
    """Return the time through which the reports of each bridge are in the rows; None of one that
    has reported nothing yet."""
    rows = await connection.fetch("SELECT observed_through FROM bridges")
    return [row["observed_through"] for row in rows]


BEHIND = """
SELECT name FROM bridges
 WHERE coalesce(observed_through < now() - make_interval(secs => $1), true)
 ORDER BY name
"""


async def bridges_behind(connection: Connection, *, by_seconds: float) -> list[str]:
    """Return the names of the bridges whose marks are older than this, or that have none."""
    return [row["name"] for row in await connection.fetch(BEHIND, by_seconds)]


# The revision that is kept says where the writing goes on; a first one begins with what comes now.
REGISTER_BRIDGE = """
INSERT INTO bridges AS kept (name, clock_steps, written_revision)
SELECT $1, $2, CASE WHEN $3 THEN revision END FROM revision_counter
ON CONFLICT (name) DO UPDATE
   SET clock_steps = excluded.clock_steps,
       written_revision =
           CASE WHEN $3 THEN coalesce(kept.written_revision, excluded.written_revision) END
"""


async def register_bridge(connection: Connection, name: str, *, steps: int, writes: bool) -> None:
    """Add a bridge, or go on with one that is known. A new one has no mark: nothing is proven until
    its first reports are in the rows."""
    await connection.execute(REGISTER_BRIDGE, name, steps, writes)


MOVE_BRIDGE = """
UPDATE bridges SET observed_through = $2
 WHERE name = $1 AND clock_steps = $3 AND $2 > coalesce(observed_through, '-infinity')
"""


async def move_bridge(connection: Connection, name: str, *, through: datetime, steps: int) -> None:
    """Move a bridge's mark: with this transaction, every report of what it read before `through` is
    in the rows."""
    await connection.execute(MOVE_BRIDGE, name, through, steps)


async def forget_bridge(connection: Connection, name: str) -> bool:
    """Remove a bridge: the observation no longer waits for it. False when it is not known."""
    done = await connection.execute("DELETE FROM bridges WHERE name = $1", name)
    return done.endswith(" 1")


WRITTEN_REVISION = "SELECT written_revision FROM bridges WHERE name = $1"


async def read_written_revision(connection: Connection, name: str) -> int | None:
    revision: int | None = await connection.fetchval(WRITTEN_REVISION, name)
    return revision


async def note_written(connection: Connection, name: str, revision: int) -> None:
    await connection.execute(
        "UPDATE bridges SET written_revision = $2 WHERE name = $1", name, revision
    )


# Those that no beat came of may be the other system's as well, reported by their status alone.
NOT_ENDED = """
SELECT worker_id FROM workers
 WHERE has_not_ended(status) AND labels @> jsonb_build_object('host', $1::text)
UNION ALL
SELECT worker_id FROM workers WHERE has_not_ended(status) AND last_heartbeat IS NULL
"""


async def workers_not_ended(connection: Connection, host: str) -> set[int]:
    """The workers that a bridge of this name may have reported and that have not ended."""
    return {row["worker_id"] for row in await connection.fetch(NOT_ENDED, host)}


COPY = """
SELECT revision, coalesce(as_of, at), entity, entity_id, new_status, reason FROM transitions
 WHERE revision > $1 ORDER BY revision LIMIT $2
"""


class Copied(msgspec.Struct, frozen=True):
    """A transition, as far as another system's table of statuses takes it."""

    revision: int
    as_of: datetime
    entity: str
    entity_id: int
    status: str
    reason: str


async def transitions_after(connection: Connection, revision: int, *, limit: int) -> list[Copied]:
    return [Copied(*row) for row in await connection.fetch(COPY, revision, limit)]
