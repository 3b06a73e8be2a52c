"""Steps of the database's clock: after one back, times that lie ahead in the rows go back with it.

Left alone, a worker that sent a heartbeat in the old time would count as alive until the clock
comes by again. Times are moved by the step, and never beyond now; a last heartbeat becomes now,
since it hid every later one that carries a smaller time. After a step forward, too: it may have
followed a greater one back at once. `transitions` is history and stays as it was written.

Positions of events without an incarnation and a time of their own are µs of the database's clock
too. They are only ever compared, so those that lie ahead are squeezed into a ten-thousandth of the
step, just before it: their order stays, and what was received since comes after them. Where a
worker counts its incarnations these decide, and nothing is touched.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from manman_status.domain.events import microseconds
from manman_status.store.pool import Connection
from manman_status.store.writes import transaction_time

SETTLING_SECONDS = 60.0
"""No transaction takes so long: until then one that began in the old time may still write it."""


class StepToSettle(msgspec.Struct, frozen=True):
    """The newest step. `is_new` when no leader has settled it, `is_recent` while transactions of
    the old time may still run."""

    steps: int
    stepped_at: datetime | None
    seconds: float
    is_new: bool
    is_recent: bool

    @property
    def length(self) -> timedelta:
        return timedelta(seconds=self.seconds)


READ = """
SELECT clock_steps AS steps, clock_stepped_at AS stepped_at,
       coalesce(clock_step_seconds, 0) AS seconds,
       clock_steps_settled < clock_steps AS is_new,
       coalesce(now() < clock_stepped_at + make_interval(secs => $1), false) AS is_recent
  FROM observation
 WHERE id = 1
"""


async def read_step(connection: Connection) -> StepToSettle:
    row = await connection.fetchrow(READ, SETTLING_SECONDS)
    assert row is not None
    return StepToSettle(**row)


STEPPED_WITHIN = (
    "SELECT coalesce(clock_stepped_at > now() - $1::interval, false) FROM observation WHERE id = 1"
)


async def has_stepped_within(connection: Connection, time: timedelta) -> bool:
    stepped: bool = await connection.fetchval(STEPPED_WITHIN, time)
    return stepped


def _update_ahead(table: str, key: str, now: str, values: dict[str, str], which: str = "") -> str:
    """Lock by key the rows that have one of these columns ahead of `now`, and set it there.

    `values`: an expression for each column. `greatest` passes over nulls.
    """
    changes = ", ".join(
        f"{column} = CASE WHEN kept.{column} > {now} THEN {value} ELSE kept.{column} END"
        for column, value in values.items()
    )
    return f"""
WITH ahead AS (
    SELECT {key} FROM {table}
     WHERE greatest({", ".join(values)}) > {now} {which}
     ORDER BY {key}
       FOR UPDATE
)
UPDATE {table} AS kept SET {changes} FROM ahead WHERE kept.{key} = ahead.{key}
"""


def _move(table: str, key: str, *columns: str, to_now: tuple[str, ...] = ()) -> str:
    """Move times that lie ahead by the step ($1), never beyond now; those `to_now` become now."""
    moved = {column: f"least(kept.{column} + $1, now())" for column in columns}
    return _update_ahead(table, key, "now()", moved | dict.fromkeys(to_now, "now()"))


def _squeeze(table: str, key: str, *columns: str, which: str) -> str:
    """Squeeze positions. In µs: now ($1), when the clock stepped ($2), its old time then ($3)."""
    squeezed = {
        column: f"$2 - greatest($3::bigint - kept.{column}, 0) / 10000" for column in columns
    }
    return _update_ahead(table, key, "$1", squeezed, which)


MOVE_FLEET = (
    _move(
        "workers",
        "worker_id",
        "created_date",
        "status_since",
        "end_date",
        "rival_since",
        "rival_beat_at",
        "own_beat_at",
        "received_at",
        to_now=("last_heartbeat",),
    ),
    _move(
        "server_instances",
        "instance_id",
        "created_date",
        "status_since",
        "end_date",
        "missing_since",
        "received_at",
    ),
)
SQUEEZE_POSITIONS = (
    _squeeze(
        "workers",
        "worker_id",
        "seq",
        "labels_seq",
        "interval_seq",
        "inventory_seq",
        "begun_at",
        "ended_at",
        which="AND incarnation = 0",
    ),
    _squeeze("server_instances", "instance_id", "claim_seq", which="AND claim_incarnation = 0"),
    _squeeze("server_instances", "instance_id", "owner_seq", which="AND owner_incarnation = 0"),
)
SETTLED = "UPDATE observation SET clock_steps_settled = $1 WHERE id = 1"


async def settle_fleet(connection: Connection, step: StepToSettle) -> None:
    """Move what lies ahead: workers first, then instances, each by key; the observation last, as in
    every other transaction."""
    for statement in MOVE_FLEET:
        await connection.execute(statement, step.length)
    if step.is_new:
        if step.seconds < 0:
            assert step.stepped_at is not None
            stepped = microseconds(step.stepped_at)
            old_time = microseconds(step.stepped_at - step.length)
            now = microseconds(await transaction_time(connection))
            for statement in SQUEEZE_POSITIONS:
                await connection.execute(statement, now, stepped, old_time)
        await connection.execute(SETTLED, step.steps)


# When a server crashed is looked up in the alert of it. The progress is locked first, as when the
# rules are evaluated.
MOVE_ALERTS = (
    """
UPDATE alert_progress
   SET memory = memory || jsonb_build_object(
           'dead_letters_grew_at',
           least((memory ->> 'dead_letters_grew_at')::timestamptz + $1, now())
       )
 WHERE id = 1 AND (memory ->> 'dead_letters_grew_at')::timestamptz > now()
""",
    """
UPDATE alerts
   SET evidence = evidence || jsonb_build_object(
           'at', least((evidence ->> 'at')::timestamptz + $1, now())
       )
 WHERE rule = 'server_crashed' AND (evidence ->> 'at')::timestamptz > now()
""",
    _move("alerts", "alert_id", "opened_at", "acknowledged_at", "resolved_at"),
    "UPDATE deliveries SET told_at = least(told_at + $1, now()) WHERE told_at > now()",
)
LOCK_PROGRESS = "SELECT FROM alert_progress WHERE id = 1 FOR UPDATE"


async def settle_alerts(connection: Connection, step: StepToSettle) -> None:
    """Move the times of alerts and of what was sent of them, so that none waits for the clock to
    come by again."""
    await connection.execute(LOCK_PROGRESS)
    for statement in MOVE_ALERTS:
        await connection.execute(statement, step.length)
