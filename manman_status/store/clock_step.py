"""After the database's clock stepped back: times that lie ahead in the rows go back with it.

Left alone, a worker that beat in the old time would count as alive until the clock comes by again.
Times are moved by the step, and never beyond now; a last heartbeat becomes now, since it hid every
later one that carries a smaller time. After a step forward, too: it may have followed
a greater one back at once. `transitions` is history and stays as it was written.

Positions of events without an incarnation and a time of their own are µs of the database's clock
too. They are only ever compared, so those that lie ahead are squeezed into a ten-thousandth of the
step, just before it: their order stays, and what was received since comes after them. Where a
worker counts its incarnations these decide, and nothing is touched.
"""

# ruff: noqa: S608 - the SQL is put together from constants

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from manman_status.store.pool import Connection

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


READ = """
SELECT clock_steps AS steps, clock_stepped_at AS stepped_at, coalesce(clock_step_seconds, 0) AS
    seconds,
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


def _back(column: str) -> str:
    moved = f"least({column} + make_interval(secs => $1), now())"
    return f"CASE WHEN {column} > now() THEN {moved} ELSE {column} END"


def _move(table: str, key: str, *columns: str, to_now: str | None = None) -> str:
    """Of the column `to_now` what lies ahead becomes now."""
    ahead = " OR ".join(f"{column} > now()" for column in (*columns, to_now) if column)
    moved = ", ".join(f"{column} = {_back(f'kept.{column}')}" for column in columns)
    if to_now:
        moved += (
            f", {to_now} = least(kept.{to_now}, CASE WHEN kept.{to_now} IS NOT NULL THEN now() END)"
        )
    return f"""
WITH ahead AS (SELECT {key} FROM {table} WHERE {ahead} ORDER BY {key} FOR UPDATE)
UPDATE {table} AS kept SET {moved} FROM ahead WHERE kept.{key} = ahead.{key}"""


def _us(time: str) -> str:
    return f"(extract(epoch FROM {time}) * 1000000)::bigint"


NOW = _us("now()")
STEPPED = _us("$1::timestamptz")
OLD_TIME_ENDED = f"{STEPPED} - ($2::float8 * 1000000)::bigint"


def _squeeze(table: str, key: str, incarnation: str, *columns: str) -> str:
    """$1 is when the clock stepped, $2 by how many seconds."""
    ahead = " OR ".join(f"{column} > {NOW}" for column in columns)
    squeezed = ", ".join(
        f"{column} = CASE WHEN kept.{column} > {NOW} THEN {STEPPED} - greatest({OLD_TIME_ENDED} -"
        f" kept.{column}, 0) / 10000 ELSE kept.{column} END"
        for column in columns
    )
    return f"""
WITH ahead AS (SELECT {key} FROM {table} WHERE {incarnation} = 0 AND ({ahead}) ORDER BY {key} FOR
    UPDATE)
UPDATE {table} AS kept SET {squeezed} FROM ahead WHERE kept.{key} = ahead.{key}"""


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
        to_now="last_heartbeat",
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
        "incarnation",
        "seq",
        "labels_seq",
        "interval_seq",
        "inventory_seq",
        "begun_at",
        "ended_at",
    ),
    _squeeze("server_instances", "instance_id", "claim_incarnation", "claim_seq"),
    _squeeze("server_instances", "instance_id", "owner_incarnation", "owner_seq"),
)
SETTLED = "UPDATE observation SET clock_steps_settled = $1 WHERE id = 1"


async def settle_fleet(connection: Connection, step: StepToSettle) -> None:
    """Workers first, then instances, each by key; the observation last, as in every other
    transaction."""
    for statement in MOVE_FLEET:
        await connection.execute(statement, step.seconds)
    if step.is_new:
        if step.seconds < 0:
            for statement in SQUEEZE_POSITIONS:
                await connection.execute(statement, step.stepped_at, step.seconds)
        await connection.execute(SETTLED, step.steps)


# When a server crashed is looked up in the alert of it. The progress is locked first, as when the
# rules are asked.
MOVE_ALERTS = (
    """
UPDATE alert_progress
   SET memory = memory || jsonb_build_object(
           'dead_letters_grew_at',
           least((memory ->> 'dead_letters_grew_at')::timestamptz + make_interval(secs => $1),
               now())
       )
 WHERE id = 1 AND (memory ->> 'dead_letters_grew_at')::timestamptz > now()
""",
    """
UPDATE alerts
   SET evidence = evidence || jsonb_build_object(
           'at', least((evidence ->> 'at')::timestamptz + make_interval(secs => $1), now())
       )
 WHERE rule = 'server_crashed' AND (evidence ->> 'at')::timestamptz > now()
""",
    _move("alerts", "alert_id", "opened_at", "acknowledged_at", "resolved_at"),
    """
UPDATE deliveries SET told_at = least(told_at + make_interval(secs => $1), now()) WHERE told_at >
    now()
""",
)
LOCK_PROGRESS = "SELECT FROM alert_progress WHERE id = 1 FOR UPDATE"


async def settle_alerts(connection: Connection, step: StepToSettle) -> None:
    """Ages of alerts and what was sent of them, so that none waits for the clock to come by
    again."""
    await connection.execute(LOCK_PROGRESS)
    for statement in MOVE_ALERTS:
        await connection.execute(statement, step.seconds)
